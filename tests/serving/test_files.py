"""Files that a recommender is given: what they may look like, and what is said of those that can't be read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recbole_symcere.errors import UserError
from recbole_symcere.serving import NewInteraction, Request
from recbole_symcere.serving.files import read_interactions, read_items, read_requests
from tests.conftest import tiny_rows, write_atomic_files

ROWS = [
    NewInteraction("u0", "i3", 1.6e9, 'great, "warm" tone'),
    NewInteraction("new", "007", 1600000001.5, None),
    NewInteraction("u0", "i7", 1.6e9 + 2, "ギター"),
]
WRITERS: dict[str, Callable[[pl.DataFrame, Path], None]] = {
    "csv": lambda table, path: table.write_csv(path),
    "tsv": lambda table, path: table.write_csv(path, separator="\t"),
    "jsonl": lambda table, path: table.write_ndjson(path),
    "parquet": lambda table, path: table.write_parquet(path),
}
quick = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("kind", WRITERS)
def test_interactions_are_read_from_any_table(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"week.{kind}"
    WRITERS[kind](pl.DataFrame([vars(row) for row in ROWS]), path)
    assert read_interactions(path) == ROWS
    without = tmp_path / f"without.{kind}"
    WRITERS[kind](pl.DataFrame([vars(row) for row in ROWS]).drop("text"), without)
    assert [(row.user, row.item, row.time) for row in read_interactions(without)] == [
        (row.user, row.item, row.time) for row in ROWS
    ]


def test_interactions_are_read_from_what_prep_writes(tmp_path: Path) -> None:
    rows = tiny_rows(5)
    folder = write_atomic_files(tmp_path / "week", rows)
    expected = [NewInteraction(user, item, time, text) for user, item, _, time, _, text in rows]
    assert read_interactions(folder / "week.inter") == expected
    (folder / "week.review.jsonl").unlink()
    assert {row.text for row in read_interactions(folder / "week.inter")} == {None}


def test_items_may_have_several_texts(tmp_path: Path) -> None:
    path = tmp_path / "new.csv"
    path.write_text('item,text\na,"warm, and bright"\nb,fine\na,loud\n', encoding="utf-8")
    assert read_items(path) == {"a": ["warm, and bright", "loud"], "b": ["fine"]}


tokens = st.text(min_size=1, max_size=5)
moments = st.floats(0, 1e10)
requests = st.builds(
    Request,
    user=st.none() | tokens,
    history=st.lists(tokens | st.tuples(tokens, moments), max_size=3),
    reviews=st.lists(tokens, max_size=2),
    at=st.none() | moments,
)


@given(asked=st.lists(requests, min_size=1, max_size=4))
@quick
def test_requests_are_read_as_they_were_written(tmp_path: Path, asked: list[Request]) -> None:
    path = tmp_path / "people.jsonl"
    objects = [{"user": r.user, "items": list(r.history), "reviews": list(r.reviews), "at": r.at} for r in asked]
    lines = [json.dumps({key: value for key, value in each.items() if value}) + "\n\n" for each in objects]
    path.write_text("".join(lines), encoding="utf-8")
    expected = [Request(r.user, r.history, r.reviews, r.at or None) for r in asked]
    assert read_requests(path) == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: not an object"),
        ('{"itmes": []}', "line 2: unknown key 'itmes'; did you mean 'items'"),
        ('{"user": 7}', "line 2: user must be a text"),
        ('{"items": "i7"}', "line 2: items must be a list"),
        ('{"items": [["i7"]]}', "line 2: items must be a list"),
        ('{"items": [["i7", true]]}', "line 2: items must be a list"),
        ('{"reviews": "great"}', "line 2: reviews must be a list"),
        ('{"reviews": [1]}', "line 2: reviews must be a list"),
        ('{"items": 0}', "line 2: items must be a list"),
        ('{"at": "now"}', "line 2: at must be a number"),
        ('{"at": NaN}', "line 2: not JSON"),
        ('{"at": 1600000000000}', "line 2: at must be a number, in seconds since 1970"),
    ],
)
def test_a_request_that_can_not_be_read_is_named_by_its_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "people.jsonl"
    path.write_text('{"user": "u0"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_requests(path)


def test_a_file_without_a_request_and_a_folder_are_named(tmp_path: Path) -> None:
    path, folder = tmp_path / "people.jsonl", tmp_path / "week.csv"
    path.write_text("\n  \n")
    with pytest.raises(UserError, match=r"people\.jsonl: no request; write one on each line"):
        read_requests(path)
    folder.mkdir()
    with pytest.raises(UserError, match=r"week\.csv: a folder; name a file in it"):
        read_interactions(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xlsx", "", r"not a table that can be read \(.csv, .tsv, .jsonl or .parquet\)"),
        ("a.csv", "user,itme,time\nu,i,1\n", "no column 'item' among user, itme, time; did you mean 'itme'"),
        ("a.csv", "user,item,time\nu,i,1\nu,,2\n", "row 2 has no item that is a text"),
        ("a.csv", "user,item,time\nu,i,yesterday\n", "row 1 has no time that is a number of seconds"),
        ("a.csv", "user,item,time\nu,i,inf\n", "row 1 has no time that is a number of seconds"),
        ("a.jsonl", "{", "can't be read"),
        ("nothing.csv", None, "can't be read"),
    ],
)
def test_a_table_that_can_not_be_read_is_named(tmp_path: Path, name: str, content: Any, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message) as error:
        read_interactions(path)
    assert str(path) in str(error.value)
