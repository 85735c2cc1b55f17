"""DuckDB with a memory limit: it spills to disk, shows progress, and stops at once when the user asks."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import Any

import duckdb
from tqdm import tqdm

from dataset_prep.errors import PreparationError

POLL_SECONDS = 0.1
PROGRESS_DELAY_SECONDS = 2  # quicker steps show no bar


def literal(text: str) -> str:
    """``text`` as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """``name`` as an SQL column name."""
    return '"' + name.replace('"', '""') + '"'


def progress(task: str, total: int, **options: Any) -> tqdm:
    """A bar on the terminal, if there is one, for a task that takes seconds."""
    return tqdm(total=total, desc=task, **{"leave": False, "delay": PROGRESS_DELAY_SECONDS, "disable": None} | options)


class Engine:
    """A DuckDB database that keeps in ``folder`` what doesn't fit in memory; the caller removes the folder.

    Args:
        folder: an existing folder with room for about twice the uncompressed input.
        memory: DuckDB's own limit, such as ``"1GB"``, at least 200 MB; the process takes some 150 MB more.

    Raises:
        PreparationError: ``memory`` isn't a size, or a statement ran out of memory or disk.
    """

    def __init__(self, folder: Path, memory: str) -> None:
        try:
            self._connection = duckdb.connect(
                ":memory:",
                config={
                    "memory_limit": memory,
                    "temp_directory": str(folder / "spill"),
                    "autoinstall_known_extensions": False,  # never reach for the network
                },
            )
        except (duckdb.InvalidInputException, duckdb.ParserException) as error:
            raise PreparationError(f"memory limit {memory!r}: {_first_line(error)}; give a size such as 1GB") from error
        self._connection.execute("SET enable_progress_bar = true; SET enable_progress_bar_print = false")

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def execute(self, sql: str, parameters: Sequence[Any] = (), *, task: str = "") -> list[tuple[Any, ...]]:
        """Rows of one statement; ``task`` labels its progress bar.

        The statement runs in a thread of its own, since DuckDB looks at the main thread's signals too seldom: Ctrl-C
        would wait for minutes.
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
                raise PreparationError(f"{task}: {_first_line(error)}; raise --memory or free disk space") from error
            except duckdb.IOException as error:
                raise PreparationError(f"{task}: {_first_line(error)}; free disk space or mend the disk") from error
            except BaseException:
                while not running.done():  # asked again, since a statement that is about to begin doesn't hear it
                    self._connection.interrupt()
                    wait([running], timeout=POLL_SECONDS)
                raise

    def value(self, sql: str, parameters: Sequence[Any] = (), *, task: str = "") -> Any:
        """The only value of a statement's only row."""
        return self.execute(sql, parameters, task=task)[0][0]

    def _rows(self, sql: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql, parameters).fetchall()


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]
