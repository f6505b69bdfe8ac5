"""Where and in what type a run computes."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from gpt1.config import Precision
from gpt1.errors import OUT_OF_MEMORY, ResourceError, UserError, did_you_mean

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "bf16", "fp32")


def device_of(setting: str) -> torch.device:
    """The device that `--device` names; `auto` is the GPU where there is one. An Apple GPU is for one process: torch
    adds up no gradients there."""
    several = started() > 1
    if setting == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() and not several else "cpu")
    if setting.partition(":")[0] not in DEVICES:  # torch knows a dozen more that nobody here has
        problem = f"--device {setting}: there is no such device.{did_you_mean(setting, DEVICES)}"
        raise UserError(problem, "Use auto, cpu, cuda, cuda:1 (the second GPU) or mps.")
    try:
        device = torch.device(setting)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {setting} cannot be used: {reason}", "Use --device cpu, or auto.") from None
    if device.type == "mps" and several:
        problem = f"--device {setting}: torchrun started {started()} processes, and torch adds up no gradients there."
        raise UserError(problem, "Use --device cpu, or start it without torchrun.")
    if device.type == "cuda" and device.index is not None and (count := started_here()) > 1:
        problem = f"--device {setting}: torchrun started {count} processes here, and each takes a GPU of its own."
        raise UserError(problem, "Use --device cuda.")
    return device


def activations_of(precision: str, device: torch.device) -> tuple[torch.dtype, str]:
    """(type of the activations, what to tell the user) for `--precision`."""
    if precision not in PRECISIONS:
        problem = f"--precision {precision}: there is no such choice.{did_you_mean(precision, PRECISIONS)}"
        raise UserError(problem, f"Choices: {', '.join(PRECISIONS)}.")
    if precision == "fp32":
        return torch.float32, "fp32"
    if precision == "bf16":
        if device.type != "mps" and not gains_from_bf16(device):
            return torch.bfloat16, "bf16, as asked for (this processor computes faster in fp32: --precision fp32)"
        return torch.bfloat16, "bf16"
    if gains_from_bf16(device):
        return torch.bfloat16, "bf16"
    return torch.float32, "fp32 (this processor has no fast bf16)"


def precision_of(activations: torch.dtype) -> Precision:
    """What `auto` has come to: a run goes on with it, also on a processor where it would come to something else."""
    return "bf16" if activations == torch.bfloat16 else "fp32"


def gains_from_bf16(device: torch.device) -> bool:
    """Whether bf16 is faster there than fp32. NVIDIA's cards have it since Ampere (8.0); of those before torch says so
    too (`torch.cuda.is_bf16_supported`), and converts to fp32 and back."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and cpu_gains_from_bf16()


def cpu_gains_from_bf16() -> bool:
    """Whether a bf16 matrix product beats fp32 here: measured, since flags of processors do not tell; twice, since
    another program may have held up the one in fp32."""

    def seconds(dtype: torch.dtype) -> float:
        a, b = torch.ones(512, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)
        best = float("inf")
        for _ in range(4):
            start = time.perf_counter()
            a @ b
            best = min(best, time.perf_counter() - start)
        return best

    return all(seconds(torch.bfloat16) < 0.8 * seconds(torch.float32) for _ in range(2))


def place(model: nn.Module, device: torch.device, activations: torch.dtype, recompute: bool = False) -> None:
    """Move a model, set the type of its activations, and whether the backward pass computes them again."""
    for module in model.modules():
        if recompute and device.type == "mps" and (config := getattr(module, "config", None)) and config.dropout:
            # torch keeps the random numbers of a CPU and of CUDA for it, not those of an Apple GPU (issue 127676)
            problem = f"--recompute with --dropout {config.dropout:g} on mps: the second pass would drop other numbers."
            raise UserError(problem, "Use --dropout 0 with it, or --micro-batch instead.")
    model.to(device)
    for module in model.modules():
        if hasattr(module, "activation_dtype"):
            setattr(module, "activation_checkpointing", recompute)  # noqa: B010 (typed Tensor | Module there)
            setattr(module, "activation_dtype", activations)  # noqa: B010 (typed Tensor | Module there)


@contextmanager
def limits_explained(smaller: str) -> Iterator[None]:
    """Out of memory and disk full as one line that says what to lower; `smaller` is that advice for memory."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise ResourceError("the GPU is out of memory.", smaller) from None
    except MemoryError:
        raise ResourceError("out of memory.", smaller) from None
    except (RuntimeError, ImportError) as error:
        if OUT_OF_MEMORY.search(str(error)):
            raise ResourceError("out of memory.", smaller) from None
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None)):  # Windows has no EDQUOT
            raise ResourceError(
                f"the disk is full: {error.filename or 'no space left'}.",
                "Make room and run the same command with --resume.",
            ) from None
        raise


def started() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def started_here() -> int:
    """How many of them on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
