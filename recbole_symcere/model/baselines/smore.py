"""SMORE: Spectrum-based Modality Representation Fusion GCN for Multimodal Recommendation (Ong & Khong, WSDM 2025).

This is a port of https://github.com/kennethorq/SMORE to text alone; ``properties/model/SMORE.yaml`` has two ways to do
without images. The features of an item are the mean vector of its training reviews.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_symcere.config import Config
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.errors import ConfigError
from recbole_symcere.model.baselines.item_graph import ItemGraph, nearest_items
from recbole_symcere.model.graph import BipartiteGraph, LightGCN, propagate
from recbole_symcere.model.loss import bpr, info_nce
from recbole_symcere.model.recommender import VectorRecommender
from recbole_symcere.model.text.views import item_text_features

if TYPE_CHECKING:
    from typing_extensions import Self

MODALITIES = {"single": ("text",), "dup": ("image", "text")}


@dataclass(frozen=True)
class SMORESettings:
    """What SMORE itself reads of its configuration; ``properties/model/SMORE.yaml`` explains each setting."""

    smore_mode: str
    embedding_size: int
    n_ui_layers: int
    n_layers: int
    text_knn_k: int
    image_knn_k: int | None
    dropout_rate: float
    reg_weight: float
    cl_loss: float
    temperature: float
    learning_rate_decay: float
    learning_rate_decay_epochs: int
    train_batch_size: int

    @property
    def neighbours(self) -> dict[str, int]:
        """The number of neighbours of an item in each modality's graph."""
        k = dict.fromkeys(MODALITIES[self.smore_mode], self.text_knn_k)
        return k if self.image_knn_k is None else k | {"image": self.image_knn_k}


class ItemText(NamedTuple):
    """What SMORE knows of the items' texts.

    Attributes:
        features: [n_items, hidden].
        neighbours: [n_items, k] long, the items of most similar features, the first the most similar.
        cosines: [n_items, k], to them.
    """

    features: Tensor
    neighbours: Tensor
    cosines: Tensor


