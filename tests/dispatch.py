"""What a piece of code asks of PyTorch, operation by operation."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LargestTensor(TorchDispatchMode):
    """Records the elements of the largest tensor that any operation returns; of floats only, where told."""

    def __init__(self, floats_only: bool = False) -> None:
        super().__init__()
        self.floats_only, self.elements = floats_only, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor) and (tensor.is_floating_point() or not self.floats_only):
                self.elements = max(self.elements, tensor.numel())
        return result


class HostWork(TorchDispatchMode):
    """Names what keeps the host from running ahead of its device.

    Random numbers drawn on the host, and copies from it that are not ``non_blocking``: asked for, or made by an
    operation on tensors of both. A number without dimensions is no copy: it travels with the operation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.named: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        random = torch.Tag.nondeterministic_seeded in function.tags
        if random and isinstance(result, Tensor) and result.device.type == "cpu":
            self.named.append(f"{function} on the host")
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor) and leaf.dim()]
        if len({tensor.device for tensor in tensors}) > 1 and not (kwargs or {}).get("non_blocking"):
            self.named.append(f"{function} on both")
        return result
