"""XSimGCL: Towards Extremely Simple Graph Contrastive Learning for Recommendation (Yu et al., TKDE 2023).

As https://github.com/Coder-Yu/SELFRec has it, commit 5b02294, but for the 1e-5 that it adds within BPR's logarithm.
"""

from math import inf
from typing import ClassVar

import torch.nn.functional as F
from recbole.config import Config
from recbole.data.interaction import Interaction
from recbole.utils import InputType
from torch import Tensor

from recbole_symcere.config import ABOVE_0
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.errors import ConfigError
from recbole_symcere.model.graph import BipartiteGraph, NoisyLightGCN
from recbole_symcere.model.loss import bpr, info_nce
from recbole_symcere.model.recommender import VectorRecommender
from recbole_symcere.transfer import upload


class XSimGCL(VectorRecommender):
    """LightGCN without its layer 0, whose layers are noisy in training; contrasts their mean with one of them.

    Args:
        config: see ``properties/model/XSimGCL.yaml``.
        dataset: the interactions that train.

    Raises:
        ConfigError: there is no layer of the number ``contrast_layer``.
    """

    input_type = InputType.PAIRWISE
    bounds: ClassVar = {
        "temperature": (ABOVE_0, inf),
        **dict.fromkeys(("cl_weight", "eps", "reg_weight"), (0.0, inf)),
        **dict.fromkeys(("embedding_size", "n_layers", "contrast_layer"), (1, inf)),
    }

    def __init__(self, config: Config, dataset: ReviewDataset) -> None:
        super().__init__(config, dataset)
        self.cl_weight, self.temperature = config["cl_weight"], config["temperature"]
        self.eps, self.reg_weight = config["eps"], config["reg_weight"]
        users, items = dataset.inter_feat[self.USER_ID], dataset.inter_feat[self.ITEM_ID]
        self.graph = BipartiteGraph(users, items, self.n_users, self.n_items)
        self.encoder = noisy_light_gcn(config, self.n_users, self.n_items)
        # The contrast is over each user and item of a batch once, as the authors': how many there are sets a shape, and
        # is counted on the host, so that nothing waits for a GPU.
        self.host_fields = (self.USER_ID, self.ITEM_ID)

    def forward(self, eps: float = 0.0) -> tuple[Tensor, Tensor]:
        """``NoisyLightGCN.with_contrast_layer`` over the training graph."""
        return self.encoder.with_contrast_layer(self.graph.adjacency(), eps)

    def calculate_loss(self, interaction: Interaction) -> tuple[Tensor, ...]:
        """The weighted terms, named by ``loss_names``; a term of weight 0 is neither computed nor returned.

        Args:
            interaction: B interactions with a sampled negative item each.
        """
        users, positives = interaction[self.USER_ID], interaction[self.ITEM_ID]
        final, view = self(self.eps)
        user_vectors, item_vectors = final.tensor_split([self.n_users])
        user = user_vectors[upload(users, final.device)]
        positive = item_vectors[upload(positives, final.device)]
        negative = item_vectors[interaction[self.NEG_ITEM_ID]]
        terms = {"bpr": bpr((user * positive).sum(1), (user * negative).sum(1))}
        if self.reg_weight:
            terms["l2"] = self.reg_weight * (user.norm() + positive.norm()) / len(users)
        if self.cl_weight:
            item_loss = self.contrast(final, view, self.n_users + positives)
            terms["contrastive"] = self.cl_weight * (item_loss + self.contrast(final, view, users))
        self.loss_names = tuple(terms)
        return tuple(terms.values())

    def contrast(self, final: Tensor, view: Tensor, nodes: Tensor) -> Tensor:
        """InfoNCE of nodes' final vectors with those of the view, over the batch; [B] nodes, each counted once."""
        nodes = upload(nodes.unique(), final.device)
        return info_nce(F.normalize(final[nodes], dim=1), F.normalize(view[nodes], dim=1), self.temperature)

    def ranking_vectors(self) -> tuple[Tensor, Tensor]:
        users, items = self()[0].tensor_split([self.n_users])
        return users, items


def noisy_light_gcn(config: Config, n_users: int, n_items: int) -> NoisyLightGCN:
    """Raises:
    ConfigError: there is no layer of the number ``contrast_layer``.
    """
    n_layers, contrast_layer = config["n_layers"], config["contrast_layer"]
    if contrast_layer > n_layers:
        raise ConfigError(f"contrast_layer is {contrast_layer}, but n_layers is {n_layers}")
    return NoisyLightGCN(n_users, n_items, config["embedding_size"], n_layers, contrast_layer)
