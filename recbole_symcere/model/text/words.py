"""Word statistics of reviews, which know rare words that the vector of a language model blurs."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_matrix
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfTransformer
from torch import Tensor

from recbole_symcere.config import Config
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.data.tokens import SPECIAL, TokenisedReviews, WholeTexts, words_of
from recbole_symcere.model.text.encoder import ReviewEncoder
from recbole_symcere.model.text.views import dealt_out

MOST_COUNTED = 2**15 - 1  # how often a word is counted in the reviews of an item
LEAST, MOST = 2, 0.5  # a token is counted that occurs in so many reviews at least, and in such a share of them at most


def word_directions(reviews: TokenisedReviews, n_directions: int) -> np.ndarray:
    """Returns reviews in the main directions of the TF-IDF of their tokens, float32 [n, at most n_directions].

    This is latent semantic analysis (Deerwester et al., 1990), of the tokens of any tokenizer, so of any language. The
    counts are damped by a logarithm.
    """
    owner = np.repeat(np.arange(len(reviews)), reviews.lengths)
    words = np.asarray(reviews.word_index) != SPECIAL
    tokens = np.asarray(reviews.token_ids)[words]
    counts = csr_matrix((np.ones(len(tokens), np.float32), (owner[words], tokens)))
    n_reviews = counts.getnnz(axis=0)
    counts = counts[:, (n_reviews >= LEAST) & (n_reviews <= max(LEAST, MOST * len(reviews)))]
    n_directions = min(n_directions, min(counts.shape) - 1)
    if n_directions < 1:
        return np.zeros((len(reviews), 0), np.float32)
    weights = TfidfTransformer(sublinear_tf=True).fit_transform(counts)
    found: np.ndarray = TruncatedSVD(n_directions, random_state=0).fit_transform(weights)
    return found.astype(np.float32)


def count_words(dataset: ReviewDataset, whole: WholeTexts) -> dict[str, Tensor]:
    """Returns how often each word occurs in the reviews of each item of a part, by rows of a sparse matrix.

    Returns:
        ``word``: the hash of each word, ascending, int64 [n_words]. ``start`` int64 [n_items + 1], ``column`` int32 [n]
        and ``count`` int16 [n]: those of item i are from ``start[i]`` to ``start[i + 1]``.
    """
    review, word = words_of(dataset.tokenised_reviews(whole))
    item = dataset.inter_feat[dataset.iid_field].numpy()[review]
    known, column = np.unique(word, return_inverse=True)
    shape = dataset.num(dataset.iid_field), len(known)
    counts = csr_matrix((np.ones(len(word), np.int32), (item, column)), shape)  # sums what occurs again
    return {
        "word": torch.from_numpy(known),
        "start": torch.from_numpy(counts.indptr.astype(np.int64)),
        "column": torch.from_numpy(counts.indices.astype(np.int32)),
        "count": torch.from_numpy(counts.data.clip(max=MOST_COUNTED).astype(np.int16)),
    }


def with_word_statistics(
    config: Config, dataset: ReviewDataset, vectors: Tensor, encoder: ReviewEncoder | None
) -> Tensor:
    """Returns the vectors of the training reviews beside their word statistics, each centred and of unit length.

    Args:
        config: ``word_directions`` says how many directions there are at most.
        vectors: float32 [n, hidden], as :func:`training_vectors` returns them.
        encoder: its tokens are the words; None if the vectors are random, which leaves the words out.

    Returns:
        float32 [n, hidden + directions].
    """
    parts = [vectors]
    if config["word_directions"] and encoder is not None:
        reviews = dataset.tokenised_reviews(encoder)
        words = torch.from_numpy(word_directions(reviews, config["word_directions"]))
        parts.append(dealt_out(config, dataset, words))
    return torch.cat([F.normalize(part - part.mean(0), dim=1) for part in parts], 1)
