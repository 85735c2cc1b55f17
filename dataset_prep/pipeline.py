"""Filters and sorts the parsed rows, which become the interactions of a dataset.

The steps are: clean texts -> filter rows -> drop duplicates -> k-core, until nothing changes -> sample users -> k-core
-> order by time.

There are three tables. ``parsed`` has every row with its text (see ``parsing``). ``kept`` has the rows that are left,
without their texts. ``interactions`` is the result: the rows of ``kept`` with their ``position`` in the order of time.
Texts stay in ``parsed`` until they are written, so filtering and sorting handle only a few dozen bytes of each row.

Queries over several rows are in SQL that DuckDB and Spark both understand. Queries that handle each row by itself
(cleaning, counting words, writing values) are in DuckDB's SQL on both engines; see ``engine.Executor``.
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
        user_core, item_core: the fewest rows that every user and every item must have in the end. Users and items with
            fewer rows are dropped until all others have enough; 0 or 1 means no limit.
        duplicates: which row of a repeated (user, item) pair to keep: the first or the last by time, then by input
            order; or ``keep`` for all.
        missing_text: whether to drop or to keep rows whose review is blank.
        min_words: the fewest words of a review, separated by white space. (A Japanese sentence counts as one word.)
        start, end: the first and the last day, in UTC; both days are kept.
        max_users: how many users of the k-core to draw, with all their rows; the k-core of their rows is kept. None
            keeps all users.
        seed: the seed of the draw of users.

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
    """A step of the pipeline, and the numbers of rows before and after it."""

    name: str
    rows_in: int
    rows_out: int


# --- filter --------------------------------------------------------------------------------------------------------


def cleaned(engine: Executor) -> str:
    """Returns SQL of DuckDB for the ``review`` of ``parsed`` without HTML. A missing review becomes an empty text."""
    return without_html("coalesce(review, '')", entities_in(engine, "parsed", "review"))


def filter_rows(engine: Executor, filters: Filters, text: str) -> list[Step]:
    """Fills the table ``kept``, whose columns are ``KEPT``, with the rows that pass all filters.

    Args:
        text: the SQL that ``cleaned`` returned.

    Returns:
        The steps, in order.
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
    """Returns SQL for a hash of a text, a signed number of 64 bits, because Spark has no unsigned numbers."""
    return f"(hash({text})::HUGEINT - {1 << 63})::BIGINT"


def _drop_reasons(filters: Filters) -> list[tuple[str, str]]:
    """Returns the name of each step that handles rows one by one, and the condition under which it drops a row."""
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
    """Drops the rows of users and items with too few rows, and repeats this until no such user or item is left."""
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
    """Fills the table ``interactions`` with the rows of ``kept`` and the position of each, and drops ``kept``.

    Rows are in the order of time, and rows with the same time in the order of the input.

    Args:
        steps: the steps so far, for the message of the error.

    Raises:
        PreparationError: ``kept`` has no rows.
    """
    if not _count(engine):
        trail = "; ".join(f"{step.name}: {step.rows_in:,} -> {step.rows_out:,}" for step in steps)
        mend = "loosen the filter that drops the most rows"
        if not steps[0].rows_out:
            mend = "every row is broken; without --on-error skip, the message says how to mend the first"
        raise PreparationError(f"no interaction is left ({trail}); {mend}")
    engine.number("interactions", "kept", "seconds, row", task="ordering by time")
    engine.drop("kept")


def statistics(engine: Executor) -> dict[str, Any]:
    """Returns counts of ``interactions``, their first and last time, and the lengths of their texts."""
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

    Groups are counted, because for ``count(DISTINCT ...)`` DuckDB keeps every distinct value in memory.
    """
    groups = f"SELECT {columns} FROM interactions GROUP BY {columns}"
    return int(engine.value(f"SELECT count(*) FROM ({groups})", task="counting"))


def _lengths(engine: Executor, column: str) -> dict[str, float]:
    """Returns the mean and the percentiles of a column of integers."""
    counts = engine.execute(
        f"SELECT {column}, count(*) FROM interactions GROUP BY {column} ORDER BY {column}", task="counting"
    )
    total = sum(count for _, count in counts)
    found: dict[str, float] = {"mean": round(sum(value * count for value, count in counts) / total, 2)}
    passed, values = 0, iter(counts)
    for percent in PERCENTILES:
        while 100 * passed < percent * total:  # find the least value that ``percent`` of the rows do not exceed
            value, count = next(values)
            passed += count
        found[f"p{percent}"] = value
    return found
