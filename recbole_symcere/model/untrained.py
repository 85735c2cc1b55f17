"""Scorers that train nothing: what reviews alone can tell, and what a user's own history can."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import ClassVar

import numpy as np
import torch
from recbole.config import Config
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType, ModelType
from torch import Tensor, nn

from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.model.recommender import VectorRecommender
from recbole_symcere.model.review_views import text_profiles


class Untrained(GeneralRecommender):
    """Has nothing to train, but one number that stays as it is: RecBole's one epoch wants an optimiser and a loss."""

    type = ModelType.TRADITIONAL
    input_type = InputType.PAIRWISE

    def __init__(self, config: Config, dataset: ReviewDataset) -> None:
        super().__init__(config, dataset)
        self.fake_loss = nn.Parameter(torch.zeros(()))

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """0, a scalar."""
        return 0 * self.fake_loss


class TextProfile(Untrained, VectorRecommender):
    """The cosine of a user's and an item's mean training review, both seen from the mean over all training reviews.

    Args:
        config: see ``properties/model/TextProfile.yaml``.
        dataset: the interactions that train; no other review is read.
        profiles: what ``text_profiles`` returns, in place of reading the reviews.

    Raises:
        DatasetError, ReviewFileError, EncoderError: the reviews or their encoder can't be had.
    """

    bounds: ClassVar = dict.fromkeys(("text_max_length", "text_tokens_per_batch"), (1, inf))
    user_profiles: Tensor
    item_profiles: Tensor

    def __init__(self, config: Config, dataset: ReviewDataset, profiles: tuple[Tensor, Tensor] | None = None) -> None:
        super().__init__(config, dataset)
        users, items = text_profiles(config, dataset) if profiles is None else profiles
        self.register_buffer("user_profiles", users)
        self.register_buffer("item_profiles", items)

    @classmethod
    def to_rank(cls, config: Config, dataset: ReviewDataset, state: Mapping[str, Tensor]) -> TextProfile:
        """A model of the profiles in the ``state`` of another; no review is read."""
        return cls(config, dataset, (state["user_profiles"], state["item_profiles"]))

    def ranking_vectors(self) -> tuple[Tensor, Tensor]:
        return self.user_profiles, self.item_profiles


class Repurchase(Untrained):
    """How often the user met the item in training; among equals, the item that was met more often by anyone.

    It shows what repeated pairs do to a protocol that leaves them: where histories are masked, it ranks by popularity.

    Args:
        config: no settings of its own.
        dataset: the interactions that train.
    """

    def __init__(self, config: Config, dataset: ReviewDataset) -> None:
        super().__init__(config, dataset)
        self.met = dataset.inter_matrix(form="csr")  # a pair that repeats adds up
        popularity = torch.from_numpy(self.met.sum(0)).flatten()
        self.register_buffer("tie_break", popularity / (1 + popularity.max()), persistent=False)  # below 1

    def predict(self, interaction: Interaction) -> Tensor:
        """Scores [B] of the given (user, item) pairs, float64."""
        users, items = interaction[self.USER_ID], interaction[self.ITEM_ID]
        met = torch.from_numpy(self.met[np.array(users.cpu()), np.array(items.cpu())]).flatten()  # SciPy wants copies
        return met.to(users.device) + self.tie_break[items]

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Scores of all items for the given users, [B * n_items] float64."""
        users = interaction[self.USER_ID]
        met = torch.from_numpy(self.met[np.array(users.cpu())].toarray())
        return (met.to(users.device) + self.tie_break).flatten()
