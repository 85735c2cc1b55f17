"""Reads the texts of reviews from the file beside the interactions of a dataset."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from recbole_symcere.errors import ReviewFileError


def read_reviews(path: Path, review_ids: Sequence[str], *, allow_empty: bool = False) -> list[str]:
    """Returns the texts of reviews, in the order of ``review_ids``.

    Args:
        path: a file of JSON lines, each an object with the strings ``review_id`` and ``review``.
        review_ids: the ids of the wanted reviews.
        allow_empty: whether a wanted text may be blank.

    Raises:
        ReviewFileError: the file does not exist, a line is not such an object, an id is not in the file or is there
            twice, ``review_ids`` is empty, or a wanted text is blank and ``allow_empty`` is false.
    """
    if not path.is_file():
        raise ReviewFileError(f"{path}: no such review file; make it with `symcere prep`")
    if not len(review_ids):
        raise ReviewFileError(
            f"{path}: no review_id is wanted, because the dataset has no interactions left; loosen its filters"
        )
    try:
        reviews = pl.read_ndjson(path, schema={"review_id": pl.String, "review": pl.String})
    except (pl.exceptions.PolarsError, OSError) as error:  # OSError: the file begins like a packed file
        raise _broken_line(path, str(error)) from error
    if reviews.null_count().sum_horizontal().item():
        raise _broken_line(path, "a line lacks a value")
    repeated = reviews.filter(pl.col("review_id").is_duplicated())
    if len(repeated):
        raise _repeated_id(path, repeated["review_id"][0])
    wanted = pl.DataFrame({"review_id": pl.Series(review_ids, dtype=pl.String)})
    texts = wanted.join(reviews, on="review_id", how="left", maintain_order="left")
    faults = [("is not in the file", pl.col("review").is_null(), "")]
    if not allow_empty:
        faults.append(("has no text", pl.col("review").str.strip_chars() == "", " with `--missing-text drop`"))
    for fault, found, mend in faults:
        faulty = texts.filter(found)["review_id"]
        if len(faulty):
            raise ReviewFileError(
                f"{path}: review_id {faulty[0]!r} {fault} ({len(faulty):,} of {len(texts):,} wanted): "
                f"run `symcere prep` again{mend}"
            )
    return texts["review"].to_list()


def _lines(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields the number and the object of each line that is not blank.

    This is slow, and is only used to say what is wrong with a file.

    Raises:
        ReviewFileError: a line is not an object with the two strings.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                review = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ReviewFileError(f"{path}, line {number}: not JSON ({error}); mend or delete the line") from error
            if not (isinstance(review, dict) and all(isinstance(review.get(k), str) for k in ("review_id", "review"))):
                raise ReviewFileError(
                    f"{path}, line {number}: not an object with the strings `review_id` and `review`; mend the line"
                )
            yield number, review


def _broken_line(path: Path, reason: str) -> ReviewFileError:
    try:
        for _ in _lines(path):
            pass
    except ReviewFileError as error:
        return error
    return ReviewFileError(f"{path}: {reason}; run `symcere prep` again")


def _repeated_id(path: Path, review_id: str) -> ReviewFileError:
    numbers = [str(number) for number, review in _lines(path) if review["review_id"] == review_id]
    return ReviewFileError(
        f"{path}, lines {' and '.join(numbers)}: review_id {review_id!r} occurs more than once; give each line its own"
    )
