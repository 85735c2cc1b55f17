"""How much each word of a review pulls its vector to that of its interaction: occlusion of every word, and LIME.

A word is hidden by taking its tokens out, as LIME does with texts (Ribeiro et al. 2016). A mask token in its place says
something itself: an encoder that never trained with it moves the vector about as far for a comma as for a noun, and
that stands in every attribution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from recbole_symcere.analysis.words import Occurrences
from recbole_symcere.data.tokens import TokenisedReviews
from recbole_symcere.model.text.encoder import ReviewEncoder

REVIEWS_PER_BATCH = 16  # occluded at a time
KERNEL_WIDTH = 0.25  # of LIME's weights by cosine distance; the original's 25, which measures distance in percent
RIDGE = 1.0  # of LIME's linear model, as in the original


@dataclass(frozen=True)
class Similarity:
    """Compares the vectors of reviews with those of their interactions.

    Attributes:
        project: vectors [B, hidden] of the language model to the space of the references [B, d], on any device.
        references: [n, d] float32 on the CPU, of the interactions of n reviews; unit length, or 0 for none.
    """

    project: Callable[[Tensor], Tensor]
    references: Tensor

    def cosine(self, vectors: Tensor, rows: np.ndarray) -> Tensor:
        """Returns the cosines of vectors [B, hidden] with the references of reviews ``rows`` [B]: [B], on the CPU."""
        return (self._unit(vectors) * self.references[rows]).sum(1)

    def lift(self, vectors: Tensor, rows: np.ndarray) -> Tensor:
        """Returns ``cosine`` less the mean cosine with all n references: [B].

        So a pull to all interactions alike does not count, and where reviews say nothing of their interactions, as
        after training with shuffled texts, no word is expected to pull either way.
        """
        return self.cosine(vectors, rows) - self._unit(vectors) @ self.references.mean(0)

    def _unit(self, vectors: Tensor) -> Tensor:
        return F.normalize(self.project(vectors).cpu(), dim=1)


def text_references(vectors: Tensor, groups: Sequence[tuple[Tensor, Tensor]], own: Tensor | None = None) -> Tensor:
    """Returns what stands for g_uv = (g_u + g_v) / 2 before any training: the mean of two directions, of unit length.

    One direction leads from the mean of all training reviews to the mean of the user's reviews, the other to the mean
    of the item's.

    Args:
        vectors: [n, hidden], of the training reviews.
        groups: the users, and the items: each by training review [n], and by interaction to refer to [m], long.
        own: [m, hidden], what to leave out: the interactions' own reviews, where these are among those that trained.

    Returns:
        [m, hidden]; 0 where neither the user nor the item has another training review.
    """
    centre = vectors.mean(0)
    directions = []
    for by_review, by_interaction in groups:
        n_groups = int(max(by_review.max(), by_interaction.max())) + 1
        sums = vectors.new_zeros(n_groups, vectors.shape[1]).index_add_(0, by_review, vectors - centre)
        others = sums[by_interaction] - (0 if own is None else own - centre)
        directions.append(F.normalize(others, dim=1))
    return F.normalize(torch.stack(directions).mean(0), dim=1)


def without_words(token_ids: np.ndarray, word_index: np.ndarray, present: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns variants of a review that lack some of its words; special tokens stay.

    Args:
        token_ids, word_index: int [T], as in ``TokenisedReviews``.
        present: bool [B, n_words], the words that each variant has.

    Returns:
        Token ids of the variants end to end, and the lengths [B].
    """
    kept = np.column_stack([present, np.ones(len(present), bool)])[:, word_index]  # SPECIAL is -1, the last column
    return np.broadcast_to(token_ids, kept.shape)[kept], kept.sum(1)


