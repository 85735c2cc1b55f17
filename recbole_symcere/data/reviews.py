"""Review texts to token ids and embeddings: memory-mapped files, keyed by content.

Every array is one ``.npy`` file whose name is a hash of all that determines its content (texts, tokenizer, encoder
weights, ...), so a changed input never meets an old file. The file ends in a SHA-256 of itself: a damaged or truncated
one is noticed and rebuilt. Files appear by an atomic rename, and the same name always holds the same bytes, so any
number of runs may share a folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import polars as pl
from tokenizers import Encoding, Tokenizer
from tqdm import tqdm

from recbole_symcere import distributed
from recbole_symcere.errors import ReviewFileError

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1  # raise it whenever the arrays of the same texts change
TEXTS_PER_CHUNK = 4096  # tokenised at a time
TEXTS_PER_SHARD = 1024  # embedded at a time; a killed run loses at most this many
SHARD = ".shard"
SPECIAL = -1  # the word index of a special token
DIGEST_BYTES = hashlib.sha256().digest_size


def read_reviews(path: Path, review_ids: Sequence[str], *, allow_empty: bool = False) -> list[str]:
    """Texts of ``review_ids``, in that order, from JSON lines of ``review_id`` and ``review``.

    Raises:
        ReviewFileError: the file is missing, a line is not such an object, an id stands twice in the file or not at
            all, ``review_ids`` is empty, or a wanted text is blank and ``allow_empty`` is false.
    """
    if not path.is_file():
        raise ReviewFileError(f"{path}: no such review file; make it with `python -m dataset_prep`")
    if not len(review_ids):
        raise ReviewFileError(f"{path}: no review_id is asked for; the dataset has no interactions left")
    try:
        reviews = pl.read_ndjson(path, schema={"review_id": pl.String, "review": pl.String})
    except (pl.exceptions.PolarsError, OSError) as error:  # OSError: it begins as a packed file does
        raise _broken_line(path, str(error)) from error
    if reviews.null_count().sum_horizontal().item():
        raise _broken_line(path, "a line lacks a value")
    repeated = reviews.filter(pl.col("review_id").is_duplicated())
    if len(repeated):
        raise _repeated_id(path, repeated["review_id"][0])
    wanted = pl.DataFrame({"review_id": pl.Series(review_ids, dtype=pl.String)})
    texts = wanted.join(reviews, on="review_id", how="left", maintain_order="left")
    faults = [("is not in the file", pl.col("review").is_null(), "")]
    if not allow_empty:
        faults.append(("has no text", pl.col("review").str.strip_chars() == "", " with `--missing-text drop`"))
    for fault, found, mend in faults:
        faulty = texts.filter(found)["review_id"]
        if len(faulty):
            raise ReviewFileError(
                f"{path}: review_id {faulty[0]!r} {fault} ({len(faulty):,} of {len(texts):,} wanted): "
                f"run `python -m dataset_prep` again{mend}"
            )
    return texts["review"].to_list()


def _lines(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Each line's number and object, read slowly; only to explain what is wrong with a file."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                review = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ReviewFileError(f"{path}, line {number}: not JSON ({error}); mend or delete the line") from error
            if not (isinstance(review, dict) and all(isinstance(review.get(k), str) for k in ("review_id", "review"))):
                raise ReviewFileError(
                    f"{path}, line {number}: not an object with the strings `review_id` and `review`; mend the line"
                )
            yield number, review


def _broken_line(path: Path, reason: str) -> ReviewFileError:
    try:
        for _ in _lines(path):
            pass
    except ReviewFileError as error:
        return error
    return ReviewFileError(f"{path}: {reason}; run `python -m dataset_prep` again")


def _repeated_id(path: Path, review_id: str) -> ReviewFileError:
    numbers = [str(number) for number, review in _lines(path) if review["review_id"] == review_id]
    return ReviewFileError(
        f"{path}, lines {' and '.join(numbers)}: review_id {review_id!r} stands more than once; give each its own"
    )


@dataclass(frozen=True)
class TokenisedReviews:
    """Token ids of n reviews, unpadded and end to end.

    Attributes:
        token_ids: int32 [n_tokens].
        word_index: int32 [n_tokens], the place of the token's word in its review; -1 for a special token.
        offsets: int64 [n + 1]; review i is ``token_ids[offsets[i]:offsets[i + 1]]``.
    """

    token_ids: np.ndarray
    word_index: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each review, int64 [n]."""
        return np.diff(self.offsets)

    def gather(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Reviews ``rows`` [B], end to end: token ids [T], word index [T] and lengths [B].

        Raises:
            IndexError: there is no such review; -1, which stands for a review of another part, is none either.
        """
        if (rows < 0).any():
            raise IndexError(f"there is no review {rows.min()} among {len(self)}")
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        index = end_to_end(starts, lengths)
        return self.token_ids[index], self.word_index[index], lengths


def end_to_end(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The places in the spans [B] that begin at ``starts`` and are so long, one span after the other: [T]."""
    begins = np.cumsum(lengths) - lengths  # in the result
    return np.repeat(starts - begins, lengths) + np.arange(lengths.sum())


def tokenise(
    texts: Sequence[str], tokenizer: Tokenizer, max_length: int, cache_dir: Path, show_progress: bool = True
) -> TokenisedReviews:
    """Token ids of ``texts``, truncated to ``max_length`` tokens, special ones included; made once, memory-mapped.

    Raises:
        ValueError: no texts, or a ``max_length`` that leaves no room beside the special tokens.
    """
    tokenizer = Tokenizer.from_str(tokenizer.to_str())  # the caller's own keeps its settings
    if not len(texts):
        raise ValueError("no texts to tokenise")
    if max_length <= tokenizer.num_special_tokens_to_add(is_pair=False):
        raise ValueError(f"max_length {max_length} leaves no room for words beside the tokenizer's special tokens")
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    key = _key("tokens", tokenizer.to_str(), _digest_texts(texts))
    paths = {name: cache_dir / f"{key}.{name}.npy" for name in ("token_ids", "word_index", "offsets")}
    for _ in range(2):
        arrays = {name: _load(path) for name, path in paths.items()}
        if all(array is not None for array in arrays.values()):
            return TokenisedReviews(**arrays)  # type: ignore[arg-type]
        _write_tokens(texts, tokenizer, paths, show_progress)
    raise OSError(f"{cache_dir}: files just written can't be read back; is the disk full?")


def _write_tokens(texts: Sequence[str], tokenizer: Tokenizer, paths: dict[str, Path], show_progress: bool) -> None:
    bar = tqdm(total=len(texts), desc="tokenising reviews", unit="review", disable=not show_progress, delay=2)
    with (
        bar,
        _new_array(paths["token_ids"], np.int32) as add_token_ids,
        _new_array(paths["word_index"], np.int32) as add_word_index,
        _new_array(paths["offsets"], np.int64) as add_offsets,
    ):
        end = 0
        add_offsets(np.zeros(1))
        for start in range(0, len(texts), TEXTS_PER_CHUNK):
            chunk = list(texts[start : start + TEXTS_PER_CHUNK])
            encodings = tokenizer.encode_batch(chunk)
            ends = end + np.cumsum([len(encoding) for encoding in encodings])
            end = ends[-1]
            add_offsets(ends)
            add_token_ids(np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), np.int32))
            add_word_index(np.concatenate([_words(text, e) for text, e in zip(chunk, encodings, strict=True)]))
            bar.update(len(chunk))


