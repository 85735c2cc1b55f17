"""SymCERE with what helped on validation, each part a setting of ``properties/model/SymCEREPlus.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import ClassVar

import torch
import torch.nn.functional as F
from recbole.config import Config
from torch import Tensor

from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.model.graph import NoisyLightGCN
from recbole_symcere.model.review_views import profiles_by_group, training_vectors
from recbole_symcere.model.symcere import Nodes, SymCERE

RIDGE = 0.05  # of the largest singular value: below it whitening fades out


class SymCEREPlus(SymCERE):
    """Contrasts layers of the graph in place of dropped views, begins from the text, and has it in the score.

    - The graph encoder and the other view of eq. (6) are XSimGCL's: the mean of noisy layers, and one of them.
    - The embeddings begin with the main directions of users' and items' text profiles.
    - A score is the graph's and the cosine of the text profiles, which are kept: ranking encodes no review.

    Args:
        config: see ``properties/model/SymCEREPlus.yaml``.
        dataset: the interactions that train; no other review is read.
        profiles: what ``whitened_profiles`` returns, in place of reading the reviews.

    Raises:
        ConfigError: there is no layer of the number ``contrast_layer``; or as for SymCERE.
        DatasetError, ReviewFileError, EncoderError: the reviews or their encoder can't be had.
    """

    unread: ClassVar = ("edge_dropout", "message_dropout")
    choices: ClassVar = SymCERE.choices | {"graph_encoder": ("XSimGCL",)}
    bounds: ClassVar = SymCERE.bounds | {
        **dict.fromkeys(("eps", "text_init", "profile_weight"), (0.0, inf)),
        **dict.fromkeys(("n_layers", "contrast_layer"), (1, inf)),
    }
    graph_encoder: NoisyLightGCN
    user_profiles: Tensor
    item_profiles: Tensor

    def __init__(self, config: Config, dataset: ReviewDataset, profiles: Nodes | None = None) -> None:
        super().__init__(config, dataset)
        self.eps, self.profile_weight = config["eps"], config["profile_weight"]
        if profiles is None and (self.profile_weight or config["text_init"]):
            profiles = whitened_profiles(config, dataset)
            add_main_directions(self.graph_encoder.embedding.weight.data, torch.cat(profiles), config["text_init"])
        if self.profile_weight and profiles is not None:
            for name, vectors in zip(("user_profiles", "item_profiles"), profiles, strict=True):
                self.register_buffer(name, vectors)

    @classmethod
    def to_rank(cls, config: Config, dataset: ReviewDataset, state: Mapping[str, Tensor]) -> SymCEREPlus:
        """As SymCERE's; the text profiles are in the state."""
        config["cross_weight"] = config["alpha_text"] = config["text_init"] = 0.0
        return cls(
            config, dataset, (state["user_profiles"], state["item_profiles"]) if config["profile_weight"] else None
        )

    def graph_views(self) -> tuple[Nodes, Nodes | None]:
        """Vectors of all nodes, and for eq. (6) those of the layer ``contrast_layer`` of the same noisy pass."""
        final, layer = self.graph_encoder.with_contrast_layer(self.graph.adjacency(), self.eps)
        (users, items), (other_users, other_items) = (x.tensor_split([self.n_users]) for x in (final, layer))
        return (users, items), (other_users, other_items) if self.alpha else None

    def ranking_vectors(self) -> Nodes:
        """As SymCERE's, with the text profiles appended: they vary ``profile_weight`` times as much over the items."""
        users, items = super().ranking_vectors()
        if not self.profile_weight:
            return users, items
        ratio = _deviation(users, items) / _deviation(self.user_profiles, self.item_profiles)
        weight = self.profile_weight * torch.where(ratio.isfinite(), ratio, 0.0)
        return torch.cat([users, weight[:, None] * self.user_profiles], 1), torch.cat([items, self.item_profiles], 1)


def whitened_profiles(config: Config, dataset: ReviewDataset) -> Nodes:
    """Directions of unit length in the whitened space of training reviews.

    An item's is that of the mean of its reviews; a user's lies half-way between that of the mean of their own reviews
    and that of the mean profile of the items they met.

    Args:
        config: the keys of ``training_vectors``.

    Returns:
        float32 [n_users, hidden] and [n_items, hidden]; zeros for whom there is no training review.
    """
    vectors = whiten(training_vectors(config, dataset))
    users, items = (dataset.inter_feat[field] for field in (dataset.uid_field, dataset.iid_field))
    of_items = profiles_by_group(vectors, items, dataset.item_num)
    written, met = (profiles_by_group(x, users, dataset.user_num) for x in (vectors, of_items[items]))
    return F.normalize(written + met, dim=1), of_items


def whiten(x: Tensor) -> Tensor:
    """Centred rows [n, hidden] with the same variance in all main directions, but for the weakest, which fade out."""
    x = x - x.mean(0)
    directions, singular = _main_directions(x)
    return x @ directions * (len(x) ** 0.5 / (singular + RIDGE * singular[0]).clamp(min=1e-6))


def add_main_directions(embedding: Tensor, profiles: Tensor, scale: float) -> None:
    """Adds to ``embedding`` the profiles' strongest directions, each with ``scale`` times the embedding's deviation.

    Args:
        embedding: [n, d], changed in place.
        profiles: [n, hidden]; of fewer than d directions, the last columns of the embedding stay as they are.
    """
    directions, singular = _main_directions(profiles)
    d = min(embedding.shape[1], int((singular > 1e-3 * singular[0]).sum()))  # below, float32 rounds x.T @ x
    strongest = profiles @ directions[:, :d] * (len(profiles) ** 0.5 / singular[:d])
    embedding[:, :d] += scale * embedding.std() * strongest.to(embedding.dtype)


def _main_directions(x: Tensor) -> tuple[Tensor, Tensor]:
    """Right singular vectors of x [n, hidden] as columns, strongest first, and singular values; x is left as it is."""
    squares, directions = torch.linalg.eigh((x.T @ x).double())
    return directions.flip(1).to(x.dtype), squares.flip(0).clamp(min=0).sqrt().to(x.dtype)


def _deviation(users: Tensor, items: Tensor) -> Tensor:
    """Standard deviation of each user's scores over the items, [n_users]; no users x items table is made."""
    centred = items - items.mean(0)
    covariance = centred.T @ centred / len(items)
    return ((users @ covariance) * users).sum(1).clamp(min=0).sqrt()
