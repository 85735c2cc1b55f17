"""Linear layers of an encoder that only encodes, in float32 on a CPU.

PyTorch has them made by MKL, which has no AVX-512 path for CPUs of makers other than its own. oneDNN, which PyTorch
brings too, makes the same product in half the time there.
"""

import torch
from torch import Tensor, nn


class Linear(nn.Linear):
    """``nn.Linear``, by oneDNN where no gradients are asked for and the product is in float32 on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        on_cpu = x.device.type == "cpu" and torch.backends.mkldnn.is_available()
        in_float32 = x.dtype == self.weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        if not (on_cpu and in_float32) or torch.is_grad_enabled():
            return super().forward(x)
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")  # what torch.compile calls


def use_fast_linear(model: nn.Module) -> None:
    """Every ``nn.Linear`` in ``model`` becomes a ``Linear``."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear
