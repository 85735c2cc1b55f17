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


def drawn_parts(hashes: np.ndarray, shares: Sequence[float], seed: int, draw: int) -> np.ndarray:
    """Draws the users of training, validation and test; neither the order of users nor that of rows matters.

    A hash orders the users. Validation has the last of them, whatever the draw. The test users of a draw are a block of
    the others, so that the first draws have no test user in common; when no whole block is left, the draws begin anew.

    Args:
        hashes: of the users' tokens, [n] uint64; the first is padding.
        shares: of training, validation and test; their sum need not be 1.
        seed: another seed gives another order.
        draw: the number of the draw, from 0.

    Returns:
        The number of each user's part, [n] long: 0, 1 and 2. That of padding is -1.
    """
    n_users = len(hashes) - 1
    _, n_valid, n_test = (round(n_users * share / sum(shares)) for share in shares)
    place = np.empty(n_users, np.int64)
    place[hashed_order([hashes[1:]], seed)] = np.arange(n_users)
    start = draw % max((n_users - n_valid) // max(n_test, 1), 1) * n_test
    tested = (start <= place) & (place < start + n_test)
    return np.concatenate([[-1], np.where(place >= n_users - n_valid, 1, np.where(tested, 2, 0))])
