"""The statistics against enumeration, textbook examples and generated truth."""

import math
import tracemalloc
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recbole_symcere.comparison import statistics
from recbole_symcere.comparison.statistics import (
    bootstrap_interval,
    compare_users,
    critical_difference,
    holm,
    mean_and_sd,
    mean_ranks,
    sign_flip_p,
)

few_draws = 200
quick = settings(deadline=None, max_examples=40)
values = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=2, max_size=12)  # eighths: exact sums
p_values = st.lists(st.floats(0, 1), max_size=8)


def of_two_models(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.array(pairs, float).T / 8
    return first, second


def share_of_sign_patterns(differences: list[int]) -> Fraction:
    """Of all 2^n patterns, zeros included, those whose sum is as far from 0 as the observed one."""
    sums = [abs(sum(map(int.__mul__, signs, differences))) for signs in product((-1, 1), repeat=len(differences))]
    return Fraction(sum(each >= abs(sum(differences)) for each in sums), len(sums))


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1, 2, 3], 2 / 8),  # +++ and ---
        ([1, 2, -3], 1.0),  # the sum is 0
        ([4, -1, -1], 1.0),  # 2, 4, 4, 6, ...: none is nearer to 0
        ([5, 4, 3, -1], 4 / 16),  # 11 is reached by 5+4+3-1 and 5+4+3+1, and their negatives
        ([0, 7, 0], 1.0),
    ],
)
def test_p_of_few_users_is_enumerated(differences: list[int], p: float) -> None:
    assert sign_flip_p(np.array(differences, float), 1000, np.random.default_rng(0)) == p


@quick
@given(differences=st.lists(st.integers(-6, 6), max_size=9), scale=st.sampled_from([1, 0.1, 1 / 3, 1e-9]))
def test_p_of_few_users_is_the_share_of_all_sign_patterns(differences: list[int], scale: float) -> None:
    """Scales that are not exact in binary make sums that tie differ in the last digit: they still tie."""
    found = sign_flip_p(np.array(differences) * scale, 2**9, np.random.default_rng(0))
    assert found == share_of_sign_patterns(differences)


def test_p_of_many_users_counts_the_drawn_sign_patterns() -> None:
    differences = np.random.default_rng(1).integers(-3, 5, 21).astype(float)
    different = differences[differences != 0]
    draws = np.random.default_rng(2).integers(256, size=(500, math.ceil(len(different) / 8)), dtype=np.uint8)
    hits = 0
    for row in draws:
        bits = "".join(f"{byte:08b}" for byte in row)
        flipped = sum(abs(d) if bit == "1" else -abs(d) for bit, d in zip(bits, different, strict=False))
        hits += abs(flipped) >= abs(differences.sum())
    assert 0 < hits < 500
    assert sign_flip_p(differences, 500, np.random.default_rng(2)) == (1 + hits) / 501


def test_p_of_drawn_patterns_nears_that_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = np.random.default_rng(3).normal(0.3, 1, 13)
    exact = sign_flip_p(differences, 2**13, np.random.default_rng(0))
    monkeypatch.setattr(statistics, "CHUNK", 1000)  # 76 patterns at once
    drawn = sign_flip_p(differences, 2**13 - 1, np.random.default_rng(0))
    assert 0.05 < exact < 0.95 and drawn != exact
    assert drawn == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 2**13))


def test_p_is_never_zero() -> None:
    assert sign_flip_p(np.ones(100), 999, np.random.default_rng(0)) == 1 / 1000


def test_intervals_hold_the_truth_and_p_finds_nothing_where_nothing_is() -> None:
    """95% of intervals, and 5% of p-values below .05, of users whose skewed differences have the mean 0."""
    generator = np.random.default_rng(0)
    covered = false_discoveries = 0
    for _ in range(400):
        first, second = generator.exponential(size=(2, 100)) * (generator.random((2, 100)) < 0.5)
        found = compare_users(first, second, few_draws)
        covered += found.low <= 0 <= found.high
        false_discoveries += found.p_value < 0.05
    assert covered / 400 == pytest.approx(0.95, abs=0.035)
    assert false_discoveries / 400 == pytest.approx(0.05, abs=0.035)


def test_the_interval_of_many_users_is_the_normal_one() -> None:
    differences = np.random.default_rng(4).normal(0.02, 0.3, 5000)
    half = 1.96 * differences.std() / math.sqrt(5000)
    low, high = bootstrap_interval(differences, 4000, np.random.default_rng(0))
    assert (low, high) == pytest.approx((differences.mean() - half, differences.mean() + half), abs=0.1 * half)


def test_hand_computed_difference_of_users() -> None:
    found = compare_users(np.array([0.5, 0.25, 1.0]), np.array([0.25, 0.0, 0.75]))
    assert (found.difference, found.low, found.high, found.p_value) == (0.25, 0.25, 0.25, 2 / 8)


