"""Turns review texts into token ids, and finds the word that each token belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
from tokenizers import Encoding, Tokenizer, normalizers
from tqdm import tqdm

from recbole_symcere.data.cache import digest_texts, key_of, load_array, new_array

TEXTS_PER_CHUNK = 4096  # how many texts are tokenised at a time
SPECIAL = -1  # the word index of a special token
HASH = 0x9E3779B97F4A7C15  # an odd number without a pattern


@dataclass(frozen=True)
class TokenisedReviews:
    """The token ids of n reviews, one review after the other, without padding.

    Attributes:
        token_ids: int32 [n_tokens].
        word_index: int32 [n_tokens], the number of the word in its review that the token belongs to; -1 for a special
            token.
        offsets: int64 [n + 1]; the tokens of review i are ``token_ids[offsets[i]:offsets[i + 1]]``.
    """

    token_ids: np.ndarray
    word_index: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """The number of tokens of each review, int64 [n]."""
        return np.diff(self.offsets)

    def gather(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the tokens of some reviews, one review after the other.

        Args:
            rows: the numbers of B reviews.

        Returns:
            The token ids [T], the word index [T], and the number of tokens of each review [B].

        Raises:
            IndexError: there is no review of this number. Negative numbers do not count from the end.
        """
        if (rows < 0).any():
            raise IndexError(f"there is no review {rows.min()} among {len(self)}")
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        index = end_to_end(starts, lengths)
        return self.token_ids[index], self.word_index[index], lengths


@dataclass(frozen=True)
class WholeTexts:
    """How texts are tokenised whole and in lower case, so that their words can be compared.

    Args:
        tokenizer: that of an encoder; it stays as it is.
    """

    tokenizer: Tokenizer
    max_length: int = 2**20
    prompt: str = ""

    @cached_property
    def fast_tokenizer(self) -> Tokenizer:
        """The tokenizer, with lower case before its own normalisation."""
        tokenizer = cutting(self.tokenizer, self.max_length)
        own = [tokenizer.normalizer] if tokenizer.normalizer else []
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])
        return tokenizer

    def reviews(self, texts: Sequence[str]) -> TokenisedReviews:
        """Returns the tokens of texts, which may be none, without a file."""
        encodings = self.fast_tokenizer.encode_batch(list(texts))
        lengths = [len(encoding) for encoding in encodings]
        words = [_words(text, encoding) for text, encoding in zip(texts, encodings, strict=True)]
        return TokenisedReviews(
            np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), np.int32),
            np.concatenate([np.zeros(0, np.int32), *words]),
            np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
        )


def words_of(reviews: TokenisedReviews) -> tuple[np.ndarray, np.ndarray]:
    """Returns the words of reviews, each by a hash of its tokens.

    Returns:
        The number of the review of each word, int64 [n], and the hash, int64 [n].
    """
    owner = np.repeat(np.arange(len(reviews)), reviews.lengths)
    kept = np.asarray(reviews.word_index) != SPECIAL
    owner, word, token = owner[kept], np.asarray(reviews.word_index)[kept], np.asarray(reviews.token_ids)[kept]
    begins = np.ones(len(word), bool)
    begins[1:] = (word[1:] != word[:-1]) | (owner[1:] != owner[:-1])
    starts = begins.nonzero()[0]
    place = np.arange(len(word)) - np.repeat(starts, np.diff(np.append(starts, len(word))))
    powers = np.cumprod(np.full(place.max(initial=0) + 1, HASH, np.uint64), dtype=np.uint64)  # modulo 2^64
    hashes = (
        np.add.reduceat((token.astype(np.uint64) + 1) * powers[place], starts)
        if len(starts)
        else np.zeros(0, np.uint64)
    )
    return owner[starts], hashes.view(np.int64)


