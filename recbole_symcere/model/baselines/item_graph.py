"""The item-item graph of nearest neighbours by features, as LATTICE (Zhang et al., MM 2021) and its kin build it.

Item 0 is padding: it is nobody's neighbour and has none.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_symcere.model.graph import csr, propagate

COSINES_AT_ONCE = 2**24  # float32: 64 MiB


def nearest_items(features: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k items of the most similar features for each item, itself among them; no items x items table is made.

    Args:
        features: [n_items, hidden].
        k: from 1 to n_items - 1.

    Returns:
        Items [n_items, k] long, most similar first, and their cosines [n_items, k]; padding's row is 0.
    """
    unit = F.normalize(features[1:], dim=1)
    rows = max(1, COSINES_AT_ONCE // len(unit))
    cosines, items = zip(*((part @ unit.T).topk(k) for part in unit.split(rows)), strict=True)
    return F.pad(torch.cat(items) + 1, (0, 0, 1, 0)), F.pad(torch.cat(cosines), (0, 0, 1, 0))


class ItemGraph(nn.Module):
    """A directed graph from each item to k others, in the state dict, so that ranking needs no features again."""

    neighbours: Tensor
    weights: Tensor
    crow: Tensor
    column: Tensor
    values: Tensor

    def __init__(self, neighbours: Tensor, weights: Tensor) -> None:
        """Args:
        neighbours: [n_items, k] long.
        weights: [n_items, k], of the edges to them.
        """
        super().__init__()
        self.register_buffer("neighbours", neighbours.contiguous())
        self.register_buffer("weights", weights.contiguous())
        self.register_load_state_dict_post_hook(ItemGraph._transpose)
        self._transpose()

    @classmethod
    def of_nearest(cls, neighbours: Tensor, cosines: Tensor) -> "ItemGraph":
        """What :func:`nearest_items` found, normalised: cosine(i, j) / sqrt(degree(i) degree(j)).

        An item's degree is the sum of the cosines to its own neighbours, for j as for i, though j need not be i's
        neighbour because i is j's: so SMORE's code has it. An item whose sum is not above 0 is isolated.
        """
        degree = cosines.sum(1)
        scale = torch.where(degree > 0, degree.rsqrt(), 0.0)
        return cls(neighbours, scale[:, None] * cosines * scale[neighbours])

    @classmethod
    def max_pooled(cls, graphs: "Sequence[ItemGraph]") -> "ItemGraph":
        """Every edge of any of ``graphs``, with the largest of its weights.

        Args:
            graphs: the first neighbours of the same list, so that the longest holds the edges of all.
        """
        longest = max(graphs, key=lambda graph: graph.neighbours.shape[1])
        k = longest.neighbours.shape[1]
        padded = [F.pad(graph.weights, (0, k - graph.weights.shape[1]), value=-torch.inf) for graph in graphs]
        return cls(longest.neighbours, torch.stack(padded).amax(0))

    def forward(self, x: Tensor) -> Tensor:
        """One propagation step: the weighted sums over each item's neighbours, [n_items, d] from [n_items, d]."""
        n_items, k = self.neighbours.shape
        ends = torch.arange(0, n_items * k + 1, k, device=x.device)
        size = (n_items, n_items)
        adjacency = csr(ends, self.neighbours.flatten(), self.weights.flatten(), size)
        return propagate(adjacency, x, csr(self.crow, self.column, self.values, size))

    def _transpose(self, *_: Any) -> None:
        """Makes the transpose, which the gradient needs; anew after a state dict was loaded."""
        n_items, k = self.neighbours.shape
        neighbour = self.neighbours.flatten()
        by_neighbour = neighbour.argsort(stable=True)
        n_edges = torch.bincount(neighbour, minlength=n_items)
        self.register_buffer("crow", F.pad(n_edges.cumsum(0), (1, 0)), persistent=False)
        self.register_buffer("column", by_neighbour // k, persistent=False)
        self.register_buffer("values", self.weights.flatten()[by_neighbour], persistent=False)
