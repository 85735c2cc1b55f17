"""Whitening against a singular value decomposition."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_symcere.model.text.whitening import whiten

quick = settings(deadline=None, max_examples=50)


@quick
@given(
    n=st.integers(2, 30), width=st.integers(1, 6), rank=st.integers(1, 6), seed=st.integers(0, 99),
    ridge=st.sampled_from([0.01, 0.05, 1.0]),
)  # fmt: skip
def test_whitening_gives_strong_directions_the_same_variance(
    n: int, width: int, rank: int, seed: int, ridge: float
) -> None:
    random = np.random.default_rng(seed)
    x = 5 + random.normal(size=(n, rank)) @ random.normal(size=(rank, width))
    found = whiten(torch.from_numpy(x), ridge).numpy()
    left, singular, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    expected = left * singular / (singular + ridge * singular[0]) * math.sqrt(n)  # but for a rotation
    assert found.mean(0) == pytest.approx(np.zeros(width), abs=1e-6)
    assert found @ found.T == pytest.approx(expected @ expected.T, abs=1e-6)


@quick
@given(row=st.lists(st.integers(-99, 99), min_size=1, max_size=5), n=st.integers(1, 9))
def test_where_nothing_varies_whitening_gives_zeros(row: list[int], n: int) -> None:
    """Of whole numbers, whose mean is exact: what a mean is off by through rounding is whitened like all else."""
    assert not whiten(torch.tensor([row] * n, dtype=torch.float32)).any()
