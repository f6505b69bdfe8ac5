"""Reuse of weight-sized arrays between steps: the gradients, and the weights in bfloat16.

Allocating them again costs more than computing with them, because the system hands out memory page by page, filled with
zeros.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class WeightBuffers:
    """Arrays attached to a weight while it is trained."""

    cast_copy: Tensor | None = None  # in the dtype of the activations, refreshed after every step
    gradient: Tensor | None = None  # that of the previous step, until the next backward pass takes it


@contextmanager
def reuse_buffers(model: nn.Module) -> Iterator[None]:
    """Reuse the arrays of the previous step inside this context; `refresh_buffers` must be called after every step.

    Only for weights on a CPU, since torch caches GPU memory. For small batches: in large ones the gradients would
    add to the peak of the activations, and `malloc.keep_freed_memory` is better.
    """
    for parameter in model.parameters():
        if parameter.device.type == "cpu":
            setattr(parameter, "gpt1_buffers", WeightBuffers())  # noqa: B010 (not an attribute of Parameter)
    try:
        yield
    finally:
        for parameter in model.parameters():
            vars(parameter).pop("gpt1_buffers", None)


def get_buffers(weight: Tensor) -> WeightBuffers | None:
    return getattr(weight, "gpt1_buffers", None)


@torch.no_grad()
def refresh_buffers(parameters: Iterable[Tensor]) -> None:
    """Call after every optimizer step: frees the gradients for reuse and updates the cast copies."""
    for parameter in parameters:
        if buffers := get_buffers(parameter):
            buffers.gradient = parameter.grad
            if buffers.cast_copy is not None:
                buffers.cast_copy.copy_(parameter)
        parameter.grad = None


def cast_weight(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight in `dtype`, from its buffer if it has one."""
    buffers = get_buffers(weight)
    if weight.dtype == dtype or buffers is None:
        return weight.to(dtype)
    if buffers.cast_copy is None or buffers.cast_copy.dtype != dtype:
        if torch.is_inference_mode_enabled():  # tensors created here cannot be used in training
            return weight.to(dtype)
        buffers.cast_copy = weight.detach().to(dtype)
    return buffers.cast_copy


def gradient_buffer(weight: Tensor) -> Tensor:
    """An uninitialized array for the gradient of `weight`."""
    buffers = get_buffers(weight)
    if buffers is None or buffers.gradient is None:
        return torch.empty_like(weight, requires_grad=False)
    array, buffers.gradient = buffers.gradient, None  # handed out once per step
    return array
