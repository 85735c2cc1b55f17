"""The losses of the paper, as pure functions of tensors and of a mask.

The functions compute in float32 or better even where autocast is on: next to 16, bfloat16 numbers lie 0.125 apart, and
cosines over a temperature of 0.05 reach 20.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from recbole_symcere.model.cpu.linear import product
from recbole_symcere.model.registry import Registry

SCORES_PER_TILE = {"cpu": 2**19}  # 2 MiB of float32, about a core's own cache
GPU_SCORES_PER_TILE = 2**26

Contrast = Callable[[Tensor, Tensor, float, Tensor | None], Tensor]
CONTRASTS: Registry[Contrast] = Registry("contrast")
"""What the setting ``contrast`` can name: functions of anchors, candidates, a temperature and known pairs."""


@CONTRASTS.register("sincere")
def sincere(anchors: Tensor, candidates: Tensor, temperature: float, known: Tensor | None = None) -> Tensor:
    """Returns the single-positive SINCERE loss of one direction, eqs. (3) and (4).

    Each anchor i keeps its own pair in the denominator. Every other candidate j whose pair with the anchor's user is
    known leaves the denominator: it is neither attracted nor repelled. An anchor whose candidates are all known adds 0.

    Args:
        anchors: [A, d] vectors on the unit sphere.
        candidates: [B, d] vectors on the unit sphere, A <= B; candidate i is the positive of anchor i.
        temperature: tau, above 0.
        known: [A, B] bool, true at [i, j] if the user of anchor i has a training interaction with the item of
            candidate j. None: no pair but the anchor's own is known.

    Returns:
        The mean over the anchors, a scalar.
    """
    excluded = None
    if known is not None:
        excluded = known.clone()
        excluded.diagonal().fill_(False)
    return _nce(anchors, candidates, temperature, excluded)


@CONTRASTS.register("infonce")
def info_nce(anchors: Tensor, candidates: Tensor, temperature: float, known: Tensor | None = None) -> Tensor:
    """Returns the InfoNCE loss of one direction: every candidate but the anchor's own is a negative.

    This is eq. (6), and in the place of eq. (4) the ablation "InfoNCE" of Table 3.

    Args:
        anchors, candidates, temperature: as for :func:`sincere`.
        known: has no influence, since the loss makes no difference between known and unknown pairs.

    Returns:
        The mean over the anchors, a scalar.
    """
    return _nce(anchors, candidates, temperature, None)


def bpr(positive: Tensor, negative: Tensor) -> Tensor:
    """Returns the Bayesian personalised ranking loss, eq. (7), as the mean over the batch.

    Args:
        positive: [B] scores of the observed items.
        negative: [B] scores of the sampled items.

    Returns:
        A scalar.
    """
    return -F.logsigmoid(_full_precision(positive) - _full_precision(negative)).mean()


def sampled_softmax(positive: Tensor, negatives: Tensor, temperature: float, excluded: Tensor | None = None) -> Tensor:
    """Returns the cross-entropy of each observed item among itself and sampled items; AlphaRec's InfoNCE.

    Args:
        positive: [B] scores of the observed items.
        negatives: [B, n] scores of the sampled items.
        temperature: tau, above 0.
        excluded: [B, n] bool, true for a sampled item that is left out. None: every one counts.

    Returns:
        The mean over the batch, a scalar.
    """
    positive, negatives = (_full_precision(scores) / temperature for scores in (positive, negatives))
    if excluded is not None:
        negatives = negatives.masked_fill(excluded, -torch.inf)
    return (torch.cat([positive[:, None], negatives], 1).logsumexp(1) - positive).mean()


def _nce(anchors: Tensor, candidates: Tensor, temperature: float, excluded: Tensor | None) -> Tensor:
    """The mean over anchors i of the cross-entropy of candidate i among all candidates not in excluded[i]."""
    with torch.autocast(candidates.device.type, enabled=False):
        return _TiledNCE.apply(_full_precision(anchors), _full_precision(candidates), excluded, temperature)


class _TiledNCE(torch.autograd.Function):
    """Computes loss and gradients at once, one tile of anchors at a time, so that a tile stays in the cache.

    No [A, B] table of floats exists.
    """

    @staticmethod
    def forward(ctx: Any, anchors: Tensor, others: Tensor, excluded: Tensor | None, temperature: float) -> Tensor:
        n_anchors, size = len(anchors), len(others)
        rows = max(1, SCORES_PER_TILE.get(anchors.device.type, GPU_SCORES_PER_TILE) // size)
        scaled, columns = others / temperature, others.T.contiguous()
        losses = anchors.new_empty(n_anchors)
        anchors_grad = torch.empty_like(anchors)
        others_grad = torch.zeros_like(columns)  # transposed, because the products are faster so
        penalty = anchors.new_empty(min(rows, n_anchors), size)
        for start in range(0, n_anchors, rows):
            part = slice(start, start + rows)
            scores = product(anchors[part], scaled)
            if excluded is not None:  # a sum is five to ten times as fast as filling by a mask
                hidden = penalty[: len(scores)].copy_(excluded[part].view(torch.uint8))
                scores.add_(hidden, alpha=torch.finfo(scores.dtype).min)
            own, largest = scores.diagonal(start).clone(), scores.amax(1)
            probabilities = torch.softmax(scores, 1, out=scores)
            losses[part] = largest - own - probabilities.amax(1).log()  # log-sum-exp: the largest is exp(0) / sum
            probabilities.diagonal(start).sub_(1)  # now the gradient with respect to the scores
            anchors_grad[part] = product(probabilities, columns)
            others_grad += product(anchors[part].T, probabilities.T)
        scale = 1 / (n_anchors * temperature)
        ctx.save_for_backward(anchors_grad.mul_(scale), others_grad.T.mul(scale))
        return losses.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        anchors_grad, others_grad = ctx.saved_tensors
        return grad * anchors_grad, grad * others_grad, None, None


def _full_precision(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
