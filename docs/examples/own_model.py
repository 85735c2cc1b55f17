"""SymCERE with a graph encoder and a contrast of one's own."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Self

from recbole_symcere.config import Config
from recbole_symcere.model.graph import GRAPH_ENCODERS, LightGCN, propagate
from recbole_symcere.model.loss import CONTRASTS
from recbole_symcere.model.symcere import SymCERE
from recbole_symcere.quick_start import recommend, run_recbole_symcere

BIAS = -5.0  # most pairs are no positives


@GRAPH_ENCODERS.register("Teleport")
class TeleportGCN(LightGCN):
    """Propagation that returns to the embeddings: x <- (1 - a) A x + a x0 (Gasteiger et al., ICLR 2019)."""

    teleport: float

    @classmethod
    def from_config(cls, config: Config, n_users: int, n_items: int) -> Self:
        """Makes the encoder with the setting ``teleport``."""
        encoder = super().from_config(config, n_users, n_items)
        encoder.teleport = config["teleport"]
        return encoder

    def forward(self, adjacency: Tensor) -> tuple[Tensor, Tensor]:
        """Returns user vectors [n_users, width] and item vectors [n_items, width]."""
        start = layer = self.embedding.weight
        for _ in range(self.n_layers):
            layer = (1 - self.teleport) * propagate(adjacency, layer) + self.teleport * start
        users, items = layer.tensor_split([self.n_users])
        return users, items


@CONTRASTS.register("sigmoid")
def sigmoid(anchors: Tensor, candidates: Tensor, temperature: float, known: Tensor | None = None) -> Tensor:
    """Returns a loss with a sigmoid in place of the softmax (Zhai et al., ICCV 2023), a mean over the anchors."""
    scores = anchors @ candidates.T / temperature + BIAS
    own = torch.zeros_like(scores, dtype=torch.bool)
    own.diagonal().fill_(True)
    losses = F.softplus(torch.where(own, -scores, scores))
    return (losses if known is None else losses.masked_fill(known & ~own, 0.0)).sum() / len(scores)


class OwnModel(SymCERE):
    """SymCERE with both by default, and a setting of its own."""

    defaults: ClassVar = {
        "graph_encoder": "Teleport",
        "contrast": "sigmoid",
        "teleport": {"default": 0.1, "at_least": 0, "at_most": 1},
    }


if __name__ == "__main__":
    run_recbole_symcere(OwnModel, "demo", config_dict={"teleport": 0.2, "checkpoint_file": "saved/own.pth"})
    print(recommend("saved/own.pth", ["u0"], config_dict={"model": OwnModel}))
