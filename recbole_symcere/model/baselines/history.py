"""What the untrained baselines read of the training interactions: their moments, and the users' histories as a matrix.

All moments are seconds, as in the atomic files; half-lives are days.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from recbole_symcere import known
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.decay import faded
from recbole_symcere.errors import DatasetError


def moments(dataset: ReviewDataset) -> Tensor:
    """Returns the moment of each training interaction, float64 [n].

    Raises:
        DatasetError: the interactions have no times.
    """
    if dataset.time_field not in dataset.inter_feat:
        raise DatasetError(
            f"{dataset.dataset_name}: the interactions have no times, but the model needs them; name their column in "
            f"TIME_FIELD (now {dataset.time_field!r}) and add it to load_col"
        )
    times: Tensor = dataset.inter_feat[dataset.time_field]
    return times.double()


def last_moments(dataset: ReviewDataset) -> Tensor:
    """Returns the moment of each user's last training interaction, float64 [n_users].

    A user without training interactions gets the moment of the last training interaction of all users.

    Raises:
        DatasetError: the interactions have no times.
    """
    return known.last_moments(dataset.inter_feat[dataset.uid_field], moments(dataset), dataset.num(dataset.uid_field))


def history_matrix(dataset: ReviewDataset, half_life: float | None) -> Tensor:
    """Returns what each user met in training, float32 [n_users, n_items] sparse COO; repeated pairs add up.

    Args:
        dataset: the training interactions.
        half_life: the days after which an interaction counts half; see ``faded``. None: every interaction counts 1.

    Raises:
        DatasetError: ``half_life`` is given and the interactions have no times.
    """
    users, items = dataset.inter_feat[dataset.uid_field], dataset.inter_feat[dataset.iid_field]
    times = None if half_life is None else moments(dataset)
    size = (dataset.num(dataset.uid_field), dataset.num(dataset.iid_field))
    return histories(users, items, times, size, half_life)


def histories(
    owner: Tensor, item: Tensor, moment: Tensor | None, size: tuple[int, int], half_life: float | None
) -> Tensor:
    """Returns what each owner met, float32 [n_owners, n_items] sparse COO; repeated pairs add up.

    Args:
        owner, item: [n] long.
        moment: [n] float64, in seconds; read if there is a ``half_life``.
        size: the numbers of owners and items.
        half_life: as for :func:`history_matrix`.
    """
    weights = torch.ones(len(owner), device=owner.device)
    if half_life is not None:
        assert moment is not None
        weights = faded(owner, moment, size[0], half_life)
    return torch.sparse_coo_tensor(torch.stack([owner, item]), weights, size, check_invariants=False).coalesce()


def sparse_tensor(matrix: scipy.sparse.spmatrix) -> Tensor:
    """Returns a SciPy matrix as a sparse COO tensor, float32."""
    parts = matrix.tocoo()
    places = torch.from_numpy(np.stack([parts.row, parts.col]).astype(np.int64))
    values = torch.from_numpy(parts.data.astype(np.float32))
    return torch.sparse_coo_tensor(places, values, parts.shape, check_invariants=False).coalesce()
