"""Embedding lookup whose gradient is added in place to that of the tied output matrix.

torch's backward pass allocates a second gradient of the matrix's size in every step, and then adds the two.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from gpt1.kernels.buffers import gradient_buffer
from gpt1.kernels.torch_private import backward_pass_id


def embedding(ids: Tensor, weight: Tensor) -> Tensor:  # [...], [rows, width] → [..., width]
    if weight.device.type != "cpu" or not (torch.is_grad_enabled() and weight.requires_grad):
        return F.embedding(ids, weight)
    return EmbeddingFunction.apply(ids, weight)  # type: ignore[no-untyped-call]


class EmbeddingFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.weight = weight
        return F.embedding(ids, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[None, Tensor | None]:
        (ids,) = ctx.saved_tensors
        pending = take_pending_gradient(ctx.weight)
        total = gradient_buffer(ctx.weight).zero_() if pending is None else pending
        total.index_add_(0, ids.flatten(), dy.reshape(-1, dy.shape[-1]).to(total.dtype))
        return None, total if pending is None else None


def offer_gradient(weight: Tensor, gradient: Tensor) -> None:
    """Let `take_pending_gradient` add to `gradient` in place; called by a backward pass that returns it for `weight`.

    If one pass returns several gradients, which torch adds up, none of them is shared.
    """
    task = backward_pass_id()
    repeated = vars(weight).get("pending_gradient", (None, None))[0] == task
    setattr(weight, "pending_gradient", (task, None if repeated else gradient))  # noqa: B010


def take_pending_gradient(weight: Tensor) -> Tensor | None:
    """The gradient that this backward pass has offered for `weight`, once; else None."""
    task, gradient = vars(weight).pop("pending_gradient", (None, None))
    if task != backward_pass_id():
        return None
    setattr(weight, "pending_gradient", (task, None))  # noqa: B010
    return gradient
