"""Attributions of words: against slow loops that encode one text at a time, and against captum's own ablation."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import FeatureAblation
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from recbole_symcere.analysis.anchoring.attribution import (
    Similarity,
    lime,
    lime_weights,
    occlusion,
    text_references,
    without_words,
)
from recbole_symcere.analysis.words import Occurrences, occurrences
from recbole_symcere.data.tokens import SPECIAL, TokenisedReviews, tokenise
from recbole_symcere.model.text.encoder import ReviewEncoder
from tests.tiny_encoders import save_llama

TEXTS = ["the great gasket, it fine", "love", "a a strap", "ホテルとても良いです。", "", "good good good tuner u7"]


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("encoder") / "llama")


@pytest.fixture(params=["tiny_encoder", "llama"])
def encoder(request: pytest.FixtureRequest) -> ReviewEncoder:
    """Word-pieces with special tokens on both sides; then Japanese pieces, and one special token."""
    folder = request.getfixturevalue(request.param)
    return ReviewEncoder(str(folder), train="frozen", max_length=24, precision="fp32").double()


@pytest.fixture
def reviews(encoder: ReviewEncoder, tmp_path: Path) -> TokenisedReviews:
    return tokenise(TEXTS, encoder.fast_tokenizer, encoder.max_length, tmp_path)


def similarity(seed: int, width: int = 8) -> Similarity:
    """A model with a random projection and random interactions."""
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(16, width, generator=random, dtype=torch.double)
    references = torch.randn(len(TEXTS), width, generator=random, dtype=torch.double)
    return Similarity(lambda vectors: vectors @ weight, F.normalize(references, dim=1))


def encode_one(encoder: ReviewEncoder, token_ids: list[int]) -> Tensor:
    """One text through the encoder, as training encodes it: [hidden]."""
    ids = np.array(token_ids, np.int32)
    one = TokenisedReviews(ids, np.zeros(len(ids), np.int32), np.array([0, len(ids)]))
    return encoder(one, np.array([0]))[0].detach()


def without(reviews: TokenisedReviews, row: int, place: int | None = None) -> list[int]:
    """A review's token ids, but for those of one word."""
    token_ids, word_index, _ = reviews.gather(np.array([row]))
    return [int(token) for token, word in zip(token_ids, word_index, strict=True) if word != place]


# Taking words out


@given(st.lists(st.integers(SPECIAL, 4), min_size=1, max_size=12), st.data())
def test_the_words_taken_out_are_those_asked_for_and_special_tokens_stay(index: list[int], data: st.DataObject) -> None:
    word_index, token_ids = np.array(index), np.arange(len(index)) + 100
    present = np.array(data.draw(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4)))
    ids, lengths = without_words(token_ids, word_index, present)
    for variant, words in zip(np.split(ids, np.cumsum(lengths)[:-1]), present, strict=True):
        kept = [token for token, word in zip(token_ids, index, strict=True) if word == SPECIAL or words[word]]
        assert variant.tolist() == kept


# Similarity


def test_cosine_is_that_of_the_projected_vector_with_its_own_interaction() -> None:
    one = similarity(0)
    vectors = torch.randn(3, 16, dtype=torch.double)
    rows = np.array([4, 0, 4])
    for found, vector, row in zip(one.cosine(vectors, rows), vectors, rows, strict=True):
        assert float(found) == pytest.approx(
            float(F.cosine_similarity(one.project(vector), one.references[row], dim=0))
        )


def test_lift_is_0_in_the_mean_over_interactions_and_where_all_are_one() -> None:
    one = similarity(1)
    rows = np.arange(len(TEXTS))
    same = torch.randn(1, 16, dtype=torch.double).expand(len(TEXTS), -1)
    assert float(one.lift(same, rows).sum()) == pytest.approx(0, abs=1e-12)
    all_one = Similarity(one.project, one.references[:1].expand(len(TEXTS), -1))
    vectors = torch.randn(len(TEXTS), 16, dtype=torch.double)
    torch.testing.assert_close(all_one.lift(vectors, rows), torch.zeros(len(TEXTS), dtype=torch.double))
    assert all_one.cosine(vectors, rows).abs().min() > 0


# References of the pre-trained encoder


@pytest.mark.parametrize("own_trained", [True, False])
def test_text_references_are_a_slow_loop_over_the_users_and_the_items_other_reviews(own_trained: bool) -> None:
    random = torch.Generator().manual_seed(0)
    vectors = torch.randn(12, 5, generator=random, dtype=torch.double) + 3
    users, items = (
        torch.tensor([0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 5, 5]),
        torch.tensor([1, 2, 3, 1, 2, 1, 4, 4, 3, 5, 5, 6]),
    )
    if own_trained:
        of_users, of_items, own = users, items, vectors
    else:
        of_users, of_items, own = torch.tensor([0, 7, 4, 7]), torch.tensor([4, 1, 0, 0]), None
    found = text_references(vectors, [(users, of_users), (items, of_items)], own)
    for row, (user, item) in enumerate(zip(of_users, of_items, strict=True)):
        mean = torch.zeros(5, dtype=torch.double)
        for column, number in ((users, user), (items, item)):
            others = [r for r in range(12) if column[r] == number and not (own_trained and r == row)]
            if others:
                mean += F.normalize(vectors[others].mean(0) - vectors.mean(0), dim=0)
        expected = F.normalize(mean, dim=0)
        torch.testing.assert_close(found[row], expected)
    if not own_trained:
        assert (found[3] == 0).all()


