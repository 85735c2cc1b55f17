"""Vectors of reviews are made once, and no damage, kill or second run spoils them."""

import os
import signal
from collections.abc import Callable, Sequence
from itertools import pairwise
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from threading import Event, Thread, current_thread

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from recbole_symcere.data import cache as cache_module
from recbole_symcere.data import embeddings, tokens
from recbole_symcere.data.embeddings import cached_embeddings
from recbole_symcere.data.tokens import TokenisedReviews, tokenise
from recbole_symcere.errors import ReviewFileError
from tests.data.texts import TEXTS
from tests.tiny_encoders import wordpiece

SPAWN = get_context("spawn")


class SumEmbedder:
    """An encoder whose vectors tell everything they were made from."""

    max_length = 16
    prompt = ""

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


def token_lists(tokens: TokenisedReviews) -> list[list[int]]:
    return [tokens.token_ids[begin:end].tolist() for begin, end in pairwise(tokens.offsets)]


def expected_tokens(texts: Sequence[str], tokenizer: Tokenizer, max_length: int) -> list[list[int]]:
    tokenizer.enable_truncation(max_length)
    return [tokenizer.encode(text).ids for text in texts]


# Reading


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
@given(place=st.floats(0, 1), number=st.integers(0, 6))
def test_a_damaged_file_is_noticed_and_rebuilt(
    damage: Callable[[Path, float], None], place: float, number: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    whole = [view.copy() for view in cached_embeddings(TEXTS, SumEmbedder(), 2, 0.2, 7, cache, False)]
    files = sorted(cache.iterdir())
    contents = [file.read_bytes() for file in files]
    assert len(files) == 7  # three of tokens, three of views, and the index of the texts
    damage(files[number], place)
    tokens = tokenise(TEXTS, wordpiece(), SumEmbedder.max_length, cache)
    views = cached_embeddings(TEXTS, SumEmbedder(), 2, 0.2, 7, cache, False)
    assert token_lists(tokens) == expected_tokens(TEXTS, wordpiece(), SumEmbedder.max_length)
    np.testing.assert_array_equal(views, whole)
    assert [file.read_bytes() for file in files] == contents
    assert sorted(cache.iterdir()) == files


def test_what_another_version_wrote_is_left_alone_and_made_anew(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as other:
        other.setattr(cache_module, "FORMAT_VERSION", cache_module.FORMAT_VERSION + 1)
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

    monkeypatch.setattr(tokens, "_words", disk_full)
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


@settings(deadline=None, max_examples=30)
@given(lists=st.lists(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=6), min_size=2, max_size=4))
def test_a_text_is_embedded_once_as_it_is_whatever_list_it_stands_in(
    lists: list[list[str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    seen: set[str] = set()
    for texts in lists:
        embedded: list[str] = []

        class Watched(SumEmbedder):
            def embed(self, tokens: TokenisedReviews, rows: np.ndarray, mask_ratio: float, seed: int) -> np.ndarray:
                if not mask_ratio:
                    embedded.extend(texts[row] for row in rows)  # noqa: B023 - called in this round
                return super().embed(tokens, rows, mask_ratio, seed)

        (found,) = cached_embeddings(texts, Watched(), 0, 0.2, 7, cache, False)
        (made,) = cached_embeddings(texts, SumEmbedder(), 0, 0.2, 7, tmp_path_factory.mktemp("fresh"), False)
        np.testing.assert_array_equal(found, made)
        assert set(embedded) == set(texts) - seen
        seen |= set(texts)


# Other processes


def _embed(cache: Path, crash_at_call: int = -1, kill_in_words: bool = False) -> None:
    embeddings.TEXTS_PER_SHARD, tokens.TEXTS_PER_CHUNK = 3, 4
    if kill_in_words:
        tokens._words = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment,return-value]
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


def test_runs_at_once_share_the_shards(cache: Path) -> None:
    """While one run makes its first shard, another makes all others; then each has the whole."""
    made: list[tuple[str, int]] = []
    others_are_made = Event()

    class Told(SumEmbedder):
        def embed(self, tokens: TokenisedReviews, rows: np.ndarray, mask_ratio: float, seed: int) -> np.ndarray:
            made.append((current_thread().name, int(rows[0])))
            if len(made) == 1:
                other.start()
                assert others_are_made.wait(60)
            elif len(made) == n_shards:
                others_are_made.set()
            return super().embed(tokens, rows, mask_ratio, seed)

    n_shards = -(-len(TEXTS) // embeddings.TEXTS_PER_SHARD)
    found: list[np.ndarray] = []
    other = Thread(target=lambda: found.extend(cached_embeddings(TEXTS, Told(), 0, 0.2, 7, cache, False)), name="other")
    (view,) = cached_embeddings(TEXTS, Told(), 0, 0.2, 7, cache, False)
    other.join(60)
    assert n_shards > 2 and len(made) == len({row for _, row in made}) == n_shards
    assert [name for name, _ in made[1:]] == ["other"] * (n_shards - 1)
    np.testing.assert_array_equal(view, found[0])
    assert not list(cache.glob("*.shard*"))


def test_shards_that_a_run_was_killed_before_removing_are_removed_by_the_next(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(embeddings, "_remove_shards", killed)
        cached_embeddings(TEXTS, SumEmbedder(), 0, 0.2, 7, cache, False)
    assert list(cache.glob("*.shard*"))
    cached_embeddings(TEXTS, SumEmbedder(), 0, 0.2, 7, cache, False)
    assert not list(cache.glob("*.shard*"))
