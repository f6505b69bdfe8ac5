"""A linear layer whose weight gradient is as fast as its other two products.

dW = dyᵀ x multiplies a transposed matrix. In bfloat16 on a CPU that costs twice as much as the same product with its
left factor laid out straight, and laying out the narrower of dy and x costs a tenth of it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 768  # columns at a time: the block is turned and widened to float32 while it is in the cache


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x weightᵀ + bias in the type of x: x [..., n_in], weight [n_out, n_in], bias [n_out] → [..., n_out]."""
    if x.device.type != "cpu" or x.dtype != torch.bfloat16:
        return F.linear(x, weight.to(x.dtype), bias.to(x.dtype))
    return Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]


class Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        cast = weight.to(x.dtype)
        ctx.save_for_backward(x, cast)
        ctx.types = weight.dtype, bias.dtype
        return F.linear(x, cast, bias.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        rows = dy.flatten(0, -2)
        dx = dweight = dbias = None
        if ctx.needs_input_grad[0]:
            dx = dy @ weight
        if ctx.needs_input_grad[1]:
            dweight = product_of_transposed(rows, x.flatten(0, -2), ctx.types[0])
        if ctx.needs_input_grad[2]:
            dbias = rows.sum(0).to(ctx.types[1])
        return dx, dweight, dbias


def product_of_transposed(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """aᵀ b in `dtype`: a [n, rows], b [n, columns] → [rows, columns]."""
    rows, columns = a.shape[1], b.shape[1]
    if rows <= columns:
        return (a.T.contiguous() @ b).to(dtype)
    out = a.new_empty(rows, columns, dtype=dtype)
    turned = b.T.contiguous()
    for start in range(0, rows, BLOCK):
        block = slice(start, start + BLOCK)
        out[block] = (turned @ a[:, block]).T  # [columns, block] → [block, columns]
    return out
