"""Generates interactions and reviews in any number, and writes them as the atomic files that training reads."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.graph import random_interactions
from benchmarks.measure import Options

WORDS = np.array(("gasket", "string", "tuner", "cable", "strap", "pedal", "great", "good", "love", "the", "it", "fits"))


def write_interactions(folder: Path, n: int) -> int:
    """Draws ``n`` interactions, writes them with review ids but without repeated pairs, and returns how many are left.

    The dataset has the name of the folder.
    """
    folder.mkdir(parents=True)
    users, items, _, _ = random_interactions(n)
    table = pl.DataFrame({"user_id:token": users.numpy(), "item_id:token": items.numpy()}).unique(maintain_order=True)
    number = pl.Series(np.arange(len(table)))
    table = table.with_columns(
        pl.format("u{}", pl.col("user_id:token")).alias("user_id:token"),
        pl.format("i{}", pl.col("item_id:token")).alias("item_id:token"),
        pl.lit(5.0).alias("rating:float"),
        number.cast(pl.Float64).alias("timestamp:float"),
        pl.format("r{}", number).alias("review_id:token"),
    )
    table.write_csv(folder / f"{folder.name}.inter", separator="\t")
    return len(table)


def write_dataset(folder: Path, n: int, words: int = 12) -> None:
    """Writes the interactions of :func:`write_interactions` and a review of ``words`` words for each."""
    size = write_interactions(folder, n)
    drawn = np.random.default_rng(0).choice(WORDS, (size, words))
    with (folder / f"{folder.name}.review.jsonl").open("w") as file:
        for row, text in enumerate(drawn):
            file.write(json.dumps({"review_id": f"r{row}", "review": " ".join(text)}) + "\n")


CONVERT = {
    "musical-instruments": "amazon --input reviews_Musical_Instruments_5.json.gz",
    "imdb-2000-2001": "table --input imdb_2000_2001.csv.gz --user username --item movie --text review --rating rating "
    "--time date --time-format '%d %B %Y'",
}


@contextmanager
def real_dataset(name: str, options: Options) -> Iterator[Path]:
    """Yields the ``data_path`` of a dataset of real reviews, or of a generated one with its name if ``small`` is set.

    Raises:
        SystemExit: the dataset is not there; the message says how to convert it.
    """
    if options.small:
        with tempfile.TemporaryDirectory() as folder:
            write_dataset(Path(folder) / name, 500)
            yield Path(folder)
        return
    if not (options.data_path / name / f"{name}.inter").is_file():
        raise SystemExit(
            f"no dataset {name} in {options.data_path}: name the folder with --data-path, or convert it with\n"
            f"python -m dataset_prep {CONVERT[name]} --output {options.data_path / name}"
        )
    yield options.data_path
