"""The text side of a model: the views of a batch's reviews, in the graph's width, or one vector a user or an item."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from recbole.config import Config
from torch import Tensor, nn

from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.data.tokens import TokenisedReviews
from recbole_symcere.model.text.encoder import ReviewEncoder
from recbole_symcere.transfer import upload


class KeptVectors(nn.Module):
    """Reviews whose vectors were computed once, by an encoder that does not train."""

    def __init__(self, views: Sequence[np.ndarray]) -> None:
        """Args:
        views: float32 [n, hidden] each: the clean view, then any number of masked ones.
        """
        super().__init__()
        self.width = views[0].shape[1]
        self.n_masked = len(views) - 1
        for number, view in enumerate(views):  # memory-mapped as long as the module stays on the CPU
            self.register_buffer(f"view{number}", torch.from_numpy(view), persistent=False)

    def forward(self, rows: Tensor, masked: bool) -> tuple[Tensor, Tensor | None]:
        """Args:
            rows: [B] long, which reviews; on the host.
            masked: whether the masked view is wanted too.

        Returns:
            Vectors [B, hidden] of the clean view and of one of the masked views, drawn for each review, or None.
        """
        clean, *others = (view[upload(rows, view.device)] for view in self.buffers())
        if not masked:
            return clean, None
        draw = torch.randint(self.n_masked, (len(rows), 1), device=clean.device)
        vectors = others[0]
        for number, other in enumerate(others[1:], start=1):
            vectors = torch.where(draw == number, other, vectors)
        return clean, vectors


class TrainedEncoder(nn.Module):
    """Reviews encoded anew at every step, by an encoder that trains."""

    def __init__(self, encoder: ReviewEncoder, reviews: TokenisedReviews, mask_ratio: float) -> None:
        super().__init__()
        self.encoder, self.reviews, self.mask_ratio = encoder, reviews, mask_ratio
        self.width = encoder.hidden_size

    def forward(self, rows: Tensor, masked: bool) -> tuple[Tensor, Tensor | None]:
        """As ``KeptVectors.forward``; the words to mask are drawn at every call."""
        if not masked:
            return self.encoder(self.reviews, rows), None
        return self.encoder.two_views(self.reviews, rows, self.mask_ratio)


def review_views(config: Config, dataset: ReviewDataset, masked: bool) -> KeptVectors | TrainedEncoder:
    """What ``text_train`` and ``text_source`` ask for.

    Args:
        masked: whether masked views will be wanted.

    Raises:
        DatasetError, ReviewFileError, EncoderError: the reviews or their encoder can't be had.
    """
    views = config["text_views"] if masked else 0
    if config["text_source"] == "random":
        return KeptVectors([_random_vectors(config, dataset).numpy()] * (1 + views))
    encoder = ReviewEncoder.from_config(config)
    if config["text_train"] == "frozen":
        return KeptVectors(dataset.embedded_reviews(encoder.to(config["device"]), views, config["word_masking"]))
    return TrainedEncoder(encoder, dataset.tokenised_reviews(encoder), config["word_masking"])


def review_rows(config: Config, dataset: ReviewDataset) -> Tensor:
    """``ReviewDataset.review_rows``; ``shuffled`` gives each training interaction the review of another one."""
    rows = dataset.review_rows()
    if config["text_source"] == "shuffled":
        return torch.cat([_shuffle(config, dataset), torch.tensor([len(dataset)])])[rows]
    return rows


def _shuffle(config: Config, dataset: ReviewDataset) -> Tensor:
    """A permutation of the training interactions, the run's."""
    return torch.randperm(len(dataset), generator=torch.Generator().manual_seed(config["seed"]))


def _random_vectors(config: Config, dataset: ReviewDataset) -> Tensor:
    """One a training interaction, the run's, of the graph's width."""
    size = len(dataset), config["embedding_size"]
    return torch.randn(size, generator=torch.Generator().manual_seed(config["seed"]))


def item_text_features(config: Config, dataset: ReviewDataset) -> Tensor:
    """Reviews encoded early, before training: the mean vector of each item's training reviews.

    Args:
        config: the keys of ``ReviewEncoder.frozen_from_config``, ``text_cache_dir`` and ``device``.
        dataset: the interactions that train; no other review is read.

    Returns:
        float32 [n_items, hidden]; an item without a training review, padding among them, gets the mean over the others.

    Raises:
        DatasetError, ReviewFileError, EncoderError: the reviews or their encoder can't be had.
    """
    return mean_by_group(training_vectors(config, dataset), dataset.inter_feat[dataset.iid_field], dataset.item_num)


def text_profiles(config: Config, dataset: ReviewDataset) -> tuple[Tensor, Tensor]:
    """The mean vectors of users' and of items' training reviews, seen from the mean over all, of unit length.

    Args:
        config, dataset: as for :func:`item_text_features`, which encodes alike.

    Returns:
        float32 [n_users, hidden] and [n_items, hidden]; zeros for whom there is no training review.

    Raises:
        DatasetError, ReviewFileError, EncoderError: the reviews or their encoder can't be had.
    """
    vectors = training_vectors(config, dataset)
    users, items = (dataset.inter_feat[field] for field in (dataset.uid_field, dataset.iid_field))
    return profiles_by_group(vectors, users, dataset.user_num), profiles_by_group(vectors, items, dataset.item_num)


def training_vectors(config: Config, dataset: ReviewDataset) -> Tensor:
    """Of the training reviews, in the interactions' order, float32 [n, hidden]; ``text_source`` as in SymCERE.yaml."""
    if config["text_source"] == "random":
        return _random_vectors(config, dataset)
    encoder = ReviewEncoder.frozen_from_config(config, config["text_adapter"]).to(config["device"])
    (array,) = dataset.embedded_reviews(encoder, 0, 0.0)
    vectors = torch.from_numpy(array)
    return vectors[_shuffle(config, dataset)] if config["text_source"] == "shuffled" else vectors


def mean_by_group(vectors: Tensor, group: Tensor, n_groups: int) -> Tensor:
    """The mean vector of each group; a group without members gets the mean of those of the others.

    Args:
        vectors: [n, hidden], n > 0.
        group: [n] long, from 0 to n_groups - 1.

    Returns:
        [n_groups, hidden]
    """
    sums, size = _sums(vectors, group, n_groups)
    means = sums / size.clamp(min=1)
    empty = size.flatten() == 0
    means[empty] = means[~empty].mean(0)
    return means


def profiles_by_group(vectors: Tensor, group: Tensor, n_groups: int) -> Tensor:
    """The direction from the mean over all vectors to the mean of each group; zeros for a group without members.

    Args:
        vectors: [n, hidden], n > 0.
        group: [n] long, from 0 to n_groups - 1.

    Returns:
        [n_groups, hidden], of unit length.
    """
    sums, size = _sums(vectors, group, n_groups)
    return F.normalize(sums - size * vectors.mean(0), dim=1)


def _sums(vectors: Tensor, group: Tensor, n_groups: int) -> tuple[Tensor, Tensor]:
    """Of each group's vectors [n_groups, hidden], and how many they are [n_groups, 1]."""
    size = torch.bincount(group, minlength=n_groups)[:, None]
    return vectors.new_zeros(n_groups, vectors.shape[1]).index_add_(0, group, vectors), size


def projection(kind: str, width: int, to_width: int) -> nn.Module:
    """From the text's width to the graph's: ``linear``, or ``mlp`` with one hidden layer half-way, as RLMRec's."""
    if kind == "linear":
        layers: list[nn.Module] = [nn.Linear(width, to_width)]
    else:
        hidden = (width + to_width) // 2
        layers = [nn.Linear(width, hidden), nn.LeakyReLU(), nn.Linear(hidden, to_width)]
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)
