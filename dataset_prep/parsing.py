"""Raw files to ``parsed``, the table of their rows, by DuckDB; Spark does it with the same SQL, piece by piece."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import duckdb

from dataset_prep.engine import Engine, Executor, literal
from dataset_prep.errors import PreparationError
from dataset_prep.formats import Format, format_of
from dataset_prep.pipeline import Step
from dataset_prep.source import MILLISECONDS, SECONDS, Layout, Source
from dataset_prep.staging import UNDECODABLE, Staged, stage
from dataset_prep.text import WHITE_SPACE

logger = logging.getLogger(__name__)

MISSING_RATINGS = ("", "null", "none", "nan", "na", "n/a")  # in any case
SHOWN_CHARACTERS = 60  # of a faulty value or name, in a message
SHOWN_FIELDS = 1000  # characters of all names


def read(
    engine: Engine, source: Source, inputs: Sequence[Path], work: Path, *, skip_broken: bool
) -> tuple[list[Staged], Step]:
    """Fills ``parsed``: row (input order), user_id, item_id, review, seconds since 1970, rating, fault, value.

    Args:
        work: an existing folder for the unpacked files.
        skip_broken: leave broken rows out with a counted warning, instead of raising at the first.

    Returns:
        The raw files with their fingerprints, and how many of their rows are sound.

    Raises:
        PreparationError: a file can't be read, a field is missing from it, or a row is broken.
    """
    files = [staged(source, path, work / f"input-{place}", skip_broken) for place, path in enumerate(inputs)]
    engine.execute(
        "CREATE TABLE parsed (row BIGINT, user_id VARCHAR, item_id VARCHAR, review VARCHAR, seconds DOUBLE, "
        "rating DOUBLE, fault VARCHAR, value VARCHAR)"
    )
    rows = 0
    for file in files:
        rows += _parse_file(engine, source.format or format_of(file.source), file, source.layouts, rows, skip_broken)
    return files, Step("broken rows left out", rows, engine.value("SELECT count(*) FROM parsed WHERE fault IS NULL"))


def staged(
    source: Source, path: Path, target: Path, skip_broken: bool, warn: Callable[[str], None] = logger.warning
) -> Staged:
    """``path`` as a file that DuckDB reads, ``target`` if it must be another; see ``staging.stage``."""
    encoding = encoding_of(source, path)
    return stage(path, target, encoding=encoding, member=source.member, skip_broken=skip_broken, warn=warn)


def encoding_of(source: Source, path: Path) -> str | None:
    """Returns the encoding of the file; None if it is not text.

    Raises:
        PreparationError: it is no text, and the source names an encoding.
    """
    if (source.format or format_of(path)).is_text:
        return source.encoding or "utf-8"
    if source.encoding:
        raise PreparationError(f"{path}: this format has no encoding; leave --encoding out")
    return None


def _parse_file(
    engine: Engine, form: Format, file: Staged, layouts: Sequence[Layout], first: int, skip_broken: bool
) -> int:
    """Parses one file and returns the number of its rows, broken rows included."""
    try:
        layout = layout_of(engine, form, file, layouts)
        engine.execute(
            f"INSERT INTO parsed {parsed_rows(form.relation(engine, file, layout.columns), layout, first)}",
            task=f"parsing {file.source.name}",
        )
        rejected = form.broken_rows(engine, file)
    except duckdb.Error as error:
        raise PreparationError(f"{file.source}: {str(error).splitlines()[0]}") from error
    end = first + engine.value(f"SELECT count(*) FROM parsed WHERE row >= {first}")
    report_faults(
        engine,
        file.source,
        range(first, end),
        rejected,
        lambda record: form.place(engine, file, record),
        skip_broken=skip_broken,
    )
    return end - first + len(rejected)


def layout_of(engine: Engine, form: Format, file: Staged, layouts: Sequence[Layout]) -> Layout:
    """Returns the first layout whose fields the file has.

    Raises:
        PreparationError: it has those of none.
    """
    fields = form.fields(engine, file)
    missing = [[field for field in layout.columns.values() if field and field not in fields] for layout in layouts]
    if not fields:
        return layouts[0]  # nothing could be read: the rows say why
    fewest = min(missing, key=len)
    if fewest:
        # Where the file isn't what it seems, its first line can be anything.
        found = textwrap.shorten(", ".join(sorted(field[:SHOWN_CHARACTERS] for field in fields)), SHOWN_FIELDS)
        raise PreparationError(f"{file.source}, line 1: no field {', '.join(fewest)}; the file has {found}")
    return layouts[missing.index(fewest)]


def parsed_rows(relation: str, layout: Layout, first: int) -> str:
    """SQL of the columns of ``parsed`` for a format's ``relation``; ``first`` is the row of its record 1."""
    blank = literal(f"[^{WHITE_SPACE}]")
    missing = ", ".join(map(literal, MISSING_RATINGS))
    expected = " or ".join(layout.time_formats)
    return f"""
        SELECT {first} + record - 1 AS row, user_id, item_id, review, seconds, rating_number AS rating,
            CASE WHEN broken IS NOT NULL THEN broken
                WHEN contains(concat(user_id, item_id, review), {literal(UNDECODABLE)}) THEN 'has undecodable bytes'
                WHEN time IS NULL THEN 'has no time'
                WHEN seconds IS NULL THEN {literal(f"has a time that isn't in {expected}")}
                WHEN rating_number IS NULL AND lower(trim(rating)) NOT IN ({missing})
                    THEN 'has a rating that isn''t a number' END AS fault,
            CASE WHEN broken IS NULL THEN CASE WHEN seconds IS NULL THEN time ELSE rating END END AS value
        FROM (
            SELECT record, broken, review, time, rating,
                CASE WHEN regexp_matches(user_id, {blank}) THEN user_id END AS user_id,
                CASE WHEN regexp_matches(item_id, {blank}) THEN item_id END AS item_id,
                {_finite(_seconds(layout.time_formats))} AS seconds,
                {_finite("try_cast(rating AS DOUBLE)")} AS rating_number
            FROM ({relation}))"""


