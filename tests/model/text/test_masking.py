"""Whole words are masked: which, how many, and what the encoder makes of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recbole_symcere.data.tokens import SPECIAL, TokenisedReviews
from recbole_symcere.model.text.masking import mask_words
from tests.model.text.reviews import ROWS, load, tokens_of


@st.composite
def worded_reviews(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Word index [T] and lengths [B]: each review a run of words of 1 to 3 tokens, special tokens around it or not."""
    index, lengths = [], []
    for sizes in draw(st.lists(st.lists(st.integers(1, 3), max_size=12), min_size=1, max_size=6)):
        head, tail = draw(st.tuples(st.booleans(), st.booleans()))
        review = [SPECIAL] * head + [word for word, size in enumerate(sizes) for _ in range(size)] + [SPECIAL] * tail
        index += review
        lengths.append(len(review))
    return np.array(index, np.int32), np.array(lengths, np.int64)


@settings(deadline=None)
@given(reviews=worded_reviews(), ratio=st.floats(0, 1), seed=st.integers(0, 2**63 - 1))
def test_masking_takes_whole_words_never_special_tokens_and_the_right_share(
    reviews: tuple[np.ndarray, np.ndarray], ratio: float, seed: int
) -> None:
    word_index, lengths = reviews
    token_ids = torch.arange(len(word_index)) + 100
    generator = torch.Generator().manual_seed(seed)
    result = mask_words(token_ids, word_index, lengths, ratio, 7, generator)
    hidden = (result == 7).numpy()
    assert torch.equal(result[~hidden], token_ids[~hidden])
    ends = np.cumsum(lengths)
    for begin, end in zip(ends - lengths, ends, strict=True):
        words, masked = word_index[begin:end], hidden[begin:end]
        assert not masked[words == SPECIAL].any()
        n_words = len(set(words[words >= 0].tolist()))
        masked_words = set(words[masked].tolist())
        assert masked_words.isdisjoint(words[~masked].tolist())
        wanted = 0 if ratio == 0 else min(max(1, round(ratio * n_words)), max(n_words - 1, 0))
        assert len(masked_words) == wanted


def test_every_word_is_as_likely_to_be_masked() -> None:
    n_reviews, n_words = 4000, 5
    word_index = np.tile(np.repeat(np.arange(n_words), 2), n_reviews)
    lengths = np.full(n_reviews, 2 * n_words)
    ids = torch.zeros(len(word_index), dtype=torch.long)
    hidden = mask_words(ids, word_index, lengths, 0.4, 1, torch.Generator().manual_seed(0)).view(n_reviews, n_words, 2)
    share = hidden[:, :, 0].double().mean(0)
    # Five standard deviations of a share of 0.4 over the reviews.
    assert (share - 0.4).abs().max() < 5 * (0.4 * 0.6 / n_reviews) ** 0.5
    assert len(hidden[:, :, 0].unique(dim=0)) == 10  # all pairs of two words


def test_masking_follows_the_global_seed_unless_given_a_generator() -> None:
    word_index, lengths = np.arange(40), np.array([40])
    ids = torch.zeros(40, dtype=torch.long)

    def masked(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return mask_words(ids, word_index, lengths, 0.5, 1)

    assert torch.equal(masked(1), masked(1))
    assert not torch.equal(masked(1), masked(2))
    state = torch.get_rng_state()
    mask_words(ids, word_index, lengths, 0.5, 1, torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_a_share_that_is_none_is_an_error(ratio: float) -> None:
    with pytest.raises(ValueError, match="mask_ratio"):
        mask_words(torch.zeros(1, dtype=torch.long), np.zeros(1, int), np.ones(1, int), ratio, 1)


def test_the_masked_view_is_the_vector_of_the_text_with_mask_tokens(folder: Path) -> None:
    encoder = load(folder, train="frozen").double()
    assert encoder.fast_tokenizer.id_to_token(encoder.mask_token) == {"roberta": "<mask>"}.get(folder.name, "<unk>")
    tokens = tokens_of(encoder, ["the good"])  # one of two words is masked
    either = []
    for word in (0, 1):
        token_ids = np.where(tokens.word_index == word, encoder.mask_token, tokens.token_ids)
        either.append(encoder(TokenisedReviews(token_ids, tokens.word_index, tokens.offsets), np.array([0])).numpy())
    vectors = [encoder.embed(tokens, np.array([0]), 0.5, seed) for seed in range(8)]
    found = [[np.allclose(vector, one, atol=1e-6) for one in either] for vector in vectors]
    assert sorted(set(map(tuple, found))) == [(False, True), (True, False)]


def test_two_views_are_the_clean_and_the_masked_vectors(folder: Path) -> None:
    encoder = load(folder).double().eval()
    tokens = tokens_of(encoder)
    torch.manual_seed(3)
    clean, masked = encoder.two_views(tokens, ROWS, 0.3)
    torch.manual_seed(3)
    torch.testing.assert_close(masked, encoder(tokens, ROWS, 0.3), rtol=0, atol=1e-10)
    torch.testing.assert_close(clean, encoder(tokens, ROWS), rtol=0, atol=1e-10)
    assert not torch.allclose(clean, masked)
