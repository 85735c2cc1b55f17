"""The tensors that a piece of code makes, operation by operation."""

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class LargestTensor(TorchDispatchMode):
    """Records how many elements the largest tensor has that any operation returns; of floats only, where told."""

    def __init__(self, floats_only: bool = False) -> None:
        super().__init__()
        self.floats_only, self.elements = floats_only, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor) and (tensor.is_floating_point() or not self.floats_only):
                self.elements = max(self.elements, tensor.numel())
        return result
