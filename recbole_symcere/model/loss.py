"""The losses of the paper, as pure functions of tensors and of a mask.

The functions compute in float32 or better even where autocast is on: next to 16, bfloat16 numbers lie 0.125 apart, and
cosines over a temperature of 0.05 reach 20.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from recbole_symcere.model.cpu.linear import product
from recbole_symcere.model.parts import Registry

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


def unmet_softmax(
    users: Tensor, items: Tensor, owner: Tensor, item: Tensor, known: Callable[[slice], Tensor]
) -> Tensor:
    """Returns the cross-entropy of each observed item among itself and the items that its user has not met.

    This is eq. (3) applied to the ranking: an item that the user is known to have met is no negative. An observed item
    whose user has met all items adds 0. No table of all users and items exists.

    Args:
        users: [U, d] vectors.
        items: [N, d] vectors.
        owner, item: [B] long, the rows of ``users`` and of ``items`` of each observed interaction.
        known: returns for some rows of ``users`` which items they have met, bool [rows, N].

    Returns:
        The mean over the batch, a scalar.
    """
    with torch.autocast(users.device.type, enabled=False):
        return _TiledUnmetSoftmax.apply(_full_precision(users), _full_precision(items), owner, item, None, known, None)


def drawn_unmet_softmax(
    positive: Tensor,
    users: Tensor,
    drawn: Tensor,
    owner: Tensor,
    known: Callable[[slice], Tensor],
    log_weight: Tensor,
) -> Tensor:
    """Returns what :func:`unmet_softmax` does, in expectation, with items that were drawn in the place of all.

    Args:
        positive: [B] scores of the observed items, which need not have been drawn.
        users: [U, d] vectors.
        drawn: [n, d] vectors of items.
        owner: [B] long, the row of ``users`` of each observed interaction.
        known: returns for some rows of ``users`` which drawn items they have met, bool [rows, n].
        log_weight: [n], the log of how often each drawn item counts. With -log(n q_j) for item j, drawn n times with
            probability q_j, the denominators are those of all items in expectation (Bengio and Senecal, "Quick Training
            of Probabilistic Neural Nets by Importance Sampling", AISTATS 2003).

    Returns:
        The mean over the batch, a scalar.
    """
    with torch.autocast(users.device.type, enabled=False):
        return _TiledUnmetSoftmax.apply(
            _full_precision(users), _full_precision(drawn), owner, None, _full_precision(positive), known, log_weight
        )


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
        rows = _rows_per_tile(anchors, size)
        scaled, columns = others / temperature, others.T.contiguous()
        losses = anchors.new_empty(n_anchors)
        anchors_grad = torch.empty_like(anchors)
        others_grad = torch.zeros_like(columns)  # transposed, because the products are faster so
        penalty = anchors.new_empty(min(rows, n_anchors), size)
        for part in _tiles(n_anchors, rows):
            scores = product(anchors[part], scaled)
            if excluded is not None:  # a sum is five to ten times as fast as filling by a mask
                hidden = penalty[: len(scores)].copy_(excluded[part].view(torch.uint8))
                scores.add_(hidden, alpha=torch.finfo(scores.dtype).min)
            own = scores.diagonal(part.start).clone()
            probabilities, log_sum = _softmax(scores)
            losses[part] = log_sum - own
            probabilities.diagonal(part.start).sub_(1)  # now the gradient with respect to the scores
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


class _TiledUnmetSoftmax(torch.autograd.Function):
    """Computes loss and gradients at once, one tile of users at a time, so that a tile stays in the cache."""

    @staticmethod
    def forward(
        ctx: Any,
        users: Tensor,
        candidates: Tensor,
        owner: Tensor,
        item: Tensor | None,
        positive: Tensor | None,
        known: Callable,
        log_weight: Tensor | None,
    ) -> Tensor:
        shortfall = users.new_empty(len(owner))  # how far each observed item is below the sum of the others
        users_grad, columns = torch.empty_like(users), candidates.T.contiguous()
        candidates_grad = torch.zeros_like(columns)  # transposed, because the products are faster so
        for part, observed in _tiles_with(owner, len(users), _rows_per_tile(users, len(candidates))):
            scores = product(users[part], candidates, log_weight)
            row = owner[observed] - part.start
            place = None if item is None else row * len(candidates) + item[observed]
            own = scores.view(-1)[place] if positive is None else positive[observed]
            scores.add_(known(part).to(scores.dtype), alpha=torch.finfo(scores.dtype).min / 2)  # as good as -inf
            probabilities, log_sum = _softmax(scores)
            shortfall[observed] = of_tile = log_sum[row] - own
            push = torch.sigmoid(of_tile)  # how much an observed item still has to rise, and the others to fall
            gradient = probabilities.mul_(push.new_zeros(len(scores)).index_add_(0, row, push)[:, None])
            if place is not None:
                gradient.view(-1).index_add_(0, place, push, alpha=-1)
            users_grad[part] = product(gradient, columns)
            candidates_grad += product(users[part].T, gradient.T)
        scale = 1 / len(owner)
        positive_grad = None if positive is None else -scale * torch.sigmoid(shortfall)
        ctx.save_for_backward(users_grad.mul_(scale), candidates_grad.T.mul(scale), positive_grad)
        return -F.logsigmoid(-shortfall).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        of_users, of_candidates, of_positive = (None if of is None else grad * of for of in ctx.saved_tensors)
        return of_users, of_candidates, None, None, of_positive, None, None


def _softmax(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the softmax of each row, which overwrites the scores, and the log of each row's sum of exponentials."""
    largest = scores.amax(1)
    probabilities = torch.softmax(scores, 1, out=scores)
    return probabilities, largest - probabilities.amax(1).log()  # the largest probability is exp(0) / sum


def _rows_per_tile(rows: Tensor, n_columns: int) -> int:
    return max(1, SCORES_PER_TILE.get(rows.device.type, GPU_SCORES_PER_TILE) // max(1, n_columns))


def _tiles(n_rows: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, n_rows, size))


def _tiles_with(owner: Tensor, n_rows: int, size: int) -> Iterator[tuple[slice, slice | Tensor]]:
    """Yields tiles of rows, and with each tile the places in ``owner`` [B] of its rows."""
    tiles = list(_tiles(n_rows, size))
    if len(tiles) == 1:
        yield tiles[0], slice(None)
        return
    ordered, order = owner.sort()
    starts = torch.arange(size, n_rows, size, device=owner.device)
    # Here, and only where there are several tiles, the host waits for a GPU.
    yield from zip(tiles, order.tensor_split(torch.searchsorted(ordered, starts).cpu()), strict=True)


def _full_precision(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
