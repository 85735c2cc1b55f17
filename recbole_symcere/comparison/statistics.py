"""The statistics of a comparison: over seeds, over users, and over all tests of one table.

Each function takes numbers and returns numbers.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap, rankdata, studentized_range

CHUNK = 2**18  # the number of resampled values in memory at once, 2 MB


@dataclass(frozen=True)
class PairedComparison:
    """The difference between two models in one metric, over the same users.

    Attributes:
        difference: the mean over users of the first model's value minus the second's.
        low, high: the 95% interval of ``difference``.
        p_value: the two-sided p-value of the hypothesis that the two models are exchangeable for every user.
    """

    difference: float
    low: float
    high: float
    p_value: float


def compare_users(first: np.ndarray, second: np.ndarray, n_draws: int = 10_000, seed: int = 0) -> PairedComparison:
    """Compares two models over the same users, by a bootstrap interval and a paired randomisation test.

    Users are resampled, seeds are not. Smucker, Allan and Carterette (CIKM 2007) recommend this interval and this test
    for rankings. The order of users changes no result, and exchanging the two models only changes signs.

    Args:
        first, second: [n_users] float, the metric of each user averaged over seeds, for the same users in the same
            order.
        n_draws: the number of resamples of the bootstrap, and of random sign patterns of the test.
        seed: the seed of the bootstrap and of the test.

    Raises:
        ValueError: the shapes differ, there are fewer than two users, or a value is not finite.
    """
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(f"values of the same users are needed, but their shapes are {first.shape} and {second.shape}")
    if len(first) < 2:
        raise ValueError(f"two or more users are needed, not {len(first)}")
    differences = np.subtract(first, second, dtype=np.float64)
    if not np.isfinite(differences).all():
        raise ValueError(f"user number {np.flatnonzero(~np.isfinite(differences))[0]} has a value that is not finite")
    difference = math.fsum(differences) / len(differences)  # the sum is exact, so it is the same in any order
    sign = math.copysign(1.0, difference)
    ordered = np.sort(sign * differences)
    generator = np.random.default_rng(seed)
    low, high = sorted(sign * bound for bound in bootstrap_interval(ordered, n_draws, generator))
    return PairedComparison(difference, low, high, sign_flip_p(ordered, n_draws, generator))


def bootstrap_interval(values: np.ndarray, n_draws: int, generator: np.random.Generator) -> tuple[float, float]:
    """Returns the 95% percentile bootstrap interval of the mean (Efron and Tibshirani 1993, ch. 13).

    SciPy's bias-corrected interval (BCa) holds n_users² values in memory, and differs from this one only if there are
    few users.

    Args:
        values: [n_users] float.

    Returns:
        The lower and the upper bound.
    """
    batch = max(1, CHUNK // len(values))
    # SciPy 1.15 renamed the argument random_state to rng, and still takes the old name.
    found = bootstrap((values,), np.mean, n_resamples=n_draws, batch=batch, method="percentile", random_state=generator)
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def sign_flip_p(differences: np.ndarray, n_draws: int, generator: np.random.Generator) -> float:
    """Returns the two-sided p-value of the paired randomisation test of the mean (Fisher 1935).

    The hypothesis is that the sign of each difference is random. If there are at most ``n_draws`` patterns of signs,
    all of them are tried. Otherwise ``n_draws`` random patterns give p = (1 + hits) / (1 + draws), which is never 0
    (Phipson and Smyth 2010). ``scipy.stats.permutation_test`` takes minutes for 60,000 users.

    Args:
        differences: [n_users] float; differences of 0 change no sum and are left out.
    """
    sizes = np.abs(differences[differences != 0])
    total, observed = math.fsum(sizes), abs(math.fsum(differences))

    def hits(positive: np.ndarray) -> int:
        """Counts the patterns, [n, n_different] of 0 and 1, whose sum is at least as far from 0 as the observed sum."""
        return int((np.abs(2 * (positive @ sizes) - total) >= observed - 1e-9 * total).sum())  # or equal up to rounding

    if 2 ** len(sizes) <= n_draws:
        every = np.arange(2 ** len(sizes))
        return hits(every[:, None] >> np.arange(len(sizes)) & 1) / len(every)
    found, n_bytes, rows = 0, -(-len(sizes) // 8), max(1, CHUNK // len(sizes))
    for start in range(0, n_draws, rows):
        shape = (min(rows, n_draws - start), n_bytes)
        found += hits(np.unpackbits(generator.integers(256, size=shape, dtype=np.uint8), axis=1, count=len(sizes)))
    return (1 + found) / (1 + n_draws)


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrects p-values for their number by Holm's step-down method (1979).

    If everything below a level counts as a discovery, the chance of any false discovery is at most that level.

    Returns:
        The corrected p-values in the given order. The smallest of n p-values is multiplied by n, the next by n - 1,
        and so on; none is below a smaller one, and none is above 1.
    """
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(factors * np.asarray(p_values)[order]), 1)
    return corrected.tolist()


def critical_difference(n_models: int, n_datasets: int, level: float = 0.05) -> float:
    """Returns the difference of mean ranks above which two models differ, by the test of Nemenyi.

    Demšar (JMLR 7, 2006), section 3.2.2: q sqrt(k (k + 1) / (6 N)), where q is the upper quantile of the studentised
    range of k groups with infinitely many degrees of freedom, divided by the root of 2.

    Args:
        n_models: k, two or more.
        n_datasets: N, one or more.
        level: the chance of any false difference among all pairs.
    """
    q = float(studentized_range.ppf(1 - level, n_models, np.inf)) / math.sqrt(2)
    return q * math.sqrt(n_models * (n_models + 1) / (6 * n_datasets))


def mean_ranks(values: np.ndarray) -> np.ndarray:
    """Returns the mean rank of each model over the datasets, where 1 is best and equal values share their mean rank.

    Args:
        values: [n_datasets, n_models] float; higher is better.

    Returns:
        [n_models] float.
    """
    return rankdata(-values, axis=1).mean(axis=0)


def mean_and_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Returns the mean and the sample standard deviation (n - 1), which is None for a single value.

    Both are exact, so they are the same in any order.
    """
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None
