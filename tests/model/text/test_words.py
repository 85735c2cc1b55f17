"""Word statistics against scikit-learn's own on texts whose words are the tokens."""

import numpy as np
import pytest
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from recbole_symcere.data.tokens import SPECIAL, TokenisedReviews
from recbole_symcere.model.text.words import word_directions

WORDS = ["string", "tone", "amp", "cable", "pick", "case", "strap", "bridge", "fret", "neck"]


def tokenised(texts: list[str]) -> TokenisedReviews:
    """Each word is a token, between special tokens of the numbers 90 and 91."""
    ids = [[90, *(WORDS.index(word) for word in text.split()), 91] for text in texts]
    words = [[SPECIAL, *range(len(row) - 2), SPECIAL] for row in ids]
    offsets = np.cumsum([0, *map(len, ids)])
    return TokenisedReviews(np.concatenate(ids), np.concatenate(words), offsets)


def drawn_texts(n: int) -> list[str]:
    random = np.random.default_rng(0)
    common = 1 / np.arange(1, len(WORDS) + 1)
    return [" ".join(random.choice(WORDS, size=random.integers(1, 8), p=common / common.sum())) for _ in range(n)]


def test_they_are_the_main_directions_of_damped_tf_idf_of_words_that_are_neither_rare_nor_everywhere() -> None:
    texts = [*drawn_texts(40), "neck neck"]
    tfidf = TfidfVectorizer(sublinear_tf=True, min_df=2, max_df=0.5, token_pattern=r"\S+").fit_transform(texts)
    expected = TruncatedSVD(4, random_state=0).fit_transform(tfidf)
    found = word_directions(tokenised(texts), 4)
    assert found.dtype == np.float32
    assert found @ found.T == pytest.approx(expected @ expected.T, abs=1e-4)


@pytest.mark.parametrize(("texts", "n_directions"), [(["amp", "cable"], 0), (["amp amp"], 0), (drawn_texts(12), 5)])
def test_there_are_no_more_directions_than_the_words_have(texts: list[str], n_directions: int) -> None:
    found = word_directions(tokenised(texts), 50)
    assert len(found) == len(texts) and found.shape[1] <= len(WORDS)
    assert (found.shape[1] == 0) == (n_directions == 0) and np.isfinite(found).all()
