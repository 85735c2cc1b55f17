"""The pipeline on Spark, for what no single machine holds; it gives the same bytes as DuckDB alone.

Spark cuts the work into tasks, joins, counts and sorts. What looks at one row (reading it, cleaning its text, counting
its words, writing its numbers) is done inside the tasks by DuckDB, with the very SQL that it runs without Spark. A
translation would not do, by Ibis or sqlglot or by hand: Spark has no counterpart of ``try_strptime`` with strptime
formats nor of the reader that says which rows are broken; it takes ``1d`` and ``0x1p3`` for numbers and ``1_000`` for
none, writes ``1.0E10`` where DuckDB writes ``10000000000.0``, has other hashes, and its regular expressions, Java's,
fold case otherwise. The statements that look at several rows need no translation, as both understand them.

Every machine must see the raw files and the folder of the output under the same path. Tables are Parquet files in a
hidden folder beside the output, so that a plan never grows with the rounds of the k-core, and a lost machine costs only
its own tasks. Raw files are read by the tasks alone. Plain JSON lines in UTF-8 are split. Any other file is one task's:
it unpacks compressed, archived or otherwise encoded JSON lines bit by bit, and delimited text as a whole, into its
machine's folder for temporary files. The machine that started it all reads the beginning of each file, of a broken one
as much as it takes to name the line, and in the end puts the parts of each output file together.
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
import re
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import duckdb
import pyarrow
from py4j.protocol import Py4JError
from pyspark.errors import PySparkException, PythonException
from pyspark.sql import DataFrame, SparkSession

from dataset_prep import parsing, staging
from dataset_prep.engine import Engine
from dataset_prep.errors import PreparationError
from dataset_prep.formats import SAMPLED_OBJECTS, Format, format_of
from dataset_prep.pipeline import Step
from dataset_prep.source import Layout, Source
from dataset_prep.staging import Staged

logger = logging.getLogger(__name__)

PIECE_BYTES = 64 << 20  # of text, that a task reads, and parses, at a time
BATCH_ROWS = 10_000
PLACE_BITS = 33  # of monotonically_increasing_id, for the place in a partition; the others are the partition's number


class Spark:
    """A session with its tables in ``folder``: an ``Executor``.

    A session that the process has already is used, and left open.

    Args:
        folder: an existing folder that every machine sees, with room for about four times the uncompressed input.
        memory: limit of the DuckDB inside each task; that of Spark itself is Spark's setting.
        master: None leaves it to Spark's settings, then to all cores of this machine.

    Raises:
        PreparationError: Java or Spark doesn't start, or a statement failed.
    """

    def __init__(self, folder: Path, memory: str, master: str | None) -> None:
        self.memory = memory
        self._folder = folder.absolute() / "tables"
        self._numbers = itertools.count()
        self._paths: dict[str, Path] = {}
        self._own = SparkSession.getActiveSession() is None
        self.session = _session(master).newSession()  # has names and settings of its own
        code = str(_code())
        if not any(Path(file).name == Path(code).name for file in self.session.sparkContext.listFiles):
            self.session.sparkContext.addPyFile(code)
        Engine(folder, memory).__exit__(None, None, None)  # a limit that is no size is refused here, not in a task

    def __enter__(self) -> Spark:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._own:
            self.session.stop()

    def execute(self, sql: str, *, task: str = "") -> list[tuple[Any, ...]]:
        with _clear_errors(task):
            return [tuple(row) for row in self.session.sql(sql).collect()]

    def value(self, sql: str, *, task: str = "") -> Any:
        return self.execute(sql, task=task)[0][0]

    def view(self, name: str, of: str, sql: str) -> None:
        self._rows(of, sql).createOrReplaceTempView(name)

    def query(self, name: str, sql: str) -> None:
        """Name a query that is Spark's alone."""
        with _clear_errors(name):
            self.session.sql(sql).createOrReplaceTempView(name)

    def table(self, name: str, sql: str, *, task: str = "") -> None:
        with _clear_errors(task):
            self.fill(name, self.session.sql(sql), task=task)

    def fill(self, name: str, frame: DataFrame, *, task: str = "") -> None:
        """Make or replace a table of the rows of ``frame``."""
        path = self._folder / f"{name}-{next(self._numbers)}"
        with _clear_errors(task):
            frame.write.parquet(f"file://{path}")
            # Spark takes a path for a pattern where it reads, though not where it writes
            pattern = re.sub(r"([\[\]{}*?\\])", r"\\\1", str(path))
            self.session.read.schema(frame.schema).parquet(f"file://{pattern}").createOrReplaceTempView(name)
        if name in self._paths:
            shutil.rmtree(self._paths[name])
        self._paths[name] = path

    def drop(self, name: str) -> None:
        self.session.catalog.dropTempView(name)
        shutil.rmtree(self._paths.pop(name))

    def keep(self, name: str, condition: str, *, task: str = "") -> int:
        count = f"SELECT count(*) FROM {name}"
        before = self.value(count)
        self.table(name, f"SELECT * FROM {name} WHERE {condition}", task=task)
        return int(before - self.value(count))

    def number(self, name: str, of: str, order: str, *, task: str = "") -> None:
        """As ``Executor``. Each partition of the sorted rows counts its own; then the rows before it are added."""
        self.table(
            f"{name}_placed",
            f"SELECT monotonically_increasing_id() AS place, * FROM (SELECT * FROM {of} ORDER BY {order})",
            task=task,
        )
        counts = self.execute(
            f"SELECT shiftright(place, {PLACE_BITS}) AS part, count(*) FROM {name}_placed GROUP BY part ORDER BY part"
        )
        before = itertools.accumulate((count for _, count in counts), initial=0)
        parts = _values({part: rows for (part, _), rows in zip(counts, before, strict=False)})
        columns = ", ".join(self.session.table(of).columns)
        self.query(
            name,
            f"""SELECT before + (place & {(1 << PLACE_BITS) - 1}) AS position, {columns}
            FROM {name}_placed JOIN {parts} ON shiftright(place, {PLACE_BITS}) = part""",
        )

    def write(self, path: Path, of: str, sql: str, *, header: str | None = None, task: str = "") -> None:
        parts = self._folder / path.name
        with _clear_errors(task):
            # sorted before they become lines, so that no line is made twice: Spark reads what it sorts two times
            lines = self._rows(f"{of} ORDER BY position", f"SELECT line FROM ({sql}) ORDER BY position")
            lines.write.text(f"file://{parts}")
        with path.open("wb") as whole:
            if header is not None:
                whole.write(f"{header}\n".encode())
            for part in sorted(parts.glob("part-*"), key=lambda part: (int(part.name.split("-")[1]), part.name)):
                with part.open("rb") as file:
                    shutil.copyfileobj(file, whole, staging.CHUNK_BYTES)
                part.unlink()

    def _rows(self, of: str, sql: str) -> DataFrame:
        """``sql``, DuckDB's, over the rows of ``of``, in their order."""
        batch = self.session.sql(of)
        with duckdb.connect() as connection:
            connection.execute(f"CREATE TABLE batch ({batch.schema.simpleString()[7:-1].replace(':', ' ')})")
            columns = connection.execute(f"DESCRIBE {sql}").fetchall()
        types = [f"`{name}` {kind.replace('VARCHAR', 'STRING')}" for name, kind, *_ in columns]
        return batch.mapInArrow(functools.partial(_mapped, sql), ", ".join(types))


