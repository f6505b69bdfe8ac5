"""GELU in its tanh form: x · sigmoid(2 √(2/π) (x + 0.044715 x³)).

torch computes a tanh in the forward and the backward pass, which takes longer on a CPU than the matrix products beside
it (for large arguments, five times longer still). Here the array is processed in chunks that fit the cache, and the
derivative is computed together with the value, so that the backward pass is one product.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

LINEAR = 2 * math.sqrt(2 / math.pi)
CUBIC = 0.044715 * LINEAR
SMALL_ELEMENTS = 1 << 15  # up to here, without a derivative, one call of torch is faster
CHUNK_ELEMENTS = 1 << 16  # per thread: four arrays of 256 KiB in float32


def gelu(x: Tensor) -> Tensor:
    """0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³))), elementwise."""
    if x.device.type != "cpu" or (x.numel() <= SMALL_ELEMENTS and not (torch.is_grad_enabled() and x.requires_grad)):
        return F.gelu(x, approximate="tanh")
    return GELUFunction.apply(x)  # type: ignore[no-untyped-call]


def invariant_gelu(x: Tensor) -> Tensor:
    """`gelu` without gradients whose result for an element does not depend on the size of x, bit by bit."""
    if x.device.type != "cpu":
        return F.gelu(x, approximate="tanh")
    if x.numel() <= CHUNK_ELEMENTS:  # few rows: allocating the buffers and looping would take longer than the formula
        wide = x.to(torch.promote_types(x.dtype, torch.float32), memory_format=torch.contiguous_format)
        linear = torch.tensor(LINEAR, dtype=wide.dtype)
        return torch.addcmul(linear, wide, wide, value=CUBIC).mul_(wide).sigmoid_().mul_(wide).to(x.dtype)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    value_and_derivative(x.reshape(-1), y.view(-1), None)
    return y


class GELUFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        dydx = torch.empty_like(y) if ctx.needs_input_grad[0] else None
        value_and_derivative(x.reshape(-1), y.view(-1), None if dydx is None else dydx.view(-1))
        if dydx is not None:
            ctx.save_for_backward(dydx)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (dydx,) = ctx.saved_tensors
        return dy * dydx


def value_and_derivative(x: Tensor, y: Tensor, dydx: Tensor | None) -> None:
    """Fill y [n], and dydx [n] if given, from x [n]; computes in float32 (float64 for float64 arrays)."""
    wide = torch.promote_types(x.dtype, torch.float32)
    step = max(1, min(CHUNK_ELEMENTS * torch.get_num_threads(), len(x)))
    scratch = torch.empty(4, step, dtype=wide)
    linear = torch.tensor(LINEAR, dtype=wide)
    derivatives = [None] * -(-len(x) // step) if dydx is None else torch.split(dydx, step)
    for value, result, derivative in zip(torch.split(x, step), torch.split(y, step), derivatives, strict=True):
        a, u, s, slope = scratch[:, : len(value)]
        a = value if x.dtype == wide else a.copy_(value)
        torch.addcmul(linear, a, a, value=CUBIC, out=u).mul_(a)  # u = x (LINEAR + CUBIC x²)
        torch.sigmoid(u, out=s)
        product = torch.mul(a, s, out=u)
        result.copy_(product)
        if derivative is not None:  # dy/dx = s + x s (1 - s) du/dx
            torch.addcmul(linear, a, a, value=3 * CUBIC, out=slope)
            product.addcmul_(product, s, value=-1)
            derivative.copy_(torch.addcmul(s, product, slope, out=s))
