"""Statistics of a comparison: over seeds, over users, over the comparisons of one table. Pure functions of numbers."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap

CHUNK = 2**18  # resampled values held at once: 2 MB


@dataclass(frozen=True)
class PairedComparison:
    """One model's metric minus another's over the same users.

    Attributes:
        difference: mean over users.
        low, high: the 95% interval of ``difference``.
        p_value: two-sided, of the hypothesis that the two models are exchangeable for every user.
    """

    difference: float
    low: float
    high: float
    p_value: float


def compare_users(first: np.ndarray, second: np.ndarray, n_draws: int = 10_000, seed: int = 0) -> PairedComparison:
    """Is ``first`` better than ``second`` for users like these? Users are resampled, seeds are not.

    The interval and the test are those that Smucker, Allan and Carterette (CIKM 2007) recommend for rankings.
    The order of users changes nothing, and exchanging the models only flips signs.

    Args:
        first, second: [n_users] float, a metric of each user averaged over seeds, the same users in the same order.
        n_draws: resamples of the bootstrap, and random sign patterns of the test.
        seed: of both.

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
    difference = math.fsum(differences) / len(differences)  # exact, so the same in any order
    sign = math.copysign(1.0, difference)
    ordered = np.sort(sign * differences)
    generator = np.random.default_rng(seed)
    low, high = sorted(sign * bound for bound in bootstrap_interval(ordered, n_draws, generator))
    return PairedComparison(difference, low, high, sign_flip_p(ordered, n_draws, generator))


def bootstrap_interval(values: np.ndarray, n_draws: int, generator: np.random.Generator) -> tuple[float, float]:
    """95% percentile bootstrap interval of the mean (Efron and Tibshirani 1993, ch. 13).

    SciPy's bias-corrected interval (BCa) takes n_users² values, and differs from this one where users are few.

    Args:
        values: [n_users] float.
    """
    batch = max(1, CHUNK // len(values))
    # SciPy calls the argument rng from 1.15 on, and takes both names
    found = bootstrap((values,), np.mean, n_resamples=n_draws, batch=batch, method="percentile", random_state=generator)
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def sign_flip_p(differences: np.ndarray, n_draws: int, generator: np.random.Generator) -> float:
    """Two-sided p-value of the paired randomisation test of the mean (Fisher 1935): signs are exchangeable.

    Every pattern of signs is tried if there are at most ``n_draws``. Else p = (1 + hits) / (1 + draws) of random ones,
    which is never 0 (Phipson and Smyth 2010). For 60,000 users ``scipy.stats.permutation_test`` takes minutes.

    Args:
        differences: [n_users] float; users without a difference change no sum and are left out.
    """
    sizes = np.abs(differences[differences != 0])
    total, observed = math.fsum(sizes), abs(math.fsum(differences))

    def hits(positive: np.ndarray) -> int:
        """Patterns, [n, n_different] of 0 and 1, whose sum is as far from 0 as the observed one or further."""
        return int((np.abs(2 * (positive @ sizes) - total) >= observed - 1e-9 * total).sum())  # equal up to rounding

    if 2 ** len(sizes) <= n_draws:
        every = np.arange(2 ** len(sizes))
        return hits(every[:, None] >> np.arange(len(sizes)) & 1) / len(every)
    found, n_bytes, rows = 0, -(-len(sizes) // 8), max(1, CHUNK // len(sizes))
    for start in range(0, n_draws, rows):
        shape = (min(rows, n_draws - start), n_bytes)
        found += hits(np.unpackbits(generator.integers(256, size=shape, dtype=np.uint8), axis=1, count=len(sizes)))
    return (1 + found) / (1 + n_draws)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979): the chance of any false discovery among all of them stays below p.

    Returns:
        Corrected p-values in the order given: the smallest of n times n, the next times n - 1, ..., rising, at most 1.
    """
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(factors * np.asarray(p_values)[order]), 1)
    return corrected.tolist()


def mean_and_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n - 1); no deviation of one value. Exact, so the same in any order."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None