def _mapped(sql: str, batches: Iterable[pyarrow.RecordBatch]) -> Iterator[pyarrow.RecordBatch]:
    with duckdb.connect(config={"threads": 1}) as connection:
        for batch in batches:
            connection.register("batch", pyarrow.Table.from_batches([batch]))
            yield from connection.sql(sql).to_arrow_reader(BATCH_ROWS)


def _values(before: Mapping[int, int]) -> str:
    """A relation of parts and the number of rows before each."""
    return f"(VALUES {', '.join(f'({part}, {rows}L)' for part, rows in before.items())}) AS parts(part, before)"


def _session(master: str | None) -> SparkSession:
    running = SparkSession.getActiveSession()
    if running is not None:
        if master not in (None, running.sparkContext.master):
            raise PreparationError(f"Spark runs already, at {running.sparkContext.master}; leave --spark-master out")
        return running
    if not os.environ.get("JAVA_HOME") and shutil.which("java") is None:
        raise PreparationError(
            "engine spark: there is no Java; install Java 17 or later, or name its folder in JAVA_HOME"
        )
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # Spark's default is whatever python3 the tasks find
    builder = SparkSession.builder.appName("dataset_prep")
    if master is not None:
        builder = builder.master(master)
    try:
        return builder.config("spark.ui.showConsoleProgress", str(sys.stderr.isatty()).lower()).getOrCreate()
    except (PySparkException, Py4JError) as error:
        raise PreparationError(
            f"engine spark: Spark doesn't start ({_first_line(error)}); it needs Java 17 or later, "
            "and a --spark-master within reach"
        ) from error


