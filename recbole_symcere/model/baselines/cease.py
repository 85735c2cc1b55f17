"""CEASE: Closed-Form Models for Collaborative Filtering with Side-Information (Jeunen et al., RecSys 2020).

This is the paper's collective EASE. The side information of an item is the direction of its training reviews, where the
authors have tags.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from recbole_symcere.config import Config
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.model.baselines.item_based import ItemBased
from recbole_symcere.model.text.groups import profiles_by_group
from recbole_symcere.model.text.views import training_vectors
from recbole_symcere.model.text.whitening import whiten

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class CEASESettings:
    """What CEASE itself reads of its configuration; ``properties/model/CEASE.yaml`` explains each setting."""

    reg_weight: float
    text_weight: float
    text_ridge: float


class CEASE(ItemBased):
    """Scores an item by the sum of its weights from the items of the user's history; the weights have a closed form.

    They are those of the linear model that best rebuilds each user's history, and each text feature of the items, from
    the other items.

    Args:
        config: see ``properties/model/CEASE.yaml``.
        dataset: the interactions that train; the model reads no review of any other interaction.
        weights: the weights between items [n_items, n_items]; None makes the model compute them.

    Raises:
        DatasetError: the weights do not fit into the free memory.
        DatasetError, ReviewFileError, EncoderError: the reviews or their encoder can't be had.
    """

    dense_tables = 4  # two in float64
    keeps_weights = True  # without the reviews nobody can compute them again

    @classmethod
    def to_rank(cls, config: Config, dataset: ReviewDataset, state: Mapping[str, Tensor]) -> Self:
        """Makes a model of the weights in the ``state`` of another; it reads no review."""
        return cls(config, dataset, state["weights"])

    def item_weights(self, config: Config, dataset: ReviewDataset) -> Tensor:
        """Returns the weights that the interactions and the whitened reviews of training give."""
        settings = config.view(CEASESettings)
        vectors = whiten(training_vectors(config, dataset), settings.text_ridge)
        features = profiles_by_group(vectors, dataset.inter_feat[self.ITEM_ID], self.n_items)
        met = dataset.inter_matrix(form="csr").astype(np.float32)
        return collective_weights(met, features, settings.reg_weight, settings.text_weight)


def collective_weights(met: csr_matrix, features: Tensor, reg_weight: float, text_weight: float) -> Tensor:
    """Returns the weights B of collective EASE, which minimise ||Y - YB||^2 + ``reg_weight`` ||B||^2 with diag(B) = 0.

    Y has the rows of the interactions above those of the features: Y = [X; sqrt(``text_weight``) T']. With P the
    inverse of X'X + ``text_weight`` TT' + ``reg_weight`` I, B_ij is -P_ij / P_jj for i != j. The inverse is computed in
    float64.

    Args:
        met: X, [n_users, n_items].
        features: T, [n_items, d].
        reg_weight: above 0.
        text_weight: at least 0.

    Returns:
        float32 [n_items, n_items]; B_ij is what item i in a history adds to the score of item j.
    """
    features = features.cpu().double()
    gram = torch.from_numpy((met.T @ met).toarray()).double()
    gram.addmm_(features, features.T, alpha=text_weight).diagonal().add_(reg_weight)
    factor = torch.linalg.cholesky(gram)
    del gram
    weights = torch.cholesky_inverse(factor)
    weights /= -weights.diagonal().clone()
    return weights.fill_diagonal_(0.0).float()
