"""The losses of the paper, as pure functions of tensors."""

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
    similarity = graph @ text.T / temperature
    own = similarity.diagonal()
    if known is None:
        from_graph, from_text = similarity, similarity
    else:
        excluded = known.clone().fill_diagonal_(False)
        from_graph = similarity.masked_fill(excluded, -torch.inf)
        from_text = similarity.masked_fill(excluded.T, -torch.inf)
    graph_to_text = torch.logsumexp(from_graph, dim=1) - own
    text_to_graph = torch.logsumexp(from_text, dim=0) - own
    return (graph_to_text + text_to_graph).mean() / 2


def info_nce(view: Tensor, other_view: Tensor, temperature: float) -> Tensor:
    """InfoNCE between two views of the same samples, eq. (6); every other sample of the batch is a negative.

    Args:
        view: [B, d] anchors, on the unit sphere.
        other_view: [B, d]; row i is the positive of anchor i.
        temperature: tau, above 0.

    Returns:
        The mean over the batch, a scalar.
    """
    similarity = view @ other_view.T / temperature
    return (torch.logsumexp(similarity, dim=1) - similarity.diagonal()).mean()


def bpr(positive: Tensor, negative: Tensor) -> Tensor:
    """Bayesian personalised ranking loss, eq. (7), as the mean over the batch.

    Args:
        positive: [B] scores of the observed items.
        negative: [B] scores of the sampled items.

    Returns:
        A scalar.
    """
    return F.softplus(negative - positive).mean()
