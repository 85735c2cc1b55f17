"""Item-based models whose weights come from steps on the graph of users and items: from an item to its users and on.

R is the matrix of training interactions [n_users, n_items]. The degree of a user is the sum of the user's row, and the
popularity of an item is the sum of the item's column.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from recbole_symcere.config import Config
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.model.baselines.history import moments, sparse_tensor
from recbole_symcere.model.baselines.item_based import ItemBased

NUMBERS_AT_ONCE = 2**22  # float64: 32 MiB


@dataclass(frozen=True)
class RP3betaSettings:
    """The settings of RP3beta, with their types."""

    alpha: float
    beta: float
    k: int


class RP3beta(ItemBased):
    """A random walk of three steps whose end is divided by a power of its popularity.

    The source is Paudel et al., "Updatable, Accurate, Diverse, and Scalable Recommendations for Interactive
    Applications" (TiiS 2017): p_ui = (R_ui / degree_u)^alpha, p_iu = (R_ui / popularity_i)^alpha, and the score of item
    j is (P_ui P_iu P_uj) / popularity_j^beta. The first step leads to each of the user's own items with the same
    probability, so it changes no ranking: the weights are those of the last two steps, from each item to the ``k``
    items with the largest weights, as in the evaluation by Ferrari Dacrema et al. (RecSys 2019).

    Args:
        config: see ``properties/model/RP3beta.yaml``.
        dataset: the interactions that train.
    """

    def item_weights(self, config: Config, dataset: ReviewDataset) -> Tensor:
        """Returns the weights of the walks from item to item, sparse, without those from an item to itself."""
        settings = config.view(RP3betaSettings)
        met = dataset.inter_matrix(form="csr").astype(np.float64)
        degree, popularity = _sums(met)
        to_items = (_scaled(_power(degree, -1), met)).power(settings.alpha)
        to_users = (_scaled(_power(popularity, -1), met.T.tocsr())).power(settings.alpha)
        to_ends = (to_items @ scipy.sparse.diags(_power(popularity, -settings.beta))).tocsr()
        n_items = len(popularity)
        size = max(1, NUMBERS_AT_ONCE // n_items)
        parts = [
            _largest(to_users[start : start + size] @ to_ends, start, settings.k) for start in range(0, n_items, size)
        ]
        return sparse_tensor(scipy.sparse.vstack(parts))


class TurboCF(ItemBased):
    """Polynomial low-pass graph filters over items.

    The source is Park et al., "Turbo-CF: Matrix Decomposition-Free Graph Filtering for Fast Recommendation" (SIGIR
    2024), with the coefficients of https://github.com/jindeok/Turbo-CF. R is divided by degree^alpha and
    popularity^(1 - alpha), and P is the product of its transpose and itself, each entry to the power ``power``. The
    weights are P (filter 1), 2 P - P^2 (2), or P + 0.01 (-P^3 + 10 P^2 - 29 P) (3).

    Args:
        config: see ``properties/model/TurboCF.yaml``.
        dataset: the interactions that train.
    """

    dense_tables = 6  # measured where every two items share a user: the product comes in double precision first

    def item_weights(self, config: Config, dataset: ReviewDataset) -> Tensor:
        """Returns the filter, dense."""
        met = dataset.inter_matrix(form="csr").astype(np.float32)
        degree, popularity = _sums(met)
        scaled = _scaled(_power(degree, -config["alpha"]), met)
        scaled = scaled @ scipy.sparse.diags(_power(popularity, config["alpha"] - 1))
        graph = torch.from_numpy((scaled.T @ scaled).toarray()).float().pow_(config["power"])
        if config["filter"] == 1:
            return graph
        square = graph @ graph
        if config["filter"] == 2:
            return 2 * graph - square
        return graph + 0.01 * (10 * square - square @ graph - 29 * graph)


@dataclass(frozen=True)
class DirectedRP3Settings:
    """The settings of DirectedRP3, with their types."""

    user_exponent: float
    source_exponent: float
    end_exponent: float


class DirectedRP3(ItemBased):
    """A walk from an item over its users to the items that these users met at the same time or later.

    W_ij is the sum over the users who met j at or after i of degree_u^-a, times popularity_i^-b popularity_j^-c. This
    is RP3beta with the order of each user's history, and without the neighbours' limit. This package's own.

    Args:
        config: see ``properties/model/DirectedRP3.yaml``.
        dataset: the interactions that train.

    Raises:
        DatasetError: the interactions have no times.
    """

    def item_weights(self, config: Config, dataset: ReviewDataset) -> Tensor:
        """Returns the weights W, sparse, without those from an item to itself."""
        settings = config.view(DirectedRP3Settings)
        return directed_walks(dataset, settings.user_exponent, settings.source_exponent, settings.end_exponent)


def directed_walks(dataset: ReviewDataset, user_exponent: float, source_exponent: float, end_exponent: float) -> Tensor:
    """Returns the weights of :class:`DirectedRP3`, sparse [n_items, n_items], without those from an item to itself.

    Raises:
        DatasetError: the interactions have no times.
    """
    user, item = (dataset.inter_feat[field].numpy() for field in (dataset.uid_field, dataset.iid_field))
    degree = np.bincount(user, minlength=dataset.num(dataset.uid_field))
    popularity = np.bincount(item, minlength=dataset.num(dataset.iid_field))
    weight = _power(degree, -user_exponent)[user]
    met = scipy.sparse.csr_matrix((len(popularity), len(popularity)))
    for source, end in _met_later(user, moments(dataset).numpy()):
        apart = item[source] != item[end]
        pairs = (item[source[apart]], item[end[apart]])
        met += scipy.sparse.coo_matrix((weight[source[apart]], pairs), met.shape).tocsr()
    met = _scaled(_power(popularity, -source_exponent), met)
    return sparse_tensor(met @ scipy.sparse.diags(_power(popularity, -end_exponent)))


def _met_later(user: np.ndarray, moment: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields, in parts, the rows of every two interactions of a user of which the second is not before the first."""
    order = np.lexsort((moment, user))
    user, moment = user[order], moment[order]
    new_user = np.diff(user, prepend=-1) != 0
    new_moment = new_user | (np.diff(moment, prepend=np.nan) != 0)
    row = np.arange(len(user))
    first = np.maximum.accumulate(np.where(new_moment, row, 0))  # of those at the same moment
    n_ends = np.searchsorted(user, user, side="right") - first
    part = n_ends.cumsum() // NUMBERS_AT_ONCE
    for rows in np.split(row, np.flatnonzero(np.diff(part)) + 1):
        counts = n_ends[rows]
        place = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
        yield order[np.repeat(rows, counts)], order[np.repeat(first[rows], counts) + place]


def _largest(rows: scipy.sparse.csr_matrix, first: int, k: int) -> scipy.sparse.csr_matrix:
    """Keeps the k largest weights of each row of items, the first of which is ``first``, without an item's own."""
    table = rows.toarray()
    table[np.arange(len(table)), first + np.arange(len(table))] = 0
    values, items = torch.from_numpy(table).topk(min(k, table.shape[1]))
    row = np.repeat(np.arange(len(table)), items.shape[1])
    kept = scipy.sparse.csr_matrix((values.flatten().numpy(), (row, items.flatten().numpy())), table.shape)
    kept.eliminate_zeros()
    return kept


def _sums(met: scipy.sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """The degrees of users and the popularity of items."""
    return np.asarray(met.sum(1)).ravel(), np.asarray(met.sum(0)).ravel()


def _power(sums: np.ndarray, exponent: float) -> np.ndarray:
    """The power of each sum; 0 for those without interactions."""
    return np.where(sums > 0, np.maximum(sums, 1).astype(np.float64) ** exponent, 0.0)


def _scaled(factors: np.ndarray, matrix: scipy.sparse.spmatrix) -> scipy.sparse.csr_matrix:
    """The matrix with each row times its factor."""
    return scipy.sparse.diags(factors) @ matrix
