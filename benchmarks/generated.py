"""Generated interactions of any size, as the atomic files that training reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.graph import random_interactions

WORDS = np.array(("gasket", "string", "tuner", "cable", "strap", "pedal", "great", "good", "love", "the", "it", "fits"))


def write_dataset(folder: Path, n: int, words: int = 12) -> None:
    """``n`` interactions (less repeated pairs), each with a review of ``words`` words, named like the folder."""
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
    drawn = np.random.default_rng(0).choice(WORDS, (len(table), words))
    with (folder / f"{folder.name}.review.jsonl").open("w") as file:
        for row, text in enumerate(drawn):
            file.write(json.dumps({"review_id": f"r{row}", "review": " ".join(text)}) + "\n")
