"""The review cache: texts in file order of ids, words of tokens, and files that are right or not there."""

import json
import os
import signal
from collections.abc import Callable, Sequence
from itertools import pairwise
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from recbole_symcere.data import reviews
from recbole_symcere.data.reviews import SPECIAL, TokenisedReviews, cached_embeddings, read_reviews, tokenise
from recbole_symcere.errors import ReviewFileError
from tests.tiny_encoders import TOKENIZERS, sentence_piece, wordpiece

TEXTS = ["the good guitars", "good", "the  thing, the hat!", "ホテル とても良い駅", "é", "a b c d e f g h", "the"] * 2
SPAWN = get_context("spawn")
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
# Letters and marks that every tokenizer here reads, and whitespace of all kinds.
SPACED_TEXT = st.text(st.sampled_from("abegotheé я\t\n\u3000  "), max_size=40)
every_kind = pytest.mark.parametrize("kind", TOKENIZERS)


class SumEmbedder:
    """An encoder whose vectors tell everything they were made from."""

    max_length = 16

    def __init__(self, name: str = "sums", crash_at_call: int = -1) -> None:
        self.name, self.crash_at_call, self.calls = name, crash_at_call, 0
        self.fast_tokenizer = wordpiece()

    def fingerprint(self) -> str:
        return self.name

    def embed(self, tokens: TokenisedReviews, rows: np.ndarray, mask_ratio: float, seed: int) -> np.ndarray:
        if self.calls == self.crash_at_call:
            os.kill(os.getpid(), signal.SIGKILL)
        self.calls += 1
        sums = [tokens.token_ids[tokens.offsets[row] : tokens.offsets[row + 1]].sum() for row in rows]
        same = np.full(len(rows), 1.0)
        drawn = seed % 9973 if mask_ratio else 0
        return np.stack([sums, len(self.name) * same, mask_ratio * same, drawn * same], axis=1).astype(np.float32)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reviews, "TEXTS_PER_SHARD", 3)
    monkeypatch.setattr(reviews, "TEXTS_PER_CHUNK", 4)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def token_lists(tokens: TokenisedReviews) -> list[list[int]]:
    return [tokens.token_ids[begin:end].tolist() for begin, end in pairwise(tokens.offsets)]


def expected_tokens(texts: Sequence[str], tokenizer: Tokenizer, max_length: int) -> list[list[int]]:
    tokenizer.enable_truncation(max_length)
    return [tokenizer.encode(text).ids for text in texts]


# Reading


def write_reviews(path: Path, texts: dict[str, str]) -> Path:
    lines = [json.dumps({"review_id": key, "review": text}, ensure_ascii=False) + "\n" for key, text in texts.items()]
    path.write_bytes("".join(lines).encode())
    return path


@settings(deadline=None)
@given(texts=st.dictionaries(ANY_TEXT, ANY_TEXT, min_size=1), data=st.data())
def test_any_text_comes_back_unchanged_in_the_order_asked_for(
    texts: dict[str, str], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = write_reviews(tmp_path_factory.mktemp("reviews") / "x.review.jsonl", texts)
    ids = data.draw(st.lists(st.sampled_from(sorted(texts)), min_size=1))
    assert read_reviews(path, ids, allow_empty=True) == [texts[review_id] for review_id in ids]


GOOD_LINE = b'{"review_id": "a", "review": "fine"}\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD_LINE + b'{"review_id": "b", "rev', "line 2: not JSON"),
        (GOOD_LINE + b"\n" + b'{"review_id": "b", "review": "\xff"}', "line 3: not JSON"),
        (GOOD_LINE + b"[1]\n", "line 2: not an object"),
        (GOOD_LINE + b'{"review_id": "b"}\n', "line 2: not an object"),
        (GOOD_LINE + b'{"review_id": "b", "review": null}\n', "line 2: not an object"),
        (b'{"review_id": "c", "review": "x"}\n' + GOOD_LINE + GOOD_LINE, "lines 2 and 3: review_id 'a' stands more"),
        (b'{"review_id": "b", "review": "x"}\n', r"review_id 'a' is not in the file \(1 of 1"),
        (b'{"review_id": "a", "review": " \\n"}\n', "review_id 'a' has no text"),
        (b"", "review_id 'a' is not in the file"),
    ],
)
def test_a_broken_file_is_one_error_that_names_the_line_or_the_id(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.review.jsonl"
    path.write_bytes(content)
    with pytest.raises(ReviewFileError, match=rf"x\.review\.jsonl.*{message}"):
        read_reviews(path, ["a"])


def test_a_missing_file_or_an_empty_request_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ReviewFileError, match="no such review file"):
        read_reviews(tmp_path / "x.review.jsonl", ["a"])
    with pytest.raises(ReviewFileError, match="no review_id"):
        read_reviews(write_reviews(tmp_path / "x.review.jsonl", {"a": "b"}), [])


