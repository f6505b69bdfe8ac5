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
class Kept:
    """What hangs on a weight while it is trained."""

    copy: Tensor | None = None  # in the type of the activations, brought up to date after every update
    gradient: Tensor | None = None  # of the update before, between that update and the next backward pass


@contextmanager
def kept_arrays(model: nn.Module) -> Iterator[None]:
    """While it lasts each update finds the arrays of the one before; `settle` has to be told of each.

    For weights on a CPU: a GPU's memory is kept by torch. For small updates: in a large one the gradients would come on
    top of the activations, and `memory.keep_freed_memory` serves it better.
    """
    for parameter in model.parameters():
        if parameter.device.type == "cpu":
            setattr(parameter, "kept", Kept())  # noqa: B010 (a Parameter knows of no such attribute)
    try:
        yield
    finally:
        for parameter in model.parameters():
            vars(parameter).pop("kept", None)


def of(weight: Tensor) -> Kept | None:
    return getattr(weight, "kept", None)


@torch.no_grad()
def settle(parameters: Iterable[Tensor]) -> None:
    """After an update: the gradients are used up, the weights are others."""
    for parameter in parameters:
        if kept := of(parameter):
            kept.gradient = parameter.grad
            if kept.copy is not None:
                kept.copy.copy_(parameter)
        parameter.grad = None


def cast(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight in `dtype`."""
    kept = of(weight)
    if weight.dtype == dtype or kept is None:
        return weight.to(dtype)
    if kept.copy is None or kept.copy.dtype != dtype:
        if torch.is_inference_mode_enabled():  # what is made here could not be used in training
            return weight.to(dtype)
        kept.copy = weight.detach().to(dtype)
    return kept.copy


def gradient_array(weight: Tensor) -> Tensor:
    """An array for the gradient of `weight`; what it holds is to be overwritten."""
    kept = of(weight)
    if kept is None or kept.gradient is None:
        return torch.empty_like(weight, requires_grad=False)
    array, kept.gradient = kept.gradient, None  # given out once: from here on it is the gradient
    return array
