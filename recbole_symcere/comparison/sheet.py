"""A table whose columns are no metrics: what stands in its cells, its notes, and its numbers in full precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from recbole_symcere.grid import Grid


@dataclass(frozen=True, eq=False)
class Sheet:
    """A table as people read it and as programs do.

    Attributes:
        notes: sentences that explain the table to its reader.
        numbers: a row for each dataset and model, in full precision.
    """

    grid: Grid
    notes: Sequence[str]
    numbers: pl.DataFrame
