"""Reads raw files into the table ``parsed`` with DuckDB. Spark runs the same SQL, on pieces of the files."""

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

MISSING_RATINGS = ("", "null", "none", "nan", "na", "n/a")  # compared in lower case
SHOWN_CHARACTERS = 60  # how much of a faulty value or of a name a message shows
SHOWN_FIELDS = 1000  # characters; how much of all the names of fields a message shows


def read(
    engine: Engine, source: Source, inputs: Sequence[Path], work: Path, *, skip_broken: bool
) -> tuple[list[Staged], Step]:
    """Reads raw files into the table ``parsed``.

    The columns of ``parsed`` are ``row`` (the place of the row in the input, from 0), ``user_id``, ``item_id``,
    ``review``, ``seconds`` (since 1970), ``rating``, ``fault`` (what is wrong with the row, or NULL) and ``value`` (the
    value that is wrong, or NULL).

    Args:
        work: an existing folder for the unpacked files.
        skip_broken: leave broken rows out and warn with their number, instead of raising an error at the first.

    Returns:
        The raw files with their fingerprints, and the step that leaves broken rows out.

    Raises:
        PreparationError: a file can't be read or lacks a needed field; or a row is broken and ``skip_broken`` is false.
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
    """Makes a raw file readable for DuckDB; ``staging.stage`` describes the arguments and the errors."""
    encoding = encoding_of(source, path)
    return stage(path, target, encoding=encoding, member=source.member, skip_broken=skip_broken, warn=warn)


def encoding_of(source: Source, path: Path) -> str | None:
    """Returns the encoding of a file, or None if its format is not text.

    Raises:
        PreparationError: the format is not text, but the source names an encoding.
    """
    if (source.format or format_of(path)).is_text:
        return source.encoding or "utf-8"
    if source.encoding:
        raise PreparationError(f"{path}: the format of this file has no encoding; leave --encoding out")
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
        PreparationError: no layout has all its fields in the file.
    """
    fields = form.fields(engine, file)
    missing = [[field for field in layout.columns.values() if field and field not in fields] for layout in layouts]
    if not fields:
        return layouts[0]  # no field was found; an error for the rows will say why
    fewest = min(missing, key=len)
    if fewest:
        # The first line of a file of another kind can be long, so the names are shortened.
        found = textwrap.shorten(", ".join(sorted(field[:SHOWN_CHARACTERS] for field in fields)), SHOWN_FIELDS)
        raise PreparationError(f"{file.source}, line 1: no field {', '.join(fewest)}; the file has {found}")
    return layouts[missing.index(fewest)]


def parsed_rows(relation: str, layout: Layout, first: int) -> str:
    """Returns SQL that selects the columns of ``parsed``.

    Args:
        relation: the query that ``Format.relation`` returned.
        layout: the layout of the file.
        first: the number of the row of record 1.
    """
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
    """Checks that DuckDB knows the formats of the times.

    Raises:
        PreparationError: DuckDB does not know one of the formats.
    """
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
        source: the file that messages name.
        rows: the rows of the file in ``parsed``.
        rejected: the line and the fault of each row that is not in ``parsed``, from ``Format.broken_rows``.
        place: returns the place of a record of the file for a message.
        skip_broken: warn instead of raising an error.

    Raises:
        PreparationError: the file has no rows, or ``skip_broken`` is false and a row is broken.
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
