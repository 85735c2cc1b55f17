"""Reads raw files into the table ``parsed`` with the tasks of Spark, as ``parsing`` does on one machine.

The raw files are read by the tasks. A file of plain JSON lines in UTF-8 is split among several tasks; any other file is
read by one task. That task unpacks and decodes JSON lines piece by piece, and delimited text as a whole, into the
folder for temporary files of its machine.

The machine that started Spark reads only the beginning of each file. If a file is broken, it also reads as much of the
file as it needs to name the broken line.
"""

from __future__ import annotations

import functools
import itertools
import logging
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import pyarrow
from pyspark.sql import SparkSession

from dataset_prep import faults, parsing, staging
from dataset_prep.engine import Engine, first_line
from dataset_prep.errors import PreparationError
from dataset_prep.formats import SAMPLED_OBJECTS, Format
from dataset_prep.pipeline import Step
from dataset_prep.source import Layout, Source
from dataset_prep.spark import BATCH_ROWS, Spark, rows_before
from dataset_prep.staging import Staged

logger = logging.getLogger(__name__)

PIECE_BYTES = 64 << 20  # how much text a task reads and parses at a time

# A task returns rows of ``parsed``, whose ``row`` is counted from 0 in each piece, and notes. The column ``note`` of a
# row of ``parsed`` is empty; that of a note says what it is:
# - "rejected": a row that could not be read; its line is in ``row``, and what is wrong with it in ``fault``;
# - "warning" or "error": the message is in ``fault``;
# - "fingerprint": the size of the file is in ``row``, and its hash in ``fault``.
COLUMNS = {"piece": "INTEGER", "note": "VARCHAR", "row": "BIGINT"} | {
    "user_id": "VARCHAR",
    "item_id": "VARCHAR",
    "review": "VARCHAR",
    "seconds": "DOUBLE",
    "rating": "DOUBLE",
    "fault": "VARCHAR",
    "value": "VARCHAR",
}
ARROW = {
    "INTEGER": pyarrow.int32(),
    "BIGINT": pyarrow.int64(),
    "DOUBLE": pyarrow.float64(),
    "VARCHAR": pyarrow.string(),
}


@dataclass(frozen=True)
class Piece:
    """The part of a raw file that one task reads.

    Attributes:
        file: the place of the file among the inputs.
        path: the absolute path of the file.
        source: how to read the file.
        skip_broken: leave broken rows out instead of reporting an error.
        layout: the layout of the file; None if the task only takes the fingerprint of the file.
        between: the first byte of the lines to read, and the byte after their last; None reads the whole file.
    """

    file: int
    path: Path
    source: Source
    skip_broken: bool
    layout: Layout | None = None
    between: tuple[int, int] | None = None

    @property
    def format(self) -> Format:
        return self.source.format_of(self.path)


def read(
    engine: Spark, source: Source, inputs: Sequence[Path], work: Path, *, skip_broken: bool
) -> tuple[list[Staged], Step]:
    """Does with tasks what ``parsing.read`` does.

    If several files are broken, the error may name another of them than ``parsing.read`` would.
    """
    wholes = [Piece(file, path.absolute(), source, skip_broken) for file, path in enumerate(inputs)]
    pieces = [*wholes]
    for whole in wholes:
        pieces += _cut(whole, engine.memory, work)
    _set_partitions(engine.session, sum(path.stat().st_size for path in inputs))
    numbers = engine.session.range(0, len(pieces), 1, len(pieces))
    columns = ", ".join(f"{name} {kind.replace('VARCHAR', 'STRING')}" for name, kind in COLUMNS.items())
    engine.fill("pieces", numbers.mapInArrow(functools.partial(_read, pieces, engine.memory), columns), task="parsing")

    files, rejected = _notes(engine, pieces)
    counts = dict(engine.execute("SELECT piece, count(*) FROM pieces WHERE note IS NULL GROUP BY piece"))
    firsts, ranges, rows = {}, [], 0
    for file, parts in itertools.groupby(range(len(wholes), len(pieces)), key=lambda number: pieces[number].file):
        start = rows
        for number in parts:
            firsts[number] = rows
            rows += counts.get(number, 0)
        ranges.append(range(start, rows))
        rows += len(rejected[file])
    engine.query(
        "parsed",
        f"""SELECT before + row AS row, {", ".join(list(COLUMNS)[3:])}
        FROM pieces JOIN {rows_before(firsts)} ON piece = part WHERE note IS NULL""",
    )
    sound = engine.value("SELECT count(*) FROM parsed WHERE fault IS NULL")
    for whole, span in zip(wholes, ranges, strict=True):
        broken = rejected[whole.file]
        if sound < rows or not span:
            place = functools.partial(_place, whole, engine.memory, work)
            faults.report(engine, whole.source, whole.path, span, broken, place, skip_broken=skip_broken)
    return files, Step("broken rows left out", rows, sound)


def _notes(engine: Spark, pieces: Sequence[Piece]) -> tuple[list[Staged], dict[int, list[tuple[int, str]]]]:
    """Raises the errors of the tasks, and logs their warnings.

    Returns:
        The raw files with their fingerprints; and for the place of each file, the line and the fault of each row that
        could not be read.
    """
    files: list[Staged] = []
    rejected: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for number, note, row, fault in engine.execute(
        "SELECT piece, note, row, fault FROM pieces WHERE note IS NOT NULL ORDER BY piece, row"
    ):
        piece = pieces[number]
        match note:
            case "error":
                raise PreparationError(fault)
            case "warning":
                logger.warning(fault)
            case "fingerprint":
                files.append(Staged(piece.path, piece.path, row, fault))
            case _:
                rejected[piece.file].append((row, fault))
    return files, rejected


