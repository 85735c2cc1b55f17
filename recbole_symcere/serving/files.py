"""Reads what a recommender is given, in files or as objects of JSON: interactions, items, and requests."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
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
INTERACTION = ("user", "item", "time", "text")
ITEM = ("item", "text")
FORMATS = ".csv, .tsv, .jsonl or .parquet"
LATEST = 1e11  # seconds, in the year 5138; a moment beyond it was probably given in milliseconds


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
        NewInteraction(user, item, time, _written(text)) for user, item, time, text in zip(*columns, texts, strict=True)
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
    if not any(map(str.strip, lines)):
        raise UserError(f'{path}: no request; write one on each line, such as {{"user": "A1B2C3"}}')
    return [_request(f"{path}, line {n}", line) for n, line in enumerate(lines, start=1) if line.strip()]


def _request(where: str, line: str) -> Request:
    return as_request(where, as_object(where, line))


def as_object(where: str, text: str | bytes) -> dict[str, Any]:
    """Returns the object that a text of JSON holds.

    Args:
        where: begins the message of an error.

    Raises:
        UserError: the text is not JSON, or no object; the message does not repeat it.
    """
    try:
        given = json.loads(text, parse_constant=_refuse)
        json.dumps(given, ensure_ascii=False).encode()  # half of a pair of surrogates is no text
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error})") from error
    if not isinstance(given, dict):
        raise UserError(f'{where}: not an object such as {{"user": "u7"}}')
    return given


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number")


def as_request(where: str, given: Mapping[str, Any], others: Iterable[str] = ()) -> Request:
    """Returns the request that an object of JSON makes.

    Args:
        where: begins the message of an error.
        others: keys that are known, too, but are not of the request.

    Raises:
        UserError: a key is unknown, or a value is not of its kind.
    """
    check_keys(where, given, (*REQUEST, *others))
    user, items, reviews, at = (given.get(key) for key in REQUEST)
    faults = {
        "user must be a text": user is not None and not isinstance(user, str),
        "items must be a list of tokens, or of tokens with moments": items is not None and not _is_history(items),
        "reviews must be a list of texts": reviews is not None and not _are_texts(reviews),
        "at must be a number, in seconds since 1970": at is not None and not _is_moment(at),
    }
    if fault := next((fault for fault, found in faults.items() if found), None):
        raise UserError(f"{where}: {fault}")
    history = [met if isinstance(met, str) else (met[0], float(met[1])) for met in items or []]
    return Request(user, history, reviews or [], None if at is None else float(at))


def as_interactions(given: Any) -> list[NewInteraction]:
    """Returns the interactions that a list of objects of JSON makes, whose keys are those of ``INTERACTION``.

    Raises:
        UserError: there is no such list, or a row lacks a value; the message names the row.
    """
    rows = _rows(given, INTERACTION, optional="text")
    return [NewInteraction(row["user"], row["item"], float(row["time"]), _written(row.get("text"))) for row in rows]


def as_items(given: Any) -> dict[str, list[str]]:
    """Returns the texts of each item in a list of objects of JSON, whose keys are those of ``ITEM``.

    Raises:
        UserError: there is no such list, or a row lacks a value; the message names the row.
    """
    texts = defaultdict(list)
    for row in _rows(given, ITEM):
        texts[row["item"]].append(row["text"])
    return dict(texts)


def _rows(given: Any, keys: Sequence[str], optional: str = "") -> list[dict[str, Any]]:
    if not isinstance(given, list) or not all(isinstance(row, dict) for row in given):
        raise UserError(f"rows must be a list of objects with the keys {', '.join(keys)}")
    for number, row in enumerate(given, start=1):
        check_keys(f"row {number}", row, keys)
        for key in keys:
            value = row.get(key)
            if key == optional and (value is None or isinstance(value, str)):
                continue
            if not (_is_moment(value) if key == "time" else isinstance(value, str) and value.strip()):
                raise UserError(_lacking(number, key))
    return given


def _written(text: str | None) -> str | None:
    return text if text and text.strip() else None


def _lacking(row: int, key: str) -> str:
    kind = "a number of seconds since 1970" if key == "time" else "a text"
    return f"row {row} has no {key} that is {kind}"


def check_keys(where: str, given: Iterable[str], known: Sequence[str]) -> None:
    """Checks that an object has known keys alone.

    Args:
        where: begins the message of an error.

    Raises:
        UserError: a key is unknown; the message names it, and the known key that is most like it.
    """
    if unknown := sorted(set(given) - set(known)):
        raise UserError(f"{where}: unknown key {unknown[0]!r}{nearest(unknown[0], known)}")


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(text, str) for text in values)


def _is_history(items: Any) -> bool:
    return isinstance(items, list) and all(
        isinstance(met, str)
        or (isinstance(met, list) and len(met) == 2 and isinstance(met[0], str) and _is_moment(met[1]))
        for met in items
    )


def _is_moment(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LATEST


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
    if path.is_dir():
        raise UserError(f"{path}: a folder; name a file in it")
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
            raise UserError(f"{path}: {_lacking(1 + int(bad.arg_true()[0]), column)}")
    return table
