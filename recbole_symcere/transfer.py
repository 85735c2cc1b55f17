"""Copies of tensors to a device that do not wait for the device."""

import torch
from torch import Tensor


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """Returns a tensor on a device, without waiting for a copy to a GPU to finish.

    A copy from ordinary memory would first wait for all work that is queued on the GPU. The tensor is therefore copied
    through pinned memory, which PyTorch keeps for later copies.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=device.type != "cpu")
