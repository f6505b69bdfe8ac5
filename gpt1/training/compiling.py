"""torch.compile for the blocks of a model, tried before the run depends on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from gpt1.model.gpt import GPT

MAX_REASON_CHARS = 200  # characters of what a compiler says


@contextmanager
def compile_blocks(
    model: GPT, trial_loss: Callable[[], Tensor], say: Callable[[str], None], backend: str = "inductor"
) -> Iterator[None]:
    """While it lasts, the blocks run compiled: once for all of them, with the weights and the names that they have.

    `trial_loss` is a forward pass. It is tried first, in training with its backward pass and as held-out figures are
    measured: if that fails for any reason, a line says so and the blocks run as they are.
    """
    say("compiling the blocks, which takes a minute or two")
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
        say(f"torch.compile does not work here, the run goes on without it ({type(error).__name__}: {reason})")
    for parameter in model.parameters():
        parameter.grad = None
    try:
        yield
    finally:
        uncompile_blocks(model)
        torch.compiler.reset()  # what is compiled of the next model counts from 0: torch stops at eight


def uncompile_blocks(model: GPT) -> None:
    for block in model.blocks:
        vars(block).pop("forward", None)
