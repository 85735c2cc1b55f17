"""Tables as Markdown."""

from recbole_symcere.analysis.tables import Cell, Grid, Row, number_cell


def test_markdown_has_every_cell_with_words_at_the_left_numbers_at_the_right_and_bars_escaped() -> None:
    rows = [
        Row("a|b", [Cell("tuner|x"), number_cell(-0.5, ".2f", "[−1, 0]")]),
        Row("c", [Cell(""), number_cell(None)]),
    ]
    lines = Grid("caption", ["model|", "words", "pull"], rows).to_markdown().splitlines()
    heads, rule, *cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert heads == ["model&#124;", "words", "pull"]
    assert [(mark[0], mark[-1]) for mark in rule] == [(":", "-"), (":", "-"), ("-", ":")]
    assert cells == [["a&#124;b", "tuner&#124;x", "-0.50 [-1, 0]"], ["c", "", "n/a"]]
