"""Arrays as large as the weights that every update needs again: the gradients, and the weights in bfloat16.

Freed and asked for anew, they cost more than what is done with them: the system hands memory out page by page, each
filled with zeros first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class WeightBuffers:
    """What hangs on a weight while it is trained."""

    cast_copy: Tensor | None = None  # in the type of the activations, brought up to date after every update
    gradient: Tensor | None = None  # of the update before, between that update and the next backward pass


@contextmanager
def reuse_buffers(model: nn.Module) -> Iterator[None]:
    """While it lasts each update finds the arrays of the one before; `settle` has to be told of each.

    For weights on a CPU: a GPU's memory is kept by torch. For small updates: in a large one the gradients would come on
    top of the activations, and `memory.keep_freed_memory` serves it better.
    """
    for parameter in model.parameters():
        if parameter.device.type == "cpu":
            setattr(parameter, "kept", WeightBuffers())  # noqa: B010 (a Parameter knows of no such attribute)
    try:
        yield
    finally:
        for parameter in model.parameters():
            vars(parameter).pop("kept", None)


def get_buffers(weight: Tensor) -> WeightBuffers | None:
    return getattr(weight, "kept", None)


@torch.no_grad()
def refresh_buffers(parameters: Iterable[Tensor]) -> None:
    """After an update: the gradients are used up, the weights are others."""
    for parameter in parameters:
        if kept := get_buffers(parameter):
            kept.gradient = parameter.grad
            if kept.cast_copy is not None:
                kept.cast_copy.copy_(parameter)
        parameter.grad = None


def cast_weight(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight in `dtype`."""
    kept = get_buffers(weight)
    if weight.dtype == dtype or kept is None:
        return weight.to(dtype)
    if kept.cast_copy is None or kept.cast_copy.dtype != dtype:
        if torch.is_inference_mode_enabled():  # what is made here could not be used in training
            return weight.to(dtype)
        kept.cast_copy = weight.detach().to(dtype)
    return kept.cast_copy


def gradient_buffer(weight: Tensor) -> Tensor:
    """An array for the gradient of `weight`; what it holds is to be overwritten."""
    kept = get_buffers(weight)
    if kept is None or kept.gradient is None:
        return torch.empty_like(weight, requires_grad=False)
    array, kept.gradient = kept.gradient, None  # given out once: from here on it is the gradient
    return array
