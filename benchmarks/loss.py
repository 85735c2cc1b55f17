"""Benchmarks the symmetric NCE."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.graph import random_interactions
from benchmarks.measure import DEVICE, Options, Row, alternate, gemm_floor, memory_floor, with_threads
from recbole_symcere.model.graph import BipartiteGraph
from recbole_symcere.model.loss import sincere

WIDTH, TAU = 64, 0.1


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
