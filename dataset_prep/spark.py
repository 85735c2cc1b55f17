"""Runs the pipeline on Spark, for data that no single machine can hold. DuckDB alone would write the same bytes.

Spark divides the work into tasks, and it joins, counts and sorts. Queries that handle each row by itself (parsing it,
cleaning its text, counting its words, writing its numbers) are run by DuckDB inside the tasks, in the same SQL as
without Spark. A translation of that SQL, by Ibis, by sqlglot or by hand, would give other results:

- Spark has no counterpart of ``try_strptime`` with strptime formats, nor of the reader that says which rows are broken.
- Spark takes ``1d`` and ``0x1p3`` for numbers, but not ``1_000``.
- Spark writes ``1.0E10`` where DuckDB writes ``10000000000.0``.
- Spark has other hashes, and the regular expressions of Java ignore case differently.

Queries over several rows need no translation, because Spark and DuckDB both understand them.

Every machine must see the raw files and the folder of the output under the same path. Tables are Parquet files in a
hidden folder beside the output. Therefore the plan of a query does not grow with the rounds of the k-core, and if a
machine is lost, only its tasks run again. In the end, the machine that started Spark joins the parts of each output
file. ``spark_parsing`` says how the raw files are read.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import duckdb
import pyarrow
from py4j.protocol import Py4JError
from pyspark.errors import PySparkException, PythonException
from pyspark.sql import DataFrame, SparkSession

from dataset_prep import staging
from dataset_prep.engine import Engine, first_line
from dataset_prep.errors import PreparationError

BATCH_ROWS = 10_000
# monotonically_increasing_id has the place of a row in its partition in these lower bits, and above them the number of
# the partition.
PLACE_BITS = 33


class Spark:
    """An ``Executor`` on Spark, whose tables are files in a folder.

    If the process has a session of Spark already, that session is used and left open.

    Args:
        folder: an existing folder that every machine sees, with room for about four times the uncompressed input.
        memory: how much memory the DuckDB of each task may use. The memory of Spark itself is a setting of Spark.
        master: where Spark runs. With None, Spark's settings decide; if they name no master, Spark uses all cores of
            this machine.

    Raises:
        PreparationError: Java or Spark does not start, ``memory`` is not a size, or a statement failed.
    """

    def __init__(self, folder: Path, memory: str, master: str | None) -> None:
        self.memory = memory
        self._folder = folder.absolute() / "tables"
        self._numbers = itertools.count()
        self._paths: dict[str, Path] = {}
        self._own = SparkSession.getActiveSession() is None
        self.session = _session(master).newSession()  # for names and settings of its own
        code = str(_code())
        if not any(Path(file).name == Path(code).name for file in self.session.sparkContext.listFiles):
            self.session.sparkContext.addPyFile(code)
        with Engine(folder, memory):
            pass  # raises an error here, not in a task, if ``memory`` is not a size

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
        """Gives a name to a query in SQL that only Spark needs to understand."""
        with _clear_errors(name):
            self.session.sql(sql).createOrReplaceTempView(name)

    def table(self, name: str, sql: str, *, task: str = "") -> None:
        with _clear_errors(task):
            self.fill(name, self.session.sql(sql), task=task)

    def fill(self, name: str, frame: DataFrame, *, task: str = "") -> None:
        """Makes or replaces a table of the rows of ``frame``."""
        path = self._folder / f"{name}-{next(self._numbers)}"
        with _clear_errors(task):
            frame.write.parquet(f"file://{path}")
            # Spark takes a path that it reads for a pattern, but not a path that it writes.
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
        """Numbers rows as ``Executor`` says.

        The sorted rows are numbered within each partition, and the number of rows in the partitions before is added.
        """
        self.table(
            f"{name}_placed",
            f"SELECT monotonically_increasing_id() AS place, * FROM (SELECT * FROM {of} ORDER BY {order})",
            task=task,
        )
        counts = self.execute(
            f"SELECT shiftright(place, {PLACE_BITS}) AS part, count(*) FROM {name}_placed GROUP BY part ORDER BY part"
        )
        before = itertools.accumulate((count for _, count in counts), initial=0)
        parts = rows_before({part: rows for (part, _), rows in zip(counts, before, strict=False)})
        columns = ", ".join(self.session.table(of).columns)
        self.query(
            name,
            f"""SELECT before + (place & {(1 << PLACE_BITS) - 1}) AS position, {columns}
            FROM {name}_placed JOIN {parts} ON shiftright(place, {PLACE_BITS}) = part""",
        )

    def write(self, path: Path, of: str, sql: str, *, header: str | None = None, task: str = "") -> None:
        parts = self._folder / path.name
        with _clear_errors(task):
            # The rows are sorted before they become lines: Spark computes what it sorts twice, and lines are costly.
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
        """Returns the result of ``sql``, in DuckDB's SQL, over the rows of ``of``, in their order."""
        batch = self.session.sql(of)
        with duckdb.connect() as connection:
            connection.execute(f"CREATE TABLE batch ({batch.schema.simpleString()[7:-1].replace(':', ' ')})")
            columns = connection.execute(f"DESCRIBE {sql}").fetchall()
        types = [f"`{name}` {kind.replace('VARCHAR', 'STRING')}" for name, kind, *_ in columns]
        return batch.mapInArrow(functools.partial(_mapped, sql), ", ".join(types))


