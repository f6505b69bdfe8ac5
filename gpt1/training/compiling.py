"""torch.compile for the blocks of a model, with a trial run before training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from gpt1.model.gpt import GPT

MAX_REASON_CHARS = 200  # printed of a compiler's error message


@contextmanager
def compile_blocks(
    model: GPT, trial_loss: Callable[[], Tensor], log: Callable[[str], None], backend: str = "inductor"
) -> Iterator[None]:
    """Run the blocks compiled inside this context. They share one compiled function; parameter names do not change.

    Args:
        model: The model whose blocks are compiled.
        trial_loss: Computes a loss. It is run first, in training mode with its backward pass and in evaluation mode.
            If this fails for any reason, the blocks run uncompiled.
        log: Receives a line when compiling begins, and one if it fails.
        backend: Backend of torch.compile.
    """
    log("compiling the blocks, which takes a minute or two")
    model.train()
    try:
        run = torch.compile(type(model.blocks[0]).forward, dynamic=False, backend=backend)
        for block in model.blocks:
            vars(block)["forward"] = partial(run, block)
        trial_loss().backward()  # type: ignore[no-untyped-call]
        model.eval()
        with torch.inference_mode():
            trial_loss()
    except Exception as error:
        uncompile_blocks(model)
        reason = " ".join(str(error).partition("\n\n")[0].split())[:MAX_REASON_CHARS]
        log(f"torch.compile failed, continuing without it ({type(error).__name__}: {reason})")
    for parameter in model.parameters():
        parameter.grad = None
    try:
        yield
    finally:
        uncompile_blocks(model)
        torch.compiler.reset()  # torch compiles a function at most eight times: count the next model from 0


def uncompile_blocks(model: GPT) -> None:
    for block in model.blocks:
        vars(block).pop("forward", None)
