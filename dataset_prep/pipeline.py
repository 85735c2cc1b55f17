"""From parsed rows to the interactions of a dataset, in SQL that DuckDB and Spark read alike.

clean -> filter rows -> drop duplicates -> k-core, to a fixed point -> sample users -> k-core -> order

Tables: ``parsed`` (every row, with its text: see ``parsing``), ``kept`` (the narrow rows that are still in),
``interactions`` (the result: ``kept`` with its ``position`` in the order of time). Texts stay in ``parsed`` until they
are written, so that filtering and sorting handle a few dozen bytes a row.

What looks at several rows is plain SQL of both engines. What looks at one row at a time (cleaning, counting words,
writing values) is DuckDB's SQL on either: see ``engine.Executor``.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dataset_prep.engine import Executor
from dataset_prep.errors import PreparationError
from dataset_prep.text import entities_in, without_html, words

DUPLICATES = ("first", "last", "keep")
MISSING_TEXT = ("drop", "keep")
PERCENTILES = (5, 25, 50, 75, 95, 100)
KEPT = "row, user_id, item_id, seconds, rating, n_words, n_characters, digest"


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


# --- filter --------------------------------------------------------------------------------------------------------


def cleaned(engine: Executor) -> str:
    """Returns DuckDB's SQL for the ``review`` of ``parsed`` without HTML; a missing review becomes ''."""
    return without_html("coalesce(review, '')", entities_in(engine, "parsed", "review"))


def filter_rows(engine: Executor, filters: Filters, text: str) -> list[Step]:
    """Fills ``kept`` with row, user_id, item_id, seconds, rating, n_words, n_characters, digest of the rows to keep.

    Args:
        text: what ``cleaned`` gave.

    Raises:
        PreparationError: none is left.
    """
    drop = _drop_reasons(filters)
    reasons = " ".join(f"WHEN {condition} THEN {place}" for place, (_, condition) in enumerate(drop))
    engine.view(
        "measured",
        "SELECT row, user_id, item_id, seconds, rating, review FROM parsed WHERE fault IS NULL",
        f"""SELECT *, CASE {reasons} END AS dropped FROM (
            SELECT row, user_id, item_id, seconds, rating, {words("text")} AS n_words, len(text) AS n_characters,
                {_digest("text")} AS digest
            FROM (SELECT *, {text} AS text FROM batch))""",
    )
    engine.table("judged", "SELECT * FROM measured", task="cleaning texts")
    dropped: dict[int | None, int] = dict(engine.execute("SELECT dropped, count(*) FROM judged GROUP BY dropped"))
    steps, left = [], sum(dropped.values())
    for place, (name, _) in enumerate(drop):
        steps.append(Step(name, left, left - dropped.get(place, 0)))
        left = steps[-1].rows_out
    engine.table("kept", f"SELECT {KEPT} FROM judged WHERE dropped IS NULL")
    engine.drop("judged")
    steps += _drop_duplicates(engine, filters.duplicates)
    steps.append(_core(engine, filters))
    if filters.max_users is not None:
        steps.append(_sample_users(engine, filters.max_users, filters.seed))
        steps.append(_core(engine, filters))
    return steps


def _digest(text: str) -> str:
    """Returns SQL for a hash of 64 bits; it is signed because Spark has no unsigned numbers."""
    return f"(hash({text})::HUGEINT - {1 << 63})::BIGINT"


def _drop_reasons(filters: Filters) -> list[tuple[str, str]]:
    """Returns the name of each step that looks at single rows, and the condition under which it drops a row."""
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


def _drop_duplicates(engine: Executor, duplicates: str) -> list[Step]:
    if duplicates == "keep":
        return []
    before = _count(engine)
    order = "seconds, row" if duplicates == "first" else "seconds DESC, row DESC"
    engine.table(
        "kept",
        f"""SELECT {KEPT} FROM (
            SELECT *, row_number() OVER (PARTITION BY user_id, item_id ORDER BY {order}) AS place FROM kept)
        WHERE place = 1""",
        task="dropping duplicates",
    )
    return [Step(f"{duplicates} row of each user and item", before, _count(engine))]


