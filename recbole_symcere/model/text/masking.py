"""Masking whole words of reviews."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from recbole_symcere.data.tokens import SPECIAL
from recbole_symcere.transfer import upload


def mask_words(
    token_ids: Tensor,
    word_index: np.ndarray,
    lengths: np.ndarray,
    mask_ratio: float,
    mask_token: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Returns token ids in which every token of some whole words is ``mask_token`` (whole-word masking, as in BERT).

    Each review loses ``mask_ratio`` of its words, rounded, but at least one word, and it keeps at least one. The words
    are drawn without bias on the device of the generator. Special tokens and prompts stay.

    Args:
        token_ids: [T] long, B reviews end to end.
        word_index: [T] int, the place of each token's word in its review; -1 for a special token.
        lengths: [B] int, tokens of each review.
        mask_ratio: from 0 (nothing is masked) to 1.
        mask_token: the id to put.
        generator: source of randomness; None is torch's global one on the device of ``token_ids``.

    Returns:
        [T] long

    Raises:
        ValueError: ``mask_ratio`` is outside its range.
    """
    if not 0 <= mask_ratio <= 1:
        raise ValueError(f"mask_ratio is {mask_ratio}, but must be from 0 to 1")
    words = np.zeros(len(lengths), np.int64)  # of each review
    review = np.repeat(np.arange(len(lengths)), lengths)
    np.maximum.at(words, review, word_index + 1)
    if mask_ratio == 0 or not words.any():
        return token_ids
    first = np.cumsum(words) - words
    quota = np.rint(mask_ratio * words).clip(1, None).clip(None, np.maximum(words - 1, 0))
    review_of_word = np.repeat(np.arange(len(lengths)), words)
    place = torch.arange(len(review_of_word)) - torch.from_numpy(first[review_of_word])
    word = torch.from_numpy(np.where(word_index == SPECIAL, len(review_of_word), word_index + first[review]))

    device = generator.device if generator else token_ids.device
    # A random order of the words, then a stable sort by review: a random order within each review.
    shuffled = torch.rand(len(review_of_word), generator=generator, device=device).argsort(stable=True)
    group = upload(torch.from_numpy(review_of_word), device)
    shuffled = shuffled[group[shuffled].argsort(stable=True)]
    hidden = upload(place < torch.from_numpy(quota[review_of_word]), device)
    chosen = torch.zeros(len(review_of_word) + 1, dtype=torch.bool, device=device)  # the last: special tokens
    chosen[shuffled] = hidden
    return token_ids.masked_fill(upload(chosen, token_ids.device)[upload(word, token_ids.device)], mask_token)
