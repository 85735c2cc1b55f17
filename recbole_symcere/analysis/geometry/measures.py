"""Where vectors lie on the unit sphere: pure functions of tensors.

A direction is a vector of unit length, in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import pearsonr, spearmanr
from torch import Tensor
from tqdm import tqdm

PAIRS_AT_ONCE = 2**20  # of a block of cosines: 8 MiB
EXACT_PAIRS = 2**24  # that are kept for exact quartiles: 128 MiB
BINS = 2**16  # between the cosines -1 and 1: a quartile read from them is off by 3e-5 at most
UNIFORMITY_VECTORS = 4096  # 8 million pairs


def directions(vectors: Tensor) -> Tensor:
    """Returns vectors [n, d] scaled to unit length, in float64; a vector of length 0 stays as it is."""
    return F.normalize(vectors.double(), dim=1)


@dataclass(frozen=True)
class Cosines:
    """The distribution of the cosines of all pairs.

    Attributes:
        sd: of all pairs, not of a sample of more.
        quartiles: the lower one, the median, the upper one.
        counts: [BINS] pairs in bins of equal width from -1 to 1.
    """

    mean: float
    sd: float
    low: float
    quartiles: tuple[float, float, float]
    high: float
    counts: np.ndarray


def cosines(
    users: Tensor, items: Tensor, pairs_at_once: int = PAIRS_AT_ONCE, exact_pairs: int = EXACT_PAIRS
) -> Cosines:
    """Returns the distribution of the cosines of each user with each item, computed a block of users at a time.

    Everything is exact but the quartiles of more than ``exact_pairs`` pairs: they are read from ``Cosines.counts``.

    Args:
        users, items: directions [n_users, d] and [n_items, d], one or more each.
    """
    n_pairs = len(users) * len(items)
    kept = np.empty(n_pairs if n_pairs <= exact_pairs else 0)
    counts, low, high, done = np.zeros(BINS, np.int64), 1.0, -1.0, 0
    for some in tqdm(users.split(max(1, pairs_at_once // len(items))), desc="cosines", delay=3, leave=False):
        block = (some @ items.T).clamp(-1, 1).flatten().numpy()
        low, high = min(low, float(block.min())), max(high, float(block.max()))
        counts += np.histogram(block, BINS, (-1, 1))[0]
        if len(kept):
            kept[done : (done := done + len(block))] = block
    points = np.array([0.25, 0.5, 0.75])
    if len(kept):
        quartiles = np.quantile(kept, points, overwrite_input=True)
    else:
        below = np.concatenate([[0], counts.cumsum()])
        quartiles = np.interp(points * n_pairs, below, np.linspace(-1, 1, BINS + 1))
    lower, median, upper = map(float, quartiles)
    return Cosines(*_mean_and_sd(users, items), low, (lower, median, upper), high, counts)


def _mean_and_sd(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Of the dot products of all pairs, from the means m and covariances C of both sides: no table is made.

    The mean is m_x m_y, the variance m_x C_y m_x + m_y C_x m_y + tr(C_x C_y): sums of squares, so nothing cancels.
    """
    (mean_x, covariance_x), (mean_y, covariance_y) = ((z.mean(0), torch.cov(z.T, correction=0)) for z in (x, y))
    covariance_x, covariance_y = (covariance.reshape(x.shape[1], -1) for covariance in (covariance_x, covariance_y))
    variance = mean_x @ covariance_y @ mean_x + mean_y @ covariance_x @ mean_y + (covariance_x * covariance_y).sum()
    return float(mean_x @ mean_y), float(variance.clamp(min=0).sqrt())


def densities(distributions: list[Cosines], at_most: int = 100) -> tuple[np.ndarray, list[np.ndarray]]:
    """Returns one histogram of area 1 for each distribution, all over the same bins.

    Returns:
        Edges of the bins, [n + 1], n <= ``at_most``, and each distribution's density, [n].
    """
    filled = np.flatnonzero(sum(each.counts for each in distributions))
    first, width = filled[0], -(-(filled[-1] - filled[0] + 1) // at_most)  # whole fine bins: none is split
    starts = np.arange(first, filled[-1] + 1, width)
    edges = np.append(starts, starts[-1] + width) * (2 / BINS) - 1
    return edges, [
        np.add.reduceat(each.counts, starts) / (each.counts.sum() * width * (2 / BINS)) for each in distributions
    ]


def variance_by_dimension(x: Tensor) -> Tensor:
    """Returns the variance [d] of vectors [n, d] (Figure 4); for unit vectors it sums to 1 - |mean|^2."""
    return x.var(0, correction=0)


def effective_rank(x: Tensor) -> float:
    """Returns exp of the entropy of the singular values' shares of their sum (Roy and Vetterli, EUSIPCO 2007).

    Args:
        x: [n, d] float64, not all 0; not centred. Singular values below 1e-8 of the largest are lost in rounding.

    Returns:
        From 1, where all vectors lie on one line, to d.
    """
    singular = torch.linalg.eigvalsh(x.T @ x).clamp(min=0).sqrt()
    return float(torch.special.entr(singular / singular.sum()).sum().exp())


def alignment(x: Tensor, y: Tensor) -> float:
    """Returns the mean of |x_i - y_i|^2 for directions x and y [n, d] (Wang and Isola, ICML 2020; alpha 2)."""
    return float((x - y).square().sum(1).mean())


def uniformity(x: Tensor, at_most: int = UNIFORMITY_VECTORS, seed: int = 0) -> float:
    """Returns log of the mean of exp(-2 |x_i - x_j|^2) over all pairs i < j (Wang and Isola, ICML 2020; t = 2).

    The more negative, the more evenly the vectors are spread over the sphere; 0 if all are one, NaN for fewer than two.

    Args:
        x: directions [n, d].
        at_most: of more vectors than these, so many are drawn by ``seed``, and all of their pairs are looked at.
    """
    if len(x) > at_most:
        x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:at_most]]
    distances = torch.pdist(x)
    return (
        float(torch.logsumexp(-2 * distances.square(), 0) - np.log(len(distances))) if len(distances) else float("nan")
    )


def correlations(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Returns Spearman's and Pearson's correlation of two series [n]; NaN where a series is constant."""
    if min(np.ptp(first), np.ptp(second)) == 0:
        return float("nan"), float("nan")
    return float(spearmanr(first, second).statistic), float(pearsonr(first, second).statistic)


def gap(x: Tensor, y: Tensor) -> float:
    """Returns the distance between the means of directions [n, d] and [m, d] (Liang et al., NeurIPS 2022)."""
    return float((x.mean(0) - y.mean(0)).norm())


def own_and_other_cosines(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Returns the mean cosine of all (x_i, y_i), and of all (x_i, y_j) with i != j; x, y: [n, d], n > 1."""
    n, own = len(x), float((x * y).sum(1).mean())
    return own, (n * float(x.mean(0) @ y.mean(0)) - own) / (n - 1)
