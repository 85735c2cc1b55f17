"""AlphaRec: Language Representations Can be What Recommenders Need (Sheng et al., ICLR 2025).

The model is that of https://github.com/LehengTHU/AlphaRec, but an item's text vector is the mean vector of its training
reviews, where the authors have the vector of its title; ``properties/model/AlphaRec.yaml`` names the other differences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_symcere.config import Config
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.model.graph import BipartiteGraph, linear_layers, mean_of_layers
from recbole_symcere.model.loss import sampled_softmax
from recbole_symcere.model.recommender import VectorRecommender
from recbole_symcere.model.text.groups import mean_by_group
from recbole_symcere.model.text.views import item_text_features

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class AlphaRecSettings:
    """What AlphaRec itself reads of its configuration; ``properties/model/AlphaRec.yaml`` explains each setting."""

    embedding_size: int
    hidden_size: int
    n_layers: int
    n_negatives: int
    temperature: float


class AlphaRec(VectorRecommender):
    """Maps the text vectors of users and items by one MLP and propagates them; no user or item has weights of its own.

    The text vector of a user is the mean of those of the items that the user has met.

    Args:
        config: see ``properties/model/AlphaRec.yaml``.
        dataset: the interactions that train; the model reads no review of any other interaction.
        features: the text vectors of users and items [n_nodes, hidden], users first; None makes the model compute them
            from the reviews.

    Raises:
        DatasetError, ReviewFileError, EncoderError: the reviews or their encoder can't be had.
    """

    input_type = InputType.PAIRWISE
    features: Tensor

    def __init__(self, config: Config, dataset: ReviewDataset, features: Tensor | None = None) -> None:
        super().__init__(config, dataset)
        self.settings = settings = config.view(AlphaRecSettings)
        users, items = dataset.inter_feat[self.USER_ID], dataset.inter_feat[self.ITEM_ID]
        self.graph = BipartiteGraph(users, items, self.n_users, self.n_items)
        if features is None:
            features = self._node_features(item_text_features(config, dataset))
        self.register_buffer("features", features)
        self.mlp = nn.Sequential(
            nn.Linear(features.shape[1], settings.hidden_size),
            nn.LeakyReLU(),
            nn.Linear(settings.hidden_size, settings.embedding_size),
        )

    @classmethod
    def to_rank(cls, config: Config, dataset: ReviewDataset, state: Mapping[str, Tensor]) -> Self:
        """Makes a model that the ``state`` of a trained one can be loaded into; it reads no review."""
        return cls(config, dataset, state["features"])

    def _node_features(self, of_items: Tensor) -> Tensor:
        """Returns the text vectors of users and items [n_nodes, hidden] by those of the items [n_items, hidden]."""
        of_users = mean_by_group(of_items[self.graph.item], self.graph.user, self.n_users)
        return torch.cat([of_users, of_items])

    def forward(self) -> tuple[Tensor, Tensor]:
        """Returns users [n_users, d] and items [n_items, d] on the unit sphere."""
        nodes = mean_of_layers(linear_layers(self.graph.adjacency(), self.mlp(self.features), self.settings.n_layers))
        users, items = F.normalize(nodes, dim=1).tensor_split([self.n_users])
        return users, items

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Returns the sampled softmax of the observed items' cosines among those of ``n_negatives`` items, a scalar.

        The negatives of each interaction are drawn uniformly from all items, with replacement and on the device. A
        drawn item that the user has met is left out. RecBole's own negatives are not used, because their number would
        multiply the batch.

        Args:
            interaction: B interactions.
        """
        users, positives = interaction[self.USER_ID], interaction[self.ITEM_ID]
        size = len(users), self.settings.n_negatives
        negatives = torch.randint(1, self.n_items, size, device=users.device)
        user_vectors, item_vectors = self()
        # Up to 5,000 items, one product with all of them is 4 to 50 times as fast on a CPU as gathering the vectors of
        # 256 negatives for each of 2,048 interactions.
        cosines = user_vectors[users] @ item_vectors.T
        return sampled_softmax(
            cosines.gather(1, positives[:, None]).squeeze(1),
            cosines.gather(1, negatives),
            self.settings.temperature,
            excluded=self.graph.contains(users[:, None], negatives),
        )

    def ranking_vectors(self) -> tuple[Tensor, Tensor]:
        """Returns users [n_users, d] and items [n_items, d] on the unit sphere, whose cosines are the scores."""
        return self()
