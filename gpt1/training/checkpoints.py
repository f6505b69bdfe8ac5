"""Checkpoints: a folder a step, written aside, flushed, renamed; safetensors and JSON; each file checked by SHA-256."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt1.errors import ResourceError, UserError
from gpt1.files.atomic import atomic_dir, ensure_exists
from gpt1.files.foreign import Fields, read_json_object
from gpt1.files.manifest import verify_folder, write_manifest
from gpt1.model.weights import read_tensors, write_safetensors

STATE_FILE, MODEL_FILE, OPTIMIZER_FILE = "state.json", "model.safetensors", "optimizer.safetensors"
FORMAT = "gpt1-checkpoint-1"
REMOVE = "Remove this checkpoint folder; --resume then takes the one before."


@dataclass(frozen=True)
class Checkpoint:
    """All that a run needs to go on: weights, optimiser, and a state of plain JSON (step, best, fingerprints, …)."""

    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]


def save_checkpoint(
    folder: Path, step: int, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], state: Mapping[str, Any]
) -> Path:
    """Write `folder`/step-NNNNNN whole, or not at all: a process killed at any moment leaves the earlier ones as they
    were."""
    ensure_exists(folder.parent)
    final = checkpoint_path(folder, step)
    for half in [*folder.glob(".step-*.partial"), *folder.glob(".step-*.tmp")]:  # left by a process that was killed
        shutil.rmtree(half, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    try:
        with atomic_dir(final, replace=True) as partial:
            write_safetensors(partial / MODEL_FILE, weights)
            write_safetensors(partial / OPTIMIZER_FILE, optimizer)
            (partial / STATE_FILE).write_text(json.dumps({**state, "step": step}, indent=2), encoding="utf-8")
            write_manifest(partial, FORMAT, (MODEL_FILE, OPTIMIZER_FILE, STATE_FILE))
    except ResourceError as error:
        raise ResourceError(error.problem, "Free some space, then run the same command with --resume.") from error
    return final


def load_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint after its manifest is checked.

    Raises:
        UserError: naming the file that is not what the manifest says, that does not hold what a checkpoint has, or that
            contains NaN or infinite values (earlier versions wrote such).
    """
    verify_checkpoint(path)
    state = read_json_object(path / STATE_FILE, fix=REMOVE, allow_nan=True)
    fields = Fields(state, path / STATE_FILE, REMOVE)
    if checkpoint_path(path.parent, fields.integer("step")).name != path.name:
        fields.refuse(f"it is the state of step {state['step']:,}")
    weights, optimizer = read_tensors(path / MODEL_FILE), read_tensors(path / OPTIMIZER_FILE)
    for name, tensors in ((MODEL_FILE, weights), (OPTIMIZER_FILE, optimizer)):
        if not all_finite(tensors.values()):
            raise UserError(f"{path / name} contains NaN or infinite values: training had diverged.", REMOVE)
    return Checkpoint(weights, optimizer, state)


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no value is NaN or infinite. Min and max show it: one pass, no copy, one look at the device."""
    ends = [end.float() for tensor in tensors if tensor.numel() for end in torch.aminmax(tensor.detach())]
    return not ends or bool(torch.isfinite(torch.stack(ends)).all())


def verify_checkpoint(path: Path) -> dict[str, dict[str, Any]]:
    """The manifest's entries of a checkpoint, each file compared with its own.

    Raises:
        UserError: naming the first file that is missing or changed.
    """
    read = (MODEL_FILE, OPTIMIZER_FILE, STATE_FILE)
    return verify_folder(path, FORMAT, REMOVE, read=read, may_be_unsealed=True)


def list_steps(folder: Path) -> list[int]:
    """The steps that have a checkpoint, in order. A copy under a name of its own (step-00000500.bak) is none."""
    found = (re.fullmatch(r"step-(\d{8,})", path.name) for path in folder.glob("step-*") if path.is_dir())
    return sorted(int(match[1]) for match in found if match)


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}"


def prune(folder: Path, keep: int, current_step: int, best_step: int = 0) -> None:
    """Remove all but the newest `keep` checkpoints up to the step `current_step`, and that of the step `best_step`. Later ones are
    damaged, else the run would have gone on from them: they must not push out the whole ones."""
    found = list_steps(folder)
    for step in set(found) - {best_step, *[step for step in found if step <= current_step][-keep:]}:
        shutil.rmtree(checkpoint_path(folder, step))
