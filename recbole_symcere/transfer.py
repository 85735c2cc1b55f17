"""Copies of tensors to a device that do not wait for the device."""

import torch
from torch import Tensor


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """Returns a tensor on a device; a copy to a GPU is queued, and the host goes on at once.

    From ordinary memory, PyTorch would first wait for all work that the GPU has been given. The copy therefore goes
    through pinned memory, which PyTorch keeps for later copies.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=device.type != "cpu")
