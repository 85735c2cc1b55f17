"""SymCERE: Symmetric Contrastive Learning for Robust Review-Enhanced Recommendation (Suzumura et al., 2025).

Equation numbers are those of the paper. ``properties/model/SymCERE.yaml`` decides what the paper leaves open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_symcere.config import Config
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.distributed import share
from recbole_symcere.errors import ConfigError
from recbole_symcere.model.graph import GRAPH_ENCODERS, BipartiteGraph, GraphEncoder
from recbole_symcere.model.loss import CONTRASTS, bpr, drawn_unmet_softmax, info_nce, unmet_softmax
from recbole_symcere.model.recommender import VectorRecommender
from recbole_symcere.model.text.views import KeptVectors, TrainedEncoder, projection, review_views, text_rows

if TYPE_CHECKING:
    from typing_extensions import Self

Nodes = tuple[Tensor, Tensor]  # users [n_users, d] and items [n_items, d]


@dataclass(frozen=True)
class SymCERESettings:
    """What the objective and the ranking need; ``properties/model/SymCERE.yaml`` explains each setting."""

    projection: str
    normalize: bool
    contrast: str
    contrast_batch_size: int | None
    cross_weight: float
    alpha: float
    alpha_text: float | None
    beta: float
    ranking_loss: str
    softmax_items: int
    bpr_norm: float | None
    score_norm: float | None
    reg_weight: float
    tau_cross: float
    tau_intra: float

    @property
    def text_weight(self) -> float:
        """The weight of the text's part of eq. (6)."""
        return self.alpha if self.alpha_text is None else self.alpha_text

    @property
    def reads_reviews(self) -> bool:
        """Whether a term of the objective needs the reviews."""
        return bool(self.cross_weight or self.text_weight)