def occlusion(
    encoder: ReviewEncoder,
    reviews: TokenisedReviews,
    words: Occurrences,
    similarities: Sequence[Similarity],
    show_progress: bool = True,
) -> np.ndarray:
    """Returns how far ``Similarity.lift`` falls without each word, for several models of one encoder.

    This is captum's FeatureAblation of :meth:`Similarity.lift`, but each variant is encoded once for all the models,
    and the variants of several reviews are encoded together.

    Args:
        words: to hide, one at a time.

    Returns:
        float64 [n_similarities, W]; positive for a word that pulls to the review's own interaction.
    """
    rows = np.unique(words.review)
    starts = range(0, len(rows), REVIEWS_PER_BATCH)
    bar = tqdm(starts, desc="hiding words", unit="batch", disable=not show_progress, delay=3)
    batches = (words.of(rows[start : start + REVIEWS_PER_BATCH]) for start in bar)
    found = [_occlude(encoder, reviews, batch, similarities) for batch in batches]
    return np.concatenate([np.zeros((len(similarities), 0)), *found], axis=1)


def _occlude(
    encoder: ReviewEncoder, reviews: TokenisedReviews, words: Occurrences, similarities: Sequence[Similarity]
) -> np.ndarray:
    token_ids, lengths = [], []
    rows, counts = np.unique(words.review, return_counts=True)
    for row, places in zip(rows, np.split(words.place, np.cumsum(counts)[:-1]), strict=True):
        ids, word_index, _ = reviews.gather(np.array([row]))
        present = np.ones((1 + len(places), word_index.max() + 1), bool)
        present[np.arange(len(places)) + 1, places] = False
        variants = without_words(ids, word_index, present)
        token_ids.append(variants[0])
        lengths.append(variants[1])
    vectors = encoder.vectors(torch.from_numpy(np.concatenate(token_ids)).long(), np.concatenate(lengths))
    whole = np.cumsum(counts + 1) - counts - 1  # where each review's variants begin
    attributions = []
    for similarity in similarities:
        lift = similarity.lift(vectors, np.repeat(rows, counts + 1)).double().numpy()
        attributions.append(np.repeat(lift[whole], counts) - np.delete(lift, whole))
    return np.stack(attributions)


def lime(
    encoder: ReviewEncoder,
    reviews: TokenisedReviews,
    row: int,
    similarities: Sequence[Similarity],
    samples: int,
    seed: int,
) -> np.ndarray:
    """Explains ``Similarity.cosine`` of a review by :func:`lime_weights` of its words, as in section 6.2 of the paper.

    Returns:
        float64 [n_similarities, n_words]
    """
    token_ids, word_index, _ = reviews.gather(np.array([row]))
    n_words = int(word_index.max(initial=-1)) + 1
    encoded: dict[bytes, Tensor] = {}  # several models ask for the same variants

    def score(similarity: Similarity, words: Tensor) -> Tensor:
        present = words.bool().numpy()
        if (key := present.tobytes()) not in encoded:
            variants, lengths = without_words(token_ids, word_index, present)
            encoded[key] = encoder.vectors(torch.from_numpy(variants).long(), lengths)
        return similarity.cosine(encoded[key], np.full(len(present), row))

    return np.stack([lime_weights(partial(score, each), n_words, samples, seed) for each in similarities])


def lime_weights(score: Callable[[Tensor], Tensor], n_words: int, samples: int, seed: int) -> np.ndarray:
    """Explains a score by LIME (Ribeiro et al. 2016) with captum: a linear model of which words are present.

    Args:
        score: from [B, n_words] of 0 and 1 to [B].
        samples: random choices of words, each word in half of them; they are scored in one call.
        seed: of the choices.

    Returns:
        float64 [n_words], what each word adds to the score.
    """
    from captum._utils.models.linear_model import SkLearnRidge
    from captum.attr import Lime
    from captum.attr._core.lime import get_exp_kernel_similarity_function

    if not n_words:
        return np.zeros(0)
    kernel = get_exp_kernel_similarity_function("cosine", KERNEL_WIDTH)
    explain = Lime(score, interpretable_model=SkLearnRidge(alpha=RIDGE), similarity_func=kernel)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found = explain.attribute(torch.ones(1, n_words), n_samples=samples, perturbations_per_eval=samples)
    return found[0].double().numpy()
