"""From rows as they stand in raw files to the interactions of a dataset, in SQL.

parse -> clean -> filter rows -> drop duplicates -> sample users -> k-core, to a fixed point -> order

Tables: ``parsed`` (every row, with its text), ``kept`` (the narrow rows that are still in), ``interactions`` (the
result: ``kept`` with its ``position`` in the order of time). Texts stay in ``parsed`` until they are written, so that
filtering and sorting handle a few dozen bytes a row.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from dataset_prep.engine import Engine, literal
from dataset_prep.errors import PreparationError
from dataset_prep.formats import Format, format_of
from dataset_prep.source import MILLISECONDS, SECONDS, Layout, Source
from dataset_prep.staging import UNDECODABLE, Staged
from dataset_prep.text import WHITE_SPACE, entities_in, without_html, words

logger = logging.getLogger(__name__)

DUPLICATES = ("first", "last", "keep")
MISSING_TEXT = ("drop", "keep")
MISSING_RATINGS = ("", "null", "none", "nan", "na", "n/a")  # in any case
SHOWN_CHARACTERS = 60  # of a faulty value, in a message


@dataclass(frozen=True)
class Filters:
    """Which interactions a dataset keeps.

    Attributes:
        user_core, item_core: rows that every user and every item must keep; filtered until both hold. 0 or 1: no limit.
        duplicates: which row of a repeated (user, item) pair stays, by time and then by input order.
        missing_text: whether rows whose review is blank are dropped or kept.
        min_words: fewest words of a review, between white space (in Japanese a sentence is one such word).
        start, end: first and last day, UTC, both included.
        max_users: draw this many users of the k-core, whole, by ``seed``; the k-core of theirs remains.

    Raises:
        PreparationError: a value is out of range.
    """

    user_core: int = 5
    item_core: int = 5
    duplicates: str = "first"
    missing_text: str = "drop"
    min_words: int = 0
    start: datetime.date | None = None
    end: datetime.date | None = None
    max_users: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("duplicates", self.duplicates, DUPLICATES),
            ("missing_text", self.missing_text, MISSING_TEXT),
        ):
            if value not in allowed:
                raise PreparationError(f"{name} is {value!r}; choose one of {', '.join(allowed)}")
        for name, number in (
            ("user_core", self.user_core),
            ("item_core", self.item_core),
            ("min_words", self.min_words),
        ):
            if number < 0:
                raise PreparationError(f"{name} is {number}; give 0 or more")
        if self.max_users is not None and self.max_users < 1:
            raise PreparationError(f"max_users is {self.max_users}; give 1 or more")
        if self.start and self.end and self.start > self.end:
            raise PreparationError(f"the first day, {self.start}, is after the last, {self.end}")


@dataclass(frozen=True)
class Step:
    """How many rows a step took and gave."""

    name: str
    rows_in: int
    rows_out: int


# --- parse ---------------------------------------------------------------------------------------------------------


def parse(engine: Engine, source: Source, files: Sequence[Staged], *, skip_broken: bool) -> Step:
    """Fill ``parsed``: row (input order), user_id, item_id, review, seconds since 1970, rating.

    Raises:
        PreparationError: a field is missing from a file, or a row is broken and ``skip_broken`` is false.
    """
    engine.execute(
        "CREATE TABLE parsed (row BIGINT, user_id VARCHAR, item_id VARCHAR, review VARCHAR, seconds DOUBLE, "
        "rating DOUBLE, fault VARCHAR, value VARCHAR)"
    )
    rows = 0
    for file in files:
        rows += _parse_file(engine, source.format or format_of(file.source), file, source.layouts, rows, skip_broken)
    return Step("broken rows left out", rows, engine.value("SELECT count(*) FROM parsed WHERE fault IS NULL"))


def _parse_file(
    engine: Engine, form: Format, file: Staged, layouts: Sequence[Layout], first: int, skip_broken: bool
) -> int:
    """The number of rows that the file has, broken ones included."""
    try:
        layout = _layout(engine, form, file, layouts)
        engine.execute(
            f"INSERT INTO parsed {_parsed_rows(form.relation(engine, file, layout.columns), layout, first)}",
            task=f"parsing {file.source.name}",
        )
        rejected = form.broken_rows(engine, file)
    except duckdb.Error as error:
        raise PreparationError(f"{file.source}: {str(error).splitlines()[0]}") from error
    rows = len(rejected) + engine.value(f"SELECT count(*) FROM parsed WHERE row >= {first}")
    if not rows:
        raise PreparationError(f"{file.source}: the file has no rows")
    _report_faults(engine, form, file, first, rejected, skip_broken)
    return rows


def _layout(engine: Engine, form: Format, file: Staged, layouts: Sequence[Layout]) -> Layout:
    """The first layout whose fields the file has."""
    fields = form.fields(engine, file)
    missing = [[field for field in layout.columns.values() if field and field not in fields] for layout in layouts]
    if not fields:
        return layouts[0]  # nothing could be read: the rows say why
    fewest = min(missing, key=len)
    if fewest:
        raise PreparationError(
            f"{file.source}, line 1: no field {', '.join(fewest)}; the file has {', '.join(sorted(fields))}"
        )
    return layouts[missing.index(fewest)]


def _parsed_rows(relation: str, layout: Layout, first: int) -> str:
    blank = literal(f"[^{WHITE_SPACE}]")
    missing = ", ".join(map(literal, MISSING_RATINGS))
    expected = " or ".join(layout.time_formats)
    return f"""
        SELECT {first} + record - 1 AS row, user_id, item_id, review, seconds, rating_number,
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


