"""Review texts become token ids that are made once, and words that no tokenizer splits."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from recbole_symcere.data import tokens as tokens_module
from recbole_symcere.data.tokens import SPECIAL, TokenisedReviews, WholeTexts, tokenise, words_of
from tests.data.texts import ANY_TEXT, TEXTS
from tests.tiny_encoders import TOKENIZERS, sentence_piece, wordpiece

SPACED_TEXT = st.text(st.sampled_from("abegotheé я\t\n\u3000  "), max_size=40)
every_kind = pytest.mark.parametrize("kind", TOKENIZERS)


def token_lists(tokens: TokenisedReviews) -> list[list[int]]:
    return [tokens.token_ids[begin:end].tolist() for begin, end in pairwise(tokens.offsets)]


def expected_tokens(texts: Sequence[str], tokenizer: Tokenizer, max_length: int) -> list[list[int]]:
    tokenizer.enable_truncation(max_length)
    return [tokenizer.encode(text).ids for text in texts]


# Reading


def words(text: str, kind: str) -> list[str]:
    """The stretch of text that the tokens of each word cover, without the whitespace around it."""
    encoding = TOKENIZERS[kind]().encode(text)
    index = tokens_module._words(text, encoding)
    spans = [np.array(encoding.offsets)[index == word] for word in range(index.max(initial=-1) + 1)]
    return [text[span[:, 0].min() : span[:, 1].max()].strip() for span in spans]


@every_kind
@settings(deadline=None)
@given(text=SPACED_TEXT)
def test_words_between_whitespace_are_kept_whole(kind: str, text: str) -> None:
    assert [word for word in words(text, kind) if word] == text.split()


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("word-piece", "the guitars don't", ["the", "guitars", "don", "'", "t"]),
        ("byte-level BPE", "the guitars don't", ["the", "guitars", "don", "'t"]),
        ("SentencePiece", "the guitars don't", ["the", "guitars", "don't"]),
        (
            "word-piece",
            "とても良いホテルです。 good",
            ["と", "て", "も", "良", "い", "ホ", "テ", "ル", "で", "す", "。", "good"],
        ),
        ("byte-level BPE", "良いホテル。the", ["良", "い", "ホ", "テ", "ル", "。", "the"]),
        ("SentencePiece", "とても良いホテルです。", ["とても", "良い", "ホテル", "です", "。"]),
        ("SentencePiece", "駅 ホテルgood", ["駅", "ホテル", "good"]),
        ("word-piece", "the 😀", ["the", "😀"]),
        ("byte-level BPE", "the 😀", ["the", "😀"]),
        ("SentencePiece", "the 😀", ["the", "😀"]),
        ("SentencePiece", "駅駅 good", ["駅駅", "good"]),  # unknown characters in a run have one place in the text
        ("byte-level BPE", "ดีมาก", ["ด", "ี", "ม", "า", "ก"]),
    ],
)
def test_words_of_each_kind_of_tokenizer(kind: str, text: str, expected: list[str]) -> None:
    assert words(text, kind) == expected


@every_kind
@settings(deadline=None)
@given(text=ANY_TEXT)
def test_words_are_numbered_without_gaps_and_special_tokens_are_none(kind: str, text: str) -> None:
    encoding = TOKENIZERS[kind]().encode(text)
    index = tokens_module._words(text, encoding)
    special = np.array(encoding.special_tokens_mask, bool)
    assert (index[special] == SPECIAL).all()
    assert np.isin(np.diff(index[~special], prepend=-1), [0, 1]).all()
    assert index[~special].min(initial=0) == 0


@settings(deadline=None)
@given(text=st.text(st.sampled_from("駅良😀éя a"), max_size=12))
def test_the_bytes_of_a_character_are_never_parted(text: str) -> None:
    for kind in ("byte-level BPE", "SentencePiece"):
        encoding = TOKENIZERS[kind]().encode(text)
        index = tokens_module._words(text, encoding)
        for (one, this), (other, following) in pairwise(zip(encoding.offsets, index, strict=True)):
            assert this == following or SPECIAL in (this, following) or other[0] >= one[1]


# Tokens


@every_kind
@settings(deadline=None, max_examples=30)
@given(texts=st.lists(ANY_TEXT, min_size=1, max_size=11), max_length=st.integers(3, 12))
def test_tokens_are_the_tokenizers_own_cut_to_length(
    kind: str, texts: list[str], max_length: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tokens = tokenise(texts, TOKENIZERS[kind](), max_length, tmp_path_factory.mktemp("cache"))
    assert token_lists(tokens) == expected_tokens(texts, TOKENIZERS[kind](), max_length)
    assert len(tokens) == len(texts)
    assert tokens.lengths.tolist() == list(map(len, token_lists(tokens)))


@settings(deadline=None)
@given(rows=st.lists(st.integers(0, len(TEXTS) - 1), min_size=1))
def test_gather_returns_the_asked_reviews_in_order(rows: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    tokens = tokenise(TEXTS, wordpiece(), 8, tmp_path_factory.getbasetemp() / "gather")
    token_ids, word_index, lengths = tokens.gather(np.array(rows))
    wanted = [range(tokens.offsets[row], tokens.offsets[row + 1]) for row in rows]
    places = [place for review in wanted for place in review]
    assert token_ids.tolist() == tokens.token_ids[places].tolist()
    assert word_index.tolist() == tokens.word_index[places].tolist()
    assert lengths.tolist() == list(map(len, wanted))


@pytest.mark.parametrize("row", [-1, -2, len(TEXTS)])
def test_a_review_of_another_part_is_an_error(row: int, cache: Path) -> None:
    tokens = tokenise(TEXTS, wordpiece(), 8, cache)
    with pytest.raises(IndexError):
        tokens.gather(np.array([0, row]))


def test_tokens_are_memory_mapped_and_made_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tokenise(TEXTS, wordpiece(), 8, cache)
    monkeypatch.setattr(tokens_module, "_write_tokens", None)
    second = tokenise(TEXTS, wordpiece(), 8, cache)
    assert isinstance(second.token_ids, np.memmap)
    assert token_lists(second) == token_lists(first)


@settings(deadline=None, max_examples=30)
@given(requests=st.lists(st.tuples(st.lists(ANY_TEXT, min_size=1, max_size=3), st.integers(3, 6)), min_size=2))
def test_other_texts_lengths_or_tokenizers_never_meet_an_old_file(
    requests: list[tuple[list[str], int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    shared = tmp_path_factory.mktemp("cache")
    for texts, max_length in requests:
        for make in (wordpiece, sentence_piece):
            assert token_lists(tokenise(texts, make(), max_length, shared)) == expected_tokens(
                texts, make(), max_length
            )


def test_texts_that_join_to_the_same_string_are_told_apart(cache: Path) -> None:
    for texts in (["ab", "c"], ["a", "bc"], ["abc", ""]):
        assert token_lists(tokenise(texts, wordpiece(), 8, cache)) == expected_tokens(texts, wordpiece(), 8)


def test_reviews_without_any_token_are_kept(cache: Path) -> None:
    tokenizer = Tokenizer.from_str(sentence_piece().to_str())
    tokenizer.post_processor = None
    for _ in range(2):
        tokens = tokenise(["", ""], tokenizer, 8, cache)
        assert tokens.lengths.tolist() == [0, 0]
        assert tokens.gather(np.array([1, 0]))[0].shape == (0,)


def test_the_callers_tokenizer_keeps_its_settings(cache: Path) -> None:
    tokenizer = wordpiece()
    tokenizer.enable_padding(length=50)
    tokenise(TEXTS, tokenizer, 8, cache)
    assert tokenizer.truncation is None
    assert len(tokenizer.encode("the")) == 50
    assert tokenise(["the"], tokenizer, 8, cache).lengths.tolist() == [3]


def test_nothing_to_tokenise_or_no_room_is_an_error(cache: Path) -> None:
    with pytest.raises(ValueError, match="no texts"):
        tokenise([], wordpiece(), 8, cache)
    with pytest.raises(ValueError, match="max_length 2 leaves no room"):
        tokenise(TEXTS, wordpiece(), 2, cache)


# Damage, for every file that the cache holds


@every_kind
@given(spaced=st.lists(st.sampled_from(["the", "beg", "got", "théo", "я"]), max_size=6), seed=st.randoms())
@settings(deadline=None, max_examples=30)
def test_whole_texts_have_the_same_words_in_any_case(kind: str, spaced: list[str], seed: Any) -> None:
    whole = WholeTexts(TOKENIZERS[kind]())
    as_they_are = " ".join(spaced)
    mixed = "".join(seed.choice([letter.lower(), letter.upper()]) for letter in as_they_are)
    (owner, words), (_, same) = (words_of(whole.reviews([text])) for text in (as_they_are, mixed))
    assert words.tolist() == same.tolist() and not owner.any()
