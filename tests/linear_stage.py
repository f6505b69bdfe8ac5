"""A linear model through points, for tests of the loop: it is trained, stopped and resumed in no time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gpt1.config import FinetuneConfig, TrainingConfig
from gpt1.model.losses import Losses
from gpt1.progress import Fanout, MetricsFile, Silent
from gpt1.training import checkpoints
from gpt1.training.loop import Outcome, Stage, Update, train

STEPS = 23
CONFIG = FinetuneConfig(peak_lr=0.05, warmup=3, checkpoint_every=1, keep=100)
X = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
Y = X @ torch.randn(6, 1, generator=torch.Generator().manual_seed(1))


class Noted(Silent):
    """Remembers what it was told, and may act on a record."""

    def __init__(self, act: Callable[[dict[str, Any]], None] = lambda record: None) -> None:
        self.said: list[str] = []
        self.records: list[dict[str, Any]] = []
        self.act = act

    def say(self, line: str) -> None:
        self.said.append(line)

    def record(self, **values: Any) -> None:
        self.records.append(values)
        self.act(values)


def stage(**changes: Any) -> Stage:
    """A linear model with dropout, two pieces an update, held-out figures every five updates."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Dropout(0.2), nn.Linear(6, 1))

    def objective(rows: Tensor) -> Losses:
        loss = ((model(X[rows]) - Y[rows]) ** 2).sum() / 8
        return Losses(loss, {"loss": loss.detach()})

    def update(step: int) -> Update:
        rows = (torch.arange(8) + 8 * step) % len(X)
        return Update(step // 5, [rows[:5], rows[5:]], 8)

    def evaluate() -> dict[str, float]:
        loss = float(((model(X) - Y) ** 2).mean())
        return {"loss": loss, "score": -loss}

    made = Stage(
        title="a line through points",
        model=model,
        objective=objective,
        update=update,
        steps=STEPS,
        evaluate=evaluate,
        evaluate_after=lambda done: done % 5 == 0 or done == STEPS,
        fingerprints={"corpus": "c", "tokenizer": "t"},
    )
    return replace(made, **changes)


def run(
    made: Stage, folder: Path, resume: bool = False, progress: Noted | None = None, config: TrainingConfig = CONFIG
) -> tuple[Outcome, dict[str, Tensor], Noted]:
    folder.mkdir(exist_ok=True)
    progress = progress or Noted()
    metrics = MetricsFile(folder / "metrics.jsonl")
    outcome = train(made, config, folder, Fanout([progress, metrics]), metrics, resume)
    return outcome, {name: p.detach().clone() for name, p in made.model.named_parameters()}, progress


def lines(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what a clock measured."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "tokens_per_s"} for line in found]


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def stopped_after(step: int, whole: Path, folder: Path) -> Path:
    """The folder as a process left it that was killed after this checkpoint and before the next one."""
    shutil.copytree(whole, folder, dirs_exist_ok=True)
    for other in checkpoints.steps(folder / "checkpoints"):
        if other > step:
            shutil.rmtree(checkpoints.at(folder / "checkpoints", other))
    return folder


def assert_same_outcome(found: Outcome, expected: Outcome) -> None:
    assert replace(found, seconds=0) == replace(expected, seconds=0)
