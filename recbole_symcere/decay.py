"""How much an interaction counts by its age: half after each half-life."""

from __future__ import annotations

import torch
from torch import Tensor

DAY = 86_400.0  # seconds


def faded(owner: Tensor, moment: Tensor, n_owners: int, half_life: float) -> Tensor:
    """Returns how much each interaction of a history counts, float32 [n]: the owner's last one 1, and older ones less.

    From a later moment all weights of an owner would be smaller by the same factor, which changes no ranking.

    Args:
        owner: [n] long.
        moment: [n] float64, in seconds.
        half_life: the days after which an interaction counts half.
    """
    last = moment.new_full((n_owners,), -torch.inf).scatter_reduce(0, owner, moment, "amax")
    return torch.exp2((moment - last[owner]) / (half_life * DAY)).float()


def decayed_counts(items: Tensor, times: Tensor, half_life: float, n_items: int, now: Tensor) -> Tensor:
    """Returns how often each item was met up to some moments, where an interaction counts the less the older it is.

    An interaction of the age a at a moment counts 2^(-a / half_life). The moments are swept together: the interactions
    between two moments are summed first, and then each moment gets the sums of all moments before it, in as many steps
    as their number has digits in binary. Every factor is at most 1, so that no half-life overflows.

    Args:
        items, times: [n] of the interactions; times are float64, in seconds.
        half_life: in days.
        now: [n_moments] float64, the moments, ascending.

    Returns:
        [n_moments, n_items] float64
    """
    # The first moment that is not before the interaction; what is later than all moments goes to a last row.
    first = torch.searchsorted(now, times)
    weight = torch.exp2((times - now[first.clamp(max=len(now) - 1)]) / (half_life * DAY))
    size = (len(now) + 1) * n_items
    sums = weight.new_zeros(size).index_add_(0, first * n_items + items, weight).view(-1, n_items)[:-1]
    step = 1
    while step < len(now):
        passed = torch.exp2((now[:-step] - now[step:]) / (half_life * DAY))
        sums[step:] += passed[:, None] * sums[:-step]
        step *= 2
    return sums
