"""From the host to the device, without waiting for it."""

import torch
from torch import Tensor


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on ``device``. A copy to a GPU is queued behind its work, and the host goes on.

    A copy from memory that can be paged out would first wait for all work that the GPU has been given, so this one goes
    through pinned memory, which PyTorch keeps for the next.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=device.type != "cpu")
