"""SymCERE: Symmetric Contrastive Learning for Robust Review-Enhanced Recommendation (Suzumura et al., 2025).

Equation numbers are the paper's; what it leaves open is decided in ``properties/model/SymCERE.yaml``.
"""

from collections.abc import Callable, Mapping
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from recbole.config import Config
from recbole.data.interaction import Interaction
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_symcere.config import ABOVE_0
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.distributed import share
from recbole_symcere.errors import ConfigError
from recbole_symcere.model.graph import NGCF, BipartiteGraph, LightGCN, NoisyLightGCN
from recbole_symcere.model.loss import bpr, info_nce, symmetric_nce
from recbole_symcere.model.recommender import VectorRecommender
from recbole_symcere.model.review_views import KeptVectors, TrainedEncoder, projection, review_rows, review_views
from recbole_symcere.model.xsimgcl import noisy_light_gcn

Nodes = tuple[Tensor, Tensor]  # users [n_users, d] and items [n_items, d]
GRAPH_ENCODERS: dict[str, Callable[[Config, int, int], LightGCN | NGCF | NoisyLightGCN]] = {
    "LightGCN": lambda config, users, items: LightGCN(users, items, config["embedding_size"], config["n_layers"]),
    "NGCF": lambda config, users, items: NGCF(
        users, items, config["embedding_size"], config["n_layers"], config["message_dropout"]
    ),
    "XSimGCL": noisy_light_gcn,
}


