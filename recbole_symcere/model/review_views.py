"""The text side of a training batch: each review in a clean and a word-masked view, in the graph's width."""

from collections.abc import Sequence

import numpy as np
import torch
from recbole.config import Config
from torch import Tensor, nn

from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.data.reviews import TokenisedReviews
from recbole_symcere.model.text import ReviewEncoder


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
        clean, *others = (view[rows.to(view.device)] for view in self.buffers())
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


def review_views(config: Config, dataset: ReviewDataset) -> KeptVectors | TrainedEncoder:
    """What ``text_train`` asks for.

    Raises:
        DatasetError, ReviewFileError, EncoderError: the reviews or their encoder can't be had.
    """
    encoder = ReviewEncoder.from_config(config)
    if config["text_train"] == "frozen":
        views = config["text_views"] if config["alpha"] else 0
        return KeptVectors(dataset.embedded_reviews(encoder.to(config["device"]), views, config["word_masking"]))
    return TrainedEncoder(encoder, dataset.tokenised_reviews(encoder), config["word_masking"])


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
