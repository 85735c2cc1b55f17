"""The losses of the paper, as pure functions of tensors.

They compute in float32 or better even where autocast is on: next to 16, bfloat16 numbers lie 0.125 apart, and
cosines over a temperature of 0.05 reach 20.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from recbole_symcere.model.linear import product

SCORES_PER_TILE = {"cpu": 2**19}  # 2 MiB of float32, about a core's own cache
GPU_SCORES_PER_TILE = 2**26


ALL = slice(None)


def symmetric_nce(
    graph: Tensor, text: Tensor, known: Tensor | None, temperature: float, anchors: slice = ALL
) -> Tensor:
    """Symmetric NCE loss, eqs. (3) to (5): single-positive SINCERE in both directions.

    Each anchor i keeps its own pair in the denominator; every other sample j whose pair (u_i, v_j) is known leaves
    it, neither attracted nor repelled. The text-to-graph direction reads the same row i of the mask, since eq. (3)
    is indexed by the anchor: the similarities are transposed, the mask is not. An anchor whose batch is all known
    adds 0.

    Args:
        graph: [B, d] graph vectors of the batch's interactions, on the unit sphere.
        text: [B, d] vectors of their reviews, on the unit sphere.
        known: [A, B] bool, a row for each anchor; ``known[i, j]`` is true when (u_i, v_j) is a training interaction.
            ``None`` keeps every pair: the symmetric InfoNCE of Table 3.
        temperature: tau, above 0.
        anchors: consecutive samples, A of the B, whose terms are averaged; the denominators are over all B.

    Returns:
        The scalar of eq. (5).
    """
    excluded = None
    if known is not None:
        excluded = known.clone()
        excluded.diagonal(anchors.start or 0).fill_(False)
    graph_to_text = _nce(graph, text, excluded, temperature, anchors)
    text_to_graph = _nce(text, graph, excluded, temperature, anchors)
    return (graph_to_text + text_to_graph) / 2


def info_nce(view: Tensor, other_view: Tensor, temperature: float, anchors: slice = ALL) -> Tensor:
    """InfoNCE between two views of the same samples, eq. (6); every other sample of the batch is a negative.

    Args:
        view: [B, d] anchors, on the unit sphere.
        other_view: [B, d]; row i is the positive of anchor i.
        temperature: tau, above 0.
        anchors: as for :func:`symmetric_nce`.

    Returns:
        The mean over the anchors, a scalar.
    """
    return _nce(view, other_view, None, temperature, anchors)


def bpr(positive: Tensor, negative: Tensor) -> Tensor:
    """Bayesian personalised ranking loss, eq. (7), as the mean over the batch.

    Args:
        positive: [B] scores of the observed items.
        negative: [B] scores of the sampled items.

    Returns:
        A scalar.
    """
    return -F.logsigmoid(_full_precision(positive) - _full_precision(negative)).mean()


def _nce(samples: Tensor, others: Tensor, excluded: Tensor | None, temperature: float, anchors: slice) -> Tensor:
    """Eq. (4), one direction: the mean over anchors i of the cross-entropy of sample i among all not excluded[i]."""
    with torch.autocast(others.device.type, enabled=False):
        own = _full_precision(samples[anchors]), anchors.start or 0
        return _TiledNCE.apply(*own, _full_precision(others), excluded, temperature)


class _TiledNCE(torch.autograd.Function):
    """A tile of anchors at a time, loss and gradients at once: no [B, B] floats exist, and a tile stays in cache."""

    @staticmethod
    def forward(
        ctx: Any, anchors: Tensor, first: int, others: Tensor, excluded: Tensor | None, temperature: float
    ) -> Tensor:
        n_anchors, size = len(anchors), len(others)
        rows = max(1, SCORES_PER_TILE.get(anchors.device.type, GPU_SCORES_PER_TILE) // size)
        scaled, columns = others / temperature, others.T.contiguous()
        losses = anchors.new_empty(n_anchors)
        anchors_grad = torch.empty_like(anchors)
        others_grad = torch.zeros_like(columns)  # transposed, as the products are faster so
        penalty = anchors.new_empty(min(rows, n_anchors), size)
        for start in range(0, n_anchors, rows):
            part = slice(start, start + rows)
            scores = product(anchors[part], scaled)
            if excluded is not None:  # a sum, since to fill by a mask takes five to ten times as long
                hidden = penalty[: len(scores)].copy_(excluded[part].view(torch.uint8))
                scores.add_(hidden, alpha=torch.finfo(scores.dtype).min)
            own, largest = scores.diagonal(first + start).clone(), scores.amax(1)
            probabilities = torch.softmax(scores, 1, out=scores)
            losses[part] = largest - own - probabilities.amax(1).log()  # log-sum-exp: the largest is exp(0) / sum
            probabilities.diagonal(first + start).sub_(1)  # now the gradient with respect to the scores
            anchors_grad[part] = product(probabilities, columns)
            others_grad += product(anchors[part].T, probabilities.T)
        scale = 1 / (n_anchors * temperature)
        ctx.save_for_backward(anchors_grad.mul_(scale), others_grad.T.mul(scale))
        return losses.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, None, None]:
        anchors_grad, others_grad = ctx.saved_tensors
        return grad * anchors_grad, None, grad * others_grad, None, None


def _full_precision(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