class SymCERE(VectorRecommender):
    """Aligns graph vectors of interactions with the vectors of their reviews, and ranks by the graph alone.

    Args:
        config: see ``properties/model/SymCERE.yaml``.
        dataset: the interactions that train; the model reads no review of any other interaction.

    Raises:
        DatasetError, ReviewFileError, EncoderError: the reviews or their encoder can't be had.
    """

    input_type = InputType.PAIRWISE
    item_probability: Tensor

    def __init__(self, config: Config, dataset: ReviewDataset) -> None:
        super().__init__(config, dataset)
        self.settings = config.view(SymCERESettings)
        users, items = dataset.inter_feat[self.USER_ID], dataset.inter_feat[self.ITEM_ID]
        self.graph = BipartiteGraph(users, items, self.n_users, self.n_items)
        self.build_graph_encoder(config)

        # The ablations of Table 3 leave out the unit sphere, or let every other pair be a negative.
        self.unit = partial(F.normalize, dim=-1) if self.settings.normalize else nn.Identity()
        self.contrast = CONTRASTS.find(self.settings.contrast)
        lengths = 0.0 if self.settings.normalize else 1.0  # scores are cosines on the unit sphere, else dot products
        self.bpr_norm = lengths if self.settings.bpr_norm is None else self.settings.bpr_norm
        self.score_norm = lengths if self.settings.score_norm is None else self.settings.score_norm
        # Popular items have the high scores that a denominator must not miss, so they are drawn more often.
        popularity = torch.bincount(items, minlength=self.n_items) + 1.0
        popularity[0] = 0  # the padding
        self.register_buffer("item_probability", popularity / popularity.sum(), persistent=False)

        self.text_encoder: KeptVectors | TrainedEncoder | None = None
        if self.settings.reads_reviews:
            self.review_field = dataset.review_field
            self.build_text_encoder(config, dataset)

    @classmethod
    def check_settings(cls, config: Config) -> None:
        """Checks what can be known before any data is read.

        Raises:
            ConfigError: a part has an unknown name, nothing is left to train on, or a batch would repeat its rows.
        """
        settings = config.view(SymCERESettings)
        cls.check_parts(config)
        if config["train_neg_sample_args"]["sample_num"] != 1:
            raise ConfigError("train_neg_sample_args sample_num must be 1: a repeated row would be its own negative")
        if not (settings.reads_reviews or settings.alpha or settings.beta or settings.reg_weight):
            raise ConfigError("cross_weight, alpha, beta and reg_weight are all 0: nothing is left to train on")

    @classmethod
    def check_parts(cls, config: Config) -> None:
        """Checks that the parts that the settings name exist.

        Raises:
            ConfigError: one of them does not.
        """
        GRAPH_ENCODERS.find(config["graph_encoder"])
        CONTRASTS.find(config["contrast"])

    def build_graph_encoder(self, config: Config) -> None:
        """Makes the encoder that the setting ``graph_encoder`` names, and keeps what :meth:`graph_views` needs."""
        encoder = GRAPH_ENCODERS.find(config["graph_encoder"])
        self.graph_encoder: GraphEncoder = encoder.from_config(config, self.n_users, self.n_items)
        self.edge_dropout: float = config["edge_dropout"]

    def build_text_encoder(self, config: Config, dataset: ReviewDataset) -> None:
        """Makes the source of the reviews' vectors, and keeps what :meth:`review_vectors` needs."""
        self.review_rows = text_rows(config, dataset)
        self.host_fields = (self.review_field,)  # the reviews are looked up in host memory
        self.text_encoder = review_views(config, dataset, masked=bool(self.settings.text_weight))
        self.text_schedule = {"lr": config["text_learning_rate"], "warmup_steps": config["text_warmup_steps"]}
        self.projection = projection(self.settings.projection, self.text_encoder.width, self.graph_encoder.width)

    @classmethod
    def to_rank(cls, config: Config, dataset: ReviewDataset, state: Mapping[str, Tensor]) -> Self:
        """Makes a model for the graph's part of a trained model's ``state``; it reads no review."""
        return cls(config.with_settings(cross_weight=0.0, alpha_text=0.0), dataset)

    # Section 3.1: modality encoders

    def forward(self, adjacency: Tensor) -> Nodes:
        """Returns graph vectors of all users [n_users, d] and all items [n_items, d]: eq. (1)."""
        return self.graph_encoder(adjacency)

    def graph_views(self) -> tuple[Nodes, Nodes | None]:
        """Returns the vectors of all nodes, and for eq. (6) those with edges dropped, or None where alpha is 0."""
        nodes = self(self.graph.adjacency())
        if not self.settings.alpha:
            return nodes, None
        return nodes, self(self.graph.dropped_adjacency(self.edge_dropout))

    def to_contrast(self, interaction: Interaction) -> Interaction:
        """Returns the interactions of a batch that the contrastive terms read: here all of them."""
        return interaction

    def interaction_vectors(self, nodes: Nodes, users: Tensor, items: Tensor) -> Tensor:
        """Returns the unit vectors of g_uv = (g_u + g_v) / 2, [B, d]: section 3.1.1 and eq. (2)."""
        user_vectors, item_vectors = nodes
        return self.unit((user_vectors[users] + item_vectors[items]) / 2)

    def review_vectors(self, review_ids: Tensor, masked: bool) -> tuple[Tensor, Tensor]:
        """Returns the unit vectors t_uv of the interactions' reviews, [B, d]: section 3.1.2 and eq. (2).

        Returns:
            The clean view, and a view with masked words where ``masked``, else the clean view again.
        """
        assert self.text_encoder is not None
        clean, other = self.text_encoder(self.review_rows[review_ids.cpu()], masked)
        clean = self.unit(self.projection(clean))
        return clean, clean if other is None else self.unit(self.projection(other))

    # Sections 3.2 and 3.3: objective

    def calculate_loss(self, interaction: Interaction) -> tuple[Tensor, ...]:
        """Returns the weighted terms of eq. (8), which ``loss_names`` names; a term of weight 0 is left out.

        Where several processes train, they take the same batch, and each sums over its share: see ``distributed``.

        Args:
            interaction: B interactions with their review ids and one sampled negative item each.
        """
        weights = self.settings
        nodes, other_nodes = self.graph_views()
        contrasted = self.to_contrast(interaction)
        users, items = contrasted[self.USER_ID], contrasted[self.ITEM_ID]
        graph = self.interaction_vectors(nodes, users, items)
        terms: dict[str, Tensor] = {}
        if weights.reads_reviews:
            review_ids = contrasted[self.review_field]
            text, masked_text = self.review_vectors(review_ids, masked=bool(weights.text_weight))
            if weights.cross_weight:
                terms["cross_modal"] = weights.cross_weight * self._in_groups(
                    self.cross_modal, graph, text, users, items
                )
            if weights.text_weight:
                terms["intra_text"] = weights.text_weight * self._in_groups(self.intra_modal, text, masked_text)
        if other_nodes is not None:
            other_graph = self.interaction_vectors(other_nodes, users, items)
            terms["intra_graph"] = weights.alpha * self._in_groups(self.intra_modal, graph, other_graph)
        if weights.beta:
            terms[weights.ranking_loss] = weights.beta * self.ranking_loss(nodes, interaction)
        if weights.reg_weight:
            squares = [parameter.square().sum() for parameter in self.parameters() if parameter.requires_grad]
            terms["l2"] = weights.reg_weight * sum(squares[1:], squares[0])
        self.loss_names = tuple(terms)
        return tuple(terms.values())

    def cross_modal(self, graph: Tensor, text: Tensor, users: Tensor, items: Tensor) -> Tensor:
        """Returns the symmetric loss of eq. (5) between graph and text vectors, [B, d] each.

        Both directions of eq. (4) leave out the same pairs, because eq. (3) is indexed by the anchor: the similarities
        are transposed and the mask is not.
        """
        own, tau = share(len(users)), self.settings.tau_cross
        known = None if self.contrast is info_nce else self.graph.known_pairs(own.of(users), own.first(items))
        graph_to_text = self.contrast(own.of(graph), own.first(text), tau, known)
        text_to_graph = self.contrast(own.of(text), own.first(graph), tau, known)
        return own.weight * (graph_to_text + text_to_graph) / 2

    def intra_modal(self, view: Tensor, other_view: Tensor) -> Tensor:
        """Returns the loss of eq. (6) between two views of the same samples, [B, d] each."""
        own = share(len(view))
        return own.weight * info_nce(own.of(view), own.first(other_view), self.settings.tau_intra)

    def ranking_loss(self, nodes: Nodes, interaction: Interaction) -> Tensor:
        """Returns the loss that ``ranking_loss`` names: eq. (7), or :meth:`softmax_loss` in its place."""
        users, positives = interaction[self.USER_ID], interaction[self.ITEM_ID]
        if self.settings.ranking_loss == "softmax":
            return self.softmax_loss(nodes, users, positives)
        return self.bpr_loss(nodes, users, positives, interaction[self.NEG_ITEM_ID])

    def bpr_loss(self, nodes: Nodes, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Returns the loss of eq. (7) over a batch of users, observed items and sampled items, [B] each.

        ``bpr_norm`` puts the scores between cosines and dot products.
        """
        own = share(len(users))
        user = _with_length(nodes[0][own.of(users)], self.bpr_norm)
        positive, negative = (_with_length(nodes[1][own.of(items)], self.bpr_norm) for items in (positives, negatives))
        return own.weight * bpr((user * positive).sum(-1), (user * negative).sum(-1))

    def softmax_loss(self, nodes: Nodes, users: Tensor, positives: Tensor) -> Tensor:
        """Returns the cross-entropy of observed items among all items, without those that their user has met.

        The mask is that of eq. (3), over all items in place of a batch. ``bpr_norm`` puts the scores between cosines
        and dot products.

        Args:
            users, positives: [B] long, the observed interactions.
        """
        own = share(len(users))
        users, positives = own.of(users), own.of(positives)
        user_vectors, item_vectors = (_with_length(vectors, self.bpr_norm) for vectors in nodes)
        # Of a large batch each user is scored once, and of a small one no other user is scored.
        whole = len(users) >= self.n_users
        rows = torch.arange(self.n_users, device=users.device) if whole else users
        owner = users if whole else torch.arange(len(users), device=users.device)
        candidates, log_weight = self.candidates()

        def known(part: slice) -> Tensor:
            return self.graph.known_pairs(rows[part], candidates)

        scored = user_vectors[rows], item_vectors[candidates]
        if log_weight is None:
            return own.weight * unmet_softmax(*scored, owner, positives - 1, known)  # the padding is no candidate
        positive = (user_vectors[users] * item_vectors[positives]).sum(-1)
        return own.weight * drawn_unmet_softmax(positive, *scored, owner, known, log_weight)

    def candidates(self) -> tuple[Tensor, Tensor | None]:
        """Returns the items of a step's denominators, and the log of the weight of each.

        These are all items, or ``softmax_items`` drawn ones where there are more. A drawn item counts as often as makes
        the denominators those of all items in expectation.
        """
        size, n_items = self.settings.softmax_items, self.n_items - 1  # without the padding
        if n_items <= size:
            return torch.arange(1, self.n_items, device=self.graph.item.device), None
        probability = self.item_probability
        drawn = torch.multinomial(probability, size, replacement=True)
        return drawn, -(size * probability[drawn]).log()

    def _in_groups(self, loss: Callable[..., Tensor], *batch: Tensor) -> Tensor:
        """The mean of a contrastive loss over groups of ``contrast_batch_size`` samples, each the others' negatives."""
        size = len(batch[0])
        groups = zip(*(part.split(self.settings.contrast_batch_size or size) for part in batch), strict=True)
        return torch.stack([len(group[0]) / size * loss(*group) for group in groups]).sum()

    # Training and checkpoints

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Returns two groups, since the language model has a learning rate and a warm-up of its own."""
        language_model = self.text_encoder.parameters() if self.text_encoder is not None else ()
        text = [parameter for parameter in language_model if parameter.requires_grad]
        in_text = set(map(id, text))
        rest = [
            parameter for parameter in self.parameters() if parameter.requires_grad and id(parameter) not in in_text
        ]
        groups: list[dict[str, Any]] = [{"params": rest}]
        if text:
            groups.append({"params": text, **self.text_schedule})
        return groups

    def cost_of_an_epoch(self) -> str | None:
        """Returns what an epoch takes where the encoder trains."""
        if not isinstance(self.text_encoder, TrainedEncoder):
            return None
        return self.text_encoder.cost_of_an_epoch(views=2 if self.settings.text_weight else 1)

    def save_adapter(self, folder: Path) -> None:
        """Writes the LoRA adapter in PEFT's format, if the language model is trained with LoRA."""
        if isinstance(self.text_encoder, TrainedEncoder) and self.text_encoder.encoder.training_mode == "lora":
            self.text_encoder.encoder.save_adapter(folder)

    # Ranking: the graph only

    def ranking_vectors(self) -> Nodes:
        """Returns users [n_users, d] and items [n_items, d] whose dot products are the scores.

        The vectors have the directions of the graph vectors, and as lengths the ``score_norm``-th power of theirs:
        scores are cosines at 0 and dot products at 1. The length of a user's vector changes no ranking.
        """
        users, items = (_with_length(vectors, self.score_norm) for vectors in self(self.graph.adjacency()))
        return users, items


def _with_length(x: Tensor, power: float) -> Tensor:
    """Rows of ``x`` with their lengths raised to ``power``."""
    return F.normalize(x, dim=-1) * x.norm(dim=-1, keepdim=True) ** power