def _set_partitions(session: SparkSession, size: int) -> None:
    """Lets a task of a join or a sort handle about as much as a task that reads.

    Spark's default is 200 tasks, whatever the size. A number that the user has set stays.
    """
    name = "spark.sql.shuffle.partitions"
    if not session.sparkContext.getConf().contains(name):
        session.conf.set(name, str(session.sparkContext.defaultParallelism + size // PIECE_BYTES))


def _cut(whole: Piece, memory: str, work: Path) -> list[Piece]:
    """Divides a file into pieces, and finds its layout from its beginning."""
    encoding = parsing.encoding_of(whole.source, whole.path)
    head = whole.path
    if encoding is not None:
        head, objects = work / "head", 0
        with head.open("wb") as file:
            for text in _texts(whole, lambda warning: None):  # the task will warn
                file.write(text.encode())
                objects += sum(1 for line in text.split("\n") if line.strip())
                if objects >= SAMPLED_OBJECTS:
                    break
    try:
        with Engine(work, memory) as engine:
            layout = parsing.layout_of(engine, whole.source, Staged(whole.path, head, 0, ""))
    except duckdb.Error as error:
        raise PreparationError(f"{whole.path}: {first_line(error)}") from error
    whole = replace(whole, layout=layout)
    if encoding is None or not whole.format.is_divisible:
        return [whole]
    is_json = parsing.is_json(whole.source, whole.path)
    ranges = staging.ranges(whole.path, PIECE_BYTES, encoding=encoding, is_json=is_json)
    return [replace(whole, between=between) for between in ranges] or [whole]


def _place(whole: Piece, memory: str, work: Path, record: int) -> str:
    """Returns the place of a record in a file, for a message. The file is unpacked on this machine."""
    with Engine(work, memory) as engine:
        file = parsing.staged(whole.source, whole.path, work / "broken", False, lambda warning: None)
        if whole.format.is_divisible:
            return whole.format.place(engine, file, record)
        engine.execute(parsing.PARSED)
        return parsing.load(engine, whole.source, file, 0, whole.layout, lambda warning: None).place(record)


def _read(
    pieces: Sequence[Piece], memory: str, batches: Iterable[pyarrow.RecordBatch]
) -> Iterator[pyarrow.RecordBatch]:
    """Reads, inside a task, the pieces whose numbers are in ``batches``."""
    for batch in batches:
        for number in batch.column(0).to_pylist():
            yield from _read_piece(number, pieces[number], memory)


def _read_piece(number: int, piece: Piece, memory: str) -> Iterator[pyarrow.RecordBatch]:
    """Yields the rows and the notes of a piece, with the columns ``COLUMNS``."""
    warnings: list[str] = []
    try:
        if piece.layout is None:
            file = staging.stage(piece.path, piece.path, encoding=None)
            yield _note(number, "fingerprint", file.sha256, file.size)
            return
        with tempfile.TemporaryDirectory() as folder, Engine(Path(folder), memory, threads=1) as engine:
            rows = 0
            typed = ", ".join(f"{name}::{kind} AS {name}" for name, kind in COLUMNS.items())
            engine.execute(parsing.PARSED)
            for file in _staged(piece, Path(folder) / "input", warnings.append):
                loaded = parsing.load(engine, piece.source, file, rows, piece.layout, warnings.append)
                yield from engine.batches(
                    f"SELECT {typed} FROM (SELECT {number} AS piece, NULL AS note, * FROM parsed)", BATCH_ROWS
                )
                engine.execute("DELETE FROM parsed")
                rows += loaded.rows
                for line, fault in loaded.rejected:
                    yield _note(number, "rejected", fault, line)
    except PreparationError as error:
        yield _note(number, "error", str(error))
    except duckdb.Error as error:
        yield _note(number, "error", f"{piece.path}: {first_line(error)}")
    for warning in warnings:
        yield _note(number, "warning", warning)


def _note(piece: int, note: str, fault: str, row: int | None = None) -> pyarrow.RecordBatch:
    schema = pyarrow.schema({name: ARROW[kind] for name, kind in COLUMNS.items()})
    return pyarrow.RecordBatch.from_pylist([{"piece": piece, "note": note, "row": row, "fault": fault}], schema)


def _staged(piece: Piece, target: Path, warn: Callable[[str], None]) -> Iterator[Staged]:
    """Yields files with the text of a piece that DuckDB can read. Each file overwrites the one before."""
    if not piece.format.is_divisible:
        yield parsing.staged(piece.source, piece.path, target, piece.skip_broken, warn)
        return
    texts = iter(_texts(piece, warn))
    for text in texts:
        with target.open("wb") as file:
            file.write(text.encode())
            while file.tell() < PIECE_BYTES and (text := next(texts, "")):
                file.write(text.encode())
        yield Staged(piece.path, target, 0, "", beside=target.with_name("rewritten"))


def _texts(piece: Piece, warn: Callable[[str], None]) -> Iterator[str]:
    source = piece.source
    if piece.between:
        return staging.texts_between(piece.path, *piece.between, skip_broken=piece.skip_broken)
    return staging.texts(
        piece.path,
        encoding=source.encoding or "utf-8",
        member=source.member,
        is_json=parsing.is_json(source, piece.path),
        skip_broken=piece.skip_broken,
        warn=warn,
    )
