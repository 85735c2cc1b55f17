"""Words of reviews and their groups: spelled as a reader would, and told apart where the truth is planted."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mutual_info_score
from tokenizers import Tokenizer, decoders

from recbole_symcere.analysis import words
from recbole_symcere.analysis.words import (
    GROUPS,
    Occurrences,
    WordGroups,
    concentrated,
    information,
    information_by_chance,
    languages_of,
    lexicons,
    occurrences,
    word_groups,
)
from recbole_symcere.data.tokens import tokenise
from tests.tiny_encoders import TOKENIZERS

REVIEWS = 400
ITEMS = np.arange(REVIEWS) % 40


DECODERS = {
    "word-piece": decoders.WordPiece(),
    "byte-level BPE": decoders.ByteLevel(),
    "SentencePiece": decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()]),
}

# Words


def tokenizer_of(kind: str) -> Tokenizer:
    """As published tokenizers are: with a decoder."""
    tokenizer = TOKENIZERS[kind]()
    tokenizer.decoder = DECODERS[kind]
    return tokenizer


def texts_of(found: Occurrences, review: int) -> list[str]:
    return found.of(np.array([review])).texts.tolist()


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_words_are_whole_and_lower_case_without_special_tokens_or_outer_punctuation(kind: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(kind)
    found = occurrences(tokenise(["the good, guitar", "good 7"], tokenizer, 24, tmp_path), tokenizer)
    assert texts_of(found.lettered(), 0) == ["the", "good", "guitar"]
    assert texts_of(found.lettered(), 1) == ["good"]
    assert found.place.tolist() == [*range(sum(found.review == 0)), *range(sum(found.review == 1))]
    assert found.vocabulary.tolist() == sorted(set(found.texts.tolist()))


def test_words_of_japanese_are_the_tokenizers_pieces(tmp_path: Path) -> None:
    for kind, pieces in {
        "SentencePiece": ["ホテル", "とても", "良い"],
        "word-piece": [*"ホテルとても", "良", "い"],
    }.items():
        tokenizer = tokenizer_of(kind)
        found = occurrences(tokenise(["ホテルとても良い。"], tokenizer, 24, tmp_path), tokenizer)
        assert texts_of(found.lettered(), 0) == pieces


def test_a_word_is_found_at_every_place_of_every_review(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("byte-level BPE")
    reviews = tokenise(["good the good", "", "the", "good"], tokenizer, 24, tmp_path)
    found = occurrences(reviews, tokenizer)
    good = found.vocabulary.tolist().index("good")
    assert np.flatnonzero(found.word == good).tolist() == [0, 2, 4]
    assert found.review.tolist() == [0, 0, 0, 2, 3]
    assert texts_of(found, 2) == ["the"]
    assert texts_of(found, 1) == []


def test_what_the_tokenizer_does_not_know_is_no_word(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("word-piece")
    tokenizer.add_special_tokens(["[UNK]"])
    found = occurrences(tokenise(["good ξ the"], tokenizer, 24, tmp_path), tokenizer)
    assert texts_of(found, 0) == ["good", "", "the"]
    assert texts_of(found.lettered(), 0) == ["good", "the"]


# Information about the item

worded = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), min_size=1, max_size=60)


@given(reviews=worded)
def test_information_is_each_words_part_of_the_mutual_information_with_the_item(
    reviews: list[tuple[int, int]],
) -> None:
    word, item = np.array(reviews).T  # one word a review
    bits = information(word, item, 5, item)
    counts = np.bincount(word, minlength=5)
    assert np.isnan(bits[counts == 0]).all()
    total = (counts * np.nan_to_num(bits)).sum() / len(word)
    assert total == pytest.approx(mutual_info_score(word, item) / np.log(2), abs=1e-9)


def test_information_of_a_word_of_one_item_in_four_is_two_bits() -> None:
    items = np.array([0, 1, 2, 3])
    np.testing.assert_allclose(information(np.array([0, 1, 1, 1, 1]), np.array([2, 0, 1, 2, 3]), 2, items), [2, 0])


@settings(deadline=None)
@given(items=st.lists(st.integers(0, 5), min_size=1, max_size=30), seed=st.integers(0, 9))
def test_information_by_chance_is_that_of_the_first_reviews_of_a_permutation(items: list[int], seed: int) -> None:
    sizes = np.arange(1, len(items) + 1)
    found = information_by_chance(np.array(items), sizes, seed, permutations=2)
    random = np.random.default_rng(seed)
    for row in found:
        drawn = random.permutation(items)
        expected = [information(np.zeros(m, int), drawn[:m], 1, np.array(items))[0] for m in sizes]
        np.testing.assert_allclose(row, expected, atol=1e-9)


def test_concentrated_words_are_those_of_few_items_and_of_enough_reviews() -> None:
    random = np.random.default_rng(0)
    of_few = np.flatnonzero(ITEMS < 4)
    planted = {
        0: of_few,
        1: random.choice(of_few, 12, replace=False),
        2: np.flatnonzero(ITEMS == 0)[:4],  # too rare to tell
        3: np.arange(REVIEWS),  # everywhere
        4: random.choice(REVIEWS, 100, replace=False),
        5: np.flatnonzero(random.random(REVIEWS) < np.where(ITEMS < 20, 0.9, 0.4)),  # a slight lean says little
    }
    word = np.repeat(list(planted), [len(reviews) for reviews in planted.values()])
    review = np.concatenate(list(planted.values()))
    found = concentrated(word, ITEMS[review], len(planted), ITEMS, 0)
    assert np.flatnonzero(found).tolist() == [0, 1]
    assert not concentrated(word[word == 2], ITEMS[review[word == 2]], len(planted), ITEMS, 0).any()


def test_words_spread_at_random_are_hardly_ever_called_concentrated() -> None:
    random = np.random.default_rng(1)
    sizes = random.integers(5, 60, 600)
    word = np.repeat(np.arange(600), sizes)
    review = np.concatenate([random.choice(REVIEWS, size, replace=False) for size in sizes])
    assert concentrated(word, ITEMS[review], 600, ITEMS, 0).sum() <= 4  # 0.6 expected


# Groups


def test_each_word_is_in_one_group_lexicons_before_what_the_corpus_shows() -> None:
    every = frozenset(["good", "the", "producto", "gasket"])
    words = {
        "sentiment": {"good"},
        "stop-word": {"good", "the"},
        "other language": every - {"gasket"},
        "objective": every,
    }
    groups = WordGroups("en", words)
    assert {word: groups.of(word) for word in [*sorted(every), "unseen"]} == {
        "good": "sentiment",
        "the": "stop-word",
        "producto": "other language",
        "gasket": "objective",
        "unseen": "other",
    }
    assert {groups.of(word) for word in every} | {"other"} == set(GROUPS)


def test_planted_words_are_told_apart() -> None:
    random = np.random.default_rng(2)
    languages = np.where(np.arange(REVIEWS) % 10 == 0, "es", "en")
    english = np.flatnonzero(languages == "en")
    planted = {
        "gasket": np.flatnonzero(ITEMS == 7),
        "awful": np.flatnonzero(ITEMS == 9),  # sentiment though of one item
        "the": np.arange(REVIEWS),
        "calidad": np.flatnonzero(languages == "es")[:20],
        "hola": np.flatnonzero(languages == "es")[:3],  # too rare to tell
        "hotel": np.concatenate([np.flatnonzero(languages == "es")[:20], english[:4]]),  # a word of both languages
        "visit": random.choice(english, 80, replace=False),
    }
    vocabulary = np.array(sorted(planted))
    word = np.repeat(vocabulary.searchsorted(list(planted)), [len(reviews) for reviews in planted.values()])
    review = np.concatenate(list(planted.values()))
    order = np.lexsort([word, review])
    twice = np.repeat(order, 2)  # a word counts once in a review
    found = word_groups(Occurrences(vocabulary, word[twice], review[twice], twice), ITEMS, languages.tolist(), 0)
    assert found.language == "en"
    assert found.words["other language"] == {"calidad"}
    assert found.of("hola") == "other"
    assert [found.of(text) for text in ("gasket", "awful", "the", "calidad", "visit")] == [
        "objective",
        "sentiment",
        "stop-word",
        "other language",
        "other",
    ]


def test_lexicons_are_those_of_the_language() -> None:
    sentiment, stop_words = lexicons("en")
    assert {"good", "great", "love", "awful"} <= sentiment and "top" not in sentiment and "guitar" not in sentiment
    assert {"the", "it", "good"} <= stop_words
    assert lexicons("ja")[0] == frozenset() and "これ" in lexicons("ja")[1]
    assert lexicons("xx") == (frozenset(), frozenset())


def test_languages_are_told_by_review() -> None:
    texts = [
        "I bought this guitar for my daughter and she likes it",
        "muy buena calidad, lo recomiendo",
        "駅から近い良いホテルです",
    ]
    assert languages_of(texts) == ["en", "es", "ja"]


def test_a_corpus_of_rare_words_has_no_objective_one() -> None:
    rare = Occurrences(np.array(["gasket"]), np.zeros(3, int), np.arange(3), np.zeros(3, int))
    assert word_groups(rare, ITEMS, ["en"] * REVIEWS, 0).words["objective"] == frozenset()
    assert words.LEAST_REVIEWS > 3
