"""Checkpoints: a folder a step, written aside, flushed, renamed; safetensors and JSON; each file checked by SHA-256."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from gpt1.errors import UserError
from gpt1.files.atomic import ensure_exists, fsync_dir, fsync_dir_content
from gpt1.model.weights import write_safetensors

STATE, MANIFEST, MODEL, OPTIMIZER = "state.json", "manifest.json", "model.safetensors", "optimizer.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """All that a run needs to go on: weights, optimiser, and a state of plain JSON (step, best, fingerprints, …)."""

    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]


def save(
    folder: Path, step: int, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], state: Mapping[str, Any]
) -> Path:
    """Write `folder`/step-NNNNNN whole, or not at all: a process killed at any moment leaves the earlier ones as they
    were."""
    ensure_exists(folder.parent)
    final = at(folder, step)
    aside = folder / f".{final.name}.tmp"
    for half in folder.glob(".step-*.tmp"):  # of a killed process, at whatever step
        shutil.rmtree(half, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    aside.mkdir()
    try:
        write_safetensors(aside / MODEL, weights)
        write_safetensors(aside / OPTIMIZER, optimizer)
        (aside / STATE).write_text(json.dumps({**state, "step": step}, indent=2), encoding="utf-8")
        files = {name: fingerprint(aside / name) for name in (MODEL, OPTIMIZER, STATE)}
        (aside / MANIFEST).write_text(json.dumps({"format": "gpt1-checkpoint-1", "files": files}), encoding="utf-8")
        fsync_dir_content(aside)
        if final.exists():
            shutil.rmtree(final)
        aside.rename(final)
        fsync_dir(folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return final


def load(path: Path) -> Checkpoint:
    """A checkpoint after its manifest is checked; UserError names the file that is not what it says, or that contains
    NaN or infinite values (earlier versions wrote such)."""
    check(path)
    state = json.loads((path / STATE).read_text(encoding="utf-8"))
    weights, optimizer = load_file(path / MODEL), load_file(path / OPTIMIZER)
    for name, tensors in ((MODEL, weights), (OPTIMIZER, optimizer)):
        if not all_finite(tensors.values()):
            raise UserError(
                f"{path / name} contains NaN or infinite values: training had diverged.",
                "Remove this checkpoint folder; --resume then takes the one before.",
            )
    return Checkpoint(weights, optimizer, state)


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no value is NaN or infinite. Min and max show it: one pass, no copy, one look at the device."""
    ends = [end.float() for tensor in tensors if tensor.numel() for end in torch.aminmax(tensor.detach())]
    return not ends or bool(torch.isfinite(torch.stack(ends)).all())


def check(path: Path) -> None:
    try:
        files = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path / MANIFEST} is missing or damaged.", "Remove this checkpoint folder.") from None
    for name, expected in files.items():
        if not (path / name).exists() or fingerprint(path / name) != expected:
            raise UserError(
                f"{path / name} is not what its manifest says (SHA-256 differs): the file was changed or damaged.",
                "Remove this checkpoint folder; --resume then takes the one before.",
            )


def steps(folder: Path) -> list[int]:
    """The steps that have a checkpoint, in order. A copy under a name of its own (step-00000500.bak) is none."""
    found = (re.fullmatch(r"step-(\d{8,})", path.name) for path in folder.glob("step-*") if path.is_dir())
    return sorted(int(match[1]) for match in found if match)


def at(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}"


def forget(folder: Path, keep: int, now: int, best: int = 0) -> None:
    """Remove all but the newest `keep` checkpoints up to the step `now`, and that of the step `best`. Later ones are
    damaged, else the run would have gone on from them: they must not push out the whole ones."""
    found = steps(folder)
    for step in set(found) - {best, *[step for step in found if step <= now][-keep:]}:
        shutil.rmtree(at(folder, step))


def fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
