"""Asynchronous copies to a device."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(x: Tensor, device: torch.device | str) -> Tensor:
    """Copy `x` to `device`; from the CPU to a GPU through pinned memory, so that the host does not wait.

    A tensor with gaps is made contiguous first: otherwise torch would do so in memory that is not pinned, and wait.
    """
    device = torch.device(device)
    if device.type == "cuda" and x.device.type == "cpu":
        return x.contiguous().pin_memory().to(device, non_blocking=True)
    return x.to(device)
