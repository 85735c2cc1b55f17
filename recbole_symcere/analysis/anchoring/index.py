"""The anchoring index: whether objective words pull reviews to their interactions more than sentiment does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from recbole_symcere.analysis.words import GROUPS, LEAST_REVIEWS

DRAWS = 2000
PERCENTILES = (2.5, 97.5)
CHUNK = 2**22  # weights held at once: 32 MB
STRONG, SUPPORTING = 1.0, 0.5  # of the mean absolute attribution


@dataclass(frozen=True)
class Estimate:
    """A value and its 95% interval; NaN where it is not defined, such as an index without sentiment words."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class GroupAttribution:
    """Says how much a group of words pulls.

    Attributes:
        words: how many distinct ones.
        share_of_words: of all occurrences.
        share_of_mass: of the sum of all attributions; both are signed, so shares may be negative or above 1.
        mean: of an occurrence's attribution.
        contribution: in words, see :func:`contribution`.
    """

    words: int
    share_of_words: float
    share_of_mass: float
    mean: Estimate
    contribution: str


@dataclass(frozen=True)
class Anchoring:
    """Sums up the attributions of all words of some reviews.

    Attributes:
        index: the mean attribution of objective words, less that of sentiment words, in units of ``mean_absolute``.
        mean_absolute: of all attributions' sizes.
        groups: by the names in ``GROUPS``.
    """

    index: Estimate
    mean_absolute: float
    groups: dict[str, GroupAttribution]


def anchoring(
    attribution: np.ndarray, group: np.ndarray, word: np.ndarray, review: np.ndarray, draws: int = DRAWS, seed: int = 0
) -> Anchoring:
    """Returns the anchoring index and what it is made of.

    An index of 0 is no anchoring. Attributions keep their signs: a rare word moves a vector further than a common one,
    whichever way, so an index of their sizes would not vanish for shuffled texts.

    Args:
        attribution: float [W], of each occurrence.
        group: int [W], numbers in ``GROUPS``.
        word, review: int [W], which word it is, and in which review.
        draws, seed: of the bootstrap, see :func:`resampled_sums`.
    """
    values = _summands(attribution, group)
    sums = values.sum(0)
    *means, index = _estimates(_statistics(sums), _statistics(resampled_sums(values, word, review, draws, seed)))
    mass, counts, (total, n) = np.split(sums, [len(GROUPS), 2 * len(GROUPS)])
    groups = {
        name: GroupAttribution(
            words=len(np.unique(word[group == number])),
            share_of_words=float(_ratio(counts[number], n)),
            share_of_mass=float(_ratio(mass[number], mass.sum())) + 0.0,  # no -0
            mean=means[number],
            contribution=contribution(means[number], float(_ratio(total, n))),
        )
        for number, name in enumerate(GROUPS)
    }
    return Anchoring(index, float(_ratio(total, n)), groups)


def index_difference(
    attribution: np.ndarray,
    other: np.ndarray,
    group: np.ndarray,
    word: np.ndarray,
    review: np.ndarray,
    draws: int = DRAWS,
    seed: int = 0,
) -> Estimate:
    """Returns the index of one model less that of another on the same words, both from the same resamples.

    The intervals of two indices may overlap although one model has the higher index in every resample.

    Args:
        attribution, other: float [W], the two models' of the same occurrences; the rest as for :func:`anchoring`.
    """
    both = np.stack([_summands(attribution, group), _summands(other, group)], axis=1)  # [W, 2, k]
    drawn = resampled_sums(both.reshape(len(group), both[0].size), word, review, draws, seed)
    indices = [_statistics(sums)[..., -1] for sums in (both.sum(0), drawn.reshape(draws, *both.shape[1:]))]
    return _estimates(*(index[..., :1] - index[..., 1:] for index in indices))[0]