def check_time_formats(engine: Engine, time_formats: Sequence[str]) -> None:
    """Raise ``PreparationError`` unless times can be read with these formats."""
    try:
        engine.execute(f"SELECT {_seconds(time_formats)} FROM (SELECT '' AS time)")
    except duckdb.Error as error:
        raise PreparationError(
            f"time format {' or '.join(time_formats)}: {str(error).splitlines()[0]}; "
            f"give {SECONDS}, {MILLISECONDS}, or a strptime format such as %Y-%m-%d"
        ) from error


def _report_faults(
    engine: Engine, form: Format, file: Staged, first: int, rejected: list[tuple[int, str]], skip_broken: bool
) -> None:
    """Raise for the first broken row of a file, or warn with the number of each fault."""
    faulty = f"FROM parsed WHERE row >= {first} AND fault IS NOT NULL"
    if skip_broken:
        counts = engine.execute(f"SELECT fault, count(*) {faulty} GROUP BY fault ORDER BY fault")
        if rejected:
            counts.append(("has the wrong number of fields, broken quotes or bytes", len(rejected)))
        for fault, count in counts:
            logger.warning("%s: left out %s rows, each of which %s", file.source, f"{count:,}", fault)
        return
    mend = "mend or delete it, or leave such rows out with --on-error skip"
    if rejected:
        line, message = rejected[0]
        raise PreparationError(f"{file.source}, line {line:,}: {message}; {mend}")
    for row, fault, value in engine.execute(f"SELECT row, fault, value {faulty} ORDER BY row LIMIT 1"):
        shown = "" if value is None else f": {value[:SHOWN_CHARACTERS]!r}"
        raise PreparationError(f"{file.source}, {form.place(engine, file, row - first + 1)}: {fault}{shown}; {mend}")


# --- filter --------------------------------------------------------------------------------------------------------


def clean(engine: Engine) -> None:
    """Make ``reviews``, a view of the sound rows of ``parsed`` whose text is free of HTML; a missing one is ''."""
    text = without_html("coalesce(review, '')", entities_in(engine, "parsed", "review"))
    engine.execute(f"CREATE VIEW reviews AS SELECT * EXCLUDE review, {text} AS review FROM parsed WHERE fault IS NULL")


def filter_rows(engine: Engine, filters: Filters) -> list[Step]:
    """Fill ``kept`` with row, user_id, item_id, seconds, rating, n_words, n_characters, digest of the rows to keep.

    Raises:
        PreparationError: none is left.
    """
    drop = _drop_reasons(filters)
    reasons = " ".join(f"WHEN {condition} THEN {place}" for place, (_, condition) in enumerate(drop))
    engine.execute(
        f"""CREATE TABLE judged AS SELECT *, CASE {reasons} END AS dropped FROM (
            SELECT row, user_id, item_id, seconds, rating, {words("review")} AS n_words, len(review) AS n_characters,
                hash(review) AS digest
            FROM reviews)""",
        task="cleaning texts",
    )
    dropped: dict[int | None, int] = dict(engine.execute("SELECT dropped, count(*) FROM judged GROUP BY dropped"))
    steps, left = [], sum(dropped.values())
    for place, (name, _) in enumerate(drop):
        steps.append(Step(name, left, left - dropped.get(place, 0)))
        left = steps[-1].rows_out
    engine.execute("CREATE TABLE kept AS SELECT * EXCLUDE dropped FROM judged WHERE dropped IS NULL")
    engine.execute("DROP TABLE judged")
    steps += _drop_duplicates(engine, filters.duplicates)
    steps.append(_core(engine, filters))
    if filters.max_users is not None:
        steps.append(_sample_users(engine, filters.max_users, filters.seed))
        steps.append(_core(engine, filters))
    return steps


