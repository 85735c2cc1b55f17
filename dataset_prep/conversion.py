"""Converts raw files to a dataset, from beginning to end."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from dataset_prep import parsing, pipeline, plausibility, writer
from dataset_prep.engine import Engine, Executor
from dataset_prep.errors import PreparationError
from dataset_prep.pipeline import Filters, Step
from dataset_prep.source import Source
from dataset_prep.staging import Staged

MEMORY = "1GB"
ORDER_OF_ROWS = "in the order of the rows"
ENGINES = ("duckdb", "spark")


def prepare(
    source: Source,
    inputs: Sequence[Path],
    output: Path,
    *,
    filters: Filters | None = None,
    skip_broken: bool = False,
    memory: str = MEMORY,
    engine: str = "duckdb",
    spark_master: str | None = None,
) -> dict[str, Any]:
    """Converts raw review files to ``output/NAME.inter``, ``NAME.review.jsonl`` and ``NAME.stats.json``.

    NAME is the name of the folder ``output``. The same input and filters give the same bytes. While the conversion
    runs, a hidden folder beside ``output`` holds the unpacked input, the tables, and what does not fit in memory. It
    needs room for about three times the uncompressed input.

    Args:
        source: how to read the raw files.
        inputs: the raw files. Rows with the same time keep the order of the files and of the rows in them.
        output: the folder of the dataset. An older dataset in it is replaced.
        filters: what to keep; None is ``Filters()``: the 5-core, the first of repeated rows, and no blank texts.
        skip_broken: leave broken rows out and warn with their number, instead of raising an error at the first.
        memory: how much memory DuckDB may use; the rest goes to disk. On Spark, each task has a DuckDB with this limit.
        engine: one of ``ENGINES``; both give the same bytes. ``spark`` needs the extra of that name.
        spark_master: where Spark runs, such as ``local[2]``. With None, Spark's settings decide; if they name no
            master, Spark uses all cores of this machine.

    Returns:
        The content of the statistics file.

    Raises:
        PreparationError: an input can't be read, is broken or lacks a needed field, no row is left after filtering, or
            ``output`` can't be made. ``output`` then stays as it was.
    """
    filters = filters or Filters()
    _check_inputs(inputs)
    has_times = all(layout.time for layout in source.layouts)
    if not has_times and (filters.start or filters.end):
        raise PreparationError("without times, no days can be chosen; leave --from and --to out, or name --time")
    with writer.new_dataset(output) as (work, folder), _started(engine, work, memory, spark_master) as (tables, read):
        for layout in source.layouts:
            parsing.check_time_formats(layout.time_formats)
        files, parsed = read(tables, source, inputs, work, skip_broken=skip_broken)
        if has_times:
            plausibility.check_times(tables, source)
        text = pipeline.cleaned(tables)
        steps = [parsed, *pipeline.filter_rows(tables, filters, text)]
        pipeline.order(tables, steps)
        statistics = {
            "dataset": folder.name,
            "source": source.name,
            "files": [{"name": file.source.name, "bytes": file.size, "sha256": file.sha256} for file in files],
            "filters": {name: _plain(value) for name, value in dataclasses.asdict(filters).items()},
            "steps": [dataclasses.asdict(step) for step in steps],
            **({} if has_times else {"times": ORDER_OF_ROWS}),
            **pipeline.statistics(tables),
        }
        writer.write_interactions(tables, folder)
        writer.write_reviews(tables, folder, text)
        writer.write_statistics(statistics, folder)
    return statistics


class _Read(Protocol):
    """The function with which an engine reads raw files into the table ``parsed``; see ``parsing.read``."""

    def __call__(
        self, engine: Any, source: Source, inputs: Sequence[Path], work: Path, *, skip_broken: bool
    ) -> tuple[list[Staged], Step]: ...


@contextmanager
def _started(engine: str, work: Path, memory: str, spark_master: str | None) -> Iterator[tuple[Executor, _Read]]:
    """Starts an engine that works in a folder. Yields the engine and the function that reads raw files into it."""
    if engine not in ENGINES:
        raise PreparationError(f"engine is {engine!r}; choose one of {', '.join(ENGINES)}")
    if engine == "duckdb":
        with Engine(work, memory) as duckdb:
            yield duckdb, parsing.read
        return
    try:
        from dataset_prep import spark, spark_parsing
    except ModuleNotFoundError as error:
        raise PreparationError(
            f"engine spark: there is no module {error.name}; pip install 'recbole-symcere[spark]', and install Java 17 "
            "or later"
        ) from error
    with spark.Spark(work, memory, spark_master) as session:
        yield session, spark_parsing.read


def _check_inputs(inputs: Sequence[Path]) -> None:
    if not inputs:
        raise PreparationError("no input file; name at least one with --input")
    for path in inputs:
        if not path.is_file():
            raise PreparationError(f"{path}: {'a folder; name a file in it' if path.is_dir() else 'no such file'}")
    if len({path.resolve() for path in inputs}) < len(inputs):
        raise PreparationError("an input file is named twice")


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, int | str) else str(value)
