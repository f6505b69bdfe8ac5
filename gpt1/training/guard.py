"""What the loop looks at, and when it must not go on: losses read in groups, skipped steps, states worth saving."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gpt1.config import TrainingConfig
from gpt1.errors import Diverged
from gpt1.files.atomic import ensure_exists
from gpt1.progress import Progress
from gpt1.training import checkpoints

if TYPE_CHECKING:
    from gpt1.training.loop import Outcome, Stage

MAX_SKIPPED = 5
"""Steps skipped in a row before the run stops. A bad batch or an overflow costs a step or two; weights that have
diverged give NaN at every step."""
LOOKED_AT = ("loss", "gradient_norm")  # what has to be finite in a step


class Meter:
    """Adds up losses without waiting for the device, and reads them once in a while."""

    def __init__(self) -> None:
        self.unseen: list[tuple[int, dict[str, Tensor]]] = []  # (step, losses) since the last look
        self.parts: list[dict[str, Tensor]] = []  # of the steps that were looked at and are finite
        self.tokens = 0
        self.since = time.perf_counter()

    def add(self, step: int, parts: dict[str, Tensor], tokens: int) -> None:
        self.unseen.append((step, parts))
        self.tokens += tokens

    def look(self) -> Iterator[tuple[int, dict[str, float]]]:
        """(step, loss and gradient norm) of each step since the last look. The finite ones count in the next means."""
        unseen, self.unseen = self.unseen, []
        read = {name: torch.stack([parts[name] for _, parts in unseen]).tolist() for name in LOOKED_AT if unseen}
        for i, (step, parts) in enumerate(unseen):
            values = {name: read[name][i] for name in LOOKED_AT}
            if all(map(math.isfinite, values.values())):
                self.parts.append(parts)
            yield step, values

    def unread(self) -> list[dict[str, float]]:
        """The figures of the updates since the last reading, for a checkpoint between two of them."""
        return [{name: float(value) for name, value in parts.items()} for parts in self.parts]

    def take_up(self, unread: Sequence[Mapping[str, float]], device: torch.device) -> None:
        """Go on with what a checkpoint had not read yet, so that a resumed run writes the same lines."""
        finite = [parts for parts in unread if all(map(math.isfinite, parts.values()))]  # earlier versions kept others
        self.parts = [{name: torch.tensor(value, device=device) for name, value in parts.items()} for parts in finite]

    def read(self) -> dict[str, float]:
        """Means over the finite steps since the last reading; there is one at least."""
        figures = {name: float(torch.stack([parts[name] for parts in self.parts]).mean()) for name in self.parts[0]}
        now = time.perf_counter()
        figures["tokens_per_s"] = self.tokens / max(now - self.since, 1e-9)
        self.parts, self.tokens, self.since = [], 0, now
        return figures


@dataclass
class Guard:
    """Counts skipped steps and lets no state be saved that is not finite; ends a run that has diverged."""

    stage: Stage
    config: TrainingConfig
    optimizer: Any
    meter: Meter
    outcome: Outcome
    folder: Path  # of the checkpoints
    progress: Progress

    def __post_init__(self) -> None:
        self.started, self.before = time.perf_counter(), self.outcome.seconds
        self.last = self.outcome.step  # step of the last good checkpoint; 0: there is none

    def count_skipped(self) -> None:
        """Count the steps since the last look that were skipped; Diverged after MAX_SKIPPED in a row."""
        for step, values in self.meter.look():
            bad = [f"{name.replace('_', ' ')} is {x}" for name, x in values.items() if not math.isfinite(x)]
            if not bad:
                self.outcome.skipped_in_row = 0
                continue
            self.outcome.skipped += 1
            self.outcome.skipped_in_row += 1
            if self.outcome.skipped_in_row == 1:
                self.progress.log(f"step {step:,} is skipped: {bad[0]}")
            if self.outcome.skipped_in_row == MAX_SKIPPED:
                raise self.diverged(f"{bad[0]} at step {step:,}, the {MAX_SKIPPED}th such step in a row")

    def read(self) -> dict[str, float]:
        """What the next line of metrics.jsonl says of the training steps."""
        if not self.meter.parts:
            raise self.diverged(f"no step up to step {self.outcome.step:,} had a finite loss and gradient")
        self.check_folder()
        skipped = {"skipped_steps": self.outcome.skipped} if self.outcome.skipped else {}
        return self.meter.read() | skipped

    def evaluate(self, epoch: int) -> bool:
        """Measure the held-out figures, write them down, remember the best; whether they prove the weights good."""
        stage, outcome = self.stage, self.outcome
        stage.model.eval()
        with torch.inference_mode():
            figures = stage.evaluate()
        stage.model.train()
        loss = figures.get("loss", math.nan)
        if "loss" in figures and not math.isfinite(loss):
            raise self.diverged(f"validation loss is {loss} at step {outcome.step:,}")
        outcome.epoch = epoch + 1
        record = {"step": outcome.step, "epoch": epoch + 1, **figures}
        outcome.history.append(record)
        self.check_folder()
        self.progress.record(split="validation", **record)
        if (
            stage.main_metric
        ):  # a tie goes to the lower loss: on few rows the first of several equal epochs is the least sure
            value = figures[stage.main_metric]
            if (value, -loss) > (outcome.best_value, -outcome.best_loss):
                outcome.best, outcome.best_value, outcome.best_loss = outcome.step, value, loss
        return math.isfinite(loss)

    def save(self, piece: Any, proven: bool) -> bool:
        """Write a checkpoint if weights and optimizer state are finite, and so is the loss of `piece` with the new
        weights (`proven` where the validation loss was): weights of 1e30 are finite, and give NaN in the next step.

        Returns:
            Whether the checkpoint is written. At the last step Diverged is raised instead of False.
        """
        stage, outcome = self.stage, self.outcome
        tensors = self.optimizer.state_tensors()
        good = checkpoints.all_finite([*(p for _, p in stage.trainable_parameters()), *tensors.values()])
        if good and not proven:
            stage.model.eval()
            with torch.inference_mode():
                good = bool(torch.isfinite(stage.loss_fn(piece).total))
            stage.model.train()
        if stage.processes.any_rank(not good):
            if outcome.step == stage.total_steps:
                raise self.diverged(f"the weights after the last step, {outcome.step:,}, give no finite loss")
            return False
        if stage.processes.is_rank0:
            outcome.seconds = self.before + time.perf_counter() - self.started
            about = {"outcome": vars(outcome), "unread": self.meter.unread(), "fingerprints": dict(stage.fingerprints)}
            checkpoints.save_checkpoint(self.folder, outcome.step, dict(stage.trainable_parameters()), tensors, about)
            checkpoints.prune(self.folder, self.config.keep, outcome.step, outcome.best)
        self.last = outcome.step
        return True

    def check_folder(self) -> None:
        """A run folder that was deleted does not come back half."""
        if self.stage.processes.is_rank0:
            ensure_exists(self.folder.parent)

    def diverged(self, what: str) -> Diverged:
        settings = f"smaller --peak-lr (now {self.config.peak_lr:g}) or a longer --warmup (now {self.config.warmup:g})"
        kept = (
            f"The last good checkpoint, {checkpoints.checkpoint_path(self.folder, self.last)}, is kept"
            if self.last
            else ""
        )
        return Diverged(
            f"Training diverged: {what}.",
            f"Start a new run (another --out) with a {settings}.\n"
            f"{kept or 'No checkpoint was written'}; --resume with the same settings repeats the same steps.",
        )