def _summands(attribution: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Of each occurrence, [W, 2 * groups + 2], what :func:`_statistics` takes the sums of."""
    member = group[:, None] == np.arange(len(GROUPS))
    return np.column_stack([attribution[:, None] * member, member, np.abs(attribution), np.ones(len(attribution))])


def _statistics(sums: np.ndarray) -> np.ndarray:
    """Means of the groups and the index, [..., groups + 1], of the sums [..., 2 * groups + 2] over occurrences."""
    mass, counts, ends = np.split(sums, [len(GROUPS), 2 * len(GROUPS)], axis=-1)
    means = _ratio(mass, counts)
    difference = means[..., GROUPS.index("objective")] - means[..., GROUPS.index("sentiment")]
    index = _ratio(difference, _ratio(ends[..., 0], ends[..., 1]))
    return np.concatenate([means, index[..., None]], axis=-1)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.asarray(below) != 0, np.divide(above, below), np.nan)


def _estimates(values: np.ndarray, drawn: np.ndarray) -> list[Estimate]:
    return [Estimate(*map(float, estimate)) for estimate in _intervals(values, drawn).T]


def _intervals(values: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Statistics [k], and below them the bounds of their resamples [draws, k]; NaN among the resamples is left out."""
    bounds = np.full((2, len(values)), np.nan)
    defined = np.isfinite(values)
    if defined.any():
        bounds[:, defined] = np.nanpercentile(drawn[:, defined], PERCENTILES, axis=0)
    return np.vstack([values, bounds])


def resampled_sums(values: np.ndarray, word: np.ndarray, review: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Returns sums of [W, k] values under the pigeonhole bootstrap (Owen 2007), which draws reviews and words apart.

    To draw reviews alone would treat the words as the only ones there are. But a model moves all occurrences of a word
    much the same way, so the mean of a group of few words depends on chance, however many reviews there are.

    Returns:
        float64 [draws, k]
    """
    random = np.random.default_rng(seed)
    sides = [np.unique(side, return_inverse=True)[1] for side in (word, review)]
    sizes = [int(side.max(initial=-1)) + 1 for side in sides]
    sums = np.zeros((draws, values.shape[1]))
    rows = max(1, CHUNK // max(1, len(values)))
    for start in range(0, draws if len(values) else 0, rows):
        chunk = min(rows, draws - start)
        weights = [
            random.multinomial(size, np.full(size, 1 / size), chunk)[:, side]
            for size, side in zip(sizes, sides, strict=True)
        ]
        sums[start : start + chunk] = (weights[0] * weights[1]) @ values
    return sums


def contribution(mean: Estimate, mean_absolute: float) -> str:
    """Returns what the paper calls a group's contribution (Tables 5 to 7), by its mean attribution."""
    if np.isnan(mean.value):
        return "none"
    if mean.low <= 0:
        return "detrimental" if mean.high < 0 else "noise"
    if mean.value < SUPPORTING * mean_absolute:
        return "weak"
    return "strong" if mean.value >= STRONG * mean_absolute else "supporting"


def by_word(
    attribution: np.ndarray, word: np.ndarray, review: np.ndarray, draws: int = DRAWS, seed: int = 0
) -> pd.DataFrame:
    """Returns the mean attribution of each word that is in ``LEAST_REVIEWS`` of the reviews or more.

    Args:
        attribution, word, review: as for :func:`anchoring`.

    Returns:
        A row for each word, with its number in ``word``, ascending; the numbers of its ``reviews`` and
        ``occurrences``; the ``mean`` attribution of an occurrence, and its 95% interval from ``low`` to ``high``, from
        drawing whole reviews.
    """
    reviews, place = np.unique(review, return_inverse=True)
    pairs = csr_array((np.ones(len(word)), (word, place)), (int(word.max(initial=-1)) + 1, len(reviews)))
    n_reviews = np.diff(pairs.indptr)
    frequent = np.flatnonzero(n_reviews >= LEAST_REVIEWS)
    sums = csr_array((attribution, (word, place)), pairs.shape)[frequent]
    counts = pairs[frequent]
    share = np.full(len(reviews), 1 / max(1, len(reviews)))
    weights = np.random.default_rng(seed).multinomial(len(reviews), share, draws).T.astype(float)
    occurrences = counts.sum(1)
    values, low, high = _intervals(_ratio(sums.sum(1), occurrences), _ratio(sums @ weights, counts @ weights).T)
    counted = {"word": frequent, "reviews": n_reviews[frequent], "occurrences": occurrences.astype(int)}
    return pd.DataFrame({**counted, "mean": values, "low": low, "high": high})
