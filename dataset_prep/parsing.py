"""Reads raw files into the table ``parsed`` with DuckDB. Spark runs the same SQL, on pieces of the files."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from dataset_prep import faults
from dataset_prep.containers import CONTAINERS
from dataset_prep.engine import Engine, first_line, literal
from dataset_prep.errors import PreparationError
from dataset_prep.faults import BAD_RATING, BAD_TIME, NO_TIME, SWALLOWS
from dataset_prep.formats import IDS, Format, JsonLines
from dataset_prep.pipeline import Step
from dataset_prep.source import UNITS, Layout, Source
from dataset_prep.staging import UNDECODABLE, Staged, stage
from dataset_prep.text import WHITE_SPACE

logger = logging.getLogger(__name__)

PARSED = (
    "CREATE TABLE parsed (row BIGINT, user_id VARCHAR, item_id VARCHAR, review VARCHAR, seconds DOUBLE, "
    "rating DOUBLE, fault VARCHAR, value VARCHAR)"
)
ROUNDED = "'-?[0-9]([.][0-9]+)?[eE][+][0-9]+'"  # how programs write a number whose last digits they dropped
MISSING_RATINGS = ("", "null", "none", "nan", "na", "n/a")  # compared in lower case
SHOWN_CHARACTERS = 60  # how much of a name a message shows
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
    engine.execute(PARSED)
    rows = 0
    for file in files:
        try:
            loaded = load(engine, source, file, rows)
        except duckdb.Error as error:
            raise PreparationError(f"{file.source}: {first_line(error)}") from error
        span = range(rows, rows + loaded.rows)
        faults.report(engine, source, file.source, span, loaded.rejected, loaded.place, skip_broken=skip_broken)
        rows += loaded.rows + len(loaded.rejected)
    return files, Step("broken rows left out", rows, engine.value("SELECT count(*) FROM parsed WHERE fault IS NULL"))


def staged(
    source: Source, path: Path, target: Path, skip_broken: bool, warn: Callable[[str], None] = logger.warning
) -> Staged:
    """Makes a raw file readable for DuckDB; ``staging.stage`` describes the arguments and the errors."""
    encoding = encoding_of(source, path)
    return stage(
        path,
        target,
        encoding=encoding,
        member=source.member,
        is_json=is_json(source, path),
        skip_broken=skip_broken,
        warn=warn,
    )


def is_json(source: Source, path: Path) -> bool:
    """Returns whether a file holds JSON."""
    return isinstance(source.format_of(path), JsonLines)


def encoding_of(source: Source, path: Path) -> str | None:
    """Returns the encoding of a file, or None if its format is not text.

    Raises:
        PreparationError: the format is not text, but the source names an encoding.
    """
    if source.format_of(path).is_text:
        return source.encoding or "utf-8"
    if source.encoding:
        raise PreparationError(f"{path}: the format of this file has no encoding; leave --encoding out")
    if path.suffix.lower() in CONTAINERS:
        raise PreparationError(f"{path}: a Parquet file can't be read out of another; unpack it and give the result")
    return None


@dataclass(frozen=True)
class Loaded:
    """A file whose rows are in ``parsed``.

    Attributes:
        rows: the number of these rows, faulty ones included.
        rejected: the line and the fault of each row that is not in ``parsed``.
        place: returns the place of a record of the file for a message.
    """

    rows: int
    rejected: list[tuple[int, str]]
    place: Callable[[int], str]


def load(
    engine: Engine,
    source: Source,
    file: Staged,
    first: int,
    layout: Layout | None = None,
    warn: Callable[[str], None] = logger.warning,
) -> Loaded:
    """Puts the rows of a file into ``parsed``, whichever engine goes on with them.

    Args:
        file: a staged file, beside which a rewritten one may be put.
        first: the number of its first row.
        layout: the layout of the file; None finds it.
        warn: is called with a message if the file is read in another way than usual.

    Raises:
        PreparationError: the file lacks a needed field, or writes an id in two ways.
        duckdb.Error: the file can't be read.
    """
    form = source.format_of(file.source)
    layout = layout or layout_of(engine, source, file)
    usual, *others = form.readings(file)
    loaded, misfits = _fill(engine, usual, file, layout, first)
    for other in others:
        if misfits and (fewer := _misfits_of(engine, other, file, layout)) < misfits:
            warn(
                f"{file.source}: quotes are read as plain characters, because {misfits:,} rows do not fit otherwise "
                f"and {fewer:,} so; --quotes double reads them as quotes"
            )
            engine.execute(f"DELETE FROM parsed WHERE row >= {first}")
            loaded, misfits = _fill(engine, other, file, layout, first)
    if not form.has_types:
        _write_numbers_alike(engine, file.source, first)
    return loaded


def _fill(engine: Engine, form: Format, file: Staged, layout: Layout, first: int) -> tuple[Loaded, int]:
    """Returns, beside what was loaded, the number of rows that do not fit the way in which the file is read."""
    file = _readable(form, file)
    rows = parsed_rows(form.relation(engine, file, layout.columns), layout, first)
    engine.execute(f"INSERT INTO parsed {rows}", task=f"parsing {file.source.name}")
    rejected = form.broken_rows(engine, file)
    count, swallowing = engine.execute(
        f"SELECT count(*), count(*) FILTER (WHERE fault = {literal(SWALLOWS)}) FROM parsed WHERE row >= {first}"
    )[0]
    loaded = Loaded(count, rejected, lambda record: form.place(engine, file, record))
    return loaded, swallowing + len(rejected)


def _misfits_of(engine: Engine, plain: Format, file: Staged, layout: Layout) -> int:
    """Returns how many rows speak against quotes that are plain characters.

    These are rows with a wrong number of fields, and rows in which a quote begins an id, a time or a rating, or
    encloses a text whose other quotes are all doubled.
    """
    file = _readable(plain, file)
    begins = " OR ".join(f"starts_with({name}, chr(34))" for name in ("user_id", "item_id", "time", "rating"))
    inner = "replace(review[2:-2], repeat(chr(34), 2), '')"
    encloses = (
        "len(review) > 3 AND starts_with(review, chr(34)) AND suffix(review, chr(34)) "
        f"AND contains(review[2:-2], repeat(chr(34), 2)) AND NOT contains({inner}, chr(34))"
    )
    quoted = engine.value(
        f"SELECT count(*) FROM ({plain.relation(engine, file, layout.columns)}) WHERE {begins} OR ({encloses})"
    )
    return int(quoted) + len(plain.broken_rows(engine, file))


def _readable(form: Format, file: Staged) -> Staged:
    return form.readable(file, file.beside)


def _write_numbers_alike(engine: Engine, source: Path, first: int) -> None:
    """Writes the whole numbers of a column of ids without ``.0``, which pandas adds where a value is missing.

    Raises:
        PreparationError: not all ids of the column are numbers, and one stands there with and without ``.0``.
    """
    rows = f"FROM parsed WHERE row >= {first}"
    for column in IDS:
        written = f"suffix({column}, '.0') AND regexp_full_match({column}, '-?[0-9]+[.]0')"
        if not engine.value(f"SELECT count(*) {rows} AND {written}"):
            continue
        number = "'-?[0-9]+([.]0)?'"
        if not engine.value(f"SELECT count(*) {rows} AND NOT regexp_full_match({column}, {number})"):
            engine.execute(f"UPDATE parsed SET {column} = left({column}, -2) WHERE row >= {first} AND {written}")
            continue
        both = engine.execute(
            f"SELECT min(left({column}, -2)) {rows} AND {written} "
            f"AND left({column}, -2) IN (SELECT {column} {rows} AND {column} IS NOT NULL)"
        )
        if both[0][0] is not None:
            name, kind = both[0][0], column.removesuffix("_id")
            raise PreparationError(
                f"{source}: the {kind} {name} is also written {name}.0; write both alike in the file"
            )


def layout_of(engine: Engine, source: Source, file: Staged) -> Layout:
    """Returns the first layout whose fields the file has. Spaces around the names in the file do not matter.

    Raises:
        PreparationError: no layout has all its fields in the file.
    """
    form = source.format_of(file.source)
    fields = form.fields(engine, file)
    if not fields:
        return source.layouts[0]  # no field was found; an error for the rows will say why
    bare = {field.strip(): field for field in reversed(fields)} | {field: field for field in fields}
    missing = [[name for name in layout.columns.values() if name and name not in bare] for layout in source.layouts]
    fewest = min(missing, key=len)
    if fewest:
        # The first line of a file of another kind can be long, so the names are shortened.
        found = textwrap.shorten(", ".join(sorted(field[:SHOWN_CHARACTERS] for field in fields)), SHOWN_FIELDS)
        hint = form.hint(file, fewest) if "--delimiter" in source.options else ""
        raise PreparationError(f"{file.source}, line 1: no field {', '.join(fewest)}; the file has {found}{hint}")
    return source.layouts[missing.index(fewest)].named(bare)


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
    # Without times, the number of a row takes the place of its time.
    seconds = _finite(_seconds(layout.time_formats)) if layout.time else f"({first} + record - 1)::DOUBLE"
    return f"""
        SELECT {first} + record - 1 AS row, user_id, item_id, review, seconds, rating_number AS rating,
            CASE WHEN broken IS NOT NULL THEN broken
                WHEN len([1 FOR time IN row_like IF {_seconds(layout.time_formats)} IS NOT NULL]) > 1
                    THEN {literal(SWALLOWS)}
                WHEN regexp_full_match(user_id, {ROUNDED}) THEN 'has a user that is a rounded number'
                WHEN regexp_full_match(item_id, {ROUNDED}) THEN 'has an item that is a rounded number'
                WHEN contains(concat(user_id, item_id, review), {literal(UNDECODABLE)}) THEN 'has undecodable bytes'
                WHEN seconds IS NULL AND time IS NULL THEN {literal(NO_TIME)}
                WHEN seconds IS NULL THEN {literal(BAD_TIME + expected)}
                WHEN rating_number IS NULL AND lower(trim(rating)) NOT IN ({missing})
                    THEN {literal(BAD_RATING)} END AS fault,
            CASE WHEN broken IS NULL THEN
                CASE WHEN regexp_full_match(user_id, {ROUNDED}) THEN user_id
                    WHEN regexp_full_match(item_id, {ROUNDED}) THEN item_id
                    WHEN seconds IS NULL THEN time WHEN rating_number IS NULL THEN rating END END AS value
        FROM (
            SELECT record, broken, row_like, review, time, rating,
                CASE WHEN regexp_matches(user_id, {blank}) THEN user_id END AS user_id,
                CASE WHEN regexp_matches(item_id, {blank}) THEN item_id END AS item_id,
                {seconds} AS seconds,
                {_finite("try_cast(rating AS DOUBLE)")} AS rating_number
            FROM ({relation}))"""


def _finite(number: str) -> str:
    return f"CASE WHEN isfinite({number}) THEN {number} END"


def _seconds(time_formats: Sequence[str]) -> str:
    if len(time_formats) == 1 and time_formats[0] in UNITS:
        unit = UNITS[time_formats[0]]
        return "try_cast(time AS DOUBLE)" + (f" / {unit}" if unit > 1 else "")
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
            f"give {', '.join(UNITS)}, or a strptime format such as %Y-%m-%d"
        ) from error
