"""Benchmarks preparing reviews with every filter: by DuckDB and by Spark, and against DuckDB's bare reading."""

from __future__ import annotations

import filecmp
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.conversion import AMAZON, YELP, Command, alternately, write_dump
from benchmarks.measure import REPEATS, Options, Row

ODD = (
    "<br/>",
    "<b>bold</b>",
    "<sigh>",
    "&amp;",
    "&eacute;",
    "&#x1F600;",
    "&madeup;",
    "宿が\u3000よい。",
    "😀",
    "e\u0301",
    '"',
    "\\",
    "\t",
)


def preparation(options: Options) -> Iterator[Row]:
    """Measures the seconds and the peak memory of a new process that prepares generated reviews.

    The preparation keeps the first review of each repeated pair, and the 5-core. With ``--spark-master`` Spark prepares
    the same reviews, and its files must be equal to ours; its memory is not measured, because it is a setting of Spark.
    In the folder for temporary files the benchmark takes about 2 KB for each review, or 4 KB with Spark.

    Raises:
        AssertionError: the files of Spark and of DuckDB differ.
    """
    n = 3_000 if options.small else options.reviews
    case = f"{n:,} reviews, {os.cpu_count()} cores"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw = folder / YELP.file
        write_dump(YELP, raw, n, ODD)
        ours = _command(raw, folder / "duckdb" / "made")
        ours.run()
        note = f"{raw.stat().st_size / 2**30:.2f} GiB of raw text"
        yield Row("preparation", f"{case}, peak memory", "", ours.peak, unit="GiB", note=note)
        theirs = None
        if options.spark_master is not None:
            spark = _command(
                raw, folder / "spark" / "made", "--engine", "spark", "--spark-master", options.spark_master
            )
            spark.run()
            (theirs,) = spark.seconds
            _check_same(ours.output.parent, spark.output.parent)
            note = f"Spark at {options.spark_master}: the same bytes"
        yield Row("preparation", case, "Spark" if theirs else "", ours.seconds[0], theirs, unit="s", note=note)


READ = """
import pathlib, sys, duckdb
table = pathlib.Path(sys.argv[2])
table.parent.mkdir()
connection = duckdb.connect(table)
connection.execute("CREATE TABLE reviews AS SELECT * FROM read_json(?, format = 'newline_delimited')", [sys.argv[1]])
"""


def reading(options: Options) -> Iterator[Row]:
    """Measures preparing generated reviews against DuckDB, which only reads the same file into a table on disk.

    Both run in new processes, in turn, and may use all cores.
    """
    n, repeats = (3_000, 1) if options.small else (options.reviews, REPEATS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw = folder / AMAZON.file
        write_dump(AMAZON, raw, n, ODD)
        made, table = folder / "ours" / "made", folder / "theirs" / "reviews.duckdb"
        arguments = ("-m", "dataset_prep", *AMAZON.ours, "--input", str(raw), "--output", str(made))
        commands = [
            Command("ours", arguments, Path(__file__).parents[1], made / "made.inter"),
            Command("DuckDB", ("-c", READ, str(raw), str(table)), folder, table),
        ]
        ours, theirs = alternately(commands, repeats)
    case = f"{n:,} reviews, Amazon, {os.cpu_count()} cores"
    yield Row("reading", case, "DuckDB, which only reads", ours, theirs, 1 / 3, unit="s")


def _command(raw: Path, made: Path, *how: str) -> Command:
    arguments = ("-m", "dataset_prep", *YELP.ours, "--input", str(raw), "--output", str(made), *how)
    return Command(made.parent.name, arguments, Path(__file__).parents[1], made / f"{made.name}.inter")


def _check_same(ours: Path, theirs: Path) -> None:
    names = sorted(path.name for path in ours.iterdir())
    same, *_ = filecmp.cmpfiles(ours, theirs, names, shallow=False)
    if len(names) != 3 or same != names:
        raise AssertionError(f"{theirs} differs from {ours} in {', '.join(sorted(set(names) - set(same)))}")