class SymCERE(VectorRecommender):
    """Aligns graph vectors of interactions with the vectors of their reviews; ranks by the graph alone.

    Args:
        config: see ``properties/model/SymCERE.yaml``.
        dataset: the interactions that train; no other review is read.

    Raises:
        ConfigError: settings that leave nothing to train, or repeat rows within a batch.
        DatasetError, ReviewFileError, EncoderError: the reviews or their encoder can't be had.
    """

    input_type = InputType.PAIRWISE
    choices: ClassVar = {
        "graph_encoder": ("LightGCN", "NGCF"),
        "projection": ("linear", "mlp"),
        "contrast": ("sincere", "infonce"),
        "text_source": ("reviews", "shuffled", "random"),
    }
    bounds: ClassVar = {
        **dict.fromkeys(("tau_cross", "tau_intra"), (ABOVE_0, inf)),
        **dict.fromkeys(("cross_weight", "alpha", "alpha_text", "beta", "reg_weight", "text_memory"), (0.0, inf)),
        **dict.fromkeys(("edge_dropout", "word_masking", "message_dropout", "lora_dropout"), (0.0, 1.0)),
        **dict.fromkeys(("bpr_norm", "score_norm"), (-inf, inf)),
        **dict.fromkeys(("n_layers", "text_warmup_steps"), (0, inf)),
        **dict.fromkeys(("embedding_size", "text_views", "text_max_length", "text_tokens_per_batch"), (1, inf)),
        **dict.fromkeys(("contrast_batch_size", "lora_r"), (1, inf)),
    }

    def __init__(self, config: Config, dataset: ReviewDataset) -> None:
        super().__init__(config, dataset)
        if config["train_neg_sample_args"]["sample_num"] != 1:
            raise ConfigError("train_neg_sample_args sample_num must be 1: a repeated row would be its own negative")
        self.cross_weight, self.alpha, self.beta = config["cross_weight"], config["alpha"], config["beta"]
        self.alpha_text = self.alpha if config["alpha_text"] is None else config["alpha_text"]
        self.reg_weight = config["reg_weight"]
        self.tau_cross, self.tau_intra = config["tau_cross"], config["tau_intra"]
        self.edge_dropout = config["edge_dropout"]
        self.contrast_batch_size = config["contrast_batch_size"]

        # Table 3's ablations: eq. (2) or nothing, eq. (3) or every other pair a negative
        self.unit = partial(F.normalize, dim=-1) if config["normalize"] else nn.Identity()
        users, items = dataset.inter_feat[self.USER_ID], dataset.inter_feat[self.ITEM_ID]
        self.graph = BipartiteGraph(users, items, self.n_users, self.n_items)
        self.known_pairs = self.graph.known_pairs if config["contrast"] == "sincere" else _no_known_pairs
        geometry = 0.0 if config["normalize"] else 1.0
        self.bpr_norm = geometry if config["bpr_norm"] is None else config["bpr_norm"]
        self.score_norm = geometry if config["score_norm"] is None else config["score_norm"]

        self.graph_encoder = GRAPH_ENCODERS[config["graph_encoder"]](config, self.n_users, self.n_items)
        self.text_encoder: KeptVectors | TrainedEncoder | None = None
        if self.cross_weight or self.alpha_text:
            self.review_field = dataset.review_field
            self.review_rows = review_rows(config, dataset)  # on the host, as the reviews are
            self.host_fields = (self.review_field,)
            self.text_encoder = review_views(config, dataset, masked=bool(self.alpha_text))
            self.projection = projection(config["projection"], self.text_encoder.width, self.graph_encoder.width)
        self.text_learning_rate, self.text_warmup_steps = config["text_learning_rate"], config["text_warmup_steps"]

    @classmethod
    def to_rank(cls, config: Config, dataset: ReviewDataset, state: Mapping[str, Tensor]) -> "SymCERE":
        """A model that the graph's part of a trained one's ``state`` can be loaded into; no review is read."""
        config["cross_weight"] = config["alpha_text"] = 0.0
        return cls(config, dataset)

    # Section 3.1: modality encoders

    def forward(self, adjacency: Tensor) -> Nodes:
        """Graph vectors of all users [n_users, d] and all items [n_items, d]: eq. (1)."""
        return self.graph_encoder(adjacency)

    def graph_views(self) -> tuple[Nodes, Nodes | None]:
        """Vectors of all nodes, and for eq. (6) those with edges dropped; None where alpha is 0."""
        nodes = self(self.graph.adjacency())
        return nodes, self(self.graph.dropped_adjacency(self.edge_dropout)) if self.alpha else None

    def interaction_vectors(self, nodes: Nodes, users: Tensor, items: Tensor) -> Tensor:
        """Unit vectors of g_uv = (g_u + g_v) / 2, [B, d]: section 3.1.1 and eq. (2)."""
        user_vectors, item_vectors = nodes
        return self.unit((user_vectors[users] + item_vectors[items]) / 2)

    def review_vectors(self, review_ids: Tensor, masked: bool) -> tuple[Tensor, Tensor]:
        """Unit vectors t_uv of the interactions' reviews, [B, d]: section 3.1.2 and eq. (2).

        Returns:
            The clean view, and a word-masked one where ``masked``, else the clean view again.
        """
        assert self.text_encoder is not None
        clean, other = self.text_encoder(self.review_rows[review_ids.cpu()], masked)
        clean = self.unit(self.projection(clean))
        return clean, clean if other is None else self.unit(self.projection(other))

    # Sections 3.2 and 3.3: objective

    def calculate_loss(self, interaction: Interaction) -> tuple[Tensor, ...]:
        """The weighted terms of eq. (8), named by ``loss_names``; a term of weight 0 is neither computed nor returned.

        Where several processes train, they take the same batch, and each sums over a share of it: see ``distributed``.

        Args:
            interaction: B interactions with their review ids and one sampled negative item each.
        """
        users, items = interaction[self.USER_ID], interaction[self.ITEM_ID]
        nodes, other_nodes = self.graph_views()
        graph = self.interaction_vectors(nodes, users, items)
        terms: dict[str, Tensor] = {}
        if self.text_encoder is not None:
            text, masked_text = self.review_vectors(interaction[self.review_field], masked=bool(self.alpha_text))
            if self.cross_weight:
                terms["cross_modal"] = self.cross_weight * self._contrast(self.cross_modal, graph, text, users, items)
            if self.alpha_text:
                terms["intra_text"] = self.alpha_text * self._contrast(self.intra_modal, text, masked_text)
        if other_nodes is not None:
            other_graph = self.interaction_vectors(other_nodes, users, items)
            terms["intra_graph"] = self.alpha * self._contrast(self.intra_modal, graph, other_graph)
        if self.beta:
            terms["bpr"] = self.beta * self._ranking_loss(nodes, users, items, interaction[self.NEG_ITEM_ID])
        if self.reg_weight:
            squares = [parameter.square().sum() for parameter in self.parameters() if parameter.requires_grad]
            terms["l2"] = self.reg_weight * sum(squares[1:], squares[0])
        if not terms:
            raise ConfigError("cross_weight, alpha, beta and reg_weight are all 0: nothing is left to train on")
        self.loss_names = tuple(terms)
        return tuple(terms.values())

    def cross_modal(self, graph: Tensor, text: Tensor, users: Tensor, items: Tensor, anchors: slice) -> Tensor:
        """Eq. (5): the mean over ``anchors`` of B interactions; no pair that the user is known for is a negative."""
        return symmetric_nce(graph, text, self.known_pairs(users[anchors], items), self.tau_cross, anchors)

    def intra_modal(self, view: Tensor, other_view: Tensor, anchors: slice) -> Tensor:
        """Eq. (6): the mean over ``anchors`` of B interactions."""
        return info_nce(view, other_view, self.tau_intra, anchors)

    def _contrast(self, loss: Callable[..., Tensor], *batch: Tensor) -> Tensor:
        """The mean of ``loss`` over the batch, whose samples are negatives within ``contrast_batch_size`` of them."""
        size = len(batch[0])
        terms = []
        for group in zip(*(part.split(self.contrast_batch_size or size) for part in batch), strict=True):
            own = share(len(group[0]))
            terms.append(len(group[0]) / size * own.weight * loss(*group, own.rows))
        return torch.stack(terms).sum()

    def _ranking_loss(self, nodes: Nodes, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Eq. (7) over a batch of (user, observed item, sampled item), its scores between cosine and dot product."""
        own = share(len(users))
        user = _with_length(nodes[0][users[own.rows]], self.bpr_norm)
        positive, negative = (
            _with_length(nodes[1][items[own.rows]], self.bpr_norm) for items in (positives, negatives)
        )
        return own.weight * bpr((user * positive).sum(-1), (user * negative).sum(-1))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the optimiser trains: everything at ``learning_rate``, the language model at a rate of its own."""
        language_model = self.text_encoder.parameters() if self.text_encoder is not None else ()
        text = [parameter for parameter in language_model if parameter.requires_grad]
        in_text = set(map(id, text))
        rest = [
            parameter for parameter in self.parameters() if parameter.requires_grad and id(parameter) not in in_text
        ]
        groups: list[dict[str, Any]] = [{"params": rest}]
        if text:
            groups.append({"params": text, "lr": self.text_learning_rate, "warmup_steps": self.text_warmup_steps})
        return groups

    def save_adapter(self, folder: Path) -> None:
        """Writes the LoRA adapter in PEFT's format, where there is one."""
        if isinstance(self.text_encoder, TrainedEncoder) and self.text_encoder.encoder.training_mode == "lora":
            self.text_encoder.encoder.save_adapter(folder)

    # Ranking: the graph only

    def ranking_vectors(self) -> tuple[Tensor, Tensor]:
        """Users [n_users, d] and items [n_items, d] whose dot products are the scores.

        Lengths are the ``score_norm``-th power of the graph vectors': scores are cosines at 0, dot products at 1. A
        user's own length changes no ranking.
        """
        users, items = (_with_length(vectors, self.score_norm) for vectors in self(self.graph.adjacency()))
        return users, items


def _with_length(x: Tensor, power: float) -> Tensor:
    """Rows of ``x`` with their lengths raised to ``power``."""
    return F.normalize(x, dim=-1) * x.norm(dim=-1, keepdim=True) ** power


def _no_known_pairs(users: Tensor, items: Tensor) -> None:
    """The InfoNCE ablation: every other sample of the batch is a negative."""
