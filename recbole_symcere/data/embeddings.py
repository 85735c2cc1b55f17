"""Makes vectors of reviews with an encoder that is not trained, and keeps them on disk."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from filelock import FileLock, Timeout
from tokenizers import Tokenizer
from tqdm import tqdm

from recbole_symcere import distributed
from recbole_symcere.data.cache import DIGEST, digest_texts, digests, key_of, load_array, new_array
from recbole_symcere.data.tokens import TokenisedReviews, tokenise

TEXTS_PER_SHARD = 1024  # how many texts are embedded at a time; a killed run loses the vectors of these at most
SHARD = ".shard"


class Embedder(Protocol):
    """What ``cached_embeddings`` needs of an encoder. ``ReviewEncoder`` has it.

    Attributes:
        max_length: the most tokens of a text, with the special ones.
        fast_tokenizer: the tokenizer.
        prompt: the text that stands before every review.
    """

    @property
    def max_length(self) -> int: ...

    @property
    def fast_tokenizer(self) -> Tokenizer: ...

    @property
    def prompt(self) -> str: ...

    def fingerprint(self) -> str:
        """Returns a hash of what determines the vector of a text: weights, tokenizer, pooling, precision, length."""

    def embed(self, reviews: TokenisedReviews, rows: np.ndarray, mask_ratio: float, seed: int) -> np.ndarray:
        """Returns vectors of some reviews, float32 [len(rows), hidden].

        Args:
            reviews: the token ids of all reviews.
            rows: which reviews to embed.
            mask_ratio: the share of words to mask.
            seed: decides which words are masked.
        """


def cached_embeddings(
    texts: Sequence[str],
    encoder: Embedder,
    views: int,
    mask_ratio: float,
    seed: int,
    cache_dir: Path,
    show_progress: bool = True,
) -> list[np.ndarray]:
    """Returns vectors of texts from the cache, and makes those that are missing.

    Each view is a file of its own, so a call with more views makes only the additional ones. If a run was killed, the
    next run continues with the shard of texts at which it stopped. Several processes divide the shards among them.
    A text that was embedded as it is, in whatever list, is not embedded again: another split of the same dataset makes
    the vectors of no text anew.

    Args:
        texts: n texts.
        views: the number of views with masked words.
        mask_ratio: the share of words to mask in them.
        seed: decides which words are masked.
        cache_dir: the folder of the cache.

    Returns:
        1 + views memory-mapped arrays, float32 [n, hidden]: of the texts as they are, then of each masked view.
    """
    fingerprint = encoder.fingerprint()
    encoder_and_texts = key_of(fingerprint, digest_texts(texts))
    keys = [key_of("clean", encoder_and_texts)]
    keys += [key_of("masked", encoder_and_texts, view, mask_ratio, seed) for view in range(1, 1 + views)]
    paths = [cache_dir / f"{key}.npy" for key in keys]
    arrays = [load_array(path) for path in paths]
    for path, array in zip(paths, arrays, strict=True):
        if array is not None:  # a run that was killed after joining the shards may have left them
            _remove_shards(path)
    missing = distributed.union((view for view, array in enumerate(arrays) if array is None), len(arrays))
    if missing:
        with distributed.first_of_machine_first():
            reviews = tokenise(
                texts, encoder.fast_tokenizer, encoder.max_length, cache_dir, show_progress, encoder.prompt
            )
        total = len(missing) * len(texts)
        with tqdm(total=total, desc="embedding reviews", unit="review", disable=not show_progress, delay=2) as bar:
            for view in missing:
                embed = partial(encoder.embed, reviews, mask_ratio=mask_ratio if view else 0.0)
                if not view:
                    embed = partial(_unless_known, embed, known=KnownVectors(cache_dir, fingerprint, texts))
                arrays[view] = _embed_view(paths[view], len(reviews), embed, (seed, view), bar)
    KnownVectors.write_index(cache_dir, fingerprint, paths[0], texts)
    return [array for array in arrays if array is not None]


class KnownVectors:
    """Vectors of texts that an encoder has embedded as they are, in other lists of texts.

    Beside the vectors of each list stands an index, with a hash of each text.

    Args:
        cache_dir: the folder of the cache.
        fingerprint: that of the encoder.
        texts: those that are wanted.

    Attributes:
        has: whether the vector of each text is known, [n] bool.
    """

    def __init__(self, cache_dir: Path, fingerprint: str, texts: Sequence[str]) -> None:
        place: dict[bytes, list[int]] = defaultdict(list)
        for number, digest in enumerate(digests(texts)):
            place[digest].append(number)
        self.has = np.zeros(len(texts), bool)
        self._arrays: list[np.ndarray] = []
        self._source = np.zeros((len(texts), 2), np.int64)
        for index in sorted(cache_dir.glob(f"{_index_name(fingerprint, '*')}")):
            hashes, vectors = load_array(index), load_array(cache_dir / f"{index.stem.split('.')[1]}.npy")
            if hashes is None or vectors is None or len(hashes) != len(vectors):
                continue
            for row, digest in enumerate(hashes.view(f"V{DIGEST}").ravel().tolist()):
                for number in place.pop(digest, ()):
                    self._source[number] = len(self._arrays), row
                    self.has[number] = True
            self._arrays.append(vectors)

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Returns the vectors of some of the texts that it has, float32 [len(rows), hidden]."""
        return np.stack([self._arrays[array][row] for array, row in self._source[rows]])

    @staticmethod
    def write_index(cache_dir: Path, fingerprint: str, path: Path, texts: Sequence[str]) -> None:
        """Writes the index of a list of texts whose vectors are in ``path``, if there is none."""
        index = cache_dir / _index_name(fingerprint, path.stem)
        if distributed.is_main() and load_array(index) is None:
            with new_array(index, np.uint8, (DIGEST,)) as add:
                add(np.frombuffer(b"".join(digests(texts)), np.uint8).reshape(-1, DIGEST))


