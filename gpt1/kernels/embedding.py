"""Rows of a matrix by number. torch's backward pass makes a gradient of the matrix's size anew for every update."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from gpt1.kernels.kept import gradient_array


def embedding(ids: Tensor, weight: Tensor) -> Tensor:  # [...], [rows, width] → [..., width]
    if weight.device.type != "cpu" or not (torch.is_grad_enabled() and weight.requires_grad):
        return F.embedding(ids, weight)
    return Embedding.apply(ids, weight)  # type: ignore[no-untyped-call]


class Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.weight = weight
        return F.embedding(ids, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[None, Tensor]:
        (ids,) = ctx.saved_tensors
        total = gradient_array(ctx.weight).zero_()
        total.index_add_(0, ids.flatten(), dy.reshape(-1, dy.shape[-1]).to(total.dtype))
        return None, total