# Occlusion


def test_occlusion_is_a_slow_loop_over_texts_without_one_word(
    encoder: ReviewEncoder, reviews: TokenisedReviews
) -> None:
    models = [similarity(2), similarity(3)]
    words = occurrences(reviews, encoder.fast_tokenizer).of(np.array([0, 1, 3, 5]))
    assert len(words.word) > 10
    found = occlusion(encoder, reviews, words, models, show_progress=False)
    for model, attributions in zip(models, found, strict=True):
        for attribution, row, place in zip(attributions, words.review, words.place, strict=True):
            whole, less = (encode_one(encoder, without(reviews, row, hidden)) for hidden in (None, place))
            cosines = []
            for vector in (whole, less):
                own = F.cosine_similarity(model.project(vector), model.references[row], dim=0)
                every = F.cosine_similarity(model.project(vector)[None], model.references).mean()
                cosines.append(float(own - every))
            assert attribution == pytest.approx(cosines[0] - cosines[1], abs=1e-9)
    assert not np.allclose(found[0], found[1])


def test_occlusion_is_captums_feature_ablation(encoder: ReviewEncoder, reviews: TokenisedReviews) -> None:
    model = similarity(4)
    words = occurrences(reviews, encoder.fast_tokenizer).of(np.array([0]))
    token_ids, word_index, _ = reviews.gather(np.array([0]))

    def lift(present: Tensor) -> Tensor:
        ids, lengths = without_words(token_ids, word_index, present.bool().numpy())
        vectors = encoder.vectors(torch.from_numpy(ids).long(), lengths)
        return model.lift(vectors, np.zeros(len(vectors), int))

    expected = FeatureAblation(lift).attribute(torch.ones(1, len(words.place)), perturbations_per_eval=4)[0]
    np.testing.assert_allclose(occlusion(encoder, reviews, words, [model], False)[0], expected, atol=1e-7)


def test_occlusion_takes_any_number_of_reviews(
    encoder: ReviewEncoder, reviews: TokenisedReviews, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = occurrences(reviews, encoder.fast_tokenizer)
    whole = occlusion(encoder, reviews, words, [similarity(5)], False)
    monkeypatch.setattr("recbole_symcere.analysis.anchoring.attribution.REVIEWS_PER_BATCH", 2)
    np.testing.assert_allclose(occlusion(encoder, reviews, words, [similarity(5)], False), whole, atol=1e-9)
    nothing = Occurrences(words.vocabulary, *([np.zeros(0, int)] * 3))
    assert occlusion(encoder, reviews, nothing, [similarity(5)], False).shape == (1, 0)


# LIME


def test_lime_finds_the_weights_of_a_linear_score() -> None:
    weights = torch.tensor([0.5, -0.2, 0.0, 0.1, 0.3])
    found = lime_weights(lambda present: 0.7 + present @ weights, 5, 2000, 0)
    np.testing.assert_allclose(found, weights, atol=0.005)  # the ridge pulls them to 0 a little


def test_lime_depends_on_its_seed_alone() -> None:
    def score(present: Tensor) -> Tensor:
        return present[:, 0] * present[:, 1] + present[:, 2]

    state = torch.get_rng_state()
    first, again, other = (lime_weights(score, 3, 50, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    assert lime_weights(score, 0, 50, 1).shape == (0,)


def test_lime_of_a_review_explains_its_cosine_and_encodes_once_for_all_models(
    encoder: ReviewEncoder, reviews: TokenisedReviews, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [similarity(6), similarity(7)]
    row = 3 if encoder.mask_token == 0 else 0  # Japanese, where the tokenizer reads it
    n_words = int(reviews.gather(np.array([row]))[1].max()) + 1

    def slow(model: Similarity) -> Callable[[Tensor], Tensor]:
        def score(present: Tensor) -> Tensor:
            texts = []
            for words in present.bool().tolist():
                token_ids, word_index, _ = reviews.gather(np.array([row]))
                kept = [i for i, w in zip(token_ids, word_index, strict=True) if w == SPECIAL or words[w]]
                texts.append(encode_one(encoder, kept))
            return F.cosine_similarity(model.project(torch.stack(texts)), model.references[row][None])

        return score

    expected = [lime_weights(slow(model), n_words, 30, 0) for model in models]
    calls = []
    vectors = encoder.vectors
    monkeypatch.setattr(encoder, "vectors", lambda *given: calls.append(given) or vectors(*given))
    found = lime(encoder, reviews, row, models, 30, 0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.01 * np.abs(expected).max())  # captum's are float32
    assert sum(len(lengths) for _, lengths in calls) == 30
    assert n_words > 3
