"""Dropout, alone and with the residual sum that follows it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from gpt1.kernels.random_bits import apply_mask, keep_mask


def dropout(x: Tensor, p: float) -> Tensor:
    """Each element of x is zeroed with probability p and scaled by 1 / (1 − p) otherwise. For training only."""
    if not p:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, p)
    return DropoutFunction.apply(x, p)  # type: ignore[no-untyped-call]


def residual_dropout(x: Tensor, y: Tensor, p: float) -> Tensor:
    """x + dropout(y, p), with one pass less over memory."""
    if not p or x.device.type != "cpu":
        return x + dropout(y, p)
    return ResidualDropoutFunction.apply(x, y, p)  # type: ignore[no-untyped-call]


class DropoutFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        mask = keep_mask(x.shape, p, x.dtype)
        ctx.save_for_backward(mask)
        ctx.scale = 1 / (1 - p)
        return apply_mask(x, mask).mul_(ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        return apply_mask(dy, *ctx.saved_tensors).mul_(ctx.scale), None


class ResidualDropoutFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, p: float) -> Tensor:
        mask = keep_mask(y.shape, p, y.dtype)
        ctx.save_for_backward(mask)
        ctx.scale = 1 / (1 - p)
        masked = apply_mask(y, mask)
        return torch.add(x, masked, alpha=ctx.scale, out=masked)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dz: Tensor) -> tuple[Tensor, Tensor, None]:
        return dz, apply_mask(dz, *ctx.saved_tensors).mul_(ctx.scale), None
