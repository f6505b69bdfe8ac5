"""A linear model for tests of the training loop: training, stopping and resuming take no time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gpt1.config import FinetuneConfig, TrainingConfig
from gpt1.model.losses import Losses
from gpt1.progress import MetricsFile, MultiProgress, Progress
from gpt1.training.loop import Outcome, Stage, StepBatch, train

STEPS = 23
CONFIG = FinetuneConfig(peak_lr=0.05, warmup=3, checkpoint_every=1, keep=100)
X = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
Y = X @ torch.randn(6, 1, generator=torch.Generator().manual_seed(1))


class RecordingProgress(Progress):
    """Records its calls and may act on a record."""

    def __init__(self, act: Callable[[dict[str, Any]], None] = lambda record: None) -> None:
        self.messages: list[str] = []
        self.records: list[dict[str, Any]] = []
        self.on_record = act

    def log(self, line: str) -> None:
        self.messages.append(line)

    def record(self, **values: Any) -> None:
        self.records.append(values)
        self.on_record(values)


def make_stage(**changes: Any) -> Stage:
    """A linear model with dropout, two micro-batches per step, an evaluation every five steps."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Dropout(0.2), nn.Linear(6, 1))

    def objective(rows: Tensor) -> Losses:
        loss = ((model(X[rows]) - Y[rows]) ** 2).sum() / 8
        return Losses(loss, {"loss": loss.detach()})

    def step_batch(step: int) -> StepBatch:
        rows = (torch.arange(8) + 8 * step) % len(X)
        return StepBatch(step // 5, [rows[:5], rows[5:]], 8)

    def evaluate() -> dict[str, float]:
        loss = float(((model(X) - Y) ** 2).mean())
        return {"loss": loss, "score": -loss}

    made = Stage(
        title="a line through points",
        model=model,
        loss_fn=objective,
        step_batch=step_batch,
        total_steps=STEPS,
        evaluate=evaluate,
        should_evaluate=lambda done: done % 5 == 0 or done == STEPS,
        fingerprints={"corpus": "c", "tokenizer": "t"},
    )
    return replace(made, **changes)


def run_stage(
    stage: Stage,
    folder: Path,
    resume: bool = False,
    progress: RecordingProgress | None = None,
    config: TrainingConfig = CONFIG,
) -> tuple[Outcome, dict[str, Tensor], RecordingProgress]:
    folder.mkdir(exist_ok=True)
    progress = progress or RecordingProgress()
    metrics = MetricsFile(folder / "metrics.jsonl")
    outcome = train(stage, config, folder, MultiProgress([progress, metrics]), metrics, resume)
    return outcome, {name: p.detach().clone() for name, p in stage.model.named_parameters()}, progress


def assert_same_outcome(found: Outcome, expected: Outcome) -> None:
    assert replace(found, seconds=0) == replace(expected, seconds=0)
