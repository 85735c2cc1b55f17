"""Benchmarks the symmetric NCE, and the softmax over all items."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.graph import random_interactions
from benchmarks.measure import DEVICE, Options, Row, alternate, gemm_floor, memory_floor, with_threads
from recbole_symcere.model.graph import BipartiteGraph
from recbole_symcere.model.loss import sincere, unmet_softmax

WIDTH, TAU = 64, 0.1
SIZES = ((1_387, 783, 40_000), (20_000, 10_000, 400_000))  # users, items, interactions


def nce(options: Options) -> Iterator[Row]:
    """Measures the loss of a batch, forward and backward, including making the mask of known pairs."""
    batch = 128 if options.small else 2_048
    users, items, n_users, n_items = random_interactions(1_000 if options.small else 10_000)
    graph = BipartiteGraph(users, items, n_users, n_items).to(DEVICE)
    history: list[set[int]] = [set() for _ in range(n_users)]
    for user, item in zip(users.tolist(), items.tolist(), strict=True):
        history[user].add(item)
    u, v = users[:batch].to(DEVICE), items[:batch].to(DEVICE)
    own_users, own_items = users[:batch].tolist(), items[:batch].tolist()
    g = F.normalize(torch.randn(len(u), WIDTH, device=DEVICE), dim=1).requires_grad_()
    t = F.normalize(torch.randn(len(u), WIDTH, device=DEVICE), dim=1).requires_grad_()

    def ours() -> tuple[Tensor, ...]:
        known = graph.known_pairs(u, v)
        return torch.autograd.grad((sincere(g, t, TAU, known) + sincere(t, g, TAU, known)) / 2, (g, t))

    def theirs() -> tuple[Tensor, ...]:
        known = torch.tensor([[item in history[user] for item in own_items] for user in own_users]).to(DEVICE)
        mask = known & ~torch.eye(len(u), dtype=torch.bool, device=DEVICE)
        own = torch.arange(len(u), device=DEVICE)
        first = F.cross_entropy((g @ t.T / TAU).masked_fill(mask, -torch.inf), own)
        second = F.cross_entropy((t @ g.T / TAU).masked_fill(mask, -torch.inf), own)
        return torch.autograd.grad((first + second) / 2, (g, t))

    for one, other in zip(ours(), theirs(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    for threads in with_threads():
        # three products (similarities and two gradients), and four passes over the B x B matrix
        floor = gemm_floor(len(u), len(u), WIDTH) + 2 * gemm_floor(len(u), WIDTH, len(u))
        floor += memory_floor(4 * 4 * len(u) ** 2)
        ours_ms, theirs_ms = alternate(ours, theirs)
        case = f"B = {len(u):,}, d = {WIDTH}, {threads}"
        yield Row("nce", case, "two masked cross-entropies, mask from Python sets", ours_ms, theirs_ms, 5.0, floor)


def softmax(options: Options) -> Iterator[Row]:
    """Measures the softmax over all items that a user has not met, forward and backward, of all interactions at once.

    The peer makes the table of all scores in PyTorch, with a table of what is known that it is given.
    """
    for n_users, n_items, n in ((60, 40, 500),) if options.small else SIZES:
        pairs = torch.randperm(n_users * n_items, generator=torch.Generator().manual_seed(0))[:n].to(DEVICE)
        owner, item = pairs // n_items, pairs % n_items
        graph = BipartiteGraph(owner, item, n_users, n_items).to(DEVICE)
        u, v = ((torch.randn(size, WIDTH, device=DEVICE) / 4).requires_grad_() for size in (n_users, n_items))
        known = torch.zeros(n_users, n_items, dtype=torch.bool, device=DEVICE)
        known[owner, item] = True
        users, items = (torch.arange(size, device=DEVICE) for size in (n_users, n_items))
        ours = partial(_ours, graph, u, v, owner, item, users, items)
        theirs = partial(_theirs, u, v, owner, item, known)
        for one, other in zip(ours(), theirs(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)
        for threads in with_threads():
            # three products (scores and two gradients), and four passes over the table of scores
            floor = gemm_floor(n_users, n_items, WIDTH) + gemm_floor(n_users, WIDTH, n_items)
            floor += gemm_floor(n_items, WIDTH, n_users) + memory_floor(4 * 4 * n_users * n_items)
            ours_ms, theirs_ms = alternate(ours, theirs)
            case = f"{n_users:,} users x {n_items:,} items, {n:,} interactions, {threads}"
            yield Row("softmax", case, "a table of all scores in PyTorch", ours_ms, theirs_ms, floor=floor)


def _ours(
    graph: BipartiteGraph, u: Tensor, v: Tensor, owner: Tensor, item: Tensor, users: Tensor, items: Tensor
) -> tuple[Tensor, ...]:
    loss = unmet_softmax(u, v, owner, item, lambda part: graph.known_pairs(users[part], items))
    return torch.autograd.grad(loss, (u, v))


def _theirs(u: Tensor, v: Tensor, owner: Tensor, item: Tensor, known: Tensor) -> tuple[Tensor, ...]:
    scores = u @ v.T
    others = scores.masked_fill(known, -torch.inf).logsumexp(1)
    positive = scores[owner, item]
    return torch.autograd.grad((torch.logaddexp(positive, others[owner]) - positive).mean(), (u, v))
