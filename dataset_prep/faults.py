"""Reports the broken rows of raw files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import duckdb

from dataset_prep.engine import Executor
from dataset_prep.errors import PreparationError
from dataset_prep.source import Source

logger = logging.getLogger("dataset_prep.parsing")

SHOWN_CHARACTERS = 60  # how much of a faulty value a message shows
SAMPLED_VALUES = 100  # of which the format of the times is guessed
MEND = "mend or delete it, or leave such rows out with --on-error skip"
TIME_FORMAT = "say with --time-format how times are written, such as '%d %B %Y' for 9 November 2012"
BAD_TIME = "has a time that isn't in "  # the formats follow
BAD_RATING = "has a rating that isn't a number"
NO_TIME = "has no time"
SWALLOWS = "has a quoted field that holds lines which look like rows"
TIME_FORMATS = (
    *("%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M:%S.%f", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S.%f"),
    *("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S.%fZ", "%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%d %H:%M:%S%z"),
    *("%Y/%m/%d", "%Y/%m/%d %H:%M:%S"),
    *("%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y", "%m %d, %Y", "%d %B %Y", "%B %d, %Y", "%d %b %Y", "%b %d, %Y"),
)


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
    if rejected:
        line, message = rejected[0]
        mend = MEND if rows or len(rejected) == 1 else _mend_of_all("", [], source)
        raise PreparationError(f"{path}, line {line:,}: {message}; {mend}")
    for row, fault, value in engine.execute(f"SELECT row, fault, value {faulty} ORDER BY row LIMIT 1"):
        shown = "" if value is None else f": {value[:SHOWN_CHARACTERS]!r}"
        numbers = dict(engine.execute(f"SELECT fault, count(*) {faulty} GROUP BY fault"))
        values = [other for (other,) in engine.execute(f"SELECT value {faulty} ORDER BY row LIMIT {SAMPLED_VALUES}")]
        is_all = numbers[fault] == len(rows) > 1
        mend = _mend_of_all(fault, values, source) if is_all else _mend(fault, source)
        raise PreparationError(f"{path}, {place(row - rows.start + 1)}: {fault}{shown}; {mend}")


def _mend(fault: str, source: Source) -> str:
    """Returns how to mend a fault that some rows of a file have."""
    if fault == BAD_RATING and "--rating" in source.options:
        return f"{MEND}, or leave --rating out"
    if fault == SWALLOWS and "--quotes" in source.options:
        return f"{MEND}, or say with --quotes what quotes mean"
    return MEND


def _mend_of_all(fault: str, values: Sequence[str], source: Source) -> str:
    """Returns how to mend a fault that every row of a file has, so that no row would be left without these rows.

    Args:
        values: some of the values that are wrong.
    """
    is_table = "--time-format" in source.options
    if is_table and fault.startswith(BAD_TIME):
        found = _time_format_of(values)
        return f"every row is so; give --time-format {found!r}" if found else f"every row is so; {TIME_FORMAT}"
    if is_table and fault == BAD_RATING:
        return "every row is so; leave --rating out"
    if is_table and fault == NO_TIME:
        return "every row is so; name another column with --time, or take the order of the rows with --order rows"
    if is_table:
        return "every row is so; give a file in the format that its name says, or name its --delimiter and --quotes"
    return "every row is so, so the file is of another kind; read it with the source table, and name its columns"


def _time_format_of(values: Sequence[str]) -> str | None:
    """Returns the first usual format that all of some times have."""
    fits = "SELECT bool_and(try_strptime(trim(time), $2) IS NOT NULL) FROM (SELECT unnest($1::VARCHAR[]) AS time)"
    with duckdb.connect() as connection:
        for time_format in TIME_FORMATS:
            if connection.execute(fits, [values, time_format]).fetchall()[0][0]:
                return time_format
    return None
