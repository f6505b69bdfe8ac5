"""Tensors on their way to a device, without the processor waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(x: Tensor, device: torch.device | str) -> Tensor:
    """`x` on `device`. To a GPU it goes from pinned memory, beside what the GPU still has to do; from elsewhere than
    the processor's memory, and to other devices, as torch does it.

    What has gaps (every second window, say) is closed up first: pinned with them, torch would close it up in memory
    that is not pinned, and wait."""
    device = torch.device(device)
    if device.type == "cuda" and x.device.type == "cpu":
        return x.contiguous().pin_memory().to(device, non_blocking=True)
    return x.to(device)
