"""Benchmarks the propagation on the graph, and making a view of it with dropped edges."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import scipy.sparse as sp
import torch
from recbole.model.general_recommender.sgl import SGL
from torch import Tensor

from benchmarks.measure import DEVICE, Options, Row, alternate, memory_floor, with_threads
from recbole_symcere.model.graph import BipartiteGraph, propagate

WIDTH, LAYERS = 64, 3


def random_interactions(n: int, seed: int = 0) -> tuple[Tensor, Tensor, int, int]:
    """Draws ``n`` pairs of a user and an item, about seven for each user; the popularity of items is skewed.

    Returns:
        The users and the items of the pairs, and the numbers of users and of items.
    """
    rng = np.random.default_rng(seed)
    n_users, n_items = max(n // 7, 2), max(n // 12, 2)
    users = rng.integers(1, n_users, n)
    items = 1 + (rng.pareto(1.2, n) * n_items / 50).astype(np.int64) % (n_items - 1)
    return torch.from_numpy(users), torch.from_numpy(items), n_users, n_items


def propagation(options: Options) -> Iterator[Row]:
    """Measures the propagation over three layers, forward and backward."""
    for n, target in ((1_000, 4.0),) if options.small else ((10_000, 4.0), (1_000_000, 2.0)):
        users, items, n_users, n_items = random_interactions(n)
        graph = BipartiteGraph(users, items, n_users, n_items).to(DEVICE)
        csr, coo = graph.adjacency(), graph.adjacency().to_sparse_coo().coalesce()
        x = torch.randn(graph.n_nodes, WIDTH, device=DEVICE, requires_grad=True)

        def run(multiply, adjacency, x=x):  # type: ignore[no-untyped-def]
            layer = total = x
            for _ in range(LAYERS):
                layer = multiply(adjacency, layer)
                total = total + layer
            return torch.autograd.grad(total.sum(), x)

        torch.testing.assert_close(run(propagate, csr), run(torch.sparse.mm, coo))
        # each product reads an index, a value and a vector for each entry, and writes a vector for each node
        moved = 2 * LAYERS * (2 * graph.n_edges * (12 + 4 * WIDTH) + 4 * WIDTH * graph.n_nodes)
        for threads in with_threads():
            ours, theirs = alternate(lambda: run(propagate, csr), lambda: run(torch.sparse.mm, coo))  # noqa: B023
            case = f"{graph.n_edges:,} edges, {threads}"
            yield Row("propagation", case, "torch.sparse.mm on COO", ours, theirs, target, memory_floor(moved))


def dropped_view(options: Options) -> Iterator[Row]:
    """Measures making a view without 10% of the edges, which includes counting the degrees anew."""
    for n in (1_000,) if options.small else (10_000, 1_000_000):
        users, items, n_users, n_items = random_interactions(n)
        graph = BipartiteGraph(users, items, n_users, n_items).to(DEVICE)
        keys = torch.unique(users * n_items + items)
        pairs = SimpleNamespace(
            n_users=n_users, n_items=n_items, _user=(keys // n_items).numpy(), _item=(keys % n_items).numpy(),
            type="ED", drop_ratio=0.1, device=DEVICE, embed_dim=WIDTH,
        )  # fmt: skip
        pairs.train_graph = sp.coo_matrix((np.ones(len(keys)), (pairs._user, pairs._item)), (n_users, n_items))
        for name in ("rand_sample", "create_adjust_matrix", "csr2tensor"):
            setattr(pairs, name, getattr(SGL, name).__get__(pairs))

        def theirs(pairs=pairs):  # type: ignore[no-untyped-def]
            return pairs.csr2tensor(pairs.create_adjust_matrix(is_sub=True))

        for threads in with_threads():
            ours_ms, theirs_ms = alternate(lambda: graph.dropped_adjacency(0.1), theirs)  # noqa: B023
            case = f"{graph.n_edges:,} edges, {threads}"
            yield Row("dropped-view", case, "RecBole SGL's rebuild", ours_ms, theirs_ms, 10.0)
