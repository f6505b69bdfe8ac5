"""Checks of a training run: skipped steps, divergence, and which states may be saved as a checkpoint."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gpt1.config import TrainingConfig
from gpt1.errors import Diverged
from gpt1.files.atomic import ensure_exists
from gpt1.progress import Progress
from gpt1.runs.folder import RESUMABLE_FIELDS
from gpt1.tasks.metrics import LOWER_IS_BETTER
from gpt1.training import checkpoints

if TYPE_CHECKING:
    from gpt1.training.loop import Outcome, Stage

MAX_SKIPPED = 5
"""Consecutive skipped steps after which the run stops. A bad batch or an overflow costs a step or two; diverged weights
give NaN at every step."""
CHECKED_METRICS = ("loss", "gradient_norm")  # must be finite in a step


class Meter:
    """Collects losses on the device, and reads them only once in a while, so that no step waits for the device."""

    def __init__(self) -> None:
        self.unchecked: list[tuple[int, dict[str, Tensor]]] = []  # (step, metrics) since the last check
        self.finite: list[dict[str, Tensor]] = []  # metrics of checked, finite steps since the last read
        self.tokens = 0
        self.last_read = time.perf_counter()

    def add(self, step: int, metrics: dict[str, Tensor], tokens: int) -> None:
        self.unchecked.append((step, metrics))
        self.tokens += tokens

    def check(self) -> Iterator[tuple[int, dict[str, float]]]:
        """(step, loss and gradient norm) of each step since the last check. Finite steps count in the next means."""
        steps, self.unchecked = self.unchecked, []
        checked = {
            name: torch.stack([metrics[name] for _, metrics in steps]).tolist() for name in CHECKED_METRICS if steps
        }
        for i, (step, metrics) in enumerate(steps):
            values = {name: checked[name][i] for name in CHECKED_METRICS}
            if all(map(math.isfinite, values.values())):
                self.finite.append(metrics)
            yield step, values

    def unread_metrics(self) -> list[dict[str, float]]:
        """The metrics of the steps since the last read, to be stored in a checkpoint."""
        return [{name: float(value) for name, value in metrics.items()} for metrics in self.finite]

    def restore_unread_metrics(self, unread: Sequence[Mapping[str, float]], device: torch.device) -> None:
        """Restore the unread metrics of a checkpoint, so that a resumed run writes the same lines."""
        # Earlier versions wrote those that are not finite as well.
        finite = [metrics for metrics in unread if all(map(math.isfinite, metrics.values()))]
        self.finite = [{name: torch.tensor(x, device=device) for name, x in metrics.items()} for metrics in finite]

    def read(self) -> dict[str, float]:
        """Means over the finite steps since the last read; there must be at least one."""
        means = {name: float(torch.stack([metrics[name] for metrics in self.finite]).mean()) for name in self.finite[0]}
        now = time.perf_counter()
        means["tokens_per_s"] = self.tokens / max(now - self.last_read, 1e-9)
        self.finite, self.tokens, self.last_read = [], 0, now
        return means


def fixed_settings(config: TrainingConfig) -> dict[str, Any]:
    """The settings that cannot change when a run is resumed."""
    return {name: value for name, value in asdict(config).items() if name not in RESUMABLE_FIELDS}


@dataclass
class Guard:
    """Counts skipped steps, evaluates, saves finite states only, and stops a run that has diverged.

    A run has diverged after MAX_SKIPPED skipped steps in a row, or if the validation loss or the final weights are not
    finite.
    """

    stage: Stage
    config: TrainingConfig
    optimizer: Any
    meter: Meter
    outcome: Outcome
    folder: Path  # where the checkpoints are
    progress: Progress

    def __post_init__(self) -> None:
        self.started, self.seconds_before = time.perf_counter(), self.outcome.seconds
        self.last_saved = self.outcome.step  # step of the last good checkpoint; 0: none
        self.timer = checkpoints.CheckpointTimer(self.config.checkpoint_minutes, not self.last_saved)
        self.replaceable = 0  # step of the last checkpoint, if only the time made it due; else 0

    def count_skipped(self) -> None:
        """Count the skipped steps since the last check. Raises Diverged after MAX_SKIPPED in a row."""
        for step, values in self.meter.check():
            bad = [f"{name.replace('_', ' ')} is {x}" for name, x in values.items() if not math.isfinite(x)]
            if not bad:
                self.outcome.skipped_in_row = 0
                continue
            self.outcome.skipped += 1
            self.outcome.skipped_in_row += 1
            if self.outcome.skipped_in_row == 1:
                self.progress.log(f"step {step:,} is skipped: {bad[0]}")
            if self.outcome.skipped_in_row == MAX_SKIPPED:
                raise self.diverged_error(f"{bad[0]} at step {step:,}, the {MAX_SKIPPED}th such step in a row")

    def read(self) -> dict[str, float]:
        """The training metrics for the next line of metrics.jsonl; {} if all steps since the last line were skipped.

        Raises Diverged if all steps of the run were skipped.
        """
        if self.outcome.skipped == self.outcome.step:
            raise self.diverged_error(f"no step up to step {self.outcome.step:,} had a finite loss and gradient")
        self.check_folder()
        if not self.meter.finite:  # after the last full line there can be fewer steps than MAX_SKIPPED
            return {}
        skipped = {"skipped_steps": self.outcome.skipped} if self.outcome.skipped else {}
        return self.meter.read() | skipped

    def evaluate(self, epoch: int) -> bool:
        """Compute and record the validation metrics, and remember the best; True if the validation loss is finite."""
        stage, outcome = self.stage, self.outcome
        stage.model.eval()
        with torch.inference_mode():
            metrics = stage.evaluate()
        stage.model.train()
        loss = metrics.get("loss", math.nan)
        if "loss" in metrics and not math.isfinite(loss):
            raise self.diverged_error(f"validation loss is {loss} at step {outcome.step:,}")
        outcome.epoch = epoch + 1
        record = {"step": outcome.step, "epoch": epoch + 1, **metrics}
        outcome.history.append(record)
        self.check_folder()
        self.progress.record(split="validation", **record)
        if stage.main_metric:  # ties go to the lower loss: on few rows, the first of equal epochs is the least certain
            value = metrics[stage.main_metric] * (-1 if stage.main_metric in LOWER_IS_BETTER else 1)
            if (value, -loss) > (outcome.best_value, -outcome.best_loss):
                outcome.best, outcome.best_value, outcome.best_loss = outcome.step, value, loss
        return math.isfinite(loss)

    def is_checkpoint_time(self) -> bool:
        """Whether the time makes a checkpoint due; rank 0 decides."""
        return self.stage.processes.is_rank0 and self.timer.is_due()

    def save(self, micro_batch: Any, proven: bool, only_by_time: bool = False) -> bool:
        """Write a checkpoint if the weights, the optimizer state and the loss of `micro_batch` are finite.

        The loss is checked because weights of 1e30 are finite and still give NaN in the next step.

        Args:
            micro_batch: A micro-batch of the step just done.
            proven: The validation loss was finite, so the loss need not be computed.
            only_by_time: The next checkpoint replaces this one, so that `keep` others stay at their regular steps.

        Returns:
            Whether the checkpoint was written.

        Raises:
            Diverged: The state after the last step is not finite.
        """
        stage, outcome = self.stage, self.outcome
        tensors = self.optimizer.state_tensors()
        good = checkpoints.tensors_are_finite([*(p for _, p in stage.trainable_parameters()), *tensors.values()])
        if good and not proven:
            stage.model.eval()
            with torch.inference_mode():
                good = bool(torch.isfinite(stage.loss_fn(micro_batch).total))
            stage.model.train()
        if stage.processes.any_rank(not good):
            if outcome.step == stage.total_steps:
                raise self.diverged_error(f"the weights after the last step ({outcome.step:,}) give no finite loss")
            return False
        if stage.processes.is_rank0:
            outcome.seconds = self.seconds_before + time.perf_counter() - self.started
            state = {
                "outcome": vars(outcome),
                "unread": self.meter.unread_metrics(),
                "fingerprints": dict(stage.fingerprints),
                "settings": fixed_settings(self.config),
            }
            with self.timer.saving():
                weights = dict(stage.trainable_parameters())
                checkpoints.save_checkpoint(self.folder, outcome.step, weights, tensors, state)
            if self.replaceable not in (0, outcome.best, outcome.step):
                shutil.rmtree(checkpoints.checkpoint_path(self.folder, self.replaceable), ignore_errors=True)
            checkpoints.prune(self.folder, self.config.keep, outcome.step, outcome.best)
        self.replaceable = outcome.step if only_by_time else 0
        self.last_saved = outcome.step
        return True

    def check_folder(self) -> None:
        """Raise UserError if the run folder was deleted, instead of creating a part of it again."""
        if self.stage.processes.is_rank0:
            ensure_exists(self.folder.parent)

    def diverged_error(self, reason: str) -> Diverged:
        settings = f"smaller --peak-lr (now {self.config.peak_lr:g}) or a longer --warmup (now {self.config.warmup:g})"
        saved = "No checkpoint was written"
        if self.last_saved:
            saved = f"The last good checkpoint, {checkpoints.checkpoint_path(self.folder, self.last_saved)}, is kept"
        return Diverged(
            f"Training diverged: {reason}.",
            f"Start a new run (another --out) with a {settings}.\n"
            f"{saved}; --resume with the same settings repeats the same steps.",
        )
