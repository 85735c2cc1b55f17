"""SymCEREPlus: SymCERE with what helped on validation.

Each part is a setting of ``properties/model/SymCEREPlus.yaml``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_symcere.config import Config
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.model.graph import NoisyLightGCN
from recbole_symcere.model.loss import CONTRASTS
from recbole_symcere.model.symcere import Nodes, SymCERE
from recbole_symcere.model.text.views import profiles_by_group, training_vectors
from recbole_symcere.model.text.whitening import main_directions, whiten

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class SymCEREPlusSettings:
    """What SymCEREPlus reads beside SymCERE's settings; ``properties/model/SymCEREPlus.yaml`` explains each."""

    eps: float
    text_init: float
    profile_weight: float


class SymCEREPlus(SymCERE):
    """Contrasts layers of the graph in place of dropped views, begins from the text, and has the text in the score.

    - The graph encoder and the other view of eq. (6) are XSimGCL's: the mean of noisy layers, and one of the layers.
    - The embeddings begin with the main directions of the users' and the items' text profiles.
    - A score adds the cosine of the text profiles to the graph's score. The profiles are kept, so ranking encodes no
      review.

    Args:
        config: see ``properties/model/SymCEREPlus.yaml``.
        dataset: the interactions that train; the model reads no review of any other interaction.
        profiles: what :func:`whitened_profiles` returns; None makes the model read the reviews.

    Raises:
        DatasetError, ReviewFileError, EncoderError: the reviews or their encoder can't be had.
    """

    unread: ClassVar = ("edge_dropout", "graph_encoder", "message_dropout")
    graph_encoder: NoisyLightGCN
    user_profiles: Tensor
    item_profiles: Tensor

    def __init__(self, config: Config, dataset: ReviewDataset, profiles: Nodes | None = None) -> None:
        super().__init__(config, dataset)
        self.plus = config.view(SymCEREPlusSettings)
        if profiles is None and (self.plus.profile_weight or self.plus.text_init):
            profiles = whitened_profiles(config, dataset)
            add_main_directions(self.graph_encoder.embedding.weight.data, torch.cat(profiles), self.plus.text_init)
        if self.plus.profile_weight and profiles is not None:
            for name, vectors in zip(("user_profiles", "item_profiles"), profiles, strict=True):
                self.register_buffer(name, vectors)

    @classmethod
    def check_parts(cls, config: Config) -> None:
        """Checks that the contrast and the layer to contrast exist.

        Raises:
            ConfigError: one of them does not.
        """
        CONTRASTS.find(config["contrast"])
        NoisyLightGCN.check_settings(config)

    def build_graph_encoder(self, config: Config) -> None:
        """Makes XSimGCL's encoder."""
        self.graph_encoder = NoisyLightGCN.from_config(config, self.n_users, self.n_items)

    @classmethod
    def to_rank(cls, config: Config, dataset: ReviewDataset, state: Mapping[str, Tensor]) -> Self:
        """Makes a model as :meth:`SymCERE.to_rank` does; the text profiles are in the state."""
        profiles = (state["user_profiles"], state["item_profiles"]) if config["profile_weight"] else None
        return cls(config.with_settings(cross_weight=0.0, alpha_text=0.0, text_init=0.0), dataset, profiles)

    def graph_views(self) -> tuple[Nodes, Nodes | None]:
        """Returns the vectors of all nodes, and for eq. (6) those of one layer of the same noisy pass."""
        final, layer = self.graph_encoder.with_contrast_layer(self.graph.adjacency(), self.plus.eps)
        (users, items), (other_users, other_items) = (x.tensor_split([self.n_users]) for x in (final, layer))
        return (users, items), (other_users, other_items) if self.settings.alpha else None

    def ranking_vectors(self) -> Nodes:
        """Returns SymCERE's vectors with the text profiles appended.

        For each user the scores of the profiles vary ``profile_weight`` times as much over the items as the graph's.
        """
        users, items = super().ranking_vectors()
        if not self.plus.profile_weight:
            return users, items
        ratio = _deviation(users, items) / _deviation(self.user_profiles, self.item_profiles)
        weight = self.plus.profile_weight * torch.where(ratio.isfinite(), ratio, 0.0)
        return torch.cat([users, weight[:, None] * self.user_profiles], 1), torch.cat([items, self.item_profiles], 1)


def whitened_profiles(config: Config, dataset: ReviewDataset) -> Nodes:
    """Returns a direction of unit length for each user and item in the whitened space of training reviews.

    The direction of an item is that of the mean of its reviews. The direction of a user lies half-way between that of
    the mean of the user's own reviews and that of the mean profile of the items that the user has met.

    Args:
        config: the keys of ``training_vectors``.

    Returns:
        float32 [n_users, hidden] and [n_items, hidden]; zeros where there is no training review.
    """
    vectors = whiten(training_vectors(config, dataset))
    users, items = (dataset.inter_feat[field] for field in (dataset.uid_field, dataset.iid_field))
    of_items = profiles_by_group(vectors, items, dataset.item_num)
    written, met = (profiles_by_group(x, users, dataset.user_num) for x in (vectors, of_items[items]))
    return F.normalize(written + met, dim=1), of_items


def add_main_directions(embedding: Tensor, profiles: Tensor, scale: float) -> None:
    """Adds the strongest directions of the profiles to ``embedding``, each with ``scale`` times its deviation.

    Args:
        embedding: [n, d], changed in place.
        profiles: [n, hidden]; if they have fewer than d directions, the last columns of the embedding stay unchanged.
    """
    directions, singular = main_directions(profiles)
    d = min(embedding.shape[1], int((singular > 1e-3 * singular[0]).sum()))  # below, float32 rounds x.T @ x
    strongest = profiles @ directions[:, :d] * (len(profiles) ** 0.5 / singular[:d])
    embedding[:, :d] += scale * embedding.std() * strongest.to(embedding.dtype)


def _deviation(users: Tensor, items: Tensor) -> Tensor:
    """Standard deviation of each user's scores over the items, [n_users]; no users x items table is made."""
    centred = items - items.mean(0)
    covariance = centred.T @ centred / len(items)
    return ((users @ covariance) * users).sum(1).clamp(min=0).sqrt()
