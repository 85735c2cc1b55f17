"""Attention of transformers' models that never waits for a GPU, and that is fast with dropout on a CPU."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from recbole_symcere.model.cpu.dropout import attention

ATTENTION = "sdpa_without_look"


def register_attention() -> str:
    """Makes the attention known to transformers, and returns its name there.

    Before each micro-batch, transformers' own SDPA looks whether the mask hides anything, and a GPU has to answer.
    """
    AttentionInterface.register(ATTENTION, attention)
    AttentionMaskInterface.register(ATTENTION, _mask_without_look)
    return ATTENTION


def _mask_without_look(*args: Any, **kwargs: Any) -> Tensor | None:
    return sdpa_mask(*args, **kwargs | {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False})
