"""Dropout, alone and within attention, that is fast on CPUs.

On a CPU, PyTorch calls its random generator once for each element, which took a quarter of a training step with LoRA.
Here one random number of 64 bits decides about eight elements, so a dropout probability is rounded to 1/256. On other
devices everything is left to PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface


def dropout(x: Tensor, p: float) -> Tensor:
    """Returns a copy of a tensor on the CPU in which each element is 0 with probability ``p``, rounded to 1/256.

    The other elements are scaled so that the expected value of every element stays what it was. ``p`` is below 1.
    """
    dropped = min(round(256 * p), 255)
    numbers = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)  # all 64 bits
    kept = numbers.view(torch.uint8)[: x.numel()].view(x.shape) >= dropped
    return x * kept.to(x.dtype).mul_(256 / (256 - dropped))


class Dropout(nn.Dropout):
    """``nn.Dropout`` that draws its masks faster on CPUs."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``x`` with elements dropped in training mode, and ``x`` itself in eval mode."""
        if self.training and 0 < self.p < 1 and x.device.type == "cpu":
            return dropout(x, self.p)
        return super().forward(x)


def use_fast_dropout(model: nn.Module) -> None:
    """Turns every ``nn.Dropout`` in a model into a :class:`Dropout`."""
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = Dropout


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **further: Any,
) -> tuple[Tensor, None]:
    """Computes what the ``sdpa`` attention of transformers computes, with faster dropout on a CPU.

    Where dropout is active on a CPU, PyTorch has no fused kernel anyway, so the formula is computed step by step.
    Everything else is handed to transformers, and so is dropout where the formula is no longer what transformers
    computes: see :func:`formula_is_sdpa`.

    Args:
        query, key, value: [batch, heads, tokens, width]. Keys and values may have fewer heads; each of theirs then
            serves ``module.num_key_value_groups`` heads of the query.
        attention_mask: [batch or 1, 1, tokens, tokens] bool, true where to attend.

    Returns:
        [batch, tokens, heads, width], and None in the place of the attention weights.
    """
    p = further.get("dropout", 0.0)
    plain = further.get("position_bias") is None and further.get("softcap") is None
    if attention_mask is None or not (plain and 0 < p < 1 and query.device.type == "cpu" and formula_is_sdpa()):
        return _sdpa()(module, query, key, value, attention_mask, scaling=scaling, **further)
    return _formula(module, query, key, value, attention_mask, scaling, p), None


def _sdpa() -> Callable[..., tuple[Tensor, None]]:
    return AttentionInterface()["sdpa"]


@cache
def formula_is_sdpa() -> bool:
    """Whether, apart from dropout, the formula gives what transformers' ``sdpa`` gives; it is tried once, on numbers.

    The two are compared on a decoder's mask and on keys and values with fewer heads than the query.
    """
    query = torch.linspace(-1, 1, 24).view(1, 2, 3, 4)
    key, value = torch.linspace(-2, 1, 24).view(2, 1, 1, 3, 4)
    mask = torch.ones(1, 1, 3, 3, dtype=torch.bool).tril()
    layer: Any = SimpleNamespace(num_key_value_groups=2, is_causal=True, training=True)
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            theirs, _ = _sdpa()(layer, query, key, value, mask, dropout=0.0, scaling=0.5)
            return torch.allclose(_formula(layer, query, key, value, mask, 0.5, 0.0), theirs, atol=1e-6)
    except (AttributeError, RuntimeError, TypeError, ValueError):  # transformers asks for other arguments
        return False


def _formula(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float | None, p: float
) -> Tensor:
    groups = getattr(module, "num_key_value_groups", 1)
    key, value = _repeat_heads(key, groups), _repeat_heads(value, groups)
    with torch.autocast("cpu", enabled=False):  # autocast would return a softmax in float32
        bias = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, -torch.inf)
        scores = (query * (query.shape[-1] ** -0.5 if scaling is None else scaling)) @ key.transpose(2, 3)
        weights = scores.add_(bias).softmax(-1)
        weights = dropout(weights, p) if p else weights
        return (weights @ value).transpose(1, 2).contiguous()


def _repeat_heads(x: Tensor, times: int) -> Tensor:
    """[batch, heads, tokens, width] with each head ``times`` times in a row."""
    return x if times == 1 else x[:, :, None].expand(-1, -1, times, -1, -1).flatten(1, 2)