def _finite(number: str) -> str:
    return f"CASE WHEN isfinite({number}) THEN {number} END"


def _seconds(time_formats: Sequence[str]) -> str:
    match time_formats:
        case (str(only),) if only == SECONDS:
            return "try_cast(time AS DOUBLE)"
        case (str(only),) if only == MILLISECONDS:
            return "try_cast(time AS DOUBLE) / 1000"
    return f"epoch(try_strptime(trim(time), [{', '.join(map(literal, time_formats))}]))"


def check_time_formats(time_formats: Sequence[str]) -> None:
    """Raises ``PreparationError`` unless times can be read with these formats."""
    try:
        with duckdb.connect() as connection:
            connection.execute(f"SELECT {_seconds(time_formats)} FROM (SELECT '' AS time)").fetchall()
    except duckdb.Error as error:
        raise PreparationError(
            f"time format {' or '.join(time_formats)}: {str(error).splitlines()[0]}; "
            f"give {SECONDS}, {MILLISECONDS}, or a strptime format such as %Y-%m-%d"
        ) from error


def report_faults(
    engine: Executor,
    source: Path,
    rows: range,
    rejected: Sequence[tuple[int, str]],
    place: Callable[[int], str],
    *,
    skip_broken: bool,
) -> None:
    """Raises an error for the first broken row of a file, or warns with the number of rows of each fault.

    Args:
        source: the file, for messages.
        rows: of ``parsed`` that are the file's.
        rejected: line and fault of rows that aren't there, as ``Format.broken_rows`` gives them.
        place: of a record of the file, counted from 1.
    """
    if not rows and not rejected:
        raise PreparationError(f"{source}: the file has no rows")
    faulty = f"FROM parsed WHERE row >= {rows.start} AND row < {rows.stop} AND fault IS NOT NULL"
    if skip_broken:
        counts = engine.execute(f"SELECT fault, count(*) {faulty} GROUP BY fault ORDER BY fault")
        if rejected:
            counts.append(("has the wrong number of fields, broken quotes or bytes", len(rejected)))
        for fault, count in counts:
            logger.warning("%s: left out %s rows, each of which %s", source, f"{count:,}", fault)
        return
    mend = "mend or delete it, or leave such rows out with --on-error skip"
    if rejected:
        line, message = rejected[0]
        raise PreparationError(f"{source}, line {line:,}: {message}; {mend}")
    for row, fault, value in engine.execute(f"SELECT row, fault, value {faulty} ORDER BY row LIMIT 1"):
        shown = "" if value is None else f": {value[:SHOWN_CHARACTERS]!r}"
        raise PreparationError(f"{source}, {place(row - rows.start + 1)}: {fault}{shown}; {mend}")
