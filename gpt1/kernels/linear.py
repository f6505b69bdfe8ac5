"""Linear layer with a fast weight gradient in bfloat16, and packed weights for products with few vectors.

dW = dyᵀ x has a transposed left factor, which in bfloat16 on a CPU costs up to twice as much as a contiguous one. If
dy is narrower than x, dyᵀ is made contiguous; if x is narrower and has many rows, dWᵀ = xᵀ dy is computed instead.

A product with few vectors (the newest tokens in decoding) is bound by reading W, and torch repacks W for each: in
bfloat16 always, in float32 from four vectors on. With W packed once, it takes about half the time.

oneDNN, which multiplies bfloat16 matrices, compiles a kernel for every new number of rows. `pad_rows` limits how many
there are.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from gpt1.kernels import torch_private
from gpt1.kernels.buffers import cast_weight, gradient_buffer

MANY_ROWS = 1536  # from here on, transposing the product is faster than transposing its wide factor
PACKED_VECTORS = {torch.bfloat16: 1, torch.float32: 8}  # number of vectors that a weight is packed for
PADDED_ROWS = 32  # numbers of rows are multiples of this: compiling the three products of a layer takes 15 ms
TRANSPOSE_ROWS = 128  # rows transposed at a time, so that torch uses its threads


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weightᵀ + bias in the dtype of x: x [..., n_in], weight [n_out, n_in], bias [n_out] → [..., n_out]."""
    if weight.is_mkldnn:
        return torch_private.packed_linear(x, weight, bias, "none", [], "")
    if x.device.type == "cpu" and x.dtype == torch.bfloat16 and bias is not None and torch.is_grad_enabled():
        return LinearFunction.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return F.linear(x, cast_weight(weight, x.dtype), None if bias is None else bias.to(x.dtype))


def pad_rows(n: int) -> int:
    """Rows of zeros to add to n rows, so that oneDNN has few sizes to compile."""
    return -n % PADDED_ROWS


def pack_weight(weight: Tensor) -> Tensor:
    """Pack a weight [n_out, n_in] for oneDNN's products with few vectors; only for `linear` without gradients.

    Returns:
        The packed weight, or `weight` itself if packing is not supported for its device and dtype.
    """
    if weight.device.type != "cpu" or weight.dtype not in PACKED_VECTORS or not packing_is_supported(weight.dtype):
        return weight
    return torch_private.pack_linear_weight(weight.detach(), PACKED_VECTORS[weight.dtype])


def unpack_weight(weight: Tensor) -> Tensor:
    """The dense form of a weight that may be packed."""
    return weight.to_dense() if weight.is_mkldnn else weight


def packing_is_supported(dtype: torch.dtype) -> bool:
    bf16 = dtype != torch.float32
    return torch_private.HAS_PACKED_LINEAR and not (bf16 and not torch_private.mkldnn_bf16_is_supported())


class LinearFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        cast = cast_weight(weight, x.dtype)
        ctx.save_for_backward(x, cast)
        ctx.weight, ctx.bias_type = weight, bias.dtype
        return F.linear(x, cast, bias.to(x.dtype))

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
    """Fill dweight [n_out, n_in] with dyᵀ x, and return the bias gradient [n_out]: dy [n, n_out], x [n, n_in]."""
    n_out, n_in = dweight.shape
    if n_out < n_in:
        transposed = transpose_into(dy, dy.new_empty(n_out, len(dy)))
        dweight.copy_(transposed @ x)
        return transposed.sum(1)
    if n_out > n_in and len(x) >= MANY_ROWS:
        dweight.copy_((transpose_into(x, x.new_empty(n_in, len(x))) @ dy).T)
    else:
        dweight.copy_(dy.T @ x)
    return dy.sum(0)


def transpose_into(x: Tensor, out: Tensor) -> Tensor:
    """Write xᵀ into `out`, and return it."""
    for rows, columns in zip(torch.split(x, TRANSPOSE_ROWS), torch.split(out, TRANSPOSE_ROWS, dim=1), strict=True):
        columns.copy_(rows.T)
    return out
