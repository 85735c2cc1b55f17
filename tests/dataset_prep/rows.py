"""Made-up raw rows, files of them, and a finished dataset read back as RecBole's reader does."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dataset_prep import Filters
from dataset_prep.engine import Engine

EVERYTHING = Filters(user_core=0, item_core=0, duplicates="keep", missing_text="keep")
START = 1_600_000_000  # seconds


class Interaction(NamedTuple):
    """One row of a dataset."""

    user: str
    item: str
    rating: float | None
    time: float
    review: str


def amazon_line(user: str, item: str, text: str = "fine", time: float = START, rating: Any = 5.0) -> str:
    """A line of the 2014 and 2018 dumps."""
    row = {"reviewerID": user, "asin": item, "reviewText": text, "unixReviewTime": time, "overall": rating}
    return json.dumps(row, ensure_ascii=False) + "\n"


def amazon_lines(interactions: Sequence[Interaction]) -> str:
    return "".join(amazon_line(row.user, row.item, row.review, row.time, row.rating) for row in interactions)


def read_dataset(folder: Path) -> list[Interaction]:
    """Interactions in the order of the .inter file, each with its own review."""
    reviews: dict[str, str] = {}
    for line in (folder / f"{folder.name}.review.jsonl").read_text(encoding="utf-8").split("\n")[:-1]:
        review = json.loads(line)
        assert review["review_id"] not in reviews
        reviews[review["review_id"]] = review["review"]
    strings = dict.fromkeys(("user_id:token", "item_id:token", "review_id:token"), str)
    floats = dict.fromkeys(("rating:float", "timestamp:float"), np.float64)
    table = pd.read_csv(  # as recbole.data.dataset.Dataset._load_feat does
        folder / f"{folder.name}.inter", delimiter="\t", dtype=strings | floats, encoding="utf-8", engine="python"
    )
    assert set(table["review_id:token"]) == set(reviews)
    return [
        Interaction(user, item, None if np.isnan(rating) else rating, time, reviews[review_id])
        for user, item, rating, time, review_id in table.itertuples(index=False)
    ]


def read_statistics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / f"{folder.name}.stats.json").read_text(encoding="utf-8"))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones included."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder for one hypothesis example."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@contextmanager
def scratch_engine() -> Iterator[Engine]:
    with scratch_folder() as folder, Engine(folder, "200MB") as engine:
        yield engine