def _sample_users(engine: Executor, users: int, seed: int) -> Step:
    before = _count(engine)
    engine.keep(
        "kept",
        f"""user_id IN (SELECT user_id FROM (SELECT DISTINCT user_id FROM kept)
            ORDER BY md5('{seed}:' || user_id) LIMIT {users})""",
        task="drawing users",
    )
    return Step(f"at most {users} users", before, _count(engine))


def _core(engine: Executor, filters: Filters) -> Step:
    """Drops the rows of users and items with too few rows, and repeats this until none are left."""
    before = _count(engine)
    limits = {"user_id": filters.user_core, "item_id": filters.item_core}
    enough = " AND ".join(
        f"{column} IN (SELECT {column} FROM kept GROUP BY {column} HAVING count(*) >= {least})"
        for column, least in limits.items()
        if least > 1
    )
    while enough and engine.keep("kept", enough, task="k-core"):
        pass
    return Step(f"k-core, users {filters.user_core}, items {filters.item_core}", before, _count(engine))


def _count(engine: Executor) -> int:
    return int(engine.value("SELECT count(*) FROM kept"))


# --- order ---------------------------------------------------------------------------------------------------------


def order(engine: Executor, steps: Sequence[Step]) -> None:
    """Fill ``interactions``: ``kept``, which goes, and the position of each row by time, ties by input order.

    Raises:
        PreparationError: no row is left.
    """
    if not _count(engine):
        trail = "; ".join(f"{step.name}: {step.rows_in:,} -> {step.rows_out:,}" for step in steps)
        raise PreparationError(f"no interaction is left ({trail}); loosen the filter that takes the most")
    engine.number("interactions", "kept", "seconds, row", task="ordering by time")
    engine.drop("kept")


def statistics(engine: Executor) -> dict[str, Any]:
    """Returns counts of ``interactions`` and percentiles of the lengths of their texts."""
    users, items, pairs, texts = (
        _distinct(engine, columns) for columns in ("user_id", "item_id", "user_id, item_id", "digest")
    )
    reviews, empty, ties, first, last = engine.execute(
        """SELECT count(*), count(*) FILTER (WHERE n_words = 0),
            (SELECT CAST(coalesce(sum(n), 0) AS BIGINT) FROM (
                SELECT count(*) AS n FROM interactions GROUP BY user_id, seconds HAVING count(*) > 1)),
            min(seconds), max(seconds)
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
        "first_time": first,
        "last_time": last,
        "words": _lengths(engine, "n_words"),
        "characters": _lengths(engine, "n_characters"),
    }


def _distinct(engine: Executor, columns: str) -> int:
    """Returns the number of distinct values of ``columns``.

    They are counted as groups, because DuckDB keeps all that ``count(DISTINCT ...)`` has seen in memory.
    """
    groups = f"SELECT {columns} FROM interactions GROUP BY {columns}"
    return int(engine.value(f"SELECT count(*) FROM ({groups})", task="counting"))


def _lengths(engine: Executor, column: str) -> dict[str, float]:
    """Returns the mean and percentiles of a column of integers, from the count of each value."""
    counts = engine.execute(
        f"SELECT {column}, count(*) FROM interactions GROUP BY {column} ORDER BY {column}", task="counting"
    )
    total = sum(count for _, count in counts)
    found: dict[str, float] = {"mean": round(sum(value * count for value, count in counts) / total, 2)}
    passed, values = 0, iter(counts)
    for percent in PERCENTILES:
        while 100 * passed < percent * total:  # the least value that so many don't exceed
            value, count = next(values)
            passed += count
        found[f"p{percent}"] = value
    return found
