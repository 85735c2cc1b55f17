"""The graph from each item to the items with the most similar features, as in LATTICE (Zhang et al., MM 2021).

Item 0 is padding: it is no item's neighbour, and its own edges have the weight 0.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_symcere.model.graph import propagate
from recbole_symcere.sparse import csr

COSINES_AT_ONCE = 2**24  # float32: 64 MiB


def nearest_items(features: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Finds the k items whose features have the highest cosine with each item's, the item itself among them.

    No table of all pairs of items is made.

    Args:
        features: [n_items, hidden].
        k: from 1 to n_items - 1.

    Returns:
        Items [n_items, k] long, most similar first, and their cosines [n_items, k]. The row of the padding item is 0.
    """
    unit = F.normalize(features[1:], dim=1)
    rows = max(1, COSINES_AT_ONCE // len(unit))
    cosines, items = zip(*((part @ unit.T).topk(k) for part in unit.split(rows)), strict=True)
    return F.pad(torch.cat(items) + 1, (0, 0, 1, 0)), F.pad(torch.cat(cosines), (0, 0, 1, 0))


class ItemGraph(nn.Module):
    """A directed, weighted graph from each item to k items.

    The graph is part of the state dict, so that a loaded model can rank without the features.

    Args:
        neighbours: [n_items, k] long.
        weights: [n_items, k], the weights of the edges to the neighbours.
    """

    neighbours: Tensor
    weights: Tensor
    crow: Tensor
    column: Tensor
    values: Tensor

    def __init__(self, neighbours: Tensor, weights: Tensor) -> None:
        super().__init__()
        self.register_buffer("neighbours", neighbours.contiguous())
        self.register_buffer("weights", weights.contiguous())
        self.register_load_state_dict_post_hook(ItemGraph._transpose)
        self._transpose()

    @classmethod
    def of_nearest(cls, neighbours: Tensor, cosines: Tensor) -> "ItemGraph":
        """Makes the graph of what :func:`nearest_items` found.

        The weight of an edge is cosine(i, j) / sqrt(degree(i) degree(j)). The degree of every item is the sum of the
        cosines to its own neighbours, as in the code of SMORE, although the graph is directed. An item whose sum is not
        above 0 is isolated.
        """
        degree = cosines.sum(1)
        scale = torch.where(degree > 0, degree.rsqrt(), 0.0)
        return cls(neighbours, scale[:, None] * cosines * scale[neighbours])

    @classmethod
    def max_pooled(cls, graphs: "Sequence[ItemGraph]") -> "ItemGraph":
        """Makes the graph of all edges of several graphs; each edge gets the largest of its weights.

        Args:
            graphs: graphs whose rows of neighbours are beginnings of the same rows, so that the graph with the largest
                k has the edges of all.
        """
        longest = max(graphs, key=lambda graph: graph.neighbours.shape[1])
        k = longest.neighbours.shape[1]
        padded = [F.pad(graph.weights, (0, k - graph.weights.shape[1]), value=-torch.inf) for graph in graphs]
        return cls(longest.neighbours, torch.stack(padded).amax(0))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the weighted sums over each item's neighbours, [n_items, d], of item vectors ``x`` [n_items, d]."""
        n_items, k = self.neighbours.shape
        ends = torch.arange(0, n_items * k + 1, k, device=x.device)
        size = (n_items, n_items)
        adjacency = csr(ends, self.neighbours.flatten(), self.weights.flatten(), size)
        return propagate(adjacency, x, csr(self.crow, self.column, self.values, size))

    def _transpose(self, *_: Any) -> None:
        """Makes the transpose, which the gradient needs; called again after a state dict was loaded."""
        n_items, k = self.neighbours.shape
        neighbour = self.neighbours.flatten()
        by_neighbour = neighbour.argsort(stable=True)
        n_edges = torch.bincount(neighbour, minlength=n_items)
        self.register_buffer("crow", F.pad(n_edges.cumsum(0), (1, 0)), persistent=False)
        self.register_buffer("column", by_neighbour // k, persistent=False)
        self.register_buffer("values", self.weights.flatten()[by_neighbour], persistent=False)