class SMORE(VectorRecommender):
    """Propagates users and items over the interactions, and items over graphs of items with similar features.

    There is one graph for each modality, and one for the fusion of the modalities. In each of them the features gate
    the id embedding of an item, after a filter in the frequency domain.

    Args:
        config: see ``properties/model/SMORE.yaml``.
        dataset: the interactions that train; the model reads no review of any other interaction.
        text: features and neighbours of the items; None makes the model compute them from the reviews.

    Raises:
        ConfigError: an item is to have more neighbours than there are items.
        DatasetError, ReviewFileError, EncoderError: the reviews or their encoder can't be had.
    """

    input_type = InputType.PAIRWISE

    def __init__(self, config: Config, dataset: ReviewDataset, text: ItemText | None = None) -> None:
        super().__init__(config, dataset)
        self.settings = settings = config.view(SMORESettings)
        width, k = settings.embedding_size, settings.neighbours
        for name, neighbours in k.items():
            if neighbours >= self.n_items:
                raise ConfigError(f"{name}_knn_k is {neighbours}, but there are {self.n_items - 1} items")

        users, items = dataset.inter_feat[self.USER_ID], dataset.inter_feat[self.ITEM_ID]
        self.graph = BipartiteGraph(users, items, self.n_users, self.n_items)
        self.behaviour = LightGCN(self.n_users, self.n_items, width, settings.n_ui_layers)

        if text is None:
            text = _item_text(config, dataset, max(k.values()))
        graphs = {name: ItemGraph.of_nearest(text.neighbours[:, :n], text.cosines[:, :n]) for name, n in k.items()}
        graphs["fusion"] = ItemGraph.max_pooled(list(graphs.values()))
        self.spectra = nn.ModuleDict({name: Spectrum(text.features, width) for name in k})
        self.views = nn.ModuleDict({name: ItemView(graph, width, settings.n_layers) for name, graph in graphs.items()})
        self.queries = nn.ModuleDict({name: _query(width) for name in k})
        self.preferences = nn.ModuleDict({name: _gate(width) for name in graphs})
        self.dropout = nn.Dropout(settings.dropout_rate)

    @classmethod
    def check_settings(cls, config: Config) -> None:
        """Checks that the settings fit the mode.

        Raises:
            ConfigError: a setting of the mode ``dup`` is given in the mode ``single``.
        """
        settings = config.view(SMORESettings)
        if settings.image_knn_k is not None and settings.smore_mode != "dup":
            raise ConfigError(f"image_knn_k is {settings.image_knn_k}, but smore_mode single has no graph of images")

    @classmethod
    def to_rank(cls, config: Config, dataset: ReviewDataset, state: Mapping[str, Tensor]) -> Self:
        """Makes a model that the ``state`` of a trained one can be loaded into; it reads no review."""
        features = state["spectra.text.features"]
        nothing = features.new_zeros(len(features), max(config.view(SMORESettings).neighbours.values()))
        return cls(config, dataset, ItemText(features, nothing.long(), nothing))

    def learning_rate_factor(self, epoch: int) -> float:
        """Returns what the learning rate is multiplied by in an epoch, counted from 0."""
        return self.settings.learning_rate_decay ** (epoch / self.settings.learning_rate_decay_epochs)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Returns behavioural and side vectors of all nodes, users first; the sums of both rank.

        The vector of a user in a view is the weighted sum of the vectors of the items that the user has met.

        Returns:
            [n_nodes, d] each.
        """
        behaviour = torch.cat(self.behaviour(self.graph.adjacency()))
        spectra = {name: spectrum() for name, spectrum in self.spectra.items()}
        spectra["fusion"] = prod(spectra.values())
        views = {name: self.views[name](spectrum, self.item_embedding) for name, spectrum in spectra.items()}
        to_users, to_items = self.graph.user_rows()
        views = {name: torch.cat([propagate(to_users, items, to_items), items]) for name, items in views.items()}
        return behaviour, self.side_vectors(behaviour, views)

    def side_vectors(self, behaviour: Tensor, views: Mapping[str, Tensor]) -> Tensor:
        """Returns the mean over the views, each weighted by how far the behaviour of a node prefers it.

        Args:
            behaviour: [n_nodes, d].
            views: [n_nodes, d] by name; the fused view says what to attend to in the views of the modalities.

        Returns:
            [n_nodes, d]
        """
        fused = views["fusion"]
        attended = {name: query(fused).softmax(-1) * views[name] for name, query in self.queries.items()}
        attended["fusion"] = fused
        preferred = [self.dropout(self.preferences[name](behaviour)) * view for name, view in attended.items()]
        return torch.stack(preferred).mean(0)

    @property
    def item_embedding(self) -> Tensor:
        """The id embeddings of the items, [n_items, d]."""
        return self.behaviour.embedding.weight[self.n_users :]

    def calculate_loss(self, interaction: Interaction) -> tuple[Tensor, ...]:
        """Returns the weighted terms, which ``loss_names`` names; a term of weight 0 is left out.

        Args:
            interaction: B interactions with a sampled negative item each.
        """
        users, positives = interaction[self.USER_ID], interaction[self.ITEM_ID]
        negatives = interaction[self.NEG_ITEM_ID]
        behaviour, side = self()
        user_vectors, item_vectors = (behaviour + side).tensor_split([self.n_users])
        user, positive, negative = user_vectors[users], item_vectors[positives], item_vectors[negatives]
        terms = {"bpr": bpr((user * positive).sum(1), (user * negative).sum(1))}
        if self.settings.reg_weight:
            squares = sum(vectors.square().sum() for vectors in (user, positive, negative))
            terms["l2"] = (
                self.settings.reg_weight * squares / 2 / self.settings.train_batch_size
            )  # also for a last batch that is smaller
        if self.settings.cl_loss:
            item_loss = self.contrast(side, behaviour, self.n_users + positives)
            terms["contrastive"] = self.settings.cl_loss * (item_loss + self.contrast(side, behaviour, users))
        self.loss_names = tuple(terms)
        return tuple(terms.values())

    def contrast(self, side: Tensor, behaviour: Tensor, nodes: Tensor) -> Tensor:
        """Returns InfoNCE between side and behavioural vectors of [B] nodes; a node may stand there several times."""
        return info_nce(
            F.normalize(side[nodes], dim=1), F.normalize(behaviour[nodes], dim=1), self.settings.temperature
        )

    def ranking_vectors(self) -> tuple[Tensor, Tensor]:
        """Returns users [n_users, d] and items [n_items, d] whose dot products are the scores."""
        behaviour, side = self()
        users, items = (behaviour + side).tensor_split([self.n_users])
        return users, items


class Spectrum(nn.Module):
    """The item features of one modality, which go on training, in the frequency domain of the embedding space."""

    def __init__(self, features: Tensor, width: int) -> None:
        super().__init__()
        self.features = nn.Parameter(features.clone())
        self.projection = nn.Linear(features.shape[1], width)

    def forward(self) -> Tensor:
        """Returns the spectra of all items, [n_items, width // 2 + 1] complex."""
        projected = self.projection(self.features).to(self.features.dtype)  # half-precision has no Fourier transform
        return torch.fft.rfft(projected, norm="ortho")


class ItemView(nn.Module):
    """Spectrum modality fusion: the filtered spectrum gates the id embedding, which propagates over an item graph."""

    def __init__(self, graph: ItemGraph, width: int, n_layers: int) -> None:
        super().__init__()
        self.graph, self.n_layers = graph, n_layers
        self.filter = nn.Parameter(torch.randn(width // 2 + 1, 2))  # real and imaginary parts
        self.gate = _gate(width)

    def forward(self, spectrum: Tensor, embedding: Tensor) -> Tensor:
        """Returns the vectors of all items in this view, [n_items, width].

        Args:
            spectrum: [n_items, width // 2 + 1] complex.
            embedding: [n_items, width], the id embeddings.
        """
        filtered = spectrum * torch.view_as_complex(self.filter)
        items = embedding * self.gate(torch.fft.irfft(filtered, n=embedding.shape[1], norm="ortho"))
        for _ in range(self.n_layers):
            items = self.graph(items)
        return items


def _gate(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, width), nn.Sigmoid())


def _query(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width, bias=False))


def _item_text(config: Config, dataset: ReviewDataset, k: int) -> ItemText:
    features = item_text_features(config, dataset)
    neighbours, cosines = nearest_items(features.to(config["device"]), k)
    return ItemText(features, neighbours.cpu(), cosines.cpu())
