"""Item-based models without training steps: a user's history times weights between items that have a closed form.

The models differ only in the weights. The history is the same for all: what the user met in training, which the setting
``history_decay`` weights by age. A class of this module says how the weights come about, or which class of RecBole
computes them.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np
import psutil
import torch
from recbole.model.general_recommender.ease import EASE as RecBoleEASE
from recbole.model.general_recommender.itemknn import ComputeSimilarity
from torch import Tensor

from recbole_symcere.config import Config
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.errors import DatasetError
from recbole_symcere.model.baselines.history import histories, history_matrix, sparse_tensor
from recbole_symcere.model.baselines.untrained import UserScorer
from recbole_symcere.sparse import dense


class ItemBased(UserScorer):
    """The base of item-based models: the scores of a user are the user's history times the item weights.

    The history and, for most models, the weights come from the training interactions alone, and quickly. A checkpoint
    therefore does not hold them; whoever loads it computes them again.

    Args:
        weights: what ``item_weights`` returned for a model that is loaded; None makes the model compute them.

    Attributes:
        dense_tables: how many tables of all pairs of items, in float32, are in memory at once at most while the weights
            are computed; 0 if the weights stay sparse.
        keeps_weights: whether a checkpoint holds the weights.

    Raises:
        DatasetError: the tables do not fit into the free memory, or ``history_decay`` is given and the interactions
            have no times.
    """

    folds_in = True
    dense_tables: ClassVar[int] = 0
    keeps_weights: ClassVar[bool] = False
    history: Tensor
    weights: Tensor

    def __init__(self, config: Config, dataset: ReviewDataset, weights: Tensor | None = None) -> None:
        if weights is None:
            check_memory(type(self).__name__, dataset.num(dataset.iid_field), self.dense_tables)
        history = history_matrix(dataset, config["history_decay"])
        super().__init__(config, dataset)
        self.half_life: float | None = config["history_decay"]
        self.register_buffer("history", history, persistent=False)
        weights = self.item_weights(config, dataset) if weights is None else weights
        self.register_buffer("weights", weights, persistent=self.keeps_weights)

    @abstractmethod
    def item_weights(self, config: Config, dataset: ReviewDataset) -> Tensor:
        """Returns the weight of each item of a history for each item to rank, float32 [n_items, n_items].

        The matrix is dense or sparse COO.
        """

    def scores(self, users: Tensor) -> Tensor:
        """Returns the scores of all items for the given users, [B, n_items]."""
        return dense(torch.sparse.mm(self._histories(users), self.weights))

    def _histories(self, users: Tensor) -> Tensor:
        if self.asked is None:
            return self.history.index_select(0, users)
        owner, met = self.asked.histories(users)
        size = (len(users), self.n_items)
        return histories(owner, self.asked.item[met], self.asked.moment[met], size, self.half_life)


def check_memory(model: str, n_items: int, n_tables: int) -> None:
    """Checks that tables of all pairs of items fit into the free memory.

    Args:
        n_tables: how many tables, in float32.

    Raises:
        DatasetError: they do not.
    """
    needed, free = n_tables * n_items**2 * 4, psutil.virtual_memory().available
    if needed > free:
        raise DatasetError(
            f"{model} needs {needed / 2**30:,.1f} GiB for {n_tables} tables of all pairs of {n_items:,} items, but "
            f"{free / 2**30:,.1f} GiB are free; keep fewer items with item_inter_num_interval, or use a model with "
            "sparse weights, such as ItemKNN or RP3beta"
        )


class EASE(ItemBased, RecBoleEASE):
    """EASE with RecBole's own weights (Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019).

    Args:
        config: see ``properties/model/EASE.yaml``.
        dataset: the interactions that train.
    """

    dense_tables = 10  # measured where every two items share a user; half of it is in LAPACK and SciPy

    def item_weights(self, config: Config, dataset: ReviewDataset) -> Tensor:
        """Returns the weights B that RecBole's constructor has computed, dense."""
        weights = torch.from_numpy(np.asarray(self.item_similarity, dtype=np.float32))
        del self.item_similarity, self.interaction_matrix, self.other_parameter_name
        return weights


class ItemKNN(ItemBased):
    """Item-based neighbours with RecBole's own similarity (Aiolli, RecSys 2013; Deshpande and Karypis, TOIS 2004).

    RecBole's class is not inherited from, because it keeps the scores of all users for all items.

    Args:
        config: see ``properties/model/ItemKNN.yaml``.
        dataset: the interactions that train.
    """

    def item_weights(self, config: Config, dataset: ReviewDataset) -> Tensor:
        """Returns the shrunk cosines of each item to rank with its ``k`` nearest items, sparse."""
        met = dataset.inter_matrix(form="csr").astype(np.float32)
        _, similarity = ComputeSimilarity(met, topk=config["k"], shrink=config["shrink"]).compute_similarity()
        return sparse_tensor(similarity)
