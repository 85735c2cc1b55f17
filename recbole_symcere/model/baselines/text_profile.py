"""What the reviews alone can tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from recbole_symcere.config import Config
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.model.baselines.untrained import Untrained
from recbole_symcere.model.recommender import VectorRecommender
from recbole_symcere.model.text.views import text_profiles

if TYPE_CHECKING:
    from typing_extensions import Self


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
