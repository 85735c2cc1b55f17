"""Spark gives what DuckDB gives. All but the last tests do without Spark's own process."""

import csv
import gzip
import json
import logging
import os
import random
import shutil
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from dataset_prep import Filters, PreparationError, cli, parsing, prepare
from dataset_prep.source import Source
from dataset_prep.sources import amazon, table
from tests.dataset_prep.rows import START, amazon_line, contents, read_dataset, scratch_engine, scratch_folder

pytest.importorskip("pyarrow")
SparkSession = pytest.importorskip("pyspark.sql").SparkSession
spark_parsing = pytest.importorskip("dataset_prep.spark_parsing")

has_java = pytest.mark.skipif(not os.environ.get("JAVA_HOME") and shutil.which("java") is None, reason="needs Java")
OWN_TABLE = table.source(user="user", item="item", text="text", time="time", rating="rating")
PARSED = ("row", "user_id", "item_id", "review", "seconds", "rating", "fault", "value")

NASTY = (
    *("", " \u3000\n", "plain words", "tab\there\nnew\r\nline", 'say "hi", 50% \\ off', "nul\0nul", "\ufeffmark"),
    *("one<br/>two <b>bold</b>", "<\u017fpan> <sigh> a < b", "Tom &amp; Jerry &eacute;&nbsp;&#x1F600; AT&T; &madeup;"),
    *("湯がよかった。\u3000また行く", "が\u3099 👩‍👩‍👧 é e\u0301", "\x85\xa0\u2028 spaces \x0b", "NA", "[PAD]"),
)
lines = st.lists(
    st.one_of(
        st.builds(amazon_line, st.sampled_from("ab"), st.sampled_from("xy"), st.sampled_from(NASTY)),
        st.builds(
            amazon_line, st.just("a"), st.just("x"), time=st.sampled_from(["soon", "1_000", "1d", "0x1p3", 1e10])
        ),
        st.sampled_from(["\n", " \r\n", "{broken\n", "[1]\n", "b\udcffd\n", '{"reviewerID": "a", "asin": "x"}\n']),
    ),
    min_size=1,
    max_size=12,
)


def by_pieces(source: Source, path: Path, work: Path) -> list[dict[str, Any]]:
    """What the tasks give for a file, in its order; the fingerprint left out."""
    whole = spark_parsing.Piece(0, path, source, skip_broken=True)
    found = []
    for number, piece in enumerate(spark_parsing._cut(whole, "200MB", work)):
        rows = [row for batch in spark_parsing._read_piece(number, piece, "200MB") for row in batch.to_pylist()]
        found += sorted(rows, key=lambda row: row["row"] or 0)
    return found


@examples(deadline=None, max_examples=10)
@given(raw=lines, size=st.integers(60, 600), compressed=st.booleans())
def test_a_file_read_in_pieces_has_the_rows_of_the_file_read_at_once(
    raw: list[str], size: int, compressed: bool
) -> None:
    content = "".join([amazon_line("a", "x"), *raw]).encode(errors="surrogateescape")
    with scratch_folder() as folder, scratch_engine() as engine, pytest.MonkeyPatch.context() as patch:
        patch.setattr(spark_parsing, "PIECE_BYTES", size)
        patch.setattr("dataset_prep.staging.CHUNK_BYTES", 100)
        path = folder / "raw.json"
        path.write_bytes(gzip.compress(content) if compressed else content)
        parsing.read(engine, amazon.SOURCE, [path], folder, skip_broken=True)
        expected = engine.execute(f"SELECT {', '.join(PARSED)} FROM parsed ORDER BY row")
        rows = by_pieces(amazon.SOURCE, path, folder)
        assert [tuple(row[name] for name in PARSED[1:]) for row in rows] == [row[1:] for row in expected]
        for _, piece in groupby(rows, key=lambda row: row["piece"]):
            places = [row["row"] for row in piece]
            assert places == list(range(len(places)))


@pytest.mark.parametrize("name", ["raw.json", "raw.json.gz"])
def test_an_error_in_a_late_piece_names_the_line_of_the_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spark_parsing, "PIECE_BYTES", 20_000)
    content = amazon_line("a", "x").encode() * 500 + b"b\xffd\n" + amazon_line("a", "x").encode() * 2000
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    monkeypatch.setattr(spark_parsing, "SAMPLED_OBJECTS", 1)
    monkeypatch.setattr("dataset_prep.staging.CHUNK_BYTES", 5000)
    pieces = spark_parsing._cut(spark_parsing.Piece(0, path, amazon.SOURCE, skip_broken=False), "200MB", tmp_path)
    assert (len(pieces) > 5) == (name == "raw.json")
    notes = [
        row["fault"]
        for number, piece in enumerate(pieces)
        for batch in spark_parsing._read_piece(number, piece, "200MB")
        for row in batch.to_pylist()
        if row["note"] == "error"
    ]
    assert len(notes) == 1
    with pytest.raises(PreparationError) as caught:
        prepare(amazon.SOURCE, [path], tmp_path / "made")
    assert notes[0] == str(caught.value)
    assert "line 501: not utf-8" in notes[0]


