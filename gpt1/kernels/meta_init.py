"""Modules without weight data, to be filled with the weights of a folder or of another model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


@contextmanager
def meta_init() -> Iterator[None]:
    """Create modules with their parameters on the device `meta`, without random initialization."""
    with torch.device("meta"), SkipWeightInit():
        yield


class SkipWeightInit(TorchFunctionMode):
    """Skips nn.init.normal_: on `meta` there is nothing to fill, and torch would import its compiler for it, which
    takes longer than the rest of `gpt1 next`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        return kwargs["tensor"] if func is nn.init.normal_ and "tensor" in kwargs else func(*args, **kwargs)
