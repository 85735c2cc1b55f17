"""What models that rank by user and item vectors share."""

from abc import ABC, abstractmethod

from recbole.config import Config
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import GeneralRecommender
from torch import Tensor

from recbole_symcere.data.dataset import ReviewDataset


class VectorRecommender(GeneralRecommender, ABC):
    """Scores are dot products; in eval mode the vectors are propagated once and kept until training goes on."""

    def __init__(self, config: Config, dataset: ReviewDataset) -> None:
        super().__init__(config, dataset)
        self._kept_vectors: tuple[Tensor, Tensor] | None = None

    @abstractmethod
    def ranking_vectors(self) -> tuple[Tensor, Tensor]:
        """Users [n_users, d] and items [n_items, d] whose dot products are the scores."""

    def train(self, mode: bool = True) -> "VectorRecommender":
        self._kept_vectors = None  # the weights may change
        return super().train(mode)

    def predict(self, interaction: Interaction) -> Tensor:
        """Scores [B] of the given (user, item) pairs."""
        users, items = self._vectors()
        return (users[interaction[self.USER_ID]] * items[interaction[self.ITEM_ID]]).sum(-1)

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Scores of all items for the given users, [B * n_items]."""
        users, items = self._vectors()
        return (users[interaction[self.USER_ID]] @ items.T).flatten()

    def _vectors(self) -> tuple[Tensor, Tensor]:
        if self.training:
            return self.ranking_vectors()
        if self._kept_vectors is None:
            self._kept_vectors = self.ranking_vectors()
        return self._kept_vectors