@functools.cache
def _code() -> Path:
    """This package as an archive, for machines that lack it; it is there as long as the process."""
    folder = Path(_scratch().name)
    package = Path(__file__).parent
    return Path(shutil.make_archive(str(folder / package.name), "zip", package.parent, package.name))


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory()


@contextmanager
def _clear_errors(task: str) -> Iterator[None]:
    try:
        yield
    except (PySparkException, Py4JError) as error:
        lines = str(error).strip().splitlines()
        said = lines[-1] if isinstance(error, PythonException) else lines[0]  # the end of a traceback
        raise PreparationError(f"{task or 'Spark'}: {said}; Spark's own log says more") from error


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]


# --- read ----------------------------------------------------------------------------------------------------------

# What a task gives: rows of ``parsed``, with ``row`` counted from 0 in the piece; and notes, which are "rejected" (a
# line, as ``row``, and its fault), "warning" or "error" (as ``fault``), "fingerprint" (a size, as ``row``, and a hash).
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
    """What one task reads.

    Attributes:
        file: its place among the inputs.
        path: absolute.
        layout: of the file; None if only its fingerprint is wanted.
        between: first byte and end, of whole lines; None is the whole file.
    """

    file: int
    path: Path
    source: Source
    skip_broken: bool
    layout: Layout | None = None
    between: tuple[int, int] | None = None

    @property
    def format(self) -> Format:
        return self.source.format or format_of(self.path)


