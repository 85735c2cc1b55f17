"""The losses of the paper, as pure functions of tensors.

They compute in float32 or better even where autocast is on: next to 16, bfloat16 numbers lie 0.125 apart, and
cosines over a temperature of 0.05 reach 20.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def symmetric_nce(graph: Tensor, text: Tensor, known: Tensor | None, temperature: float) -> Tensor:
    """Symmetric NCE loss, eqs. (3) to (5): single-positive SINCERE in both directions.

    Each anchor i keeps its own pair in the denominator; every other sample j whose pair (u_i, v_j) is known leaves
    it, neither attracted nor repelled. The text-to-graph direction reads the same row i of the mask, since eq. (3)
    is indexed by the anchor: the similarities are transposed, the mask is not. An anchor whose batch is all known
    adds 0.

    Args:
        graph: [B, d] graph vectors of the batch's interactions, on the unit sphere.
        text: [B, d] vectors of their reviews, on the unit sphere.
        known: [B, B] bool; ``known[i, j]`` is true when (u_i, v_j) is a training interaction. ``None`` keeps every
            pair: the symmetric InfoNCE of Table 3.
        temperature: tau, above 0.

    Returns:
        The scalar of eq. (5).
    """
    similarity = _similarity(graph, text, temperature)  # row: graph anchor, column: text anchor
    from_graph = from_text = similarity
    if known is not None:
        excluded = known.clone().fill_diagonal_(False)
        from_graph = similarity.masked_fill(excluded, -torch.inf)
        # the copy pays: to mask through a transposed view takes three times as long
        from_text = similarity.masked_fill(excluded.T.contiguous(), -torch.inf)
    graph_to_text = from_graph.log_softmax(dim=1).diagonal()
    text_to_graph = from_text.log_softmax(dim=0).diagonal()
    return -(graph_to_text + text_to_graph).mean() / 2


def info_nce(view: Tensor, other_view: Tensor, temperature: float) -> Tensor:
    """InfoNCE between two views of the same samples, eq. (6); every other sample of the batch is a negative.

    Args:
        view: [B, d] anchors, on the unit sphere.
        other_view: [B, d]; row i is the positive of anchor i.
        temperature: tau, above 0.

    Returns:
        The mean over the batch, a scalar.
    """
    return -_similarity(view, other_view, temperature).log_softmax(dim=1).diagonal().mean()


def bpr(positive: Tensor, negative: Tensor) -> Tensor:
    """Bayesian personalised ranking loss, eq. (7), as the mean over the batch.

    Args:
        positive: [B] scores of the observed items.
        negative: [B] scores of the sampled items.

    Returns:
        A scalar.
    """
    return -F.logsigmoid(_full_precision(positive) - _full_precision(negative)).mean()


def _similarity(anchors: Tensor, others: Tensor, temperature: float) -> Tensor:
    """Dot products of all pairs over the temperature, [B, B]: row i is anchor i's."""
    with torch.autocast(anchors.device.type, enabled=False):
        return (_full_precision(anchors) / temperature) @ _full_precision(others).T


def _full_precision(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