@quick
@given(pairs=values, data=st.data(), n_draws=st.sampled_from([50, few_draws]))
def test_the_order_of_users_changes_nothing(pairs: list[tuple[int, int]], data: st.DataObject, n_draws: int) -> None:
    again = data.draw(st.permutations(pairs))
    assert compare_users(*of_two_models(pairs), n_draws) == compare_users(*of_two_models(again), n_draws)


@quick
@given(pairs=values, n_draws=st.sampled_from([50, few_draws]))
def test_exchanging_the_models_flips_signs(pairs: list[tuple[int, int]], n_draws: int) -> None:
    first, second = of_two_models(pairs)
    assume(first.sum() != second.sum())
    one, other = compare_users(first, second, n_draws), compare_users(second, first, n_draws)
    assert (one.difference, one.low, one.high) == (-other.difference, -other.high, -other.low)
    assert one.p_value == other.p_value
    assert one.low <= one.high and (one.difference > 0) == (first.sum() > second.sum())


@quick
@given(pairs=values, scale=st.sampled_from([0.25, 2.0, 1024.0]))
def test_a_scale_scales_the_interval_and_leaves_p(pairs: list[tuple[int, int]], scale: float) -> None:
    first, second = of_two_models(pairs)
    one, scaled = (compare_users(first * by, second * by, few_draws) for by in (1, scale))
    assert [scaled.difference, scaled.low, scaled.high] == pytest.approx(
        [one.difference * scale, one.low * scale, one.high * scale]
    )
    assert scaled.p_value == one.p_value


@quick
@given(pairs=values)
def test_a_model_does_not_differ_from_itself(pairs: list[tuple[int, int]]) -> None:
    first, _ = of_two_models(pairs)
    found = compare_users(first, first, few_draws)
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_the_same_seed_gives_the_same_numbers_and_another_one_others() -> None:
    first, second = np.random.default_rng(5).random((2, 50))
    found = compare_users(first, second, few_draws, seed=1)
    assert compare_users(first, second, few_draws, seed=1) == found != compare_users(first, second, few_draws, seed=2)


def test_memory_does_not_grow_with_the_draws() -> None:
    first, second = np.random.default_rng(6).random((2, 20_000))
    tracemalloc.start()
    compare_users(first, second, n_draws=400)  # 64 MB at once
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16e6


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([1, 2, 3], [1, 2], r"shapes are \(3,\) and \(2,\)"),
        ([[1, 2]], [[1, 2]], "shapes"),
        ([1], [2], "two or more users are needed, not 1"),
        ([1, 2, math.nan], [1, 2, 3], "user number 2 has a value that is not finite"),
        ([1, 2], [math.inf, 2], "user number 0"),
    ],
)
def test_values_that_can_not_be_compared_are_refused(first: list, second: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare_users(np.array(first, float), np.array(second, float))


@pytest.mark.parametrize(
    ("p", "corrected"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # the worked example of Wikipedia's Holm-Bonferroni
        ([0.5, 0.01, 0.9], [1, 0.03, 1]),
        ([0.02, 0.02], [0.04, 0.04]),
        ([0.3], [0.3]),
        ([], []),
    ],
)
def test_holm_by_hand(p: list[float], corrected: list[float]) -> None:
    assert holm(p) == pytest.approx(corrected)


@given(p=p_values, data=st.data())
def test_holm_lies_between_p_and_bonferroni_and_keeps_the_order(p: list[float], data: st.DataObject) -> None:
    corrected = holm(p)
    assert all(one <= found <= min(1, one * len(p)) for one, found in zip(p, corrected, strict=True))
    assert sorted(corrected) == [found for _, found in sorted(zip(p, corrected, strict=True))]
    places = data.draw(st.permutations(range(len(p))))
    assert holm([p[i] for i in places]) == [corrected[i] for i in places]


def test_mean_and_sample_standard_deviation_by_hand() -> None:
    assert mean_and_sd([2, 4, 4, 4, 5, 5, 7, 9]) == (5, pytest.approx(math.sqrt(32 / 7)))
    assert mean_and_sd([0.25]) == (0.25, None)
    assert mean_and_sd([0.1, 0.2, 0.3]) == mean_and_sd([0.3, 0.2, 0.1])  # so equal means tie


@pytest.mark.parametrize(("n_models", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (9, 3.102), (10, 3.164)])
def test_critical_differences_are_those_of_the_published_table(n_models: int, q: float) -> None:
    """Demšar (2006), table 5 (a), the row for 0.05."""
    expected = q * math.sqrt(n_models * (n_models + 1) / (6 * 14))
    assert critical_difference(n_models, 14) == pytest.approx(expected, abs=1e-3)


def test_mean_ranks_share_ties() -> None:
    ranks = mean_ranks(np.array([[0.5, 0.5, 0.25], [0.25, 0.5, 0.75]]))
    assert ranks.tolist() == [(1.5 + 3) / 2, (1.5 + 2) / 2, (3 + 1) / 2]