def read(
    engine: Spark, source: Source, inputs: Sequence[Path], work: Path, *, skip_broken: bool
) -> tuple[list[Staged], Step]:
    """As ``parsing.read``, by tasks; of several broken files it may name another than DuckDB does."""
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
        FROM pieces JOIN {_values(firsts)} ON piece = part WHERE note IS NULL""",
    )
    sound = engine.value("SELECT count(*) FROM parsed WHERE fault IS NULL")
    for whole, span in zip(wholes, ranges, strict=True):
        faults = rejected[whole.file]
        if sound < rows or not span:
            place = functools.partial(_place, whole, engine.memory, work)
            parsing.report_faults(engine, whole.path, span, faults, place, skip_broken=skip_broken)
    return files, Step("broken rows left out", rows, sound)


def _notes(engine: Spark, pieces: Sequence[Piece]) -> tuple[list[Staged], dict[int, list[tuple[int, str]]]]:
    """The raw files with their fingerprints, and line and fault of the rejected rows of each."""
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
    """Let a task of a join or a sort handle about as much as one that reads; Spark's default is 200 tasks."""
    name = "spark.sql.shuffle.partitions"
    if not session.sparkContext.getConf().contains(name):
        session.conf.set(name, str(session.sparkContext.defaultParallelism + size // PIECE_BYTES))


def _cut(whole: Piece, memory: str, work: Path) -> list[Piece]:
    """What tasks read of a file, by what its beginning says."""
    encoding = parsing.encoding_of(whole.source, whole.path)
    head = whole.path
    if encoding is not None:
        head, objects = work / "head", 0
        with head.open("wb") as file:
            for text in _texts(whole, lambda warning: None):  # the task will say it
                file.write(text.encode())
                objects += sum(1 for line in text.split("\n") if line.strip())
                if objects >= SAMPLED_OBJECTS:
                    break
    try:
        with Engine(work, memory) as engine:
            layout = parsing.layout_of(engine, whole.format, Staged(whole.path, head, 0, ""), whole.source.layouts)
    except duckdb.Error as error:
        raise PreparationError(f"{whole.path}: {_first_line(error)}") from error
    whole = replace(whole, layout=layout)
    if encoding is None or not whole.format.is_divisible:
        return [whole]
    ranges = staging.ranges(whole.path, PIECE_BYTES, encoding=encoding, member=whole.source.member)
    return [replace(whole, between=between) for between in ranges] or [whole]


def _place(whole: Piece, memory: str, work: Path, record: int) -> str:
    """Where a record stands in a file, which is unpacked on this machine for that."""
    with Engine(work, memory) as engine:
        return whole.format.place(engine, parsing.staged(whole.source, whole.path, work / "broken", False), record)


def _read(
    pieces: Sequence[Piece], memory: str, batches: Iterable[pyarrow.RecordBatch]
) -> Iterator[pyarrow.RecordBatch]:
    """In a task: the pieces with the numbers in ``batches``."""
    for batch in batches:
        for number in batch.column(0).to_pylist():
            yield from _read_piece(number, pieces[number], memory)


def _read_piece(number: int, piece: Piece, memory: str) -> Iterator[pyarrow.RecordBatch]:
    warnings: list[str] = []
    try:
        if piece.layout is None:
            file = staging.stage(piece.path, piece.path, encoding=None)
            yield _note(number, "fingerprint", file.sha256, file.size)
            return
        with tempfile.TemporaryDirectory() as folder, Engine(Path(folder), memory, threads=1) as engine:
            rows = 0
            for file in _staged(piece, Path(folder) / "input", warnings.append):
                relation = piece.format.relation(engine, file, piece.layout.columns)
                parsed = parsing.parsed_rows(relation, piece.layout, rows)
                typed = ", ".join(f"{name}::{kind} AS {name}" for name, kind in COLUMNS.items())
                for batch in engine.batches(
                    f"SELECT {typed} FROM (SELECT {number} AS piece, NULL AS note, * FROM ({parsed}))", BATCH_ROWS
                ):
                    rows += batch.num_rows
                    yield batch
                for line, fault in piece.format.broken_rows(engine, file):
                    yield _note(number, "rejected", fault, line)
    except PreparationError as error:
        yield _note(number, "error", str(error))
    except duckdb.Error as error:
        yield _note(number, "error", f"{piece.path}: {_first_line(error)}")
    for warning in warnings:
        yield _note(number, "warning", warning)


def _note(piece: int, note: str, fault: str, row: int | None = None) -> pyarrow.RecordBatch:
    schema = pyarrow.schema({name: ARROW[kind] for name, kind in COLUMNS.items()})
    return pyarrow.RecordBatch.from_pylist([{"piece": piece, "note": note, "row": row, "fault": fault}], schema)


def _staged(piece: Piece, target: Path, warn: Callable[[str], None]) -> Iterator[Staged]:
    """Files that DuckDB reads, one after the other, each in the place of the one before."""
    if not piece.format.is_divisible:
        yield parsing.staged(piece.source, piece.path, target, piece.skip_broken, warn)
        return
    texts = iter(_texts(piece, warn))
    for text in texts:
        with target.open("wb") as file:
            file.write(text.encode())
            while file.tell() < PIECE_BYTES and (text := next(texts, "")):
                file.write(text.encode())
        yield Staged(piece.path, target, 0, "")


def _texts(piece: Piece, warn: Callable[[str], None]) -> Iterator[str]:
    source = piece.source
    if piece.between:
        return staging.texts_between(piece.path, *piece.between, skip_broken=piece.skip_broken)
    return staging.texts(
        piece.path,
        encoding=source.encoding or "utf-8",
        member=source.member,
        skip_broken=piece.skip_broken,
        warn=warn,
    )
