"""The bipartite user-item graph, its normalised adjacency, edge dropout, and the graph encoders over it.

Nodes are numbered users first: user u is node u, item v is node ``n_users + v``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_symcere.model.parts import Registry
from recbole_symcere.sparse import csr

if TYPE_CHECKING:
    from typing_extensions import Self

    from recbole_symcere.config import Config

PAIRS_PER_SEARCH = 2**22  # int64: 32 MiB


class _Product(torch.autograd.Function):
    """The product A x of a sparse A whose transpose A' is given, so that the gradient A' g builds no transpose."""

    @staticmethod
    def forward(ctx: Any, adjacency: Tensor, transposed: Tensor, x: Tensor) -> Tensor:
        ctx.matrices = adjacency, transposed
        return _PRODUCTS.get(x.device.type, _sparse_product)(adjacency, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor]:
        adjacency, transposed = ctx.matrices
        return None, None, _Product.apply(transposed, adjacency, grad)


def _sparse_product(adjacency: Tensor, x: Tensor) -> Tensor:
    return adjacency @ x


def _bag_product(adjacency: Tensor, x: Tensor) -> Tensor:
    """Returns ``adjacency @ x`` as an embedding bag: row i is the weighted sum of the vectors of node i's neighbours.

    On CPUs this kernel fetches vectors from memory in advance, which the sparse kernel does not.
    """
    bags, nodes, values = adjacency.crow_indices(), adjacency.col_indices(), adjacency.values()
    return F.embedding_bag(nodes, x.contiguous(), bags, mode="sum", per_sample_weights=values, include_last_offset=True)


# On a GPU one thread would sum a whole bag, and the bag of a popular item is long.
_PRODUCTS = {"cpu": _bag_product}


def propagate(adjacency: Tensor, x: Tensor, transposed: Tensor | None = None) -> Tensor:
    """Returns one step of propagation, computed in the adjacency's precision, because autocast has no sparse products.

    Args:
        adjacency: [n_rows, n_nodes] sparse CSR; it gets no gradient.
        x: [n_nodes, d] node vectors.
        transposed: the transpose of the adjacency, [n_nodes, n_rows] sparse CSR; None if the adjacency is symmetric.

    Returns:
        [n_rows, d]
    """
    with torch.autocast(x.device.type, enabled=False):
        return _Product.apply(adjacency, adjacency if transposed is None else transposed, x.to(adjacency.dtype))


def linear_layers(adjacency: Tensor, x: Tensor, n_layers: int, eps: float = 0.0) -> list[Tensor]:
    """Returns ``x`` [n_nodes, d] and its ``n_layers`` steps of linear propagation, to which noise can be added.

    Args:
        adjacency: [n_nodes, n_nodes] normalised, sparse CSR.
        x: [n_nodes, d], layer 0.
        eps: the length of the noise that each step adds to a vector. Each coordinate of the noise has the sign of the
            vector's coordinate (XSimGCL, Yu et al., TKDE 2023).
    """
    layers = [x]
    for _ in range(n_layers):
        layer = propagate(adjacency, layers[-1])
        if eps:
            noise = F.normalize(torch.rand_like(layer), dim=1)
            layer = layer.addcmul(layer.detach().sign(), noise, value=eps)
        layers.append(layer)
    return layers


def mean_of_layers(layers: Sequence[Tensor]) -> Tensor:
    """Returns the mean of layers of one shape: LightGCN's readout."""
    return sum(layers[1:], layers[0]) / len(layers)


