"""A linear layer whose weight gradient is as fast as its other two products, and few vectors as fast as memory allows.

dW = dyᵀ x multiplies a transposed matrix. In bfloat16 on a CPU that costs up to twice as much as the same product with
its left factor laid out straight. Where dy is the narrower one, it is laid out; where x is, and has many rows, dWᵀ = xᵀ
dy is computed instead.

A product with few vectors (the newest tokens of some texts) is bound by the reading of W, and torch lays W out anew for
each: in bfloat16 always, in float32 from four vectors on. Packed once, it is read as it lies, in about half the time.

oneDNN, which multiplies bfloat16, compiles a product for every number of rows that it has not met yet. `pad_rows`
lets numbers of rows repeat.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from gpt1.kernels.buffers import cast_weight, gradient_buffer

MANY_ROWS = 1536  # rows: from here on it pays to turn the wide product instead of its wide factor
PACKED_VECTORS = {torch.bfloat16: 1, torch.float32: 8}  # vectors that a weight is laid out for
PADDED_ROWS = 32  # rows more or less that are not worth another product: compiling a layer's three takes 15 ms
TRANSPOSE_ROWS = 128  # rows turned at a time, which lets torch use its threads


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weightᵀ + bias in the type of x: x [..., n_in], weight [n_out, n_in], bias [n_out] → [..., n_out]."""
    if weight.is_mkldnn:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    if x.device.type == "cpu" and x.dtype == torch.bfloat16 and bias is not None and torch.is_grad_enabled():
        return LinearFunction.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return F.linear(x, cast_weight(weight, x.dtype), None if bias is None else bias.to(x.dtype))


def pad_rows(n: int) -> int:
    """How many rows of zeros to add to n so that products of this size will have been met before."""
    return -n % PADDED_ROWS


def pack_weight(weight: Tensor) -> Tensor:  # [n_out, n_in] → the same, laid out otherwise
    """A weight as oneDNN's products with few vectors read it, for `linear` without gradients; where it has none, as it
    is. `dense` gives it back."""
    if weight.device.type != "cpu" or weight.dtype not in PACKED_VECTORS or not packing_is_supported(weight.dtype):
        return weight
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), PACKED_VECTORS[weight.dtype])


def unpack_weight(weight: Tensor) -> Tensor:
    """A weight, packed or not, as it is without."""
    return weight.to_dense() if weight.is_mkldnn else weight


def packing_is_supported(dtype: torch.dtype) -> bool:
    ops = torch.ops.mkldnn
    return hasattr(ops, "_linear_pointwise") and (dtype == torch.float32 or bool(ops._is_mkldnn_bf16_supported()))


class LinearFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        same = cast_weight(weight, x.dtype)
        ctx.save_for_backward(x, same)
        ctx.weight, ctx.bias_type = weight, bias.dtype
        return F.linear(x, same, bias.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        dx = dweight = dbias = None
        if ctx.needs_input_grad[0]:
            dx = dy @ weight
        if ctx.needs_input_grad[1]:
            dweight = gradient_buffer(ctx.weight)
            dbias = weight_and_bias_gradients(dy.reshape(-1, dy.shape[-1]), x.reshape(-1, x.shape[-1]), dweight)
        elif ctx.needs_input_grad[2]:
            dbias = dy.reshape(-1, dy.shape[-1]).sum(0)
        return dx, dweight, None if dbias is None else dbias.to(ctx.bias_type)


def weight_and_bias_gradients(dy: Tensor, x: Tensor, dweight: Tensor) -> Tensor:
    """Fill dweight [n_out, n_in] with dyᵀ x → [n_out], the sum of dy's rows: dy [n, n_out], x [n, n_in]."""
    n_out, n_in = dweight.shape
    if n_out < n_in:
        turned = transpose_into(dy, dy.new_empty(n_out, len(dy)))
        dweight.copy_(turned @ x)
        return turned.sum(1)
    if n_out > n_in and len(x) >= MANY_ROWS:
        dweight.copy_((transpose_into(x, x.new_empty(n_in, len(x))) @ dy).T)
    else:
        dweight.copy_(dy.T @ x)
    return dy.sum(0)


def transpose_into(x: Tensor, out: Tensor) -> Tensor:
    """xᵀ into `out`."""
    for rows, columns in zip(torch.split(x, TRANSPOSE_ROWS), torch.split(out, TRANSPOSE_ROWS, dim=1), strict=True):
        columns.copy_(rows.T)
    return out
