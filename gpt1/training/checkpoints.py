"""Checkpoints: one folder per step with safetensors and JSON, written atomically, each file checked by SHA-256."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt1.errors import ResourceError, UserError
from gpt1.files.atomic import atomic_dir, atomic_write_json, ensure_exists
from gpt1.files.foreign import Fields, read_json_object
from gpt1.files.manifest import verify_folder, write_manifest
from gpt1.model.weights import read_tensors, write_safetensors

STATE_FILE, MODEL_FILE, OPTIMIZER_FILE = "state.json", "model.safetensors", "optimizer.safetensors"
FORMAT = "gpt1-checkpoint-1"
FIRST_SECONDS = 60.0  # until the first checkpoint by time: a kill must not lose everything
MAX_SAVING_SHARE = 0.02  # of the time
REMOVE = "Delete this checkpoint folder; --resume then uses the one before it."


class CheckpointTimer:
    """Decides when time alone makes a checkpoint due: see `--checkpoint-minutes`.

    Args:
        minutes: Minutes between two checkpoints; 0: none is due by time.
        is_first: Whether the run has no checkpoint yet.
        clock: Seconds since some time.
    """

    def __init__(self, minutes: float, is_first: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self.is_first, self.clock = 60 * minutes, is_first, clock
        self.last, self.cost = clock(), 0.0

    def is_due(self) -> bool:
        wait = min(self.seconds, FIRST_SECONDS) if self.is_first else self.seconds
        return self.seconds > 0 and self.clock() - self.last >= max(wait, self.cost / MAX_SAVING_SHARE)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Measure how long a checkpoint takes to save."""
        began = self.clock()
        yield
        self.last = self.clock()
        self.cost, self.is_first = self.last - began, False


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run needs to resume: weights, optimizer state, and JSON (step, best step, fingerprints, …)."""

    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]


def save_checkpoint(
    folder: Path, step: int, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], state: Mapping[str, Any]
) -> Path:
    """Write the checkpoint `folder`/step-NNNNNNNN atomically: a process killed at any time leaves the others intact.

    Args:
        folder: The checkpoints folder of a run. The run folder must exist.
        step: Steps done so far.
        weights: The trainable parameters, by name.
        optimizer: The optimizer's state tensors, by name.
        state: JSON values to store beside them.

    Returns:
        The checkpoint's folder.

    Raises:
        ResourceError: The disk is full.
    """
    ensure_exists(folder.parent)
    final = checkpoint_path(folder, step)
    for partial in [*folder.glob(".step-*.partial"), *folder.glob(".step-*.tmp")]:  # left by a killed process
        shutil.rmtree(partial, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    try:
        with atomic_dir(final, replace=True) as partial:
            write_safetensors(partial / MODEL_FILE, weights)
            write_safetensors(partial / OPTIMIZER_FILE, optimizer)
            atomic_write_json(partial / STATE_FILE, {**state, "step": step})
            write_manifest(partial, FORMAT, (MODEL_FILE, OPTIMIZER_FILE, STATE_FILE))
    except ResourceError as error:
        raise ResourceError(
            error.problem,
            "Free some disk space, then resume with the same command and --resume, without --overwrite.",
        ) from error
    return final


def load_checkpoint(path: Path) -> Checkpoint:
    """Verify and load a checkpoint.

    Raises:
        UserError: A file does not match the manifest, has the wrong content, or contains NaN or infinite values
            (earlier versions wrote those). The message names the file.
    """
    verify_checkpoint(path)
    state = read_json_object(path / STATE_FILE, fix=REMOVE, allow_nan=True)
    fields = Fields(state, path / STATE_FILE, REMOVE)
    if checkpoint_path(path.parent, fields.integer("step")).name != path.name:
        fields.refuse(f"it is the state of step {state['step']:,}")
    weights, optimizer = read_tensors(path / MODEL_FILE), read_tensors(path / OPTIMIZER_FILE)
    for name, tensors in ((MODEL_FILE, weights), (OPTIMIZER_FILE, optimizer)):
        if not tensors_are_finite(tensors.values()):
            raise UserError(f"{path / name} contains NaN or infinite values: training had diverged.", REMOVE)
    return Checkpoint(weights, optimizer, state)


def tensors_are_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no value is NaN or infinite. Checks min and max: one pass, no copy, one device synchronization."""
    extremes = [value.float() for tensor in tensors if tensor.numel() for value in torch.aminmax(tensor.detach())]
    return not extremes or bool(torch.isfinite(torch.stack(extremes)).all())


def verify_checkpoint(path: Path) -> dict[str, dict[str, Any]]:
    """Compare each file of a checkpoint with its manifest.

    Returns:
        The manifest's entries by file name.

    Raises:
        UserError: A file is missing or changed; the message names the first one.
    """
    files = (MODEL_FILE, OPTIMIZER_FILE, STATE_FILE)
    return verify_folder(path, FORMAT, REMOVE, read=files, may_be_unsealed=True)


def list_steps(folder: Path) -> list[int]:
    """The steps that have a checkpoint, ascending. Copies with other names (step-00000500.bak) do not count."""
    matches = (re.fullmatch(r"step-(\d{8,})", path.name) for path in folder.glob("step-*") if path.is_dir())
    return sorted(int(match[1]) for match in matches if match)


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}"


def prune(folder: Path, keep: int, current_step: int, best_step: int = 0) -> None:
    """Delete all checkpoints except the newest `keep` up to `current_step` and that of `best_step`.

    Checkpoints after `current_step` are damaged (the run would have resumed from them), so they do not count.
    """
    steps = list_steps(folder)
    for step in set(steps) - {best_step, *[step for step in steps if step <= current_step][-keep:]}:
        shutil.rmtree(checkpoint_path(folder, step))
