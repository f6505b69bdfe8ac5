"""`finetune(time_limit=…)`: as many epochs as fit, decided before the run from the speed of a few steps.

The number of epochs becomes a plain setting, so that the learning rate's schedule is planned for it, and a resumed run
needs neither the limit nor the clock.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace

from gpt1.config import FinetuneConfig
from gpt1.corpus.order import steps_per_epoch
from gpt1.errors import UserError
from gpt1.formatting import count_noun, format_duration, format_number
from gpt1.progress import Progress
from gpt1.training.loop import Stage, train_step
from gpt1.training.optimizers import OPTIMIZERS

MEASURED_STEPS = 20
MEASURED_SHARE = 0.05
"""Share of the time limit after which no further step is measured."""
RESERVE = 0.1
"""Share of the remaining time for checkpoints, model folder, report, and steps slower than the measured ones."""


def check_time_limit(minutes: float | None, epochs: float | None) -> None:
    """UserError if the limit is not positive, or combined with a number of epochs."""
    if minutes is None:
        return
    if not 0 < minutes < math.inf:
        raise UserError(f"--time-limit {minutes} is out of range: it must be above 0.", "For example: --time-limit 10")
    if epochs is not None:
        raise UserError(f"--time-limit {minutes:g} sets the number of epochs.", f"Omit --epochs (now {epochs:g}).")


def plan_epochs(
    stage: Stage, cfg: FinetuneConfig, rows: int, minutes: float, started: float, progress: Progress
) -> FinetuneConfig:
    """The settings with as many epochs as fit: whole ones, or a part of one.

    Args:
        stage: The run; its weights do not change.
        cfg: Settings of the run.
        rows: Training rows.
        minutes: The limit, counted from `started`.
        started: `time.monotonic()` when the command began.
        progress: Receives a message.
    """
    limit, per_epoch = 60 * minutes, steps_per_epoch(rows, cfg.batch_size)
    step_seconds = measure_step(stage, cfg, per_epoch, MEASURED_SHARE * limit)
    before = time.monotonic()
    stage.evaluate()
    evaluation = time.monotonic() - before
    spent = time.monotonic() - started
    left = (limit - spent) * (1 - RESERVE) - evaluation  # the last one is at the end
    seconds = per_epoch * step_seconds + evaluation
    fitting = left / seconds
    steps = max(1, math.ceil(fitting * per_epoch))  # of an epoch that does not fit
    epochs = float(math.floor(fitting)) if fitting >= 1 else 1.0 if steps >= per_epoch else max(fitting, 1 / per_epoch)
    planned = f"time limit {minutes:g} min: {count_noun(epochs, 'epoch')}"
    takes = f"an epoch takes about {format_seconds(seconds)}"
    if epochs < 1 or fitting < 1 - RESERVE:
        needed = math.ceil(((seconds + evaluation) / (1 - RESERVE) + spent) / 60)
        part = f"{format_number(100 * epochs, 2)}% of an epoch, {count_noun(steps, 'step')}"
        short = f": only {part}" if epochs < 1 else " is too short: 1 epoch is trained"
        planned = f"warning: time limit {minutes:g} min{short}"
        takes += f", the preparation {format_seconds(spent)}; one fits with --time-limit {needed}"
        takes += "" if cfg.train == "head" else "; --train head is faster"
    progress.log(f"{planned} ({takes})")
    return replace(cfg, epochs=epochs)


def format_seconds(seconds: float) -> str:
    return format_duration(seconds) if seconds >= 60 else f"{format_number(seconds, 2)} s"


def measure_step(stage: Stage, cfg: FinetuneConfig, per_epoch: int, seconds: float) -> float:
    """Mean seconds of a step, with a learning rate of 0, so that the weights stay as they are."""
    optimizer = OPTIMIZERS[cfg.optimizer](stage.trainable_parameters(), cfg)
    stage.model.train()
    times: list[float] = []
    begin = time.monotonic()
    for step in range(0, per_epoch, max(1, per_epoch // MEASURED_STEPS)):
        before = time.monotonic()
        metrics = train_step(stage, optimizer, cfg, stage.step_batch(step), step, 0.0)
        float(metrics["loss"])  # waits for a GPU
        times.append(time.monotonic() - before)
        if time.monotonic() - begin > seconds or len(times) > MEASURED_STEPS:
            break
    for _, parameter in stage.trainable_parameters():
        parameter.grad = None
    measured = times[1:] or times  # the first step also allocates memory
    return sum(measured) / len(measured)
