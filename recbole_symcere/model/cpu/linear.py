"""Matrix products without gradients, in float32 on a CPU.

PyTorch leaves them to MKL, which has no AVX-512 path for CPUs of other makers. oneDNN, which PyTorch brings too, makes
the same product in half the time there. PyTorch has no public call for it, so the private one is tried once and
compared with the public one; where it is absent, or gives anything else, the public one is used.
"""

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Returns ``x @ weight.T + bias``; no gradient flows through it.

    Args:
        x: [..., n].
        weight: [m, n].
        bias: [m].

    Returns:
        [..., m]
    """
    if x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32:
        return fastest_product()(x, weight, bias)
    return F.linear(x, weight, bias)


@cache
def fastest_product() -> Product:
    """Returns oneDNN's product where this PyTorch has it, else PyTorch's own."""
    try:
        x, weight, bias = torch.arange(6.0).view(2, 3), torch.arange(12.0).view(4, 3), torch.arange(4.0)
        works = all(torch.equal(_onednn(x, weight, each), F.linear(x, weight, each)) for each in (bias, None))
    except (AttributeError, RuntimeError, TypeError):  # the call is gone, or takes other arguments
        works = False
    return _onednn if works else F.linear


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # this is what torch.compile calls


class Linear(nn.Linear):
    """``nn.Linear`` that is faster where no gradients are asked for and nothing is cast."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``x @ weight.T + bias``, [..., out_features]."""
        if torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type):
            return super().forward(x)
        return product(x, self.weight, self.bias)


def use_fast_linear(model: nn.Module) -> None:
    """Turns every ``nn.Linear`` in a model into a :class:`Linear`."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear
