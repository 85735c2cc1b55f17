"""The text side of a model: the views of the reviews in a batch, or one text vector for each user and each item."""

from collections.abc import Sequence
from time import perf_counter

import numpy as np
import torch
from recbole.config import Config
from torch import Tensor, nn
from tqdm import tqdm

from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.data.tokens import TokenisedReviews
from recbole_symcere.model.text.encoder import ReviewEncoder
from recbole_symcere.model.text.groups import mean_by_group, profiles_by_group
from recbole_symcere.transfer import upload

TIMED_REVIEWS, TIMED_SECONDS = 64, 2.0  # the most that are encoded to say how long an epoch takes
PASSES_OF_A_STEP = 3  # a step takes as long as this many passes without gradients


class KeptVectors(nn.Module):
    """The vectors of reviews that were computed once, by an encoder that does not train.

    Args:
        views: float32 [n, hidden] each; the clean view comes first, then any number of masked views.
    """

    def __init__(self, views: Sequence[np.ndarray]) -> None:
        super().__init__()
        self.width = views[0].shape[1]
        self.n_masked = len(views) - 1
        for number, view in enumerate(views):  # memory-mapped as long as the module stays on the CPU
            self.register_buffer(f"view{number}", torch.from_numpy(view), persistent=False)

    def forward(self, rows: Tensor, masked: bool) -> tuple[Tensor, Tensor | None]:
        """Returns the vectors of some reviews.

        Args:
            rows: [B] long, the numbers of the reviews, on the host.
            masked: whether the masked view is wanted too.

        Returns:
            The clean view [B, hidden], and the masked view [B, hidden] or None. Each review's masked vector comes from
            one of the masked views, drawn at random for that review.
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
    """Reviews that are encoded anew in every step, by an encoder that trains.

    Args:
        encoder: the encoder.
        reviews: the tokens of all reviews.
        mask_ratio: the share of each review's words that the masked view hides.
    """

    def __init__(self, encoder: ReviewEncoder, reviews: TokenisedReviews, mask_ratio: float) -> None:
        super().__init__()
        self.encoder, self.reviews, self.mask_ratio = encoder, reviews, mask_ratio
        self.width = encoder.hidden_size

    def forward(self, rows: Tensor, masked: bool) -> tuple[Tensor, Tensor | None]:
        """Returns what :meth:`KeptVectors.forward` returns; the words to mask are drawn anew in every call."""
        if not masked:
            return self.encoder(self.reviews, rows), None
        return self.encoder.two_views(self.reviews, rows, self.mask_ratio)

    def cost_of_an_epoch(self, views: int) -> str:
        """Returns what is trained, and how long an epoch should take by the time that a few reviews take now.

        Args:
            views: how often a step encodes each of its reviews.
        """
        first = self._seconds_a_token(n_reviews=2)  # this warms up, and says how many reviews there is time for
        affordable = int(TIMED_SECONDS / first / float(self.reviews.lengths.mean()))
        seconds_a_token = self._seconds_a_token(max(2, min(TIMED_REVIEWS, affordable)))
        tokens = int(self.reviews.lengths.sum())
        seconds = seconds_a_token * tokens * views * PASSES_OF_A_STEP
        trained, all_weights = (
            sum(weight.numel() for weight in self.encoder.parameters() if weight.requires_grad or frozen)
            for frozen in (False, True)
        )
        return (
            f"text_train={self.encoder.training_mode} trains {trained / 1e6:.2g} of {all_weights / 1e6:.3g} million "
            f"weights of {self.encoder.name} in every step: an epoch of {tokens:,} tokens should take about "
            f"{tqdm.format_interval(seconds)} on this {self.encoder.device.type}. Much faster: --text_train=frozen, "
            "which encodes each review once, before training"
        )

    def _seconds_a_token(self, n_reviews: int) -> float:
        """Encodes reviews from all of the dataset, and returns the seconds that a token takes."""
        rows = np.linspace(0, len(self.reviews) - 1, n_reviews).astype(int)
        started = perf_counter()
        self.encoder.embed(self.reviews, rows, 0.0, 0)
        return (perf_counter() - started) / int(self.reviews.lengths[rows].sum())


def review_views(config: Config, dataset: ReviewDataset, masked: bool) -> KeptVectors | TrainedEncoder:
    """Makes the source of review vectors that the settings ``text_train`` and ``text_source`` ask for.

    Args:
        config: the settings ``text_*``, ``lora_*``, ``word_masking``, ``trust_remote_code`` and ``device``.
        dataset: the training interactions.
        masked: whether masked views will be wanted.

    Raises:
        DatasetError, ReviewFileError, EncoderError: the reviews or the encoder can't be read.
    """
    views = config["text_views"] if masked else 0
    if config["text_source"] == "random":
        return KeptVectors([_random_vectors(config, dataset).numpy()] * (1 + views))
    encoder = ReviewEncoder.from_config(config)
    if config["text_train"] == "frozen":
        return KeptVectors(dataset.embedded_reviews(encoder.to(config["device"]), views, config["word_masking"]))
    return TrainedEncoder(encoder, dataset.tokenised_reviews(encoder), config["word_masking"])


def text_rows(config: Config, dataset: ReviewDataset) -> Tensor:
    """Returns which review is read for each review id, [n_review_ids] long.

    This is :meth:`ReviewDataset.review_rows`, unless ``text_source`` is ``shuffled``: then the reviews are dealt out
    anew among the training interactions.
    """
    rows = dataset.review_rows()
    if config["text_source"] == "shuffled":
        return torch.cat([_shuffle(config, dataset), torch.tensor([len(dataset)])])[rows]
    return rows


def _shuffle(config: Config, dataset: ReviewDataset) -> Tensor:
    """Returns a permutation of the training interactions that the seed of the run determines."""
    return torch.randperm(len(dataset), generator=torch.Generator().manual_seed(config["seed"]))


def _random_vectors(config: Config, dataset: ReviewDataset) -> Tensor:
    """Returns one random vector of ``embedding_size`` numbers for each training interaction; the seed decides."""
    size = len(dataset), config["embedding_size"]
    return torch.randn(size, generator=torch.Generator().manual_seed(config["seed"]))


def item_text_features(config: Config, dataset: ReviewDataset) -> Tensor:
    """Computes the mean vector of each item's training reviews, before training begins.

    Args:
        config: the keys of ``ReviewEncoder.frozen_from_config``, ``text_cache_dir`` and ``device``.
        dataset: the training interactions; no other review is read.

    Returns:
        float32 [n_items, hidden]; an item without a training review, such as the padding item, gets the mean of the
        other items' vectors.

    Raises:
        DatasetError, ReviewFileError, EncoderError: the reviews or the encoder can't be read.
    """
    return mean_by_group(training_vectors(config, dataset), dataset.inter_feat[dataset.iid_field], dataset.item_num)


def text_profiles(config: Config, dataset: ReviewDataset) -> tuple[Tensor, Tensor]:
    """Computes a text profile for each user and each item.

    A profile is the mean vector of the training reviews of a user or an item, minus the mean over all training reviews,
    scaled to unit length.

    Args:
        config, dataset: as for :func:`item_text_features`.

    Returns:
        float32 [n_users, hidden] and [n_items, hidden]; the row of a user or an item without a training review is zero.

    Raises:
        DatasetError, ReviewFileError, EncoderError: the reviews or the encoder can't be read.
    """
    vectors = training_vectors(config, dataset)
    users, items = (dataset.inter_feat[field] for field in (dataset.uid_field, dataset.iid_field))
    return profiles_by_group(vectors, users, dataset.user_num), profiles_by_group(vectors, items, dataset.item_num)


def frozen_encoder(config: Config) -> ReviewEncoder | None:
    """Returns the encoder that :func:`training_vectors` encodes reviews with; None if ``text_source`` is ``random``."""
    if config["text_source"] == "random":
        return None
    return ReviewEncoder.frozen_from_config(config, config["text_adapter"]).to(config["device"])


def training_vectors(config: Config, dataset: ReviewDataset, encoder: ReviewEncoder | None = None) -> Tensor:
    """Returns the vectors of the training reviews in the order of the interactions, float32 [n, hidden].

    The setting ``text_source`` has the meaning that SymCERE.yaml gives.

    Args:
        encoder: what :func:`frozen_encoder` returns, if the caller has it already; None loads it here.
    """
    encoder = encoder or frozen_encoder(config)
    if encoder is None:
        return _random_vectors(config, dataset)
    (array,) = dataset.embedded_reviews(encoder, 0, 0.0)
    vectors = torch.from_numpy(array)
    return dealt_out(config, dataset, vectors)


def dealt_out(config: Config, dataset: ReviewDataset, vectors: Tensor) -> Tensor:
    """Returns vectors of the training reviews [n, d] in the order in which ``text_source`` deals the reviews out."""
    return vectors[_shuffle(config, dataset)] if config["text_source"] == "shuffled" else vectors


def projection(kind: str, width: int, to_width: int) -> nn.Module:
    """Makes the layers that take text vectors to the width of the graph's vectors.

    Args:
        kind: ``linear``, or ``mlp``: one hidden layer, whose width is the mean of the two, as in RLMRec.
        width: the width of the text vectors.
        to_width: the width of the graph's vectors.
    """
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
