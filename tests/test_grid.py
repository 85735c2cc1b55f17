"""Tables as Markdown; tests/comparison/test_tables.py has the LaTeX, to the letter."""

import re

from recbole_symcere.grid import Cell, Grid, Row, as_markdown, number_cell


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_markdown_has_every_cell_with_words_at_the_left_numbers_at_the_right_and_bars_escaped() -> None:
    rows = [
        Row("a|b", [Cell("tuner|x"), number_cell(-0.5, ".2f", "[−1, 0]")]),
        Row("c", [Cell(""), number_cell(None)]),
    ]
    heads, rule, *below = map(cells, Grid("caption", ["model|", "words", "pull"], rows).to_markdown().splitlines())
    assert heads == [r"model\|", "words", "pull"]
    assert [(mark[0], mark[-1]) for mark in rule] == [(":", "-"), (":", "-"), ("-", ":")]
    assert below == [[r"a\|b", r"tuner\|x", "-0.50 [-1, 0]"], ["c", "", "n/a"]]


def test_plain_columns_stand_as_they_are() -> None:
    head, _, *rows = map(
        cells, as_markdown({"": range(1, 3), "item": ["007", "i|8"], "x": ["+0.10", "1e3"]}).splitlines()
    )
    assert head == ["", "item", "x"] and rows == [["1", "007", "+0.10"], ["2", r"i\|8", "1e3"]]
