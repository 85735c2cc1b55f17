"""Dropout on CPUs, where PyTorch draws every element by a call of its generator: a quarter of a LoRA step.

One number of 64 bits decides eight elements here, so a probability is one of 256; on other devices all is PyTorch's.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward


def dropout(x: Tensor, p: float) -> Tensor:
    """Inverted dropout of a tensor on the CPU: each element is 0 with probability ``p``, rounded to 1/256.

    The others are scaled so that the mean stays. ``p`` is below 1.
    """
    dropped = min(round(256 * p), 255)
    numbers = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)  # all 64 bits
    kept = numbers.view(torch.uint8)[: x.numel()].view(x.shape) >= dropped
    return x * kept.to(x.dtype).mul_(256 / (256 - dropped))


class Dropout(nn.Dropout):
    """``nn.Dropout`` with faster masks on CPUs."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and 0 < self.p < 1 and x.device.type == "cpu":
            return dropout(x, self.p)
        return super().forward(x)


def use_fast_dropout(model: nn.Module) -> None:
    """Every ``nn.Dropout`` in ``model`` becomes a ``Dropout``."""
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
    """transformers' SDPA; with dropout on a CPU, where PyTorch fuses nothing, the formula that it stands for.

    Args:
        query, key, value: [batch, heads, tokens, width]; fewer heads of keys and values are repeated.
        attention_mask: [batch or 1, 1, tokens, tokens] bool, true where to attend.

    Returns:
        [batch, tokens, heads, width], and no weights.
    """
    p = further.get("dropout", 0.0)
    plain = further.get("position_bias") is None and further.get("softcap") is None
    if attention_mask is None or not (plain and 0 < p < 1 and query.device.type == "cpu"):
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **further)
    groups = getattr(module, "num_key_value_groups", 1)
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    with torch.autocast("cpu", enabled=False):  # which would have the softmax in float32; inside it computes so anyway
        bias = torch.zeros_like(attention_mask, dtype=query.dtype).masked_fill_(~attention_mask, -torch.inf)
        scores = (query * (query.shape[-1] ** -0.5 if scaling is None else scaling)) @ key.transpose(2, 3)
        weights = dropout(scores.add_(bias).softmax(-1), p)
        return (weights @ value).transpose(1, 2).contiguous(), None