def _words(text: str, encoding: Encoding) -> np.ndarray:
    """The word that each token belongs to, int32 [tokens]; special tokens are ``SPECIAL``.

    A word begins at a new pre-token (as in BERT's whole-word masking), and, since a pre-token may be a whole sentence
    (SentencePiece; text without spaces), also at whitespace and at each piece on either side of a character of a script
    that puts none between words. A piece that begins inside the piece before it is a byte of the same character, and
    one after mere whitespace is what that leads up to (``Ġ`` ``gui`` ``tar``): neither begins a word.
    """
    if not len(encoding):
        return np.zeros(0, np.int32)
    pre_token = np.array([-1 if word is None else word for word in encoding.word_ids])
    special = (pre_token == -1) | np.array(encoding.special_tokens_mask, bool)
    start, stop = np.array(encoding.offsets).T
    characters = np.frombuffer((text + " ").encode("utf-32-le"), np.uint32)
    space = _IS_SPACE[np.minimum(characters, len(_IS_SPACE) - 1)]
    unspaced = _count(_is_unspaced(characters), start, stop) > 0
    blank = ~special & (_count(space, start, stop) == stop - start)  # RoBERTa's offsets leave the whitespace out
    begins = space[start] | space[np.maximum(start - 1, 0)] | unspaced | np.roll(unspaced, 1)
    begins &= start >= np.roll(stop, 1)
    begins |= pre_token != np.roll(pre_token, 1)
    begins &= ~np.roll(blank, 1)
    begins[0] = True
    begins &= ~special
    return np.where(special, SPECIAL, np.cumsum(begins) - 1).astype(np.int32)


