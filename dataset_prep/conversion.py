"""Raw files to a dataset, from beginning to end."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from dataset_prep import parsing, pipeline, writer
from dataset_prep.engine import Engine, Executor
from dataset_prep.errors import PreparationError
from dataset_prep.pipeline import Filters, Step
from dataset_prep.source import Source
from dataset_prep.staging import Staged

MEMORY = "1GB"
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

    NAME is the name of the folder ``output``. The same input and filters give the same bytes. Beside ``output`` stands
    a hidden folder while this runs: unpacked input, tables, spilled memory; it needs room for about three times the
    uncompressed input.

    Args:
        inputs: raw files of one source; rows that tie in time keep the order of the files and of the rows in them.
        filters: what to keep; None is ``Filters()``: 5-core, first of duplicates, no empty texts.
        skip_broken: leave broken rows out with a counted warning, instead of raising at the first.
        memory: DuckDB's limit; beyond it, DuckDB spills to disk. On Spark it is that of each task's own DuckDB.
        engine: of ``ENGINES``; both give the same bytes. ``spark`` needs the extra of that name.
        spark_master: where Spark runs, such as ``local[2]``; None leaves it to Spark's own settings, then to all cores.

    Returns:
        What the statistics file holds.

    Raises:
        PreparationError: an input is unreadable, broken or without a needed field, nothing is left after filtering, or
            ``output`` can't be made. Whatever stood at ``output`` is untouched then.
    """
    filters = filters or Filters()
    _check_inputs(inputs)
    with writer.new_dataset(output) as (work, folder), _started(engine, work, memory, spark_master) as (tables, read):
        for layout in source.layouts:
            parsing.check_time_formats(layout.time_formats)
        files, parsed = read(tables, source, inputs, work, skip_broken=skip_broken)
        text = pipeline.cleaned(tables)
        steps = [parsed, *pipeline.filter_rows(tables, filters, text)]
        pipeline.order(tables, steps)
        statistics = {
            "dataset": folder.name,
            "source": source.name,
            "files": [{"name": file.source.name, "bytes": file.size, "sha256": file.sha256} for file in files],
            "filters": {name: _plain(value) for name, value in dataclasses.asdict(filters).items()},
            "steps": [dataclasses.asdict(step) for step in steps],
            **pipeline.statistics(tables),
        }
        writer.write_interactions(tables, folder)
        writer.write_reviews(tables, folder, text)
        writer.write_statistics(statistics, folder)
    return statistics


class _Read(Protocol):
    """Fills ``parsed``; see ``parsing.read``."""

    def __call__(
        self, engine: Any, source: Source, inputs: Sequence[Path], work: Path, *, skip_broken: bool
    ) -> tuple[list[Staged], Step]: ...


@contextmanager
def _started(engine: str, work: Path, memory: str, spark_master: str | None) -> Iterator[tuple[Executor, _Read]]:
    """Starts an engine that works in a folder; yields it and the function that reads raw files for it."""
    if engine not in ENGINES:
        raise PreparationError(f"engine is {engine!r}; choose one of {', '.join(ENGINES)}")
    if engine == "duckdb":
        with Engine(work, memory) as duckdb:
            yield duckdb, parsing.read
        return
    try:
        from dataset_prep import spark
    except ModuleNotFoundError as error:
        raise PreparationError(
            f"engine spark: there is no module {error.name}; pip install 'recbole-symcere[spark]', and Java 17 or later"
        ) from error
    with spark.Spark(work, memory, spark_master) as session:
        yield session, spark.read


def _check_inputs(inputs: Sequence[Path]) -> None:
    if not inputs:
        raise PreparationError("no input file; name at least one with --input")
    for path in inputs:
        if not path.is_file():
            raise PreparationError(f"{path}: no such file")
    if len({path.resolve() for path in inputs}) < len(inputs):
        raise PreparationError("an input file is named twice")


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, int | str) else str(value)
