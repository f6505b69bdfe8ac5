"""Helpers for tests of training: settings that take a second, readers of runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt1.model.gpt import GPT
from gpt1.model.weights import read_head
from gpt1.training import checkpoints

TEXT_OPTIONS = {"kind": "classification", "text": "text"}
VOCAB_SIZE = 300  # more than the rows of any tensor except the token embedding
FAST_SETTINGS = {"epochs": 1, "batch_size": 16, "precision": "fp32", "device": "cpu", "baselines": False}
KIND_OPTIONS: dict[str, dict[str, Any]] = {
    "classification": TEXT_OPTIONS,
    "regression": {"kind": "regression", "text": "text", "label": "stars"},
    "entailment": {"kind": "entailment", "premise": "text", "hypothesis": "other"},
    "similarity": {"kind": "similarity", "text_a": "text", "text_b": "other"},
    "scored similarity": {
        "kind": "similarity",
        "text_a": "text",
        "text_b": "other",
        "label": "stars",
        "score": True,
    },
    "choice": {"kind": "choice", "context": "text", "choices": "answers", "label": "right"},
}


def load_weights(run: Path) -> dict[str, Tensor]:
    return GPT.from_pretrained(run / "model").state_dict()


def changed_tensors(a: dict[str, Tensor], b: dict[str, Tensor]) -> set[str]:
    """Names of the tensors that differ in any bit; special tokens, which only one may have, are ignored."""
    return {name for name, tensor in a.items() if not torch.equal(tensor[:VOCAB_SIZE], b[name][:VOCAB_SIZE])}


def equal_weights(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def read_results(run: Path) -> dict[str, Any]:
    """results.json without measured times."""
    found = json.loads((run / "results.json").read_text())
    return {name: value for name, value in found.items() if name != "seconds"}


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without measured times."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "tokens_per_s"} for line in found]


def load_head(run: Path) -> dict[str, Tensor]:
    return read_head(run / "model")


def special_token_embeddings(run: Path) -> Tensor:
    return load_weights(run)["tokens.weight"][-3:]


def copy_until_checkpoint(step: int, run: Path, folder: Path) -> Path:
    """A copy of a run as if it was killed after this checkpoint and before the next one."""
    shutil.copytree(run, folder, dirs_exist_ok=True)
    shutil.rmtree(folder / "model", ignore_errors=True)
    (folder / "results.json").unlink(missing_ok=True)
    for other in checkpoints.list_steps(folder / "checkpoints"):
        if other > step:
            shutil.rmtree(checkpoints.checkpoint_path(folder / "checkpoints", other))
    return folder
