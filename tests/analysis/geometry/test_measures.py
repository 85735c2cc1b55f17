"""Measures of vectors against closed forms, slow loops and numpy's own."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recbole_symcere.analysis.geometry import measures
from recbole_symcere.analysis.geometry.measures import BINS, directions

quick = settings(deadline=None, max_examples=50)


@st.composite
def sets(draw: st.DrawFn, n: int = 2, same_size: bool = False) -> list[Tensor]:
    """``n`` sets of directions of one width, off the centre by a drawn shift."""
    width, seed = draw(st.integers(2, 6)), draw(st.integers(0, 2**32 - 1))
    size = draw(st.integers(2, 12))
    sizes = [size if same_size else draw(st.integers(1, 12)) for _ in range(n)]
    generator = torch.Generator().manual_seed(seed)
    shift = draw(st.sampled_from([0.0, 0.5, 3.0]))
    return [directions(torch.randn(size, width, generator=generator) + shift) for size in sizes]


def test_directions_keep_where_a_vector_points_and_a_vector_of_zeros_as_it_is() -> None:
    found = directions(torch.tensor([[3.0, 4.0], [0.0, -1e-3], [0.0, 0.0]]))
    assert found.dtype == torch.float64
    assert torch.allclose(found, torch.tensor([[0.6, 0.8], [0.0, -1.0], [0.0, 0.0]], dtype=torch.float64), atol=1e-6)


@quick
@given(sets(), st.integers(1, 40))
def test_cosines_in_blocks_are_those_of_the_whole_table(pair: list[Tensor], pairs_at_once: int) -> None:
    users, items = pair
    table = np.array([[float(user @ item) for item in items] for user in users])
    found = measures.cosines(users, items, pairs_at_once)
    assert (found.mean, found.sd) == pytest.approx((table.mean(), table.std()), abs=1e-12)
    assert (found.low, found.high) == pytest.approx((table.min(), table.max()), abs=1e-12)
    assert found.quartiles == pytest.approx(np.quantile(table, [0.25, 0.5, 0.75]), abs=1e-12)
    assert found.counts.sum() == table.size


def test_quartiles_of_a_table_too_large_to_keep_are_right_to_a_bin() -> None:
    generator = torch.Generator().manual_seed(0)
    users, items = (directions(torch.randn(400, 3, generator=generator) + 0.3) for _ in range(2))
    exact = measures.cosines(users, items)
    found = measures.cosines(users, items, exact_pairs=len(users) * len(items) - 1)
    assert found.quartiles != exact.quartiles
    assert found.quartiles == pytest.approx(exact.quartiles, abs=2 / BINS)
    assert (found.mean, found.sd, found.low, found.high) == (exact.mean, exact.sd, exact.low, exact.high)


def test_the_deviation_of_nearly_equal_cosines_does_not_cancel_away() -> None:
    angles = torch.tensor([0.0, 1e-6], dtype=torch.float64)
    users = torch.stack([angles.cos(), angles.sin()], 1)
    items = torch.tensor([[math.sqrt(0.5), math.sqrt(0.5)]], dtype=torch.float64)
    assert measures.cosines(users, items).sd == pytest.approx(0.5e-6 * math.sqrt(0.5), rel=1e-4)


def test_densities_have_area_1_over_bins_that_span_all() -> None:
    generator = torch.Generator().manual_seed(0)
    users, wide, narrow = (
        directions(torch.randn(80, 4, generator=generator) + shift) for shift in (0.0, 0.0, 9.0)
    )  # fmt: skip
    found = [measures.cosines(users, wide), measures.cosines(narrow, narrow)]
    edges, heights = measures.densities(found)
    assert len(edges) <= 101
    assert edges[0] <= found[0].low and found[1].high <= edges[-1]
    for each, density in zip(found, heights, strict=True):
        assert len(density) == len(edges) - 1
        assert (density * np.diff(edges)).sum() == pytest.approx(1)
        middle = (edges[1:] + edges[:-1]) / 2
        assert (density * np.diff(edges) * middle).sum() == pytest.approx(each.mean, abs=0.01)


@quick
@given(sets(1), st.floats(-5, 5))
def test_variance_by_dimension_does_not_see_a_shift(drawn: list[Tensor], shift: float) -> None:
    (x,) = drawn
    found = measures.variance_by_dimension(x)
    slow = [sum((row[k] - x[:, k].mean()) ** 2 for row in x) / len(x) for k in range(x.shape[1])]
    assert found.tolist() == pytest.approx([float(value) for value in slow], abs=1e-12)
    assert torch.allclose(measures.variance_by_dimension(x + shift), found, atol=1e-12)
    assert float(found.sum()) == pytest.approx(1 - float(x.mean(0).square().sum()), abs=1e-12)


def test_effective_rank_of_known_singular_values() -> None:
    assert measures.effective_rank(torch.eye(5).double().repeat(3, 1)) == pytest.approx(5)
    line = torch.tensor([[0.6, 0.8]]).double()
    assert measures.effective_rank(torch.cat([line, -line, line])) == pytest.approx(1, abs=1e-5)
    three_to_one = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]]).double()
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert measures.effective_rank(three_to_one) == pytest.approx(math.exp(entropy))


@quick
@given(sets(1), st.integers(0, 2**32 - 1))
def test_effective_rank_does_not_see_a_rotation(drawn: list[Tensor], seed: int) -> None:
    (x,) = drawn
    turn, _ = torch.linalg.qr(
        torch.randn(x.shape[1], x.shape[1], generator=torch.Generator().manual_seed(seed)).double()
    )
    found = measures.effective_rank(x)
    assert measures.effective_rank(x @ turn) == pytest.approx(found, abs=1e-4)
    assert 1 - 1e-4 <= found <= x.shape[1] + 1e-4


@quick
@given(sets(same_size=True))
def test_alignment_gap_and_cosines_of_pairs_are_their_slow_loops(pair: list[Tensor]) -> None:
    x, y = (each.numpy() for each in pair)
    n = len(x)
    distances = [sum((x[i] - y[i]) ** 2) for i in range(n)]
    assert measures.alignment(*pair) == pytest.approx(sum(distances) / n)
    others = [x[i] @ y[j] for i in range(n) for j in range(n) if i != j]
    expected = sum(x[i] @ y[i] for i in range(n)) / n, sum(others) / len(others)
    assert measures.own_and_other_cosines(*pair) == pytest.approx(expected, abs=1e-12)
    centroids = [sum(each) / n for each in (x, y)]
    assert measures.gap(*pair) == pytest.approx(math.dist(*centroids), abs=1e-12)


def test_the_gap_of_known_centroids() -> None:
    x, y = torch.eye(3).double()[:1].repeat(4, 1), torch.eye(3).double()[1:2].repeat(7, 1)
    assert measures.gap(x, y) == pytest.approx(math.sqrt(2))
    opposite = torch.cat([x, -x])
    assert measures.gap(opposite, y) == pytest.approx(1)


def test_uniformity_of_orthogonal_opposite_and_equal_vectors() -> None:
    orthogonal = torch.eye(6).double()
    assert measures.uniformity(orthogonal) == pytest.approx(-4)  # all distances are sqrt(2)
    assert measures.uniformity(torch.cat([orthogonal[:1], -orthogonal[:1]])) == pytest.approx(-8)
    assert measures.uniformity(orthogonal[:1].repeat(5, 1)) == pytest.approx(0)
    assert math.isnan(measures.uniformity(orthogonal[:1]))


@quick
@given(sets(1))
def test_uniformity_is_its_slow_loop(drawn: list[Tensor]) -> None:
    x = drawn[0].numpy()
    kernels = [math.exp(-2 * sum((a - b) ** 2)) for a, b in itertools.combinations(x, 2)]
    if kernels:
        assert measures.uniformity(drawn[0]) == pytest.approx(math.log(sum(kernels) / len(kernels)), abs=1e-9)


def test_uniformity_of_many_vectors_is_that_of_a_sample_by_the_seed() -> None:
    x = directions(torch.randn(1500, 8, generator=torch.Generator().manual_seed(0)) + 0.3)
    exact, first, second = (measures.uniformity(x, *more) for more in ((1500,), (700, 0), (700, 1)))
    assert first == measures.uniformity(x, 700, 0)
    assert first != second
    assert first == pytest.approx(exact, abs=0.05)


@pytest.mark.filterwarnings("error")  # scipy warns of constant values
def test_correlations_by_rank_and_by_value() -> None:
    counts = np.array([1, 2, 3, 4])
    spearman, pearson = measures.correlations(np.array([1.0, 10.0, 100.0, 1000.0]), counts)
    assert spearman == pytest.approx(1)
    assert pearson == pytest.approx(np.corrcoef([1, 10, 100, 1000], counts)[0, 1])
    assert measures.correlations(np.array([4.0, 3.0, 2.0, 1.0]), counts) == pytest.approx((-1, -1))
    assert all(map(math.isnan, measures.correlations(np.ones(4), counts)))
