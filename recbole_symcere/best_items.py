"""The best items of users by scores, where a hash decides between equal ones."""

from __future__ import annotations

import torch
from torch import Tensor


def top_items(scores: Tensor, users: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Finds the k best items of each user; a hash of user and item decides between equal scores.

    PyTorch's ``topk`` prefers some places to others, and popular items tend to have low numbers, so ``topk`` alone
    would decide between equal scores by popularity. A score of NaN ranks last.

    Args:
        scores: [n_users, n_items] float.
        users: [n_users] long, the ids of the users.

    Returns:
        The scores [n_users, k] and the items [n_users, k], best first.
    """
    n_items = scores.shape[1]
    one_more = min(k + 1, n_items)  # shows whether the last item of a list has an equal outside the list
    values, items = scores.topk(one_more)
    if values.isnan().any():  # topk ranks NaN first, so any NaN is among the best
        scores = scores.masked_fill(scores.isnan(), -torch.inf)
        values, items = scores.topk(one_more)
    tied = (values[:, 1:] == values[:, :-1]).any(1).nonzero().flatten()
    values, items = values[:, :k], items[:, :k]
    if len(tied):
        items[tied] = _top_by_hash(scores[tied], values[tied, -1:], _hashes(users[tied], n_items), k)
    return values, items


def _top_by_hash(scores: Tensor, last: Tensor, hashes: Tensor, k: int) -> Tensor:
    """Returns the k best items of each user [n_users, k]; the larger hash decides between equal scores.

    Args:
        scores: [n_users, n_items].
        last: [n_users, 1], the score of the last of the k items.
        hashes: [n_users, n_items] int, above 0.
    """
    above = torch.iinfo(hashes.dtype).max
    items = torch.where(scores > last, above, torch.where(scores == last, hashes, 0)).topk(k).indices
    items = items.gather(1, hashes.gather(1, items).argsort(dim=1, descending=True))
    return items.gather(1, scores.gather(1, items).argsort(dim=1, descending=True, stable=True))


def _hashes(users: Tensor, n_items: int) -> Tensor:
    """Returns a number above 0 for each user and item that shows neither its user nor its item, int32.

    The numbers are the high bits of products of hashes, as in Knuth's multiplicative hashing.
    """
    users, items = _mixed(users), _mixed(torch.arange(n_items, device=users.device))
    return ((users[:, None] | 1) * items >> 33 & 0x3FFFFFFF).int() + 1


def _mixed(ids: Tensor) -> Tensor:
    """Returns hashes of ids, long (the finaliser of SplitMix64: Steele, Lea and Flood, OOPSLA 2014)."""
    mixed = (ids + 1) * -0x61C8864680B583EB
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        mixed = (mixed ^ (mixed >> shift & (1 << (64 - shift)) - 1)) * factor  # a shift without the sign
    return mixed ^ (mixed >> 31 & (1 << 33) - 1)
