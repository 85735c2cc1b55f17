"""SMORE: Spectrum-based Modality Representation Fusion GCN for Multimodal Recommendation (Ong & Khong, WSDM 2025).

A port to text alone, https://github.com/kennethorq/SMORE; two ways to do without images in
``properties/model/SMORE.yaml``. Item features are the mean vectors of the items' training reviews.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf, prod
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from recbole.config import Config
from recbole.data.interaction import Interaction
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_symcere.config import ABOVE_0
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.errors import ConfigError
from recbole_symcere.model.graph import BipartiteGraph, LightGCN, propagate
from recbole_symcere.model.item_graph import ItemGraph, nearest_items
from recbole_symcere.model.loss import bpr, info_nce
from recbole_symcere.model.recommender import VectorRecommender
from recbole_symcere.model.review_views import item_text_features

MODALITIES = {"single": ("text",), "dup": ("image", "text")}


class ItemText(NamedTuple):
    """What SMORE is given of the text.

    Attributes:
        features: [n_items, hidden].
        neighbours: [n_items, k] long, the items of most similar features, the first the most similar.
        cosines: [n_items, k], to them.
    """

    features: Tensor
    neighbours: Tensor
    cosines: Tensor


class SMORE(VectorRecommender):
    """Propagates users and items over the interactions, and items over graphs of similar features, one a modality and
    one of their fusion; in each, the features gate the item's id embedding through a filter of their spectrum.

    Args:
        config: see ``properties/model/SMORE.yaml``.
        dataset: the interactions that train; no other review is read.
        text: features and neighbours, in place of those of the dataset's reviews.

    Raises:
        ConfigError: more neighbours than there are items, or a setting of the mode ``dup`` in the mode ``single``.
        DatasetError, ReviewFileError, EncoderError: the reviews or their encoder can't be had.
    """

    input_type = InputType.PAIRWISE
    choices: ClassVar = {"smore_mode": tuple(MODALITIES)}
    bounds: ClassVar = {
        "temperature": (ABOVE_0, inf),
        **dict.fromkeys(("cl_loss", "reg_weight"), (0.0, inf)),
        "dropout_rate": (0.0, 1.0),
        "learning_rate_decay": (ABOVE_0, 1.0),
        **dict.fromkeys(("n_layers", "n_ui_layers"), (0, inf)),
        **dict.fromkeys(("embedding_size", "image_knn_k", "text_knn_k", "learning_rate_decay_epochs"), (1, inf)),
        **dict.fromkeys(("text_max_length", "text_tokens_per_batch"), (1, inf)),
    }

    def __init__(self, config: Config, dataset: ReviewDataset, text: ItemText | None = None) -> None:
        super().__init__(config, dataset)
        self.cl_loss, self.temperature = config["cl_loss"], config["temperature"]
        self.reg_weight, self.batch_size = config["reg_weight"], config["train_batch_size"]
        self.decay, self.decay_epochs = config["learning_rate_decay"], config["learning_rate_decay_epochs"]
        width = config["embedding_size"]

        users, items = dataset.inter_feat[self.USER_ID], dataset.inter_feat[self.ITEM_ID]
        self.graph = BipartiteGraph(users, items, self.n_users, self.n_items)
        self.behaviour = LightGCN(self.n_users, self.n_items, width, config["n_ui_layers"])

        k = _neighbours(config, self.n_items)
        if text is None:
            text = _item_text(config, dataset, max(k.values()))
        graphs = {name: ItemGraph.of_nearest(text.neighbours[:, :n], text.cosines[:, :n]) for name, n in k.items()}
        graphs["fusion"] = ItemGraph.max_pooled(list(graphs.values()))
        self.spectra = nn.ModuleDict({name: Spectrum(text.features, width) for name in k})
        self.views = nn.ModuleDict({name: ItemView(graph, width, config["n_layers"]) for name, graph in graphs.items()})
        self.queries = nn.ModuleDict({name: _query(width) for name in k})
        self.preferences = nn.ModuleDict({name: _gate(width) for name in graphs})
        self.dropout = nn.Dropout(config["dropout_rate"])

    @classmethod
    def to_rank(cls, config: Config, dataset: ReviewDataset, state: Mapping[str, Tensor]) -> SMORE:
        """A model that the ``state`` of a trained one can be loaded into; no review is read."""
        features = state["spectra.text.features"]
        nothing = features.new_zeros(len(features), max(_neighbours(config, len(features)).values()))
        return cls(config, dataset, ItemText(features, nothing.long(), nothing))

    def learning_rate_factor(self, epoch: int) -> float:
        """What the learning rate is multiplied by in an epoch, counted from 0."""
        return self.decay ** (epoch / self.decay_epochs)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Behavioural and side vectors of all nodes, users first; their sums rank.

        A user's vector in a view is the weighted sum of the items' that they have met.

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
        """Modality-aware preference: the mean over the views, each as far as a node's behaviour prefers it.

        Args:
            behaviour: [n_nodes, d].
            views: [n_nodes, d] by name; the fused one says what to attend to in those of the modalities.

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
        """Id embeddings of the items, [n_items, d]."""
        return self.behaviour.embedding.weight[self.n_users :]

    def calculate_loss(self, interaction: Interaction) -> tuple[Tensor, ...]:
        """The weighted terms, named by ``loss_names``; a term of weight 0 is neither computed nor returned.

        Args:
            interaction: B interactions with a sampled negative item each.
        """
        users, positives = interaction[self.USER_ID], interaction[self.ITEM_ID]
        negatives = interaction[self.NEG_ITEM_ID]
        behaviour, side = self()
        user_vectors, item_vectors = (behaviour + side).tensor_split([self.n_users])
        user, positive, negative = user_vectors[users], item_vectors[positives], item_vectors[negatives]
        terms = {"bpr": bpr((user * positive).sum(1), (user * negative).sum(1))}
        if self.reg_weight:
            squares = sum(vectors.square().sum() for vectors in (user, positive, negative))
            terms["l2"] = self.reg_weight * squares / 2 / self.batch_size  # the last batch's too, though it is smaller
        if self.cl_loss:
            item_loss = self.contrast(side, behaviour, self.n_users + positives)
            terms["contrastive"] = self.cl_loss * (item_loss + self.contrast(side, behaviour, users))
        self.loss_names = tuple(terms)
        return tuple(terms.values())

    def contrast(self, side: Tensor, behaviour: Tensor, nodes: Tensor) -> Tensor:
        """InfoNCE of nodes' side vectors with their behavioural ones, over the batch; [B] nodes, repeated or not."""
        return info_nce(F.normalize(side[nodes], dim=1), F.normalize(behaviour[nodes], dim=1), self.temperature)

    def ranking_vectors(self) -> tuple[Tensor, Tensor]:
        behaviour, side = self()
        users, items = (behaviour + side).tensor_split([self.n_users])
        return users, items


