"""What the tests of fine-tuned runs share: settings that take a second, and what a run left."""

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

TEXT = {"kind": "classification", "text": "text"}
VOCABULARY = 300  # more than the rows of any other tensor here but tokens
FAST = {"epochs": 1, "batch_size": 16, "precision": "fp32", "device": "cpu"}
KINDS: dict[str, dict[str, Any]] = {
    "classification": TEXT,
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


def weights(run: Path) -> dict[str, Tensor]:
    return GPT.from_pretrained(run / "model").state_dict()


def changed(a: dict[str, Tensor], b: dict[str, Tensor]) -> set[str]:
    """Names of the tensors that are not the same bit for bit; special tokens, which only one may have, left out."""
    return {name for name, tensor in a.items() if not torch.equal(tensor[:VOCABULARY], b[name][:VOCABULARY])}


def results(run: Path) -> dict[str, Any]:
    found = json.loads((run / "results.json").read_text())
    return {name: value for name, value in found.items() if name != "seconds"}


def lines(run: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "tokens_per_s"} for line in found]


def head(run: Path) -> dict[str, Tensor]:
    return read_head(run / "model")


def special_tokens(run: Path) -> Tensor:
    return weights(run)["tokens.weight"][-3:]


def stopped_after(step: int, run: Path, folder: Path) -> Path:
    """A copy of a run as it was when it was killed after this checkpoint, before the next one."""
    shutil.copytree(run, folder)
    shutil.rmtree(folder / "model")
    (folder / "results.json").unlink()
    for other in checkpoints.steps(folder / "checkpoints"):
        if other > step:
            shutil.rmtree(checkpoints.at(folder / "checkpoints", other))
    return folder
