"""Dropout."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def dropout(x: Tensor, p: float) -> Tensor:
    """x with every element kept with probability 1 - p and scaled by 1 / (1 - p), else 0. Training only."""
    return F.dropout(x, p) if p else x


def residual_dropout(x: Tensor, y: Tensor, p: float) -> Tensor:
    """x + dropout(y, p)."""
    return x + dropout(y, p)
