"""Reports the broken rows of raw files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from dataset_prep.engine import Executor
from dataset_prep.errors import PreparationError
from dataset_prep.source import Source

logger = logging.getLogger("dataset_prep.parsing")

SHOWN_CHARACTERS = 60  # how much of a faulty value a message shows


def report(
    engine: Executor,
    source: Source,
    path: Path,
    rows: range,
    rejected: Sequence[tuple[int, str]],
    place: Callable[[int], str],
    *,
    skip_broken: bool,
) -> None:
    """Raises an error for the first broken row of a file, or warns with the number of rows of each fault.

    Args:
        source: how the file was read.
        path: the file that messages name.
        rows: the rows of the file in ``parsed``.
        rejected: the line and the fault of each row that is not in ``parsed``, from ``Format.broken_rows``.
        place: returns the place of a record of the file for a message.
        skip_broken: warn instead of raising an error.

    Raises:
        PreparationError: the file has no rows, or ``skip_broken`` is false and a row is broken.
    """
    if not rows and not rejected:
        raise PreparationError(f"{path}: the file has no rows")
    faulty = f"FROM parsed WHERE row >= {rows.start} AND row < {rows.stop} AND fault IS NOT NULL"
    if skip_broken:
        counts = engine.execute(f"SELECT fault, count(*) {faulty} GROUP BY fault ORDER BY fault")
        if rejected:
            counts.append(("has the wrong number of fields, broken quotes or bytes", len(rejected)))
        for fault, count in counts:
            logger.warning("%s: left out %s rows, each of which %s", path, f"{count:,}", fault)
        return
    mend = "mend or delete it, or leave such rows out with --on-error skip"
    if rejected:
        line, message = rejected[0]
        raise PreparationError(f"{path}, line {line:,}: {message}; {mend}")
    for row, fault, value in engine.execute(f"SELECT row, fault, value {faulty} ORDER BY row LIMIT 1"):
        shown = "" if value is None else f": {value[:SHOWN_CHARACTERS]!r}"
        raise PreparationError(f"{path}, {place(row - rows.start + 1)}: {fault}{shown}; {mend}")
