"""The reviews that the tests of the encoder encode, and how they load an encoder."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from recbole_symcere.data.tokens import TokenisedReviews, tokenise
from recbole_symcere.model.text.encoder import ReviewEncoder

TEXTS = ["the good guitars", "good", "the thing, the hat, the good thing!", "ホテル とても良い", "é", "a b c d e f g h"]
ROWS = np.arange(len(TEXTS))
MAX_LENGTH = 24


def load(folder: Path, **settings: Any) -> ReviewEncoder:
    torch.manual_seed(0)
    return ReviewEncoder(str(folder), **({"max_length": MAX_LENGTH, "precision": "fp32"} | settings))


def tokens_of(encoder: ReviewEncoder, texts: list[str] = TEXTS, cache: Path = Path("cache")) -> TokenisedReviews:
    return tokenise(texts, encoder.fast_tokenizer, encoder.max_length, cache)


def randomise_adapter(encoder: ReviewEncoder) -> None:
    """A new adapter's second factor is 0: as if there were none."""
    for name, weight in encoder.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.5)
