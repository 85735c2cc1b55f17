"""The interface that the pipeline needs of an engine, and DuckDB, which is the default engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import duckdb
from tqdm import tqdm

from dataset_prep.errors import PreparationError

POLL_SECONDS = 0.1
PROGRESS_DELAY_SECONDS = 2  # a task that ends earlier shows no bar


def literal(text: str) -> str:
    """Returns ``text`` as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """Returns ``name`` as the name of an SQL column."""
    return '"' + name.replace('"', '""') + '"'


def progress(task: str, total: int, **options: Any) -> tqdm:
    """Returns a progress bar, which appears after some seconds and only in a terminal."""
    return tqdm(total=total, desc=task, **{"leave": False, "delay": PROGRESS_DELAY_SECONDS, "disable": None} | options)


class _OutOfMemory(PreparationError):
    """A statement needs more memory, or more disk space, than there is."""


class Executor(Protocol):
    """The operations on tables that the pipeline needs of an engine.

    Queries come in two dialects. An operation with ``sql`` alone takes a query that DuckDB and Spark both understand
    and answer alike. An operation with ``of`` and ``sql`` takes such a query as ``of``; its ``sql`` is a query in
    DuckDB's dialect over the rows of ``of``, which it calls ``batch``. That query must handle each row by itself,
    because an engine may pass the rows in several batches.
    """

    def execute(self, sql: str, *, task: str = "") -> list[tuple[Any, ...]]:
        """Returns the rows of a query."""

    def value(self, sql: str, *, task: str = "") -> Any:
        """Returns the only value of the only row of a query."""

    def view(self, name: str, of: str, sql: str) -> None:
        """Gives a query a name. The query runs whenever the name is used."""

    def table(self, name: str, sql: str, *, task: str = "") -> None:
        """Makes or replaces a table; the query may read the table that it replaces."""

    def drop(self, name: str) -> None:
        """Drops a table."""

    def keep(self, name: str, condition: str, *, task: str = "") -> int:
        """Drops the rows of a table that do not meet a condition, and returns their number."""

    def number(self, name: str, of: str, order: str, *, task: str = "") -> None:
        """Makes ``name`` of the rows of the table ``of`` and their ``position`` in an order without ties, from 0."""

    def write(self, path: Path, of: str, sql: str, *, header: str | None = None, task: str = "") -> None:
        """Writes the column ``line`` of each row to a file, in the order of the column ``position`` of both queries."""


class Engine:
    """A DuckDB database that moves what does not fit in memory to ``folder``, which the caller removes.

    Args:
        folder: an existing folder with room for about twice the uncompressed input.
        memory: how much memory DuckDB may use, such as ``"1GB"``; at least 200 MB. The process itself takes about
            150 MB more.
        threads: the number of cores to use; None is all.

    Raises:
        PreparationError: ``memory`` is not a size, or a statement ran out of memory or disk space.
    """

    def __init__(self, folder: Path, memory: str, threads: int | None = None) -> None:
        try:
            self._connection = duckdb.connect(
                ":memory:",
                config={
                    "memory_limit": memory,
                    "temp_directory": str(folder / "spill"),
                    "autoinstall_known_extensions": False,  # DuckDB would download them
                    **({"threads": threads} if threads else {}),
                },
            )
        except (duckdb.InvalidInputException, duckdb.ParserException) as error:
            raise PreparationError(f"memory limit {memory!r}: {first_line(error)}; give a size such as 1GB") from error
        self._connection.execute("SET enable_progress_bar = true; SET enable_progress_bar_print = false")

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def execute(self, sql: str, parameters: Sequence[Any] = (), *, task: str = "") -> list[tuple[Any, ...]]:
        """Returns the rows of one statement. Its progress bar is labelled with ``task``.

        The statement runs in a thread of its own. In the main thread, Ctrl-C could take minutes to have an effect,
        because DuckDB seldom looks for signals.
        """
        with (
            ThreadPoolExecutor(max_workers=1) as pool,
            progress(
                task, 100, disable=None if task else True, bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}"
            ) as bar,
        ):
            running = pool.submit(self._rows, sql, parameters)
            try:
                while not wait([running], timeout=POLL_SECONDS).done:
                    bar.update(max(0.0, self._connection.query_progress() - bar.n))
                return running.result()
            except duckdb.OutOfMemoryException as error:
                raise _OutOfMemory(f"{task}: {first_line(error)}; raise --memory or free disk space") from error
            except duckdb.IOException as error:
                raise PreparationError(f"{task}: {first_line(error)}; free disk space or mend the disk") from error
            except BaseException:
                while not running.done():  # more than once, because a statement that has not begun ignores it
                    self._connection.interrupt()
                    wait([running], timeout=POLL_SECONDS)
                raise

    def value(self, sql: str, parameters: Sequence[Any] = (), *, task: str = "") -> Any:
        """Returns the only value of the only row of a statement."""
        return self.execute(sql, parameters, task=task)[0][0]

    def view(self, name: str, of: str, sql: str) -> None:
        self.execute(f"CREATE OR REPLACE VIEW {name} AS {_over(of, sql)}")

    def table(self, name: str, sql: str, *, task: str = "") -> None:
        self.execute(f"CREATE OR REPLACE TABLE {name} AS {sql}", task=task)

    def drop(self, name: str) -> None:
        self.execute(f"DROP TABLE {name}")

    def keep(self, name: str, condition: str, *, task: str = "") -> int:
        return int(self.value(f"DELETE FROM {name} WHERE NOT ({condition})", task=task))

    def number(self, name: str, of: str, order: str, *, task: str = "") -> None:
        self.table(name, f"SELECT row_number() OVER (ORDER BY {order}) - 1 AS position, * FROM {of}", task=task)

    def write(self, path: Path, of: str, sql: str, *, header: str | None = None, task: str = "") -> None:
        # The rows are sorted last, because DuckDB looks values up in a long list by a join, which loses their order.
        named = f"SELECT line AS {identifier(header or 'line')} FROM ({_over(of, sql)}) ORDER BY position"
        copy = (
            f"COPY ({named}) TO {literal(str(path))} (FORMAT csv, HEADER {header is not None}, DELIMITER '\t', "
            "QUOTE '', ESCAPE '')"
        )
        try:
            self.execute(copy, task=task)
        except _OutOfMemory:
            # Several threads keep rows in memory until it is their turn. One thread needs half the memory, and 1.5
            # times as long.
            threads = self.value("SELECT current_setting('threads')")
            self._connection.execute("SET threads = 1")
            self.execute(copy, task=task)
            self._connection.execute(f"SET threads = {threads}")

    def batches(self, sql: str, rows: int) -> Iterator[Any]:
        """Yields the result of a query as record batches of PyArrow, of at most ``rows`` rows each."""
        yield from self._connection.sql(sql).to_arrow_reader(rows)

    def _rows(self, sql: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql, parameters).fetchall()


def _over(of: str, sql: str) -> str:
    return f"WITH batch AS NOT MATERIALIZED ({of}) {sql}"


def first_line(error: Exception) -> str:
    """Returns the first line of the message of an error."""
    return str(error).split("\n", 1)[0]