def _drop_reasons(filters: Filters) -> list[tuple[str, str]]:
    """Steps that look at one row at a time: name, and the condition under which a row goes."""
    reasons = [("rows without user or item left out", "user_id IS NULL OR item_id IS NULL")]
    if filters.missing_text == "drop":
        reasons.append(("rows without text left out", "n_words = 0"))
    if filters.min_words:
        reasons.append((f"rows of under {filters.min_words} words left out", f"n_words < {filters.min_words}"))
    if filters.start:
        reasons.append((f"rows before {filters.start} left out", f"seconds < {_midnight(filters.start)}"))
    if filters.end:
        after = _midnight(filters.end + datetime.timedelta(days=1))
        reasons.append((f"rows after {filters.end} left out", f"seconds >= {after}"))
    return reasons


def _midnight(day: datetime.date) -> float:
    return datetime.datetime.combine(day, datetime.time(), datetime.timezone.utc).timestamp()


def _drop_duplicates(engine: Engine, duplicates: str) -> list[Step]:
    if duplicates == "keep":
        return []
    before = _count(engine)
    order = "seconds, row" if duplicates == "first" else "seconds DESC, row DESC"
    engine.execute(
        f"""CREATE OR REPLACE TABLE kept AS FROM kept
            QUALIFY row_number() OVER (PARTITION BY user_id, item_id ORDER BY {order}) = 1""",
        task="dropping duplicates",
    )
    return [Step(f"{duplicates} row of each user and item", before, _count(engine))]


def _sample_users(engine: Engine, users: int, seed: int) -> Step:
    before = _count(engine)
    engine.execute(
        f"""DELETE FROM kept WHERE user_id NOT IN (
            SELECT user_id FROM (SELECT DISTINCT user_id FROM kept)
            ORDER BY md5('{seed}:' || user_id) LIMIT {users})""",
        task="drawing users",
    )
    return Step(f"at most {users} users", before, _count(engine))


def _core(engine: Engine, filters: Filters) -> Step:
    """Drop rows of users and items with too few, until none are left that have."""
    before = _count(engine)
    while engine.value(
        f"""DELETE FROM kept WHERE user_id IN ({_rare("user_id", filters.user_core)})
            OR item_id IN ({_rare("item_id", filters.item_core)})""",
        task="k-core",
    ):
        pass
    return Step(f"k-core, users {filters.user_core}, items {filters.item_core}", before, _count(engine))


def _rare(column: str, least: int) -> str:
    return f"SELECT {column} FROM kept GROUP BY {column} HAVING count(*) < {least}"


def _count(engine: Engine) -> int:
    return int(engine.value("SELECT count(*) FROM kept"))


# --- order ---------------------------------------------------------------------------------------------------------


def order(engine: Engine, steps: Sequence[Step]) -> None:
    """Fill ``interactions``: ``kept`` and the position of each row by time, ties by input order.

    Raises:
        PreparationError: no row is left.
    """
    if not _count(engine):
        trail = "; ".join(f"{step.name}: {step.rows_in:,} -> {step.rows_out:,}" for step in steps)
        raise PreparationError(f"no interaction is left ({trail}); loosen the filter that takes the most")
    engine.execute(
        "CREATE TABLE interactions AS SELECT row_number() OVER (ORDER BY seconds, row) - 1 AS position, * FROM kept",
        task="ordering by time",
    )


def statistics(engine: Engine) -> dict[str, Any]:
    """Counts of ``interactions``, and percentiles of the lengths of their texts."""
    users, items, reviews, pairs, texts, empty, ties = engine.execute(
        """SELECT count(DISTINCT user_id), count(DISTINCT item_id), count(*), count(DISTINCT (user_id, item_id)),
            count(DISTINCT digest), count(*) FILTER (n_words = 0),
            (SELECT coalesce(sum(n), 0)::BIGINT FROM (
                SELECT count(*) AS n FROM interactions GROUP BY user_id, seconds HAVING count(*) > 1))
        FROM interactions""",
        task="counting",
    )[0]
    return {
        "users": users,
        "items": items,
        "reviews": reviews,
        "density": reviews / (users * items),
        "repeated_pairs": reviews - pairs,
        "repeated_texts": reviews - texts,
        "empty_texts": empty,
        "time_ties": ties,
        "first_time": engine.value("SELECT min(seconds) FROM interactions"),
        "last_time": engine.value("SELECT max(seconds) FROM interactions"),
        "words": _percentiles(engine, "n_words"),
        "characters": _percentiles(engine, "n_characters"),
    }


def _percentiles(engine: Engine, column: str) -> dict[str, float]:
    shares = (0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
    values, mean = engine.execute(
        f"SELECT quantile_disc({column}, {list(shares)}), avg({column}) FROM interactions", task="counting"
    )[0]
    return {"mean": round(mean, 2)} | {
        f"p{share:.0%}".rstrip("%"): value for share, value in zip(shares, values, strict=True)
    }
