"""The main directions of text vectors, and vectors whose main directions all count alike."""

import torch
from torch import Tensor

RIDGE = 0.05
WITHIN_RIDGE = 0.2


def whiten(x: Tensor, ridge: float = RIDGE) -> Tensor:
    """Returns centred rows with equal variance in all main directions but the weakest, which fade out.

    A direction of the singular value s is divided by s + ``ridge`` times the largest singular value. So a large ridge
    leaves the rows as they are but for their mean and their scale.

    Args:
        x: [n, hidden].
        ridge: above 0.

    Returns:
        [n, hidden]
    """
    x = x - x.mean(0)
    return x @ whitening(x, ridge)


def whitening(x: Tensor, ridge: float = RIDGE) -> Tensor:
    """Returns the map [hidden, hidden] that :func:`whiten` applies to centred rows [n, hidden]."""
    directions, singular = main_directions(x)
    return directions * (len(x) ** 0.5 / (singular + ridge * singular[0]).clamp(min=1e-6))


def within_groups(differences: Tensor, ridge: float = WITHIN_RIDGE) -> Tensor:
    """Returns the map [hidden, hidden] after which members of one group differ alike in all directions.

    This is within-class covariance normalisation (Hatch et al., Interspeech 2006): directions count the less, the more
    the members of a group differ in them, and groups are compared by what is left.

    Args:
        differences: [n, hidden], the difference of each member from the mean of its group.
        ridge: added to each variance, as a share of the mean variance; above 0.
    """
    variances, directions = torch.linalg.eigh((differences.T @ differences).double() / len(differences))
    spread = variances.clamp(min=0) + ridge * variances.mean().clamp(min=1e-12)
    return (directions * spread.rsqrt()).to(differences.dtype)


def main_directions(x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the right singular vectors of x [n, hidden] as columns, strongest first, and the singular values."""
    squares, directions = torch.linalg.eigh((x.T @ x).double())
    return directions.flip(1).to(x.dtype), squares.flip(0).clamp(min=0).sqrt().to(x.dtype)