def test_without_java_there_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raw.json").write_text(amazon_line("u", "i"))
    monkeypatch.setattr(SparkSession, "getActiveSession", lambda: None)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PreparationError, match="there is no Java; install Java 17"):
        prepare(amazon.SOURCE, [tmp_path / "raw.json"], tmp_path / "made", engine="spark")


# --- with Spark ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def session() -> Iterator[Any]:
    settings = {
        "spark.driver.host": "localhost",
        "spark.log.level": "ERROR",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        # tables of a few rows have several parts too, as large ones do
        "spark.sql.shuffle.partitions": "3",
        "spark.sql.adaptive.enabled": "false",
        # compiling takes longer than it brings
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    }
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    started = SparkSession.builder.master("local[2]").config(map=settings).getOrCreate()
    yield started
    started.stop()


def nasty_rows(n: int, seed: int) -> list[dict[str, Any]]:
    """Repeated pairs, ties in time, texts of every kind, and a few users and items too rare to stay."""
    rng = random.Random(seed)
    users = [*(f"user {number}" for number in range(12)), "ユーザー", 'q"u%o\tte', "NA", "", *map(str, range(40))]
    return [
        {
            "user": rng.choice(users[: rng.choice([15, len(users)])]),
            "item": f"item-{int(rng.expovariate(0.2))}",
            "text": f"{rng.choice(NASTY)}{rng.choice(['', ' ', rng.randrange(4)])}",
            "time": rng.choice([START, START + 0.25, START - 1e9, START + rng.randrange(5)]),
            "rating": rng.choice(["1", "4.5", "", "null"]),
        }
        for _ in range(n)
    ]


def write_every_format(folder: Path) -> list[Path]:
    """The same kind of rows as JSON lines, plain and compressed, CSV and Parquet; most with broken rows."""
    paths = [folder / name for name in ("a.jsonl", "b.jsonl.gz", "it's [c]*.csv", "d.parquet")]
    broken = (
        b'{"user": \n[1]\n\n{"user": "b\xffd", "item": "i", "text": "", "time": 1}\n{"user": "u", "time": "soon"}\n'
    )
    dumped = ["".join(json.dumps(row) + "\n" for row in nasty_rows(400, seed)).encode() for seed in (1, 2)]
    paths[0].write_bytes(dumped[0] + broken + dumped[0][:30_000].rpartition(b"\n")[0])
    paths[1].write_bytes(gzip.compress(broken + dumped[1])[:-50])  # cut short
    with paths[2].open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["user", "item", "text", "time", "rating"], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, "text": row["text"].replace("\0", "")} for row in nasty_rows(200, 3))
        file.write("too,few\n" + 'u,i,"two\nlines",never,1\n' + "u,i,t,5,1,2\n")
    pl.DataFrame(nasty_rows(200, 4)).write_parquet(paths[3])
    return paths


@has_java
def test_every_format_and_every_text_gives_the_same_bytes_on_both_engines(
    session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(spark_parsing, "PIECE_BYTES", 30_000)
    raw = [str(path) for path in write_every_format(tmp_path)]
    columns = "--user user --item item --text text --time time --rating rating --on-error skip"
    keep = "--user-core 3 --item-core 4 --duplicates last --missing-text keep --max-users 12 --from 1990-01-01"
    logs = []
    for engine in ("duckdb", "spark"):
        caplog.clear()
        made = ["--output", str(tmp_path / engine / "it's [made]*"), "--engine", engine]
        with caplog.at_level(logging.WARNING):  # whatever a run before has left
            assert cli.main(["table", "--input", *raw, *made, *columns.split(), *keep.split()]) == 0
        logs.append(sorted(record.getMessage() for record in caplog.records if record.levelno == logging.WARNING))
    made_by_spark = contents(tmp_path / "spark")
    assert made_by_spark == contents(tmp_path / "duckdb")
    assert len(made_by_spark) == 3
    assert logs[0] == logs[1]
    assert len(logs[0]) >= 6
    assert len(read_dataset(tmp_path / "spark" / "it's [made]*")) > 50
    statistics = json.loads(made_by_spark["it's [made]*/it's [made]*.stats.json"])
    assert all(step["rows_in"] > step["rows_out"] for step in statistics["steps"] if "text" not in step["name"])


@has_java
def test_a_broken_row_in_a_late_piece_is_named_as_duckdb_names_it(
    session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spark_parsing, "PIECE_BYTES", 30_000)
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path in paths:
        path.write_text(amazon_line("u", "i") * 700 + "\n" * 3)
    with paths[1].open("a") as file:
        file.write(amazon_line("u", "i", time="soon") + "{")
    messages = []
    for engine in ("duckdb", "spark"):
        with pytest.raises(PreparationError) as caught:
            prepare(amazon.SOURCE, paths, tmp_path / "made", filters=Filters(), engine=engine)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert "b.json, line 704: has a time that isn't in seconds: 'soon'" in messages[0]
    assert not (tmp_path / "made").exists()
