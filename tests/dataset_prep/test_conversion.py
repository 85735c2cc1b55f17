"""From raw files to a dataset, end to end."""

import hashlib
import math
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dataset_prep
from dataset_prep import Filters, PreparationError, prepare
from dataset_prep.sources import amazon, table
from tests.dataset_prep.rows import (
    EVERYTHING,
    START,
    Interaction,
    amazon_line,
    amazon_lines,
    contents,
    read_dataset,
    read_statistics,
    scratch_folder,
)

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<&"), max_size=30)
names = st.text(
    st.characters(exclude_categories=["Cs", "Z", "Cc"], exclude_characters='%"\ufdd0'), min_size=1, max_size=8
)
safe_names = names.map("id {}".format)  # no word that means "missing"


@settings(deadline=None, max_examples=25)
@given(
    st.lists(
        st.builds(
            Interaction,
            user=safe_names,
            item=safe_names,
            rating=st.none() | st.floats(-1e6, 1e6),
            time=st.floats(-1e11, 1e11),
            review=texts.filter(lambda text: "\ufdd0" not in text),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_every_value_arrives_exactly(rows: list[Interaction]) -> None:
    with scratch_folder() as folder:
        (folder / "raw.json").write_text(amazon_lines(rows), encoding="utf-8")
        prepare(amazon.SOURCE, [folder / "raw.json"], folder / "made", filters=EVERYTHING)
        assert read_dataset(folder / "made") == sorted(rows, key=lambda row: row.time)


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    raw = tmp_path / "raw.json"
    raw.write_text("".join(amazon_line(f"u{n % 7}", f"i{n % 11}", f"text {n}", START + n % 5) for n in range(5000)))
    made = []
    for folder in ("one", "two"):
        prepare(amazon.SOURCE, [raw], tmp_path / folder / "made", filters=Filters(max_users=5, seed=3))
        made.append(contents(tmp_path / folder / "made"))
    assert made[0] == made[1]


def test_review_ids_count_the_rows_of_the_file(tmp_path: Path) -> None:
    raw = tmp_path / "raw.json"
    raw.write_text("".join(amazon_line(f"u{n}", "i") for n in range(12)))
    prepare(amazon.SOURCE, [raw], tmp_path / "made", filters=EVERYTHING)
    lines = (tmp_path / "made" / "made.inter").read_text().splitlines()[1:]
    assert [line.split("\t")[-1] for line in lines] == [f"r{n}" for n in range(12)]


def test_sources_are_fingerprinted_by_name_size_and_hash_without_their_folder(tmp_path: Path) -> None:
    paths = [tmp_path / "b.json", tmp_path / "a.json"]
    for number, path in enumerate(paths):
        path.write_text(amazon_line("u", f"i{number}"))
    prepare(amazon.SOURCE, paths, tmp_path / "made", filters=EVERYTHING)
    assert read_statistics(tmp_path / "made")["files"] == [
        {"name": path.name, "bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in paths
    ]
    assert str(tmp_path) not in (tmp_path / "made" / "made.stats.json").read_text()


@pytest.mark.parametrize("missing", ["", "Null", "NONE", " nan ", "N/A", "na"])
def test_a_missing_rating_is_an_empty_field(missing: str, tmp_path: Path) -> None:
    raw = tmp_path / "raw.json"
    raw.write_text(amazon_line("u", "i", rating=missing))
    prepare(amazon.SOURCE, [raw], tmp_path / "made", filters=EVERYTHING)
    assert (tmp_path / "made" / "made.inter").read_text().splitlines()[1] == f"u\ti\t\t{float(START)}\tr0"


@pytest.mark.parametrize(
    ("time_format", "written", "seconds"),
    [
        ("seconds", "1600000000.123456", 1_600_000_000.123456),
        ("seconds", "-5364662400", -5_364_662_400.0),
        ("milliseconds", "1588687728923", 1_588_687_728.923),
        ("%d %B %Y", "9 November 2012", 1_352_419_200.0),
        ("%Y-%m-%d %H:%M:%S", "2015-04-15 05:21:16", 1_429_075_276.0),
        ("%Y-%m-%dT%H:%M:%S.%f%z", "2020-01-02T03:04:05.678901+0900", 1_577_901_845.678901),
    ],
)
def test_times_are_seconds_utc(time_format: str, written: str, seconds: float, tmp_path: Path) -> None:
    raw = tmp_path / "raw.csv"
    raw.write_text(f"u,i,t,when\nuser,item,text,{written}\n")
    source = table.source("u", "i", "t", "when", time_format=time_format)
    prepare(source, [raw], tmp_path / "made", filters=EVERYTHING)
    (row,) = read_dataset(tmp_path / "made")
    assert math.isclose(row.time, seconds, rel_tol=0, abs_tol=1e-7)


@pytest.mark.parametrize("time_format", ["%Q", "%"])
def test_a_time_format_that_is_none_is_refused_before_the_input_is_read(time_format: str, tmp_path: Path) -> None:
    (tmp_path / "raw.csv").write_text("")
    source = table.source("u", "i", "t", "when", time_format=time_format)
    with pytest.raises(
        PreparationError,
        match=f"time format {time_format}: .*; give seconds, milliseconds, microseconds, nanoseconds, or a strptime",
    ):
        prepare(source, [tmp_path / "raw.csv"], tmp_path / "made")


def test_inputs_are_checked_before_work_starts(tmp_path: Path) -> None:
    raw = tmp_path / "raw.json"
    raw.write_text(amazon_line("u", "i"))
    for inputs, message in (
        ([], "no input file"),
        ([raw, tmp_path / "absent.json"], r"absent\.json: no such file"),
        ([raw, tmp_path], "a folder; name a file in it"),
        ([raw, tmp_path / "." / "raw.json"], "named twice"),
    ):
        with pytest.raises(PreparationError, match=message):
            prepare(amazon.SOURCE, inputs, tmp_path / "dataset" / "made")
    assert not (tmp_path / "dataset").exists()


def test_a_parquet_file_has_no_encoding(tmp_path: Path) -> None:
    (tmp_path / "raw.parquet").write_bytes(b"")
    with pytest.raises(PreparationError, match="no encoding"):
        prepare(table.source("u", "i", "t", "w", encoding="cp932"), [tmp_path / "raw.parquet"], tmp_path / "made")


def test_an_unknown_engine_is_refused(tmp_path: Path) -> None:
    (tmp_path / "raw.json").write_text(amazon_line("u", "i"))
    with pytest.raises(PreparationError, match="engine is 'flink'; choose one of duckdb, spark"):
        prepare(amazon.SOURCE, [tmp_path / "raw.json"], tmp_path / "made", engine="flink")


def test_without_pyspark_there_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raw.json").write_text(amazon_line("u", "i"))
    monkeypatch.setitem(sys.modules, "pyspark", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "dataset_prep.spark", raising=False)
    monkeypatch.delattr(dataset_prep, "spark", raising=False)
    with pytest.raises(PreparationError, match=r"there is no module py.*; pip install 'recbole-symcere\[spark\]'"):
        prepare(amazon.SOURCE, [tmp_path / "raw.json"], tmp_path / "made", engine="spark")
    assert list(tmp_path.iterdir()) == [tmp_path / "raw.json"]
