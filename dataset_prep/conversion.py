"""Raw files to a dataset, from beginning to end."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dataset_prep import pipeline, writer
from dataset_prep.engine import Engine
from dataset_prep.errors import PreparationError
from dataset_prep.formats import format_of
from dataset_prep.pipeline import Filters
from dataset_prep.source import Source
from dataset_prep.staging import Staged, stage

MEMORY = "1GB"


def prepare(
    source: Source,
    inputs: Sequence[Path],
    output: Path,
    *,
    filters: Filters | None = None,
    skip_broken: bool = False,
    memory: str = MEMORY,
) -> dict[str, Any]:
    """Convert raw review files to ``output/NAME.inter``, ``NAME.review.jsonl`` and ``NAME.stats.json``.

    NAME is the name of the folder ``output``. The same input and filters give the same bytes. Beside ``output`` stands
    a hidden folder while this runs: unpacked input, tables, spilled memory; it needs room for about three times the
    uncompressed input.

    Args:
        inputs: raw files of one source; rows that tie in time keep the order of the files and of the rows in them.
        filters: what to keep; None is ``Filters()``: 5-core, first of duplicates, no empty texts.
        skip_broken: leave broken rows out with a counted warning, instead of raising at the first.
        memory: DuckDB's limit; beyond it, DuckDB spills to disk.

    Returns:
        What the statistics file holds.

    Raises:
        PreparationError: an input is unreadable, broken or without a needed field, nothing is left after filtering, or
            ``output`` can't be made. Whatever stood at ``output`` is untouched then.
    """
    filters = filters or Filters()
    _check_inputs(inputs)
    with writer.new_dataset(output) as (work, folder), Engine(work, memory) as engine:
        for layout in source.layouts:
            pipeline.check_time_formats(engine, layout.time_formats)
        files = [_stage(source, path, work / f"input-{place}", skip_broken) for place, path in enumerate(inputs)]
        steps = [pipeline.parse(engine, source, files, skip_broken=skip_broken)]
        pipeline.clean(engine)
        steps += pipeline.filter_rows(engine, filters)
        pipeline.order(engine, steps)
        statistics = {
            "dataset": folder.name,
            "source": source.name,
            "files": [{"name": file.source.name, "bytes": file.size, "sha256": file.sha256} for file in files],
            "filters": {name: _plain(value) for name, value in dataclasses.asdict(filters).items()},
            "steps": [dataclasses.asdict(step) for step in steps],
            **pipeline.statistics(engine),
        }
        writer.write_interactions(engine, folder)
        writer.write_reviews(engine, folder)
        writer.write_statistics(statistics, folder)
    return statistics


def _check_inputs(inputs: Sequence[Path]) -> None:
    if not inputs:
        raise PreparationError("no input file; name at least one with --input")
    for path in inputs:
        if not path.is_file():
            raise PreparationError(f"{path}: no such file")
    if len({path.resolve() for path in inputs}) < len(inputs):
        raise PreparationError("an input file is named twice")


def _stage(source: Source, path: Path, target: Path, skip_broken: bool) -> Staged:
    form = source.format or format_of(path)
    if not form.is_text and source.encoding:
        raise PreparationError(f"{path}: this format has no encoding; leave --encoding out")
    encoding = (source.encoding or "utf-8") if form.is_text else None
    return stage(path, target, encoding=encoding, member=source.member, skip_broken=skip_broken)


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, int | str) else str(value)
