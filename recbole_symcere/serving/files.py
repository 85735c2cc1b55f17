"""Reads the files that a recommender is given: interactions, items, and requests."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from recbole_symcere.data.reviews import read_reviews
from recbole_symcere.errors import UserError
from recbole_symcere.properties import nearest
from recbole_symcere.serving.additions import NewInteraction
from recbole_symcere.serving.people import Request

ATOMIC = {"user_id:token": "user", "item_id:token": "item", "timestamp:float": "time", "review_id:token": "review_id"}
REQUEST = ("user", "items", "reviews", "at")
FORMATS = ".csv, .tsv, .jsonl or .parquet"


def read_interactions(path: Path) -> list[NewInteraction]:
    """Reads interactions that came after training.

    Args:
        path: an ``.inter`` file as ``symcere prep`` writes it, with its reviews beside it; or a table (.csv, .tsv,
            .jsonl or .parquet) with the columns ``user``, ``item``, ``time`` (seconds since 1970) and, if there are
            reviews, ``text``.

    Raises:
        UserError: the file can't be read, or lacks a value; the message names the file and the row.
        ReviewFileError: a review can't be read.
    """
    table = _table(path, ("user", "item", "time"))
    texts: Sequence[str | None] = [None] * len(table)
    if "review_id" in table.columns and (reviews := path.with_suffix(".review.jsonl")).is_file():
        texts = read_reviews(reviews, table["review_id"].to_list(), allow_empty=True)
    elif "text" in table.columns:
        texts = table["text"].to_list()
    columns = table["user"].to_list(), table["item"].to_list(), table["time"].to_list()
    return [
        NewInteraction(user, item, time, text if text and text.strip() else None)
        for user, item, time, text in zip(*columns, texts, strict=True)
    ]


def read_items(path: Path) -> dict[str, list[str]]:
    """Reads items that nobody has met.

    Args:
        path: a table (.csv, .tsv, .jsonl or .parquet) with the columns ``item`` and ``text``; an item can have several
            rows, such as a description and first reviews.

    Returns:
        The texts of each item.

    Raises:
        UserError: the file can't be read, or lacks a value; the message names the file and the row.
    """
    table = _table(path, ("item", "text"))
    texts = defaultdict(list)
    for item, text in zip(table["item"].to_list(), table["text"].to_list(), strict=True):
        texts[item].append(text)
    return dict(texts)


def read_requests(path: Path) -> list[Request]:
    """Reads requests from a file of JSON lines, each an object with some of the keys of ``REQUEST``.

    An entry of ``items`` is a token, or a token and a moment: ``["i7", 1500000000]``.

    Raises:
        UserError: the file can't be read, or a line is no such object; the message names the file and the line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read ({error})") from error
    return [_request(f"{path}, line {n}", line) for n, line in enumerate(lines, start=1) if line.strip()]


def _request(where: str, line: str) -> Request:
    try:
        given = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error})") from error
    if not isinstance(given, dict):
        raise UserError(f'{where}: not an object such as {{"user": "u7"}}')
    return as_request(where, given)


def as_request(where: str, given: dict[str, Any]) -> Request:
    """Returns the request that an object of JSON makes.

    Args:
        where: begins the message of an error.

    Raises:
        UserError: a key is unknown, or a value is not of its kind.
    """
    if unknown := sorted(given.keys() - set(REQUEST)):
        raise UserError(f"{where}: unknown key {unknown[0]!r}{nearest(unknown[0], REQUEST)}")
    user, items, reviews, at = (given.get(key) for key in REQUEST)
    faults = {
        "user must be a text": user is not None and not isinstance(user, str),
        "items must be a list of tokens, or of tokens with moments": not _is_history(items or []),
        "reviews must be a list of texts": not (
            isinstance(reviews or [], list) and all(isinstance(text, str) for text in reviews or [])
        ),
        "at must be a number, in seconds since 1970": at is not None and not _is_number(at),
    }
    if fault := next((fault for fault, found in faults.items() if found), None):
        raise UserError(f"{where}: {fault}")
    history = [met if isinstance(met, str) else (met[0], float(met[1])) for met in items or []]
    return Request(user, history, reviews or [], None if at is None else float(at))


def _is_history(items: Any) -> bool:
    return isinstance(items, list) and all(
        isinstance(met, str)
        or (isinstance(met, list) and len(met) == 2 and isinstance(met[0], str) and _is_number(met[1]))
        for met in items
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _table(path: Path, needed: tuple[str, ...]) -> pl.DataFrame:
    """Reads a table in which no needed value is missing; times are numbers and all else is text."""
    read = {
        ".csv": lambda: pl.read_csv(path, infer_schema=False),
        ".tsv": lambda: pl.read_csv(path, separator="\t", infer_schema=False),
        ".inter": lambda: pl.read_csv(path, separator="\t", infer_schema=False, quote_char=None).rename(
            ATOMIC, strict=False
        ),
        ".jsonl": lambda: pl.read_ndjson(path),
        ".parquet": lambda: pl.read_parquet(path),
    }
    if path.suffix not in read:
        raise UserError(f"{path}: not a table that can be read ({FORMATS})")
    try:
        table = read[path.suffix]()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"{path}: can't be read ({str(error).splitlines()[0]})") from error
    for column in needed:
        if column not in table.columns:
            known = ", ".join(table.columns)
            raise UserError(f"{path}: no column {column!r} among {known}{nearest(column, table.columns)}")
    kinds = {name: pl.Float64 if name == "time" else pl.String for name in (*needed, "text") if name in table.columns}
    table = table.with_columns(pl.col(name).cast(kind, strict=False) for name, kind in kinds.items())
    for column in needed:
        values = table[column]
        bad = values.is_null() | (~values.is_finite() if column == "time" else values.str.strip_chars() == "")
        if bad.any():
            kind = "a number of seconds since 1970" if column == "time" else "a text"
            raise UserError(f"{path}: row {1 + int(bad.arg_true()[0])} has no {column} that is {kind}")
    return table
