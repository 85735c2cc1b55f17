"""Mean vectors of groups: of the reviews of each user, or of each item."""

import torch
import torch.nn.functional as F
from torch import Tensor


def mean_by_group(vectors: Tensor, group: Tensor, n_groups: int) -> Tensor:
    """Returns the mean vector of each group; a group without members gets the mean of the other groups' vectors.

    Args:
        vectors: [n, hidden], n > 0.
        group: [n] long, from 0 to n_groups - 1.

    Returns:
        [n_groups, hidden]
    """
    means = mean_of_members(vectors, group, n_groups)
    empty = torch.bincount(group, minlength=n_groups) == 0
    means[empty] = means[~empty].mean(0)
    return means


def mean_of_members(vectors: Tensor, group: Tensor, n_groups: int) -> Tensor:
    """Returns the mean vector of each group, [n_groups, hidden]; zeros for a group without members.

    Args:
        vectors: [n, hidden].
        group: [n] long, from 0 to n_groups - 1.
    """
    sums, size = _sums(vectors, group, n_groups)
    return sums / size.clamp(min=1)


def profiles_by_group(vectors: Tensor, group: Tensor, n_groups: int) -> Tensor:
    """Returns the direction from the mean over all vectors to the mean of each group.

    Args:
        vectors: [n, hidden], n > 0.
        group: [n] long, from 0 to n_groups - 1.

    Returns:
        [n_groups, hidden]; rows have unit length, and the row of a group without members is zero.
    """
    sums, size = _sums(vectors, group, n_groups)
    return F.normalize(sums - size * vectors.mean(0), dim=1)


def _sums(vectors: Tensor, group: Tensor, n_groups: int) -> tuple[Tensor, Tensor]:
    """Returns the sum of each group's vectors [n_groups, hidden], and how many vectors it has [n_groups, 1]."""
    size = torch.bincount(group, minlength=n_groups)[:, None]
    return vectors.new_zeros(n_groups, vectors.shape[1]).index_add_(0, group, vectors), size
