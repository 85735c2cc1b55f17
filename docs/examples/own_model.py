"""SymCERE with a graph encoder and a cross-modal loss of one's own."""

from math import inf
from typing import ClassVar

import torch
import torch.nn.functional as F
from recbole.config import Config
from torch import Tensor

from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.model.graph import LightGCN, propagate
from recbole_symcere.model.symcere import GRAPH_ENCODERS, SymCERE
from recbole_symcere.quick_start import recommend, run_recbole_symcere


class TeleportGCN(LightGCN):
    """Propagation that returns to the embeddings: x <- (1 - a) A x + a x0 (Gasteiger et al., ICLR 2019)."""

    def __init__(self, config: Config, n_users: int, n_items: int) -> None:
        super().__init__(n_users, n_items, config["embedding_size"], config["n_layers"])
        self.teleport = config["teleport"]

    def forward(self, adjacency: Tensor) -> tuple[Tensor, Tensor]:
        start = layer = self.embedding.weight
        for _ in range(self.n_layers):
            layer = (1 - self.teleport) * propagate(adjacency, layer) + self.teleport * start
        users, items = layer.tensor_split([self.n_users])
        return users, items


GRAPH_ENCODERS["Teleport"] = TeleportGCN


class OwnModel(SymCERE):
    """The encoder above, and a sigmoid in place of the softmax (Zhai et al., ICCV 2023)."""

    defaults: ClassVar = {"graph_encoder": "Teleport", "teleport": 0.1, "sigmoid_bias": -5.0}
    choices: ClassVar = SymCERE.choices | {"graph_encoder": ("Teleport",), "contrast": ("sincere",)}
    bounds: ClassVar = SymCERE.bounds | {"teleport": (0.0, 1.0), "sigmoid_bias": (-inf, inf)}

    def __init__(self, config: Config, dataset: ReviewDataset) -> None:
        super().__init__(config, dataset)
        self.sigmoid_bias = config["sigmoid_bias"]

    def cross_modal(self, graph: Tensor, text: Tensor, users: Tensor, items: Tensor, anchors: slice) -> Tensor:
        scores = graph[anchors] @ text.T / self.tau_cross + self.sigmoid_bias
        own = torch.eye(len(text), dtype=torch.bool, device=scores.device)[anchors]
        losses = F.softplus(torch.where(own, -scores, scores))
        return losses.masked_fill(self.graph.known_pairs(users[anchors], items) & ~own, 0.0).sum() / len(scores)


if __name__ == "__main__":
    run_recbole_symcere(OwnModel, "demo", config_dict={"teleport": 0.2, "checkpoint_file": "saved/own.pth"})
    print(recommend("saved/own.pth", ["u0"], config_dict={"model": OwnModel}))