# Words


def words(text: str, kind: str) -> list[str]:
    """The stretch of text that the tokens of each word cover, without the whitespace around it."""
    encoding = TOKENIZERS[kind]().encode(text)
    index = reviews._words(text, encoding)
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
    index = reviews._words(text, encoding)
    special = np.array(encoding.special_tokens_mask, bool)
    assert (index[special] == SPECIAL).all()
    assert np.isin(np.diff(index[~special], prepend=-1), [0, 1]).all()
    assert index[~special].min(initial=0) == 0


@settings(deadline=None)
@given(text=st.text(st.sampled_from("駅良😀éя a"), max_size=12))
def test_the_bytes_of_a_character_are_never_parted(text: str) -> None:
    for kind in ("byte-level BPE", "SentencePiece"):
        encoding = TOKENIZERS[kind]().encode(text)
        index = reviews._words(text, encoding)
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
    monkeypatch.setattr(reviews, "_write_tokens", None)
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


def flip(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 0x10
    path.write_bytes(content)


def truncate(path: Path, place: float) -> None:
    os.truncate(path, int(place * (path.stat().st_size - 1)))


def append(path: Path, place: float) -> None:
    path.write_bytes(path.read_bytes() + bytes(1 + int(place * 99)))


def delete(path: Path, place: float) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [flip, truncate, append, delete])
@settings(deadline=None, max_examples=25)
@given(place=st.floats(0, 1), number=st.integers(0, 5))
def test_a_damaged_file_is_noticed_and_rebuilt(
    damage: Callable[[Path, float], None], place: float, number: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    whole = [view.copy() for view in cached_embeddings(TEXTS, SumEmbedder(), 2, 0.2, 7, cache, False)]
    files = sorted(cache.iterdir())
    contents = [file.read_bytes() for file in files]
    assert len(files) == 6  # three of tokens, three of views
    damage(files[number], place)
    tokens = tokenise(TEXTS, wordpiece(), SumEmbedder.max_length, cache)
    views = cached_embeddings(TEXTS, SumEmbedder(), 2, 0.2, 7, cache, False)
    assert token_lists(tokens) == expected_tokens(TEXTS, wordpiece(), SumEmbedder.max_length)
    np.testing.assert_array_equal(views, whole)
    assert [file.read_bytes() for file in files] == contents
    assert sorted(cache.iterdir()) == files


def test_what_another_version_wrote_is_left_alone_and_made_anew(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as other:
        other.setattr(reviews, "FORMAT_VERSION", reviews.FORMAT_VERSION + 1)
        cached_embeddings(TEXTS, SumEmbedder(), 1, 0.2, 7, cache, False)
    theirs = {file: file.read_bytes() for file in cache.iterdir()}
    embedder = SumEmbedder()
    cached_embeddings(TEXTS, embedder, 1, 0.2, 7, cache, False)
    assert embedder.calls
    assert len(list(cache.iterdir())) == 2 * len(theirs)
    assert {file: file.read_bytes() for file in theirs} == theirs


def test_a_full_disk_leaves_no_file_behind(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def disk_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(reviews, "_words", disk_full)
    with pytest.raises(ReviewFileError, match=r"\.npy: can't be written \(No space .*free disk space"):
        tokenise(TEXTS, wordpiece(), 8, cache)
    assert list(cache.iterdir()) == []


# Embeddings


def test_views_are_one_clean_and_the_asked_number_of_masked_ones(cache: Path) -> None:
    views = cached_embeddings(TEXTS, SumEmbedder(), 2, 0.2, 7, cache, False)
    sums = list(map(sum, expected_tokens(TEXTS, wordpiece(), SumEmbedder.max_length)))
    assert len(views) == 3
    for view, ratio in zip(views, (0, 0.2, 0.2), strict=True):
        assert isinstance(view, np.memmap)
        assert view.dtype == np.float32
        assert view[:, 0].tolist() == sums
        np.testing.assert_array_equal(view[:, 2], np.float32(ratio))
    seeds = np.concatenate([view[:, 3] for view in views[1:]])
    assert len(set(seeds.tolist())) == 2 * -(-len(TEXTS) // 3)  # a seed of its own for each shard of each view


def test_embeddings_are_made_once_and_more_views_add_to_them(cache: Path) -> None:
    n_shards = -(-len(TEXTS) // 3)
    first, second = SumEmbedder(), SumEmbedder()
    one = cached_embeddings(TEXTS, first, 1, 0.2, 7, cache, False)
    three = cached_embeddings(TEXTS, second, 3, 0.2, 7, cache, False)
    assert (first.calls, second.calls) == (2 * n_shards, 2 * n_shards)
    np.testing.assert_array_equal(three[:2], one)
    assert len({view.tobytes() for view in three}) == 4


@settings(deadline=None, max_examples=30)
@given(
    requests=st.lists(
        st.tuples(
            st.lists(st.sampled_from(["the", "good", "a"]), min_size=1, max_size=4),
            st.sampled_from(["old weights", "weights"]),
            st.integers(0, 2),
            st.sampled_from([0.15, 0.5]),
            st.integers(0, 1),
        ),
        min_size=2,
        max_size=4,
    )
)
def test_other_texts_weights_ratios_or_seeds_never_meet_an_old_file(
    requests: list[tuple[list[str], str, int, float, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    shared = tmp_path_factory.mktemp("shared")
    for texts, weights, views, ratio, seed in requests:
        fresh = tmp_path_factory.mktemp("fresh")
        found, made = (
            cached_embeddings(texts, SumEmbedder(weights), views, ratio, seed, folder, False)
            for folder in (shared, fresh)
        )
        np.testing.assert_array_equal(found, made)


# Other processes


def _embed(cache: Path, crash_at_call: int = -1, kill_in_words: bool = False) -> None:
    reviews.TEXTS_PER_SHARD, reviews.TEXTS_PER_CHUNK = 3, 4
    if kill_in_words:
        reviews._words = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment,return-value]
    cached_embeddings(TEXTS, SumEmbedder(crash_at_call=crash_at_call), 1, 0.2, 7, cache, False)


def _embed_together(folders: list[Path], barrier: Barrier) -> None:
    for folder in folders:
        barrier.wait()
        _embed(folder)


def start(target: Callable[..., None], *arguments: object) -> BaseProcess:
    process = SPAWN.Process(target=target, args=arguments)
    process.start()
    return process


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_killed_run_goes_on_where_it_was(cache: Path, tmp_path: Path) -> None:
    process = start(_embed, cache, 3)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    survivor = SumEmbedder()
    cached_embeddings(TEXTS, survivor, 1, 0.2, 7, cache, False)
    assert survivor.calls == 2 * -(-len(TEXTS) // 3) - 3
    _embed(tmp_path / "uninterrupted")
    assert contents(cache) == contents(tmp_path / "uninterrupted")


def test_a_run_killed_while_writing_leaves_nothing_that_is_taken_for_whole(cache: Path) -> None:
    process = start(_embed, cache, -1, True)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not list(cache.glob("*.npy"))
    tokens = tokenise(TEXTS, wordpiece(), SumEmbedder.max_length, cache)
    assert token_lists(tokens) == expected_tokens(TEXTS, wordpiece(), SumEmbedder.max_length)


def test_runs_that_share_a_folder_at_once_make_the_files_of_one(tmp_path: Path) -> None:
    folders = [tmp_path / f"shared{number}" for number in range(20)]
    barrier = SPAWN.Barrier(2, timeout=60)  # where one has failed, the other must not wait for ever
    for process in [start(_embed_together, folders, barrier) for _ in range(2)]:
        process.join()
        assert process.exitcode == 0
    _embed(tmp_path / "alone")
    for folder in folders:
        assert contents(folder) == contents(tmp_path / "alone")


def test_a_run_that_finishes_first_hands_its_file_to_the_others(cache: Path) -> None:
    class Slow(SumEmbedder):
        def embed(self, tokens: TokenisedReviews, rows: np.ndarray, mask_ratio: float, seed: int) -> np.ndarray:
            if not self.calls:  # meanwhile the other run does everything, and removes the shards
                cached_embeddings(TEXTS, SumEmbedder(), 1, 0.2, 7, cache, False)
            return super().embed(tokens, rows, mask_ratio, seed)

    slow = Slow()
    views = cached_embeddings(TEXTS, slow, 1, 0.2, 7, cache, False)
    assert slow.calls == 1
    np.testing.assert_array_equal(views, cached_embeddings(TEXTS, SumEmbedder(), 1, 0.2, 7, cache, False))
    assert not list(cache.glob("*.shard*"))


def test_shards_that_a_run_was_killed_before_removing_are_removed_by_the_next(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(reviews, "_remove_shards", killed)
        cached_embeddings(TEXTS, SumEmbedder(), 0, 0.2, 7, cache, False)
    assert list(cache.glob("*.shard*"))
    cached_embeddings(TEXTS, SumEmbedder(), 0, 0.2, 7, cache, False)
    assert not list(cache.glob("*.shard*"))