def _index_name(fingerprint: str, stem: str) -> str:
    return f"{key_of('texts of', fingerprint)}.{stem}.npy"


def _unless_known(embed: Callable[..., np.ndarray], rows: np.ndarray, seed: int, known: KnownVectors) -> np.ndarray:
    """Returns the vectors of texts, and embeds only those that are not known."""
    has = known.has[rows]
    if not has.any():
        return embed(rows, seed=seed)
    old = known.of(rows[has])
    vectors = np.empty((len(rows), old.shape[1]), np.float32)
    vectors[has] = old
    if not has.all():
        vectors[~has] = embed(rows[~has], seed=seed)
    return vectors


def _embed_view(
    path: Path, n_texts: int, make: Callable[..., np.ndarray], seed: tuple[int, int], bar: tqdm
) -> np.ndarray:
    """Embeds the shards that do not exist yet, joins all shards to the file ``path``, and removes them.

    Args:
        make: returns the vectors of some rows with a ``seed``.
    """
    starts = range(0, n_texts, TEXTS_PER_SHARD)
    shards = [path.with_name(f"{path.stem}{SHARD}{start}.npy") for start in starts]

    made: set[int] = set()

    def embed(numbers: range, waiting: bool = True) -> None:
        for number in numbers:
            if number in made:
                continue
            rows = np.arange(starts[number], min(starts[number] + TEXTS_PER_SHARD, n_texts))
            with _claimed(shards[number], waiting) as is_free:
                if not is_free:
                    continue
                if not path.exists() and load_array(shards[number]) is None:
                    shard_seed = int(np.random.SeedSequence((*seed, starts[number])).generate_state(1, np.uint64)[0])
                    vectors = make(rows, seed=shard_seed >> 1)
                    with new_array(shards[number], np.float32, vectors.shape[1:]) as add:
                        add(vectors)
            made.add(number)
            bar.update(len(rows))

    if distributed.world_size() > 1:
        embed(range(distributed.rank(), len(shards), distributed.world_size()))
        distributed.wait_for_all()
    else:
        embed(range(len(shards)), waiting=False)  # what other runs are making now is left to them
    with distributed.first_of_machine_first():
        # Another run may finish first and remove the shards. Then the next round loads its file.
        for _ in range(3):
            # This also makes the shards of the other processes, if these write to other folders.
            embed(range(len(shards)))
            if not path.exists():
                _join(shards, path)
            if (view := load_array(path)) is not None:
                _remove_shards(path)
                return view
            made.clear()
    raise OSError(f"{path}: can't be read back after it was written; is the disk full?")


@contextmanager
def _claimed(shard: Path, waiting: bool) -> Iterator[bool]:
    """Yields whether no other run is making the shard, and keeps others from it while the body runs.

    Args:
        waiting: whether to wait for a run that is making it.
    """
    lock = FileLock(shard.with_suffix(".lock"))
    try:
        lock.acquire(timeout=-1 if waiting else 0)
    except Timeout:
        yield False
        return
    except OSError:  # the folder can't be written to, which new_array will tell
        yield True
        return
    try:
        yield True
    finally:
        lock.release()


def _join(shards: list[Path], path: Path) -> None:
    """Joins shards to one file, unless another run has removed one of them."""
    arrays = [load_array(shard) for shard in shards]
    if any(array is None for array in arrays):
        return
    with new_array(path, np.float32, arrays[0].shape[1:]) as add:  # type: ignore[union-attr]
        for array in arrays:
            add(array)  # type: ignore[arg-type]


def _remove_shards(path: Path) -> None:
    for file in path.parent.glob(f"{path.stem}{SHARD}*"):  # shards and their locks
        file.unlink(missing_ok=True)
