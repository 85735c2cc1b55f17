"""``symcere prep stats``: the statistics of prepared datasets, as a table."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dataset_prep.plausibility import year
from recbole_symcere.config import Config
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.data.loaders import create_dataset
from recbole_symcere.data.reviews import read_reviews
from recbole_symcere.errors import PreparationError
from recbole_symcere.grid import Cell, Grid, Row, number_cell

HELP = """Print the statistics of prepared datasets as a table:

The columns of the paper's Table 1 (users, items, reviews), and what matters beside them:
  density          reviews as a share of all pairs of a user and an item
  reviews a user   the mean and the median
  words            of a review, the median; words are separated by spaces
  ties             the share of reviews whose user wrote another one at the same time, so that their order is unknown
  repeated pairs   reviews of an item that the user had reviewed before
  repeated texts   reviews whose text stands in another review, too
  strangers        the share of the users in the test part of --protocol=temporal who have no earlier review"""
EXAMPLES = """examples:
  %(prog)s demo
  %(prog)s yelp travel --format latex > table-1.tex
"""
FORMATS = ("markdown", "csv", "latex")
HEADS = {
    "users": "Users",
    "items": "Items",
    "reviews": "Reviews",
    "density": "Density",
    "mean": "Reviews a user, mean",
    "median": "median",
    "words": "Words",
    "ties": "Ties",
    "repeated_pairs": "Repeated pairs",
    "repeated_texts": "Repeated texts",
    "strangers": "Strangers",
    "first": "From",
    "last": "To",
}
SHARES = ("density", "ties", "strangers")
AVERAGES = ("mean", "median", "words")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("datasets", nargs="+", metavar="DATASET", help="the names of the datasets")
    parser.add_argument("--data-path", default="dataset", help="the folder of their folders (default: %(default)s)")
    parser.add_argument("--format", choices=FORMATS, default=FORMATS[0], help="(default: %(default)s)")


def run(given: argparse.Namespace, rest: Sequence[str]) -> None:
    """Prints a table with a row for each dataset.

    Raises:
        PreparationError: an argument is unknown.
        DatasetError, ReviewFileError: a dataset can't be read.
    """
    if rest:
        raise PreparationError(f"unknown argument {rest[0]}; `symcere prep stats --help` lists all arguments")
    print(as_text({name: statistics(name, given.data_path) for name in given.datasets}, given.format))


def statistics(name: str, data_path: str | Path) -> dict[str, Any]:
    """Returns the statistics of a dataset; the keys are those of ``HEADS``. Dates are days in UTC.

    Raises:
        DatasetError, ReviewFileError: the dataset can't be read.
    """
    settings = {"data_path": str(data_path), "protocol": "temporal", "state": "ERROR"}
    rows = create_dataset(Config("Pop", name, config_dict=settings | {"rm_dup_inter": None}))
    *earlier, test = create_dataset(Config("Pop", name, config_dict=settings)).build()
    return _of_rows(rows) | {"strangers": _strangers(earlier, test)}


def _of_rows(rows: ReviewDataset) -> dict[str, Any]:
    user, item, time = (rows.inter_feat[field] for field in (rows.uid_field, rows.iid_field, rows.time_field))
    pairs = pl.DataFrame({"user": user, "item": item, "time": time})
    users, items, n = pairs["user"].n_unique(), pairs["item"].n_unique(), len(pairs)
    of_users = pairs["user"].value_counts()["count"]
    return {
        "users": users,
        "items": items,
        "reviews": n,
        "density": n / (users * items),
        "mean": of_users.mean(),
        "median": of_users.median(),
        "ties": pairs.select("user", "time").is_duplicated().mean(),
        "repeated_pairs": n - pairs.select("user", "item").n_unique(),
        "first": _day(time.min()),
        "last": _day(time.max()),
    } | (_of_texts(rows) if rows.has_reviews else {})


def _of_texts(rows: ReviewDataset) -> dict[str, Any]:
    review_ids = rows.field2id_token[rows.review_field][rows.inter_feat[rows.review_field]]
    texts = pl.Series(read_reviews(rows.review_path, review_ids.tolist(), allow_empty=True))
    return {"words": texts.str.count_matches(r"\S+").median(), "repeated_texts": int(texts.is_duplicated().sum())}


def _strangers(earlier: Sequence[ReviewDataset], test: ReviewDataset) -> float | None:
    """Returns the share of the users of a test part who have no interaction in the parts before it, if it has users."""
    users = np.unique(test.inter_feat[test.uid_field])
    known = np.concatenate([part.inter_feat[part.uid_field] for part in earlier])
    return float(1 - np.isin(users, known).mean()) if len(users) else None


def _day(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, timezone.utc).date().isoformat()
    except (OverflowError, ValueError):
        return str(year(seconds))  # times in another unit, of which preparing warns


def as_text(found: Mapping[str, Mapping[str, Any]], form: str) -> str:
    """Returns the statistics of datasets as a table.

    Args:
        found: what :func:`statistics` returns, by the names of the datasets.
        form: one of ``FORMATS``; csv has plain numbers, and shares between 0 and 1.
    """
    if form == "csv":
        numbers = [{"dataset": name} | {key: of.get(key) for key in HEADS} for name, of in found.items()]
        return pl.DataFrame(numbers).write_csv().rstrip("\n")
    rows = [Row(name, [_cell(key, of.get(key)) for key in HEADS]) for name, of in found.items()]
    grid = Grid("", ["Dataset", *HEADS.values()], rows)
    return grid.to_latex().rstrip("\n") if form == "latex" else grid.to_markdown()


def _cell(key: str, value: Any) -> Cell:
    if isinstance(value, str):
        return Cell(value)
    if key in SHARES and value is not None:
        return Cell(f"{100 * value:.3g}%", value)  # the density of a whole category is a tiny number
    return number_cell(value, ",.1f" if key in AVERAGES else ",.0f")
