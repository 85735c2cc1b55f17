"""Matrix products without gradients, in float32 on a CPU.

PyTorch has them made by MKL, which has no AVX-512 path for CPUs of makers other than its own. oneDNN, which PyTorch
brings too, makes the same product in half the time there.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``; no gradient flows through it.

    Args:
        x: [..., n].
        weight: [m, n].
        bias: [m].

    Returns:
        [..., m]
    """
    if x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # what torch.compile calls
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """``nn.Linear``, faster where no gradients are asked for and nothing is cast."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type):
            return super().forward(x)
        return product(x, self.weight, self.bias)


def use_fast_linear(model: nn.Module) -> None:
    """Every ``nn.Linear`` in ``model`` becomes a ``Linear``."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear
