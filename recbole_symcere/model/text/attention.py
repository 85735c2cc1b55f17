"""Attention of transformers' models that never waits for a GPU, and that is fast with dropout on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from recbole_symcere.model.cpu.dropout import attention

ATTENTION = "sdpa_without_look"
WITHOUT_LOOK = {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}


def register_attention() -> str:
    """Makes the attention known to transformers, and returns its name there.

    Before each micro-batch, transformers' own ``sdpa`` looks whether the mask hides anything, and a GPU has to answer.
    Where transformers can no longer be told to leave that out, the name is that of its own.
    """
    if not WITHOUT_LOOK.keys() <= signature(_sdpa_mask()).parameters.keys():
        return "sdpa"
    AttentionInterface.register(ATTENTION, attention)
    AttentionMaskInterface.register(ATTENTION, _mask_without_look)
    return ATTENTION


def _mask_without_look(*args: Any, **kwargs: Any) -> Tensor | None:
    return _sdpa_mask()(*args, **kwargs | WITHOUT_LOOK)


def _sdpa_mask() -> Callable[..., Tensor | None]:
    return AttentionMaskInterface()["sdpa"]