def _count(found: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """How many of ``found[start:stop]`` are true, for each of many ranges."""
    counts = np.concatenate([[0], np.cumsum(found)])
    return counts[stop] - counts[start]


_IS_SPACE = np.array([chr(code).isspace() for code in range(0x3002)])  # the last space is U+3000
_UNSPACED_BLOCKS = np.array(
    [
        (0x0E00, 0x0F00),  # Thai, Lao
        (0x1000, 0x10A0),  # Burmese
        (0x1780, 0x1800),  # Khmer
        (0x2E80, 0x2FE0),  # radicals
        (0x3001, 0x3130),  # punctuation, hiragana, katakana, bopomofo
        (0x3190, 0x4DC0),  # strokes, enclosed letters, ideographs A
        (0x4E00, 0xA000),  # ideographs
        (0xF900, 0xFB00),  # compatibility ideographs
        (0xFF00, 0xFFF0),  # full-width and half-width forms
        (0x1B000, 0x1B170),  # historic kana
        (0x20000, 0x32000),  # ideographs B and later
    ]
).ravel()


def _is_unspaced(characters: np.ndarray) -> np.ndarray:
    # The blocks do not touch: an odd place among their sorted bounds is inside one.
    return np.searchsorted(_UNSPACED_BLOCKS, characters, side="right") % 2 == 1


class Embedder(Protocol):
    """What ``cached_embeddings`` needs of an encoder; ``model.text.ReviewEncoder`` is one."""

    @property
    def max_length(self) -> int: ...

    @property
    def fast_tokenizer(self) -> Tokenizer: ...

    def fingerprint(self) -> str:
        """A hash of all that determines a text's vector: weights, tokenizer, pooling, precision, length."""

    def embed(self, reviews: TokenisedReviews, rows: np.ndarray, mask_ratio: float, seed: int) -> np.ndarray:
        """Vectors of reviews ``rows`` with ``mask_ratio`` of their words masked, float32 [len(rows), hidden]."""


def cached_embeddings(
    texts: Sequence[str],
    encoder: Embedder,
    views: int,
    mask_ratio: float,
    seed: int,
    cache_dir: Path,
    show_progress: bool = True,
) -> list[np.ndarray]:
    """The clean view of ``texts`` and ``views`` word-masked ones: 1 + views memory-mapped float32 [n, hidden].

    Each view is its own file, so asking for more views adds to an older cache. A run that was killed goes on with the
    shard of reviews it was at. Several processes embed every so many shards each.
    """
    encoder_and_texts = _key(encoder.fingerprint(), _digest_texts(texts))
    keys = [_key("clean", encoder_and_texts)]
    keys += [_key("masked", encoder_and_texts, view, mask_ratio, seed) for view in range(1, 1 + views)]
    paths = [cache_dir / f"{key}.npy" for key in keys]
    arrays = [_load(path) for path in paths]
    for path, array in zip(paths, arrays, strict=True):
        if array is not None:  # a run that was killed here may have left what this was joined from
            _remove_shards(path)
    missing = distributed.union((view for view, array in enumerate(arrays) if array is None), len(arrays))
    if missing:
        with distributed.first_of_machine_first():
            reviews = tokenise(texts, encoder.fast_tokenizer, encoder.max_length, cache_dir, show_progress)
        total = len(missing) * len(texts)
        with tqdm(total=total, desc="embedding reviews", unit="review", disable=not show_progress, delay=2) as bar:
            for view in missing:
                ratio = mask_ratio if view else 0.0
                arrays[view] = _embed_view(paths[view], reviews, encoder, ratio, (seed, view), bar)
    return [array for array in arrays if array is not None]


def _embed_view(
    path: Path, reviews: TokenisedReviews, encoder: Embedder, mask_ratio: float, seed: tuple[int, int], bar: tqdm
) -> np.ndarray:
    """Embeds the shards that are not there yet, joins them under ``path`` and removes them."""
    starts = range(0, len(reviews), TEXTS_PER_SHARD)
    shards = [path.with_name(f"{path.stem}{SHARD}{start}.npy") for start in starts]

    def embed(numbers: range) -> None:
        for number in numbers:
            rows = np.arange(starts[number], min(starts[number] + TEXTS_PER_SHARD, len(reviews)))
            if not path.exists() and _load(shards[number]) is None:
                shard_seed = int(np.random.SeedSequence((*seed, starts[number])).generate_state(1, np.uint64)[0]) >> 1
                vectors = encoder.embed(reviews, rows, mask_ratio, shard_seed)
                with _new_array(shards[number], np.float32, vectors.shape[1:]) as add:
                    add(vectors)
            bar.update(len(rows))

    if distributed.world_size() > 1:
        embed(range(distributed.rank(), len(shards), distributed.world_size()))
        distributed.wait_for_all()
    with distributed.first_of_machine_first():
        for _ in range(3):  # another run may finish first and remove the shards under our feet: then its file is loaded
            embed(range(len(shards)))  # also those of the other processes, if their folders are not shared
            if not path.exists():
                _join(shards, path)
            if (view := _load(path)) is not None:
                _remove_shards(path)
                return view
    raise OSError(f"{path}: can't be read back after writing; is the disk full?")


def _join(shards: list[Path], path: Path) -> None:
    arrays = [_load(shard) for shard in shards]
    if any(array is None for array in arrays):
        return
    with _new_array(path, np.float32, arrays[0].shape[1:]) as add:  # type: ignore[union-attr]
        for array in arrays:
            add(array)  # type: ignore[arg-type]


def _remove_shards(path: Path) -> None:
    for shard in path.parent.glob(f"{path.stem}{SHARD}*.npy"):
        shard.unlink(missing_ok=True)


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps([FORMAT_VERSION, *parts]).encode()).hexdigest()[:32]


