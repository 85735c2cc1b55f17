"""RLMRec: Representation Learning with Large Language Models for Recommendation (Ren et al., WWW 2024).

This is the contrastive form, RLMRec-Con, over LightGCN: ``LightGCN_plus`` of https://github.com/HKUDS/RLMRec. The
authors let a language model write a profile of each user and each item. Here a profile is the mean vector of the
training reviews; ``properties/model/RLMRec.yaml`` names the other differences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch.nn.functional as F
from recbole.data.interaction import Interaction
from recbole.utils import InputType
from torch import Tensor

from recbole_symcere.config import Config
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.model.graph import BipartiteGraph, LightGCN
from recbole_symcere.model.loss import bpr, info_nce
from recbole_symcere.model.recommender import VectorRecommender
from recbole_symcere.model.text.views import projection, text_profiles

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class RLMRecSettings:
    """What RLMRec itself reads of its configuration; ``properties/model/RLMRec.yaml`` explains each setting."""

    edge_dropout: float
    kd_weight: float
    kd_temperature: float
    reg_weight: float


class RLMRec(VectorRecommender):
    """LightGCN, whose vectors of users and items are contrasted in training with mapped profiles of their reviews.

    Args:
        config: see ``properties/model/RLMRec.yaml``.
        dataset: the interactions that train; the model reads no review of any other interaction, and none at all where
            ``kd_weight`` is 0.

    Raises:
        DatasetError, ReviewFileError, EncoderError: the reviews or their encoder can't be had.
    """

    input_type = InputType.PAIRWISE
    user_profiles: Tensor
    item_profiles: Tensor

    def __init__(self, config: Config, dataset: ReviewDataset) -> None:
        super().__init__(config, dataset)
        self.settings = settings = config.view(RLMRecSettings)
        users, items = dataset.inter_feat[self.USER_ID], dataset.inter_feat[self.ITEM_ID]
        self.graph = BipartiteGraph(users, items, self.n_users, self.n_items)
        self.encoder = LightGCN.from_config(config, self.n_users, self.n_items)
        if settings.kd_weight:
            for name, profiles in zip(("user_profiles", "item_profiles"), text_profiles(config, dataset), strict=True):
                self.register_buffer(name, profiles, persistent=False)
            self.mlp = projection("mlp", self.user_profiles.shape[1], self.encoder.width)

    @classmethod
    def to_rank(cls, config: Config, dataset: ReviewDataset, state: Mapping[str, Tensor]) -> Self:
        """Makes a model for the graph's part of a trained model's ``state``; it reads no review."""
        return cls(config.with_settings(kd_weight=0.0), dataset)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Returns users [n_users, d] and items [n_items, d]; in training, over a graph with dropped edges."""
        dropped = self.settings.edge_dropout if self.training else 0.0
        users, items = self.encoder(self.graph.dropped_adjacency(dropped) if dropped else self.graph.adjacency())
        return users, items

    def calculate_loss(self, interaction: Interaction) -> tuple[Tensor, ...]:
        """Returns the weighted terms, which ``loss_names`` names; a term of weight 0 is left out.

        Args:
            interaction: B interactions with a sampled negative item each.
        """
        users, positives = interaction[self.USER_ID], interaction[self.ITEM_ID]
        negatives = interaction[self.NEG_ITEM_ID]
        user_vectors, item_vectors = self()
        user, positive, negative = user_vectors[users], item_vectors[positives], item_vectors[negatives]
        terms = {"bpr": bpr((user * positive).sum(1), (user * negative).sum(1))}
        if self.settings.reg_weight:
            squares = sum(weight.square().sum() for weight in self.parameters())
            terms["l2"] = self.settings.reg_weight * squares
        if self.settings.kd_weight:
            terms["alignment"] = self.settings.kd_weight * self.alignment(user_vectors, item_vectors, interaction)
        self.loss_names = tuple(terms)
        return tuple(terms.values())

    def alignment(self, users: Tensor, items: Tensor, interaction: Interaction) -> Tensor:
        """Returns the sum of InfoNCE between graph vectors and profiles of a batch's users, items and negative items.

        A user is to find its own profile among those of all users. An item is to find its own among those of the
        batch, where it may stand several times.

        Args:
            users, items: [n_users, d] and [n_items, d], of the graph.
            interaction: B interactions with a sampled negative item each.
        """
        temperature = self.settings.kd_temperature
        of_users, of_items = (F.normalize(self.mlp(x), dim=1) for x in (self.user_profiles, self.item_profiles))
        own = interaction[self.USER_ID]
        total = F.cross_entropy((F.normalize(users[own], dim=1) @ of_users.T).float() / temperature, own)
        for field in (self.ITEM_ID, self.NEG_ITEM_ID):
            own = interaction[field]
            total = total + info_nce(F.normalize(items[own], dim=1), of_items[own], temperature)
        return total

    def ranking_vectors(self) -> tuple[Tensor, Tensor]:
        """Returns users [n_users, d] and items [n_items, d] whose dot products are the scores."""
        return self()