def _mapped(sql: str, batches: Iterable[pyarrow.RecordBatch]) -> Iterator[pyarrow.RecordBatch]:
    """Runs a query of DuckDB over each batch, inside a task."""
    with duckdb.connect(config={"threads": 1}) as connection:
        for batch in batches:
            connection.register("batch", pyarrow.Table.from_batches([batch]))
            yield from connection.sql(sql).to_arrow_reader(BATCH_ROWS)


def rows_before(before: Mapping[int, int]) -> str:
    """Returns SQL for a relation ``parts`` with the columns ``part`` and ``before``.

    Args:
        before: for each part, the number of rows before it.
    """
    return f"(VALUES {', '.join(f'({part}, {rows}L)' for part, rows in before.items())}) AS parts(part, before)"


def _session(master: str | None) -> SparkSession:
    running = SparkSession.getActiveSession()
    if running is not None:
        if master not in (None, running.sparkContext.master):
            raise PreparationError(f"Spark already runs at {running.sparkContext.master}; leave --spark-master out")
        return running
    if not os.environ.get("JAVA_HOME") and shutil.which("java") is None:
        raise PreparationError(
            "engine spark: there is no Java; install Java 17 or later, or set JAVA_HOME to its folder"
        )
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # by default, tasks run whatever python3 they find
    builder = SparkSession.builder.appName("dataset_prep")
    if master is not None:
        builder = builder.master(master)
    try:
        return builder.config("spark.ui.showConsoleProgress", str(sys.stderr.isatty()).lower()).getOrCreate()
    except (PySparkException, Py4JError) as error:
        raise PreparationError(
            f"engine spark: Spark doesn't start ({first_line(error)}); it needs Java 17 or later, "
            "and a --spark-master that can be reached"
        ) from error


@functools.cache
def _code() -> Path:
    """Returns an archive of this package, for machines that lack it. It exists as long as the process."""
    folder = Path(_scratch().name)
    package = Path(__file__).parent
    return Path(shutil.make_archive(str(folder / package.name), "zip", package.parent, package.name))


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory()


@contextmanager
def _clear_errors(task: str) -> Iterator[None]:
    """Turns an error of Spark into a ``PreparationError`` of one line."""
    try:
        yield
    except (PySparkException, Py4JError) as error:
        lines = str(error).strip().splitlines()
        said = lines[-1] if isinstance(error, PythonException) else lines[0]  # a traceback ends with its error
        raise PreparationError(f"{task or 'Spark'}: {said}; the log of Spark says more") from error