def end_to_end(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns the indices [T] inside B spans, one span after the other, from their starts [B] and lengths [B]."""
    begins = np.cumsum(lengths) - lengths  # where each span begins in the result
    return np.repeat(starts - begins, lengths) + np.arange(lengths.sum())


def tokenise(
    texts: Sequence[str],
    tokenizer: Tokenizer,
    max_length: int,
    cache_dir: Path,
    show_progress: bool = True,
    prompt: str = "",
) -> TokenisedReviews:
    """Returns the token ids of texts from the cache, and makes them if they are missing.

    Args:
        max_length: the most tokens of a text, with the special ones; the rest is cut off.
        cache_dir: the folder of the cache.
        prompt: a text to put before every text. Its tokens count as special ones, so they belong to no word.

    Raises:
        ValueError: there are no texts, or ``max_length`` leaves no room beside the special tokens.
        OSError: the tokens can't be read back after they were written.
    """
    if not len(texts):
        raise ValueError("no texts to tokenise")
    tokenizer = cutting(tokenizer, max_length)
    key = key_of("tokens", tokenizer.to_str(), digest_texts(texts), *([prompt] if prompt else []))
    paths = {name: cache_dir / f"{key}.{name}.npy" for name in ("token_ids", "word_index", "offsets")}
    for _ in range(2):
        arrays = {name: load_array(path) for name, path in paths.items()}
        if all(array is not None for array in arrays.values()):
            return TokenisedReviews(**arrays)  # type: ignore[arg-type]
        _write_tokens(texts, tokenizer, paths, show_progress, prompt)
    raise OSError(f"{cache_dir}: files can't be read back after they were written; is the disk full?")


def cutting(tokenizer: Tokenizer, max_length: int) -> Tokenizer:
    """Returns a copy of a tokenizer that cuts texts after ``max_length`` tokens and does not pad.

    Raises:
        ValueError: ``max_length`` leaves no room beside the special tokens.
    """
    tokenizer = Tokenizer.from_str(tokenizer.to_str())
    if max_length <= tokenizer.num_special_tokens_to_add(is_pair=False):
        raise ValueError(f"max_length {max_length} leaves no room for words beside the tokenizer's special tokens")
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    return tokenizer


def _write_tokens(
    texts: Sequence[str], tokenizer: Tokenizer, paths: dict[str, Path], show_progress: bool, prompt: str
) -> None:
    bar = tqdm(total=len(texts), desc="tokenising reviews", unit="review", disable=not show_progress, delay=2)
    with (
        bar,
        new_array(paths["token_ids"], np.int32) as add_token_ids,
        new_array(paths["word_index"], np.int32) as add_word_index,
        new_array(paths["offsets"], np.int64) as add_offsets,
    ):
        end = 0
        add_offsets(np.zeros(1))
        for start in range(0, len(texts), TEXTS_PER_CHUNK):
            chunk = [prompt + text for text in texts[start : start + TEXTS_PER_CHUNK]]
            encodings = tokenizer.encode_batch(chunk)
            ends = end + np.cumsum([len(encoding) for encoding in encodings])
            end = ends[-1]
            add_offsets(ends)
            add_token_ids(np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), np.int32))
            words = [_words(text, e, len(prompt)) for text, e in zip(chunk, encodings, strict=True)]
            add_word_index(np.concatenate(words))
            bar.update(len(chunk))


def _words(text: str, encoding: Encoding, prompt_length: int = 0) -> np.ndarray:
    """Returns the number of the word that each token belongs to, int32 [tokens].

    Special tokens and the tokens of the prompt get ``SPECIAL``. For the others, a word begins

    - at a new pre-token, as in BERT's whole-word masking;
    - at white space, because a pre-token of SentencePiece may be a whole sentence;
    - before and after a token with a character of a script without spaces between words, for the same reason.

    A token does not begin a word if it begins inside the token before it, because both are bytes of one character. Nor
    does it if the token before it is only white space, which belongs to the word after it (``Ġ`` ``gui`` ``tar``).

    Args:
        text: the prompt and the text.
        encoding: their tokens.
        prompt_length: the number of characters of the prompt.
    """
    if not len(encoding):
        return np.zeros(0, np.int32)
    pre_token = np.array([-1 if word is None else word for word in encoding.word_ids])
    special = (pre_token == -1) | np.array(encoding.special_tokens_mask, bool)
    start, stop = np.array(encoding.offsets).T
    if prompt_length:
        special |= stop <= prompt_length
    characters = np.frombuffer((text + " ").encode("utf-32-le"), np.uint32)
    space = _IS_SPACE[np.minimum(characters, len(_IS_SPACE) - 1)]
    unspaced = _count(_is_unspaced(characters), start, stop) > 0
    blank = ~special & (_count(space, start, stop) == stop - start)  # in RoBERTa's offsets, white space is left out
    begins = space[start] | space[np.maximum(start - 1, 0)] | unspaced | np.roll(unspaced, 1)
    begins &= start >= np.roll(stop, 1)
    begins |= pre_token != np.roll(pre_token, 1)
    begins &= ~np.roll(blank, 1)
    if prompt_length:
        begins |= np.roll(special, 1)
    begins[0] = True
    begins &= ~special
    return np.where(special, SPECIAL, np.cumsum(begins) - 1).astype(np.int32)


def _count(found: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Returns how many of ``found[start:stop]`` are true, for each ``start`` and ``stop``."""
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
    """Returns which characters belong to scripts that put no spaces between words."""
    # The blocks are sorted and do not touch, so a character inside a block has an odd number of bounds up to it.
    return np.searchsorted(_UNSPACED_BLOCKS, characters, side="right") % 2 == 1
