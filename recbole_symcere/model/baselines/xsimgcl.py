"""XSimGCL: Towards Extremely Simple Graph Contrastive Learning for Recommendation (Yu et al., TKDE 2023).

The model is that of https://github.com/Coder-Yu/SELFRec, commit 5b02294, without the 1e-5 that the authors' code adds
within the logarithm of BPR.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from recbole.data.interaction import Interaction
from recbole.utils import InputType
from torch import Tensor

from recbole_symcere.config import Config
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.errors import ConfigError
from recbole_symcere.model.graph import BipartiteGraph, FoldingLightGCN, linear_layers, mean_of_layers
from recbole_symcere.model.loss import bpr, info_nce
from recbole_symcere.model.recommender import VectorRecommender
from recbole_symcere.transfer import upload


@dataclass(frozen=True)
class XSimGCLSettings:
    """What XSimGCL itself reads of its configuration; ``properties/model/XSimGCL.yaml`` explains each setting."""

    n_layers: int
    contrast_layer: int
    cl_weight: float
    temperature: float
    eps: float
    reg_weight: float


class XSimGCL(VectorRecommender):
    """LightGCN without its layer 0 and with noisy layers in training, whose mean is contrasted with one of them.

    Args:
        config: see ``properties/model/XSimGCL.yaml``.
        dataset: the interactions that train.
    """

    input_type = InputType.PAIRWISE

    def __init__(self, config: Config, dataset: ReviewDataset) -> None:
        super().__init__(config, dataset)
        self.settings = config.view(XSimGCLSettings)
        users, items = dataset.inter_feat[self.USER_ID], dataset.inter_feat[self.ITEM_ID]
        self.graph = BipartiteGraph(users, items, self.n_users, self.n_items)
        self.encoder = FoldingLightGCN.from_config(config, self.n_users, self.n_items)
        # The contrast takes each user and item of a batch once, as in the authors' code. Their number is the length of
        # a tensor, so they are counted on the host and nothing waits for a GPU.
        self.host_fields = (self.USER_ID, self.ITEM_ID)

    @classmethod
    def check_settings(cls, config: Config) -> None:
        """Checks that the layer to contrast exists.

        Raises:
            ConfigError: there is no layer of the number ``contrast_layer``.
        """
        n_layers, contrast_layer = config["n_layers"], config["contrast_layer"]
        if contrast_layer > n_layers:
            raise ConfigError(f"contrast_layer is {contrast_layer}, but n_layers is {n_layers}")

    def forward(self, eps: float = 0.0) -> tuple[Tensor, Tensor]:
        """Returns two vectors of each node, users first, [n_nodes, d]: the mean of the layers, and the one to contrast.

        Args:
            eps: the length of the noise in each layer.
        """
        n_layers = self.settings.n_layers
        _, *layers = linear_layers(self.graph.adjacency(), self.encoder.embedding.weight, n_layers, eps)
        return mean_of_layers(layers), layers[self.settings.contrast_layer - 1]

    def calculate_loss(self, interaction: Interaction) -> tuple[Tensor, ...]:
        """Returns the weighted terms, which ``loss_names`` names; a term of weight 0 is left out.

        Args:
            interaction: B interactions with a sampled negative item each.
        """
        users, positives = interaction[self.USER_ID], interaction[self.ITEM_ID]
        final, view = self(self.settings.eps)
        user_vectors, item_vectors = final.tensor_split([self.n_users])
        user = user_vectors[upload(users, final.device)]
        positive = item_vectors[upload(positives, final.device)]
        negative = item_vectors[interaction[self.NEG_ITEM_ID]]
        terms = {"bpr": bpr((user * positive).sum(1), (user * negative).sum(1))}
        if self.settings.reg_weight:
            terms["l2"] = self.settings.reg_weight * (user.norm() + positive.norm()) / len(users)
        if self.settings.cl_weight:
            item_loss = self.contrast(final, view, self.n_users + positives)
            terms["contrastive"] = self.settings.cl_weight * (item_loss + self.contrast(final, view, users))
        self.loss_names = tuple(terms)
        return tuple(terms.values())

    def contrast(self, final: Tensor, view: Tensor, nodes: Tensor) -> Tensor:
        """Returns InfoNCE between final vectors and those of the view; each of the [B] nodes counts once."""
        nodes = upload(nodes.unique(), final.device)
        final, view = (F.normalize(vectors[nodes], dim=1) for vectors in (final, view))
        return info_nce(final, view, self.settings.temperature)

    def ranking_vectors(self) -> tuple[Tensor, Tensor]:
        """Returns users [n_users, d] and items [n_items, d] without noise, whose dot products are the scores."""
        users, items = self()[0].tensor_split([self.n_users])
        return users, items
