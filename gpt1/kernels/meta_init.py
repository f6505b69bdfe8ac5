"""Modules whose weights have shapes and no numbers, for those of a folder or of another model to be put in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


@contextmanager
def meta_init() -> Iterator[None]:
    """Modules made here have their parameters on the device `meta`."""
    with torch.device("meta"), SkipWeightInit():
        yield


class SkipWeightInit(TorchFunctionMode):
    """Leaves out the random start of weights: there is nothing to fill, and torch imports its whole compiler for it,
    which takes longer than all the rest of `gpt1 next`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        return kwargs["tensor"] if func is nn.init.normal_ and "tensor" in kwargs else func(*args, **kwargs)
