"""The order of interactions that happened at the same time, which decides on which side of a cut they fall."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.util import hash_array


def token_hashes(tokens: Any) -> np.ndarray:
    """Returns a hash of each text, the same on every machine: [n] uint64 for a sequence of n texts."""
    return hash_array(np.asarray(tokens, dtype=object), categorize=False)  # most review ids occur only once


def hashed_order(columns: Sequence[np.ndarray], seed: int) -> np.ndarray:
    """Returns an order of rows that depends on the content of each row and not on its place.

    Args:
        columns: a hash of each row's value in each column, [n_rows] uint64.
        seed: another seed gives another order.

    Returns:
        The places of the rows in their new order, [n_rows] long.
    """
    seeds = np.full_like(columns[0], seed)
    hashes = pd.util.hash_pandas_object(pd.DataFrame(dict(enumerate([seeds, *columns]))), index=False)
    return hashes.to_numpy().argsort(kind="stable")


def drawn_parts(hashes: np.ndarray, shares: Sequence[float], seed: int) -> np.ndarray:
    """Draws the part of each user; neither the order of users nor that of rows matters.

    Args:
        hashes: of the users' tokens, [n] uint64; the first is padding.
        shares: of the parts; their sum need not be 1.
        seed: another seed draws other users.

    Returns:
        The number of each user's part, [n] long; that of padding is -1.
    """
    ends = np.round(np.cumsum(shares) / np.sum(shares) * (len(hashes) - 1)).astype(np.int64)
    parts = np.full(len(hashes), -1)
    parts[1 + hashed_order([hashes[1:]], seed)] = np.searchsorted(ends, np.arange(len(hashes) - 1), side="right")
    return parts