def _digest_texts(texts: Sequence[str]) -> str:
    # The lengths tell ["ab", "c"] from ["a", "bc"].
    digest = hashlib.sha256(np.fromiter(map(len, texts), np.int64, len(texts)).tobytes())
    for start in range(0, len(texts), TEXTS_PER_CHUNK):
        digest.update("".join(texts[start : start + TEXTS_PER_CHUNK]).encode())
    return digest.hexdigest()


@contextmanager
def _new_array(
    path: Path, dtype: type[np.generic], row_shape: tuple[int, ...] = ()
) -> Iterator[Callable[[np.ndarray], None]]:
    """Yields a function that appends rows to a new ``.npy`` file, which takes its name once it is complete."""
    temporary = path.with_name(f"{path.stem}.{os.getpid()}-{uuid.uuid4().hex}.tmp")
    n_rows = 0

    def write_header(file: BinaryIO) -> None:
        # numpy leaves room in the header for the first axis to grow, so the final one fits over the first.
        descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
        shape = (n_rows, *row_shape)
        np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("w+b") as file:

                def append(rows: np.ndarray) -> None:
                    nonlocal n_rows
                    file.write(np.ascontiguousarray(rows, dtype).data)
                    n_rows += len(rows)

                write_header(file)
                yield append
                n_bytes = file.tell()
                file.seek(0)
                write_header(file)
                file.seek(0)
                file.write(_digest_file(file, n_bytes))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise ReviewFileError(
            f"{path}: can't be written ({error.strerror or error}); free disk space, or set text_cache_dir to a folder "
            "that can be written"
        ) from error


def _load(path: Path) -> np.ndarray | None:
    """The array in ``path``, memory-mapped copy-on-write; None if there is none. A damaged file is removed."""
    try:
        with path.open("rb") as file:
            n_bytes = max(0, path.stat().st_size - DIGEST_BYTES)
            if _digest_file(file, n_bytes) == file.read():
                return np.load(path, mmap_mode="c", allow_pickle=False)
    except FileNotFoundError:
        return None
    logger.warning("%s is damaged: rebuilding it", path)
    path.unlink(missing_ok=True)
    return None


def _digest_file(file: BinaryIO, n_bytes: int) -> bytes:
    """SHA-256 of the next ``n_bytes`` of ``file``, which it leaves standing after them."""
    digest = hashlib.sha256()
    while n_bytes and (block := file.read(min(n_bytes, 1 << 20))):
        digest.update(block)
        n_bytes -= len(block)
    return digest.digest()
