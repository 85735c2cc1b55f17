"""Micro-batches of reviews, and what autograd keeps of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint


def micro_batches(lengths: np.ndarray, tokens_per_batch: int) -> list[np.ndarray]:
    """Cuts reviews into micro-batches, longest first, whose padded size stays within ``tokens_per_batch``.

    Args:
        lengths: [B] int, B > 0.

    Returns:
        Arrays of the numbers of reviews, which together hold each of 0 to B - 1 once. A review that is longer than the
        bound is alone.
    """
    order = np.argsort(-lengths, kind="stable")
    batches = []
    begin = 0
    while begin < len(order):
        end = begin + max(1, tokens_per_batch // max(1, int(lengths[order[begin]])))
        batches.append(order[begin:end])
        begin = end
    return batches


def pad(token_ids: Tensor, starts: Tensor, lengths: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Pads some reviews on the right.

    Args:
        token_ids: [T + 1] long, all reviews end to end, and at last the padding token.
        starts, lengths: [b] long, where each of the reviews begins and how long it is.
        width: of the result.

    Returns:
        Token ids [b, width], and bool [b, width] that is false on padding. An empty review attends to one padding
        token, because attention over nothing has no value.
    """
    position = torch.arange(width, device=token_ids.device)
    index = torch.where(position < lengths[:, None], starts[:, None] + position, len(token_ids) - 1)
    return token_ids[index], position < lengths.clamp(min=1)[:, None]


def within_memory(
    pooled: Callable[[Tensor, Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    n_tokens: int,
    weights: Iterable[Tensor],
    budget: Callable[[], float],
) -> list[Tensor]:
    """Encodes micro-batches so that what autograd keeps of them stays within a budget.

    Where something trains, the activations of the first micro-batch are kept, and those of the last ones as far as the
    budget allows, because the backward pass frees the last before it computes any others again.

    Args:
        pooled: from padded token ids [b, width] and what to attend to [b, width] to vectors [b, hidden].
        batches: its arguments.
        n_tokens: padded tokens in all.
        weights: do not count.
        budget: gives the bytes of activations that can be kept; asked after the first micro-batch.

    Returns:
        The vectors of each micro-batch.
    """
    first = _KeptForBackward(weights)
    affordable = 0.0  # padded tokens
    vectors: list[Tensor] = []
    for token_ids, attended in batches:
        if not vectors:  # the longest reviews keep the most for each token
            with first:
                vectors.append(pooled(token_ids, attended))
            affordable = budget() * token_ids.numel() / first.n_bytes if first.n_bytes else np.inf
        elif n_tokens <= affordable:
            vectors.append(pooled(token_ids, attended))
        else:  # the random state is restored for the second pass, so dropout falls on the same units
            vectors.append(checkpoint(pooled, token_ids, attended, use_reentrant=False))
        n_tokens -= token_ids.numel()  # what is left
    return vectors


class _KeptForBackward(saved_tensors_hooks):
    """A context that counts the bytes that autograd keeps for the backward pass, without the weights."""

    def __init__(self, weights: Iterable[Tensor]) -> None:
        super().__init__(self._count, lambda tensor: tensor)
        self.n_bytes = 0
        self._counted = {weight.untyped_storage().data_ptr() for weight in weights}

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._counted:
            self._counted.add(storage.data_ptr())
            self.n_bytes += storage.nbytes()
        return tensor
