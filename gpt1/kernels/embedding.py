"""Rows of a matrix by number, whose gradient is added to the one that the tied softmax has made of the same matrix.

torch's backward pass makes a second one of the matrix's size for every update, and then adds the two.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from gpt1.kernels.buffers import gradient_buffer


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
        first = take_pending_gradient(ctx.weight)
        total = gradient_buffer(ctx.weight).zero_() if first is None else first
        total.index_add_(0, ids.flatten(), dy.reshape(-1, dy.shape[-1]).to(total.dtype))
        return None, total if first is None else None


def offer_gradient(weight: Tensor, gradient: Tensor) -> None:
    """To be called in a backward pass that returns `gradient` of the matrix `weight`: until the pass reaches the
    weight itself, more may be added to it in place. Of several in one pass, which torch adds up, none takes more."""
    task = torch._C._current_graph_task_id()
    again = vars(weight).get("on_its_way", (None, None))[0] == task
    setattr(weight, "on_its_way", (task, None if again else gradient))  # noqa: B010


def take_pending_gradient(weight: Tensor) -> Tensor | None:
    """A gradient of the matrix that this backward pass has made before; given out once."""
    task, gradient = vars(weight).pop("on_its_way", (None, None))
    if task != torch._C._current_graph_task_id():
        return None
    setattr(weight, "on_its_way", (task, None))  # noqa: B010
    return gradient
