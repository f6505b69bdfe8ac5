"""Device and precision of a run."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from gpt1.config import Precision
from gpt1.errors import DISK_FULL, OUT_OF_MEMORY, ResourceError, UserError, did_you_mean

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = get_args(Precision)


def resolve_device(setting: str) -> torch.device:
    """The device of `--device`; `auto` is the GPU if there is one.

    Apple GPUs run a single process: torch has no all-reduce there.

    Raises:
        UserError: for a device that does not exist, cannot be used, or does not fit the processes of torchrun.
    """
    distributed = world_size() > 1
    if setting == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() and not distributed else "cpu")
    if setting.partition(":")[0] not in DEVICES:  # torch knows a dozen more, which are not supported here
        problem = f"--device {setting} is not a valid device.{did_you_mean(setting, DEVICES)}"
        raise UserError(problem, "Use auto, cpu, cuda, cuda:1 (the second GPU) or mps.")
    try:
        device = torch.device(setting)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {setting} cannot be used: {reason}", "Use --device cpu, or auto.") from None
    if device.type == "mps" and distributed:
        problem = f"--device {setting} supports one process, but torchrun started {world_size()}."
        raise UserError(problem, "Use --device cpu, or run it without torchrun.")
    if device.type == "cuda" and device.index is not None and (count := local_world_size()) > 1:
        problem = f"--device {setting} is one GPU, but torchrun started {count} processes here, and each needs its own."
        raise UserError(problem, "Use --device cuda.")
    return device


def resolve_precision(precision: str, device: torch.device) -> tuple[torch.dtype, str]:
    """(type of the activations, description) of `--precision`; `auto` depends only on the hardware."""
    if precision not in PRECISIONS:
        problem = f"--precision {precision} is not a valid choice.{did_you_mean(precision, PRECISIONS)}"
        raise UserError(problem, f"Choices: {', '.join(PRECISIONS)}.")
    if precision == "fp32":
        return torch.float32, "fp32"
    native, reason = native_bf16(device)
    if precision == "bf16":
        slow = device.type != "mps" and not native
        return torch.bfloat16, f"bf16 (slow here: {reason})" if slow else "bf16"
    if native:
        return torch.bfloat16, f"bf16 (auto: {reason})"
    return torch.float32, f"fp32 (auto: {reason})"


def precision_name(activation_dtype: torch.dtype) -> Precision:
    """The setting that stands for this type. Runs store it, so that --resume on other hardware does not change it."""
    return "bf16" if activation_dtype == torch.bfloat16 else "fp32"


def native_bf16(device: torch.device) -> tuple[bool, str]:
    """(whether the device multiplies bf16 matrices natively, why).

    NVIDIA GPUs do since Ampere (compute capability 8.0); on earlier ones PyTorch converts to fp32 and back.
    """
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return (major, minor) >= (8, 0), f"this GPU has compute capability {major}.{minor}"
    if device.type == "cpu":
        feature = bf16_feature(cpu_features())
        return bool(feature), f"this CPU has {feature or 'no native bf16'}"
    return False, f"fp32 is the default on {device.type}"


NATIVE_BF16 = ("amx_bf16", "avx512_bf16", "bf16")
"""Names of bf16 matrix instructions in Linux's /proc/cpuinfo, best first; the last one is Arm's."""


def bf16_feature(features: Collection[str]) -> str | None:
    """The best bf16 matrix instructions among the features of a CPU."""
    return next((name for name in NATIVE_BF16 if name in features), None)


def cpu_features() -> frozenset[str]:
    """The features of this CPU that PyTorch can use, by their names in Linux's /proc/cpuinfo.

    Without oneDNN (PyTorch for macOS) there are none: PyTorch then has no bf16 matrix products on any CPU.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return frozenset()
    with suppress(OSError):
        return cpuinfo_features(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # Windows, with PyTorch 2.11 or newer
    return frozenset(name for name, available in capabilities.items() if available is True)


def cpuinfo_features(text: str) -> frozenset[str]:
    """The features of the first CPU in /proc/cpuinfo: the line `flags` on x86, `Features` on Arm."""
    found = re.search(r"^(?:flags|Features)[ \t]*:(.*)$", text, re.MULTILINE)
    return frozenset(found[1].split()) if found else frozenset()


def prepare_model(
    model: nn.Module, device: torch.device, activation_dtype: torch.dtype, activation_checkpointing: bool = False
) -> None:
    """Move a model to a device; set the type of its activations and whether to use activation checkpointing."""
    for module in model.modules():
        config = getattr(module, "config", None) if activation_checkpointing and device.type == "mps" else None
        if config and config.dropout:
            # torch restores the random state of a CPU and of CUDA, not that of an Apple GPU (issue 127676)
            problem = f"--activation-checkpointing does not work with --dropout {config.dropout:g} on mps."
            raise UserError(problem, "Use --dropout 0 with it, or --micro-batch instead.")
    model.to(device)
    for module in model.modules():
        if hasattr(module, "activation_dtype"):
            setattr(module, "activation_checkpointing", activation_checkpointing)  # noqa: B010 (typed Tensor | Module there)
            setattr(module, "activation_dtype", activation_dtype)  # noqa: B010 (typed Tensor | Module there)


@contextmanager
def translate_resource_errors(memory_advice: str) -> Iterator[None]:
    """Turn out-of-memory and disk-full errors into ResourceError; `memory_advice` is the fix for the former."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise ResourceError("the GPU is out of memory.", memory_advice) from None
    except MemoryError:
        raise ResourceError("out of memory.", memory_advice) from None
    except (RuntimeError, ImportError) as error:
        if OUT_OF_MEMORY.search(str(error)):
            raise ResourceError("out of memory.", memory_advice) from None
        raise
    except OSError as error:
        if error.errno in DISK_FULL:
            raise ResourceError(
                f"the disk is full: {error.filename or 'no space left'}.",
                "Free some space, then resume with the same command and --resume, without --overwrite.",
            ) from None
        raise


def world_size() -> int:
    """Number of processes that torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_world_size() -> int:
    """Number of processes that torchrun started on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