class Spectrum(nn.Module):
    """One modality's item features, which train on, in the frequency domain of the id embedding's space."""

    def __init__(self, features: Tensor, width: int) -> None:
        super().__init__()
        self.features = nn.Parameter(features.clone())
        self.projection = nn.Linear(features.shape[1], width)

    def forward(self) -> Tensor:
        """[n_items, width // 2 + 1] complex."""
        projected = self.projection(self.features).to(self.features.dtype)  # autocast's types have no transform
        return torch.fft.rfft(projected, norm="ortho")


class ItemView(nn.Module):
    """Spectrum modality fusion: a filter of the spectrum, what it lets through as a gate over the id embedding; then
    propagation over the items' graph.
    """

    def __init__(self, graph: ItemGraph, width: int, n_layers: int) -> None:
        super().__init__()
        self.graph, self.n_layers = graph, n_layers
        self.filter = nn.Parameter(torch.randn(width // 2 + 1, 2))  # real and imaginary parts
        self.gate = _gate(width)

    def forward(self, spectrum: Tensor, embedding: Tensor) -> Tensor:
        """Args:
            spectrum: [n_items, width // 2 + 1] complex.
            embedding: [n_items, width], of the items' ids.

        Returns:
            [n_items, width]
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


def _neighbours(config: Config, n_items: int) -> dict[str, int]:
    """Neighbours of an item in each modality's graph."""
    k = dict.fromkeys(MODALITIES[config["smore_mode"]], config["text_knn_k"])
    if config["image_knn_k"] is not None:
        if "image" not in k:
            raise ConfigError(f"image_knn_k is {config['image_knn_k']}, but smore_mode single has no graph of images")
        k["image"] = config["image_knn_k"]
    for name, neighbours in k.items():
        if neighbours >= n_items:
            raise ConfigError(f"{name}_knn_k is {neighbours}, but there are {n_items - 1} items")
    return k


def _item_text(config: Config, dataset: ReviewDataset, k: int) -> ItemText:
    features = item_text_features(config, dataset)
    neighbours, cosines = nearest_items(features.to(config["device"]), k)
    return ItemText(features, neighbours.cpu(), cosines.cpu())
