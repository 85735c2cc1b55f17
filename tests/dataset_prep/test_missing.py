"""A missing user, item or text is missing in every format, and ids keep their digits."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_prep import PreparationError, prepare
from dataset_prep.sources import table
from dataset_prep.text import MISSING_WORDS
from tests.dataset_prep.rows import EVERYTHING, START, read_dataset, scratch_folder

OWN = table.source(user="user", item="item", text="text", time="time")
GOOD = {"user": "u", "item": "i", "text": "fine", "time": START}


def converted(path: Path, folder: Path) -> tuple[dict[str, Any], list[Any]]:
    statistics = prepare(OWN, [path], folder / "made", filters=EVERYTHING)
    return statistics, read_dataset(folder / "made")


@pytest.mark.parametrize("marker", [*MISSING_WORDS, ""])
def test_a_marker_of_csv_is_missing_in_each_column(marker: str, tmp_path: Path) -> None:
    raw = tmp_path / "raw.csv"
    raw.write_text(f"user,item,text,time\n{marker},i,t,1\nu,{marker},t,2\nu,i,{marker},3\nu,j,t,4\n")
    statistics, rows = converted(raw, tmp_path)
    assert [(row.user, row.item, row.review) for row in rows] == [("u", "i", ""), ("u", "j", "t")]
    assert statistics["steps"][1]["rows_in"] - statistics["steps"][1]["rows_out"] == 2
    assert statistics["empty_texts"] == 1


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_null_and_nan_of_json_are_missing(missing: float | None, tmp_path: Path) -> None:
    raw = tmp_path / "raw.jsonl"
    rows = [GOOD | {name: missing} for name in ("user", "item", "text")] + [GOOD | {"user": "nan", "item": "NA"}]
    raw.write_text("".join(json.dumps(row) + "\n" for row in rows))
    statistics, made = converted(raw, tmp_path)
    assert [(row.review) for row in made] == ["", "fine"]
    assert unquote(made[1].user) == "nan"  # a string is what it says
    assert statistics["steps"][1]["rows_in"] - statistics["steps"][1]["rows_out"] == 2


def test_nan_and_null_of_parquet_are_missing_and_whole_numbers_keep_their_digits(tmp_path: Path) -> None:
    raw = tmp_path / "raw.parquet"
    frame = pl.DataFrame({"user": [12.0, float("nan"), None], "item": [7, 7, 7], "text": [float("nan")] * 3})
    frame.with_columns(time=pl.lit(START)).write_parquet(raw)
    statistics, rows = converted(raw, tmp_path)
    assert [(row.user, row.item, row.review) for row in rows] == [("12", "7", "")]
    assert statistics["empty_texts"] == 1


@settings(deadline=None, max_examples=25)
@given(ids=st.lists(st.integers(0, 2**53 - 1), min_size=1, max_size=6), suffix=st.sampled_from(["csv", "jsonl"]))
def test_an_id_is_one_id_with_and_without_its_decimal(ids: list[int], suffix: str) -> None:
    written = [text for number in ids for text in (f"{number}", f"{number}.0")]
    with scratch_folder() as folder:
        raw = folder / f"raw.{suffix}"
        if suffix == "csv":
            lines = ["user,item,text,time", *(f"{user},i,t,{START}" for user in written)]
        else:
            lines = [f'{{"user": {user}, "item": "i", "text": "t", "time": {START}}}' for user in written]
        raw.write_text("\n".join(lines) + "\n")
        assert [int(row.user) for row in converted(raw, folder)[1]] == [number for number in ids for _ in "12"]


def test_large_numbers_keep_every_digit_or_are_an_error(tmp_path: Path) -> None:
    raw = tmp_path / "raw.jsonl"
    raw.write_text(json.dumps(GOOD | {"user": 123456789012345678901234567}) + "\n")
    assert converted(raw, tmp_path)[1][0].user == "123456789012345678901234567"
    raw.write_text(json.dumps(GOOD | {"user": 1.2345678901234567e19}) + "\n")
    with pytest.raises(PreparationError, match=r"line 1: has a user that is a rounded number: '1\.234568e\+19'"):
        converted(raw, tmp_path)


def test_titles_that_only_look_like_numbers_stay_apart_or_are_an_error(tmp_path: Path) -> None:
    raw = tmp_path / "raw.csv"
    raw.write_text("user,item,text,time\nu,2.0,t,1\nu,Up,t,2\n")
    assert [row.item for row in converted(raw, tmp_path)[1]] == ["2.0", "Up"]
    raw.write_text("user,item,text,time\nu,2.0,t,1\nu,Up,t,2\nu,2,t,3\n")
    with pytest.raises(PreparationError, match=r"raw\.csv: the item 2 is also written 2\.0; write both alike"):
        converted(raw, tmp_path)