class BipartiteGraph(nn.Module):
    """The undirected graph of the training interactions; its one CSR pattern moves to a device with the module.

    A pair that occurs more than once is one edge.

    Args:
        users, items: [n_interactions] long, the training interactions.
        n_users, n_items: the sizes of the id spaces, padding included.

    Raises:
        ValueError: an id lies outside its space.
    """

    crow: Tensor
    column: Tensor
    user: Tensor
    item: Tensor
    by_item: Tensor
    full_values: Tensor
    pairs: Tensor

    def __init__(self, users: Tensor, items: Tensor, n_users: int, n_items: int) -> None:
        super().__init__()
        _check_ids("user", users, n_users)
        _check_ids("item", items, n_items)
        self.n_users, self.n_items, self.n_nodes = n_users, n_items, n_users + n_items
        pairs = torch.unique(users.long() * n_items + items.long())
        self.n_edges = len(pairs)
        user, item = pairs // n_items, pairs % n_items
        # Edges are sorted by user, then item. In this order they fill the users' rows; sorted by item, the items' rows.
        by_item = torch.argsort(item, stable=True)
        degree = torch.bincount(torch.cat([user, n_users + item]), minlength=self.n_nodes)
        buffers = {
            "pairs": F.pad(pairs, (0, 1), value=n_users * n_items),  # sorted; the last is larger than any pair
            "user": user,
            "item": item,
            "by_item": by_item,
            "crow": F.pad(degree.cumsum(0), (1, 0)),
            "column": torch.cat([n_users + item, user[by_item]]),
        }
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor, persistent=False)
        weight = torch.ones(self.n_edges, device=pairs.device)
        self.register_buffer("full_values", self._normalised(weight), persistent=False)

    def adjacency(self) -> Tensor:
        """Returns the symmetrically normalised adjacency D^-1/2 A D^-1/2, [n_nodes, n_nodes] sparse CSR."""
        return self._csr(self.full_values)

    def user_rows(self) -> tuple[Tensor, Tensor]:
        """Returns the block of :meth:`adjacency` that takes item vectors to users, and its transpose, both sparse CSR.

        Returns:
            [n_users, n_items] and [n_items, n_users].
        """
        n_users, n_items, n_edges = self.n_users, self.n_items, self.n_edges
        users_end, items_end = self.crow[: n_users + 1], self.crow[n_users:] - n_edges
        of_users, of_items = self.column[:n_edges] - n_users, self.column[n_edges:]
        to_users, to_items = self.full_values.tensor_split([n_edges])
        return (
            csr(users_end, of_users, to_users, (n_users, n_items)),
            csr(items_end, of_items.clone(), to_items.clone(), (n_items, n_users)),  # cuSPARSE needs aligned memory
        )

    def dropped_adjacency(self, ratio: float) -> Tensor:
        """Returns the adjacency after each undirected edge was dropped with probability ``ratio``.

        Degrees are counted after the drop. Both directions of an edge are dropped together, so the result is symmetric.
        The edges are drawn on the graph's device.
        """
        kept = torch.rand(self.n_edges, device=self.full_values.device) >= ratio  # twice as fast as bernoulli_
        return self._csr(self._normalised(kept.to(self.full_values.dtype)))

    def known_pairs(self, users: Tensor, items: Tensor) -> Tensor:
        """Returns the mask of eq. (3), without a table of all users and items.

        Args:
            users, items: [B] long.

        Returns:
            [B, B] bool; ``[i, j]`` is true when (users[i], items[j]) is a training interaction.
        """
        # To make a tensor as long as the histories, the host would wait for a GPU; and on a GPU the search is fast.
        look_up = self._in_histories if users.device.type == "cpu" else self._by_search
        return look_up(users, items)

    def _in_histories(self, users: Tensor, items: Tensor) -> Tensor:
        """Marks the histories of the batch's users in a table of the batch's items."""
        owner, history, _ = self.histories(users)
        place = torch.full((self.n_items,), len(items), device=items.device)  # outside the batch: the last column
        place[items] = torch.arange(len(items), device=items.device)  # an item that occurs twice: either column
        known = torch.zeros(len(users), len(items) + 1, dtype=torch.bool, device=items.device)
        known[owner, place[history]] = True
        return known.gather(1, place[items].expand(len(users), -1))

    def histories(self, users: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns all edges of some users, one user after the other: positions in ``users``, items, edges, [n] each."""
        end = self.crow[users + 1]
        degree = end - self.crow[users]
        owner = torch.repeat_interleave(degree)
        edge = torch.arange(len(owner), device=users.device) + (end - degree.cumsum(0))[owner]
        return owner, self.item[edge], edge

    @property
    def has_edge(self) -> Tensor:
        """Whether each user has a training interaction, [n_users] bool."""
        return self.crow[1 : self.n_users + 1] > self.crow[: self.n_users]

    def _by_search(self, users: Tensor, items: Tensor) -> Tensor:
        """Searches for every pair among the sorted edges, some rows of the mask at a time."""
        rows = max(1, PAIRS_PER_SEARCH // max(1, len(items)))
        return torch.cat([self.contains(some[:, None], items) for some in users.split(rows)])

    def contains(self, users: Tensor, items: Tensor) -> Tensor:
        """Returns which pairs are training interactions, bool; users and items are broadcast against each other."""
        pairs = users * self.n_items + items
        return self.pairs[torch.searchsorted(self.pairs, pairs, out_int32=True)] == pairs

    def _normalised(self, kept: Tensor) -> Tensor:
        """Returns the values of the adjacency's entries, [2 n_edges]: 1 / sqrt(degree(u) degree(v)), or 0 if dropped.

        Args:
            kept: [n_edges], 1 for an edge that is kept, else 0.
        """
        values = kept.clone()
        for end, n_ends in ((self.user, self.n_users), (self.item, self.n_items)):
            degree = kept.new_zeros(n_ends).scatter_add_(0, end, kept)
            scale = degree.clamp_(min=1).rsqrt_()  # a node without edges has no use for its scale
            values *= scale.index_select(0, end)
        return torch.cat([values, values.index_select(0, self.by_item)])

    def _csr(self, values: Tensor) -> Tensor:
        return csr(self.crow, self.column, values, (self.n_nodes, self.n_nodes))


class GraphEncoder(Protocol):
    """A module that turns the normalised adjacency into vectors of all nodes; ``graph_encoder`` names one.

    Attributes:
        width: the width of the vectors.
    """

    width: int

    @classmethod
    def from_config(cls, config: Config, n_users: int, n_items: int) -> Self:
        """Makes the encoder of a configuration; the numbers of users and items include the padding."""
        ...

    def __call__(self, adjacency: Tensor) -> tuple[Tensor, Tensor]:
        """Returns user vectors [n_users, width] and item vectors [n_items, width].

        Args:
            adjacency: [n_nodes, n_nodes] normalised, sparse CSR, users first.
        """
        ...


GRAPH_ENCODERS: Registry[type[GraphEncoder]] = Registry("graph_encoder")


@GRAPH_ENCODERS.register("LightGCN")
class LightGCN(nn.Module):
    """LightGCN (He et al., SIGIR 2020): eq. (1), the mean over K + 1 layers of linear propagation."""

    def __init__(self, n_users: int, n_items: int, embedding_size: int, n_layers: int) -> None:
        super().__init__()
        self.n_users, self.n_layers = n_users, n_layers
        self.width = embedding_size
        self.embedding = _node_embedding(n_users, n_items, embedding_size)

    @classmethod
    def from_config(cls, config: Config, n_users: int, n_items: int) -> Self:
        """Makes the encoder of the settings ``embedding_size`` and ``n_layers``."""
        return cls(n_users, n_items, config["embedding_size"], config["n_layers"])

    def forward(self, adjacency: Tensor) -> tuple[Tensor, Tensor]:
        """Returns user vectors [n_users, width] and item vectors [n_items, width].

        Args:
            adjacency: [n_nodes, n_nodes] normalised, sparse CSR.
        """
        layers = linear_layers(adjacency, self.embedding.weight, self.n_layers)
        users, items = mean_of_layers(layers).tensor_split([self.n_users])
        return users, items


@GRAPH_ENCODERS.register("FoldingLightGCN")
class FoldingLightGCN(LightGCN):
    """LightGCN without layer 0, so that a person's vector is made from the items of the person's history alone."""

    def forward(self, adjacency: Tensor) -> tuple[Tensor, Tensor]:
        """Returns user and item vectors as :meth:`LightGCN.forward` does: the means over the layers from 1."""
        _, *layers = linear_layers(adjacency, self.embedding.weight, self.n_layers)
        users, items = mean_of_layers(layers).tensor_split([self.n_users])
        return users, items

    def folding(self, graph: BipartiteGraph) -> Tensor:
        """Returns what each item of a history adds to a person's vector, [n_items, width].

        A user's mean over the layers from 1 is the sum of the user's items in their mean over the layers before the
        last, each divided by the square roots of both degrees. Up to its length, the sum of these rows over a history
        is therefore the vector of whoever has the history.
        """
        layers = linear_layers(graph.adjacency(), self.embedding.weight, self.n_layers)
        degree = torch.bincount(graph.item, minlength=graph.n_items).clamp(min=1)
        return mean_of_layers(layers[:-1])[self.n_users :] * degree.rsqrt()[:, None]


@GRAPH_ENCODERS.register("NGCF")
class NGCF(nn.Module):
    """NGCF (Wang et al., SIGIR 2019): non-linear propagation, with the outputs of all layers concatenated."""

    def __init__(
        self, n_users: int, n_items: int, embedding_size: int, n_layers: int, message_dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.n_users = n_users
        self.width = embedding_size * (n_layers + 1)
        self.embedding = _node_embedding(n_users, n_items, embedding_size)
        self.neighbours = nn.ModuleList(nn.Linear(embedding_size, embedding_size) for _ in range(n_layers))
        self.interactions = nn.ModuleList(nn.Linear(embedding_size, embedding_size) for _ in range(n_layers))
        self.dropout = nn.Dropout(message_dropout)
        for linear in (*self.neighbours, *self.interactions):
            nn.init.xavier_normal_(linear.weight)
            nn.init.zeros_(linear.bias)

    @classmethod
    def from_config(cls, config: Config, n_users: int, n_items: int) -> Self:
        """Makes the encoder of the settings ``embedding_size``, ``n_layers`` and ``message_dropout``."""
        return cls(n_users, n_items, config["embedding_size"], config["n_layers"], config["message_dropout"])

    def forward(self, adjacency: Tensor) -> tuple[Tensor, Tensor]:
        """Returns user vectors [n_users, width] and item vectors [n_items, width].

        Args:
            adjacency: [n_nodes, n_nodes] normalised, sparse CSR.
        """
        layer = self.embedding.weight
        layers = [layer]
        for neighbour, interaction in zip(self.neighbours, self.interactions, strict=True):
            side = propagate(adjacency, layer)
            message = neighbour(side + layer) + interaction(side * layer)
            layer = F.normalize(self.dropout(F.leaky_relu(message, 0.2)), dim=1)
            layers.append(layer)
        users, items = torch.cat(layers, dim=1).tensor_split([self.n_users])
        return users, items


def _node_embedding(n_users: int, n_items: int, size: int) -> nn.Embedding:
    """Makes one table for all nodes; the users' part and the items' part are each initialised as Xavier-uniform."""
    embedding = nn.Embedding(n_users + n_items, size)
    for part in embedding.weight.data.tensor_split([n_users]):
        nn.init.xavier_uniform_(part)
    return embedding


def _check_ids(kind: str, ids: Tensor, n: int) -> None:
    low, high = map(int, ids.aminmax()) if len(ids) else (0, 0)
    if low < 0 or high >= n:
        raise ValueError(f"{kind} ids of the training interactions run from {low} to {high}, outside 0 to {n - 1}")
