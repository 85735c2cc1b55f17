"""The base classes of scorers that train nothing, and what the reviews alone can tell."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from recbole.data.interaction import Interaction
from recbole.utils import InputType, ModelType
from torch import Tensor, nn

from recbole_symcere.config import Config
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.model.recommender import Recommender, VectorRecommender
from recbole_symcere.model.text.views import text_profiles

if TYPE_CHECKING:
    from typing_extensions import Self


class Untrained(Recommender):
    """The base of scorers without training; it has one number that never changes, since RecBole needs a parameter.

    RecBole gives such models one epoch, with an optimiser and a loss.
    """

    type = ModelType.TRADITIONAL
    input_type = InputType.PAIRWISE

    def __init__(self, config: Config, dataset: ReviewDataset) -> None:
        super().__init__(config, dataset)
        self.fake_loss = nn.Parameter(torch.zeros(()))

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Returns 0, a scalar."""
        return 0 * self.fake_loss


class UserScorer(Untrained, ABC):
    """The base of scorers without training that score all items for a batch of users at once."""

    @abstractmethod
    def scores(self, users: Tensor) -> Tensor:
        """Returns the scores of all items for the given users [B], [B, n_items]."""

    def predict(self, interaction: Interaction) -> Tensor:
        """Returns the scores [B] of the given (user, item) pairs; all items are scored for each different user."""
        users, row = interaction[self.USER_ID].unique(return_inverse=True)
        return self.scores(users)[row, interaction[self.ITEM_ID]]

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Returns the scores of all items for the given users, [B * n_items]."""
        return self.scores(interaction[self.USER_ID]).flatten()


class TextProfile(Untrained, VectorRecommender):
    """Scores a pair by the cosine between the mean training reviews of the user and of the item.

    The mean over all training reviews is subtracted from both.

    Args:
        config: see ``properties/model/TextProfile.yaml``.
        dataset: the interactions that train; the model reads no review of any other interaction.
        profiles: what ``text_profiles`` returns; None makes the model read the reviews.

    Raises:
        DatasetError, ReviewFileError, EncoderError: the reviews or their encoder can't be had.
    """

    user_profiles: Tensor
    item_profiles: Tensor

    def __init__(self, config: Config, dataset: ReviewDataset, profiles: tuple[Tensor, Tensor] | None = None) -> None:
        super().__init__(config, dataset)
        users, items = text_profiles(config, dataset) if profiles is None else profiles
        self.register_buffer("user_profiles", users)
        self.register_buffer("item_profiles", items)

    @classmethod
    def to_rank(cls, config: Config, dataset: ReviewDataset, state: Mapping[str, Tensor]) -> Self:
        """Makes a model of the profiles in the ``state`` of another; it reads no review."""
        return cls(config, dataset, (state["user_profiles"], state["item_profiles"]))

    def ranking_vectors(self) -> tuple[Tensor, Tensor]:
        """Returns the profiles of users [n_users, hidden] and items [n_items, hidden]."""
        return self.user_profiles, self.item_profiles
