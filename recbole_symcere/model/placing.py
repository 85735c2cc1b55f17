"""Gives items without an interaction in training a place among the others, by their texts alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_symcere.model.item_statistics import NEAREST


@dataclass(frozen=True)
class Placed:
    """Tables of items in which new ones have a place.

    What the graph model and the walks between items know of a new item is the mean of what they know of the ``NEAREST``
    items with the nearest texts, weighted by their cosines.

    Attributes:
        share: [n_items, n_items] sparse, what a new item takes over of each other one; the rows of others are empty.
        profiles, words, walks, nearest: see ``ItemTexts`` and ``ItemStatistics``.
    """

    share: Tensor
    profiles: Tensor
    words: Tensor
    walks: Tensor
    nearest: Tensor

    def taken_over(self, table: Tensor) -> Tensor:
        """Returns a table of items [n_items, d], in which the rows of new items are zero, with these rows filled."""
        return table + self.share @ table


def placed(tables: Mapping[str, Tensor], new: Tensor, vectors: Tensor) -> Placed:
    """Gives new items a place.

    Args:
        tables: ``profiles``, ``words``, ``walks`` and ``nearest``, in which the rows of new items are empty; and
            ``mean``, ``to_profiles`` and ``to_words`` of ``ItemTexts``.
        new: [n] long, the new items.
        vectors: [n, hidden], the mean vector of each one's texts; NaN for an item without a text, of which nothing but
            the moment is known.
    """
    centred = (vectors - tables["mean"]).nan_to_num()
    of_new = F.normalize(centred @ tables["to_profiles"], dim=1)
    cosines = of_new @ tables["profiles"].T
    near = _nearest(cosines)
    to_share = (near / near.sum(1, keepdim=True).clamp(min=1e-9)).to_sparse()
    row, column = to_share.indices()
    n_items = len(tables["profiles"])
    share = _table(new[row], column, to_share.values(), n_items)
    walks = tables["walks"] + torch.sparse.mm(share, tables["walks"])
    return Placed(
        share=share,
        profiles=tables["profiles"].index_copy(0, new, of_new),
        words=tables["words"].index_copy(0, new, F.normalize(centred @ tables["to_words"], dim=1)),
        walks=(walks + torch.sparse.mm(walks, share.T)).coalesce(),
        nearest=_with_new(tables["nearest"], new, cosines, near),
    )


def _nearest(cosines: Tensor) -> Tensor:
    """Returns cosines [n, n_items] of new items with others; 0 for all but the nearest ones, and below 0."""
    cosines = cosines.clamp(min=0)
    values, items = cosines.topk(min(NEAREST, cosines.shape[1]))
    return torch.zeros_like(cosines).scatter_(1, items, values)


def _with_new(nearest: Tensor, new: Tensor, cosines: Tensor, near: Tensor) -> Tensor:
    """Adds new items to the table of nearest items: their own, and they to items that have no nearer ones.

    Args:
        nearest: [n_items, n_items] sparse.
        new: [n] long.
        cosines: [n, n_items], of the new items with all others.
        near: [n, n_items], the same, but 0 where an item is none of the nearest.
    """
    old = nearest.coalesce()
    (source, end), values = old.indices(), old.values()
    farthest = values.new_full((len(nearest),), torch.inf).scatter_reduce(0, source, values, "amin")
    number, other = near.nonzero(as_tuple=True)
    to_new, of_old = ((cosines > 0) & (cosines >= farthest)).nonzero(as_tuple=True)
    return _table(
        torch.cat([source, new[number], of_old]),
        torch.cat([end, other, new[to_new]]),
        torch.cat([values, near[number, other], cosines[to_new, of_old]]),
        len(nearest),
    )


def _table(row: Tensor, column: Tensor, values: Tensor, n_items: int) -> Tensor:
    places = torch.stack([row, column])
    return torch.sparse_coo_tensor(places, values, (n_items, n_items), check_invariants=False).coalesce()
