"""Carriage returns in delimited text end rows or belong to values, whatever the other lines do."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_prep import PreparationError, line_ends, prepare
from dataset_prep.sources import table
from tests.dataset_prep.rows import EVERYTHING, START, read_dataset, scratch_folder

OWN = table.source(user="user", item="item", text="text", time="time")
HEADER = "user,item,text,time"


def reviews(content: str, folder: Path, skip_broken: bool = False) -> list[str]:
    (folder / "raw.csv").write_bytes(content.encode())
    prepare(OWN, [folder / "raw.csv"], folder / "made", filters=EVERYTHING, skip_broken=skip_broken)
    return [row.review for row in read_dataset(folder / "made")]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (f"{HEADER}\nu,i,one\rmore,1\nu,j,two,2\n", ["one\rmore", "two"]),
        (f"{HEADER}\nu,i,one,1\r\nu,j,two,2\n", ["one", "two"]),
        (f"{HEADER}\r\nu,i,one,1\nu,j,two,2\r\n", ["one", "two"]),
        (f"{HEADER}\ru,i,one,1\ru,j,two,2\r", ["one", "two"]),
        (f'{HEADER}\r\nu,i,"a\r\nb\rc\nd ""e"" ",1\nu,j,5" wide,2\r\n', ['a\r\nb\rc\nd "e" ', '5" wide']),
        (f"{HEADER}\nu,i,one\r,1\r\r\nu,j,two,2\n", ["one\r", "two"]),
    ],
)
def test_every_mixture_of_line_ends_is_read(content: str, expected: list[str], tmp_path: Path) -> None:
    assert reviews(content, tmp_path) == expected


def test_a_row_that_a_carriage_return_spoils_is_named_and_can_be_left_out(tmp_path: Path) -> None:
    content = f"{HEADER}\nu,i,one,1\ru,j,two,2\nu,k,three,3\n"
    with pytest.raises(PreparationError, match=r"raw\.csv, line 2: .*--on-error skip"):
        reviews(content, tmp_path)
    assert reviews(content, tmp_path, skip_broken=True) == ["three"]


@settings(deadline=None, max_examples=40)
@given(
    rows=st.lists(
        st.tuples(st.text(st.sampled_from('a"\r\n,'), min_size=1, max_size=8).map("x{}x".format), st.booleans()),
        min_size=1,
        max_size=6,
    ),
    ends=st.lists(st.sampled_from(["\n", "\r\n"]), min_size=7, max_size=7),
    chunk=st.integers(1, 9),
)
def test_values_come_back_whatever_ends_the_rows(rows: list[tuple[str, bool]], ends: list[str], chunk: int) -> None:
    content = HEADER + ends[0]
    for number, ((text, is_quoted), end) in enumerate(zip(rows, ends[1:], strict=False)):
        needs = is_quoted or set(text) & {",", "\n"} or "\r\n" in text
        field = io.StringIO()
        csv.writer(field, lineterminator="", quoting=csv.QUOTE_ALL).writerow([text])
        content += f"u,i{number},{field.getvalue() if needs else text},{START + number}{end}"
    with scratch_folder() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(line_ends, "CHUNK_BYTES", chunk)
        assert reviews(content, folder) == [text for text, _ in rows]
