"""Warns of times that no review can have, and names the unit in which they make sense."""

from __future__ import annotations

import datetime
import logging

from dataset_prep.engine import Executor
from dataset_prep.source import UNITS, Source

logger = logging.getLogger(__name__)

EARLIEST = datetime.datetime(1990, 1, 1, tzinfo=datetime.timezone.utc).timestamp()  # reviews on the web came later
DAY = 86_400  # seconds; clocks and time zones differ
SECONDS_PER_YEAR = 365.2425 * DAY


def year(seconds: float) -> int:
    """Returns the year of a time, also outside the years that ``datetime`` knows.

    Args:
        seconds: the time since 1970.
    """
    try:
        epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
        return (epoch + datetime.timedelta(seconds=seconds)).year
    except OverflowError:
        return int(1970 + seconds // SECONDS_PER_YEAR)


def check_times(engine: Executor, source: Source) -> None:
    """Warns if times of sound rows in ``parsed`` lie before 1990 or in the future.

    The warning says how many, in which years, and which unit would make more of them plausible.
    """
    latest = datetime.datetime.now(datetime.timezone.utc).timestamp() + DAY
    formats = {time_format for layout in source.layouts for time_format in layout.time_formats}
    given = UNITS.get(min(formats), 1) if len(formats) == 1 else 1
    # What a time of the given unit becomes in another unit: ``factor`` times as large.
    factors = {name: given / unit for name, unit in UNITS.items()}
    counts = ", ".join(
        f"count(CASE WHEN seconds * {factor!r} BETWEEN {EARLIEST!r} AND {latest!r} THEN 1 END)"
        for factor in factors.values()
    )
    outside = f"CASE WHEN seconds < {EARLIEST!r} OR seconds > {latest!r} THEN seconds END"
    count, n_outside, first, last, *plausible = engine.execute(
        f"SELECT count(*), count({outside}), min({outside}), max({outside}), {counts} FROM parsed WHERE fault IS NULL"
    )[0]
    if not n_outside:
        return
    likely = dict(zip(factors, plausible, strict=True))
    best = max(likely, key=lambda name: likely[name])
    is_unit = formats <= {*UNITS} and likely[best] > count - n_outside
    logger.warning(
        f"{n_outside:,} of {count:,} times are before 1990 or in the future, from the year {year(first)} "
        f"to {year(last)}; {_mend(best, factors[best], source) if is_unit else 'check them'}"
    )


def _mend(unit: str, factor: float, source: Source) -> str:
    if "--time-format" in source.options:
        return f"they look like {unit}: give --time-format {unit}"
    times = f"{factor:,.0f} times too small" if factor > 1 else f"{1 / factor:,.0f} times too large"
    return f"they look {times}: read the files with the source table, and give its --time-format"
