"""Learning-rate schedules."""

from __future__ import annotations

import math

WSD_DECAY_FRACTION = 0.2  # of all steps


def lr_factor(schedule: str, warmup: float, step: int, total_steps: int) -> float:
    """Learning rate of a step as a fraction of the peak.

    All schedules begin with a linear warm-up from 0, so step 0 has learning rate 0, as in the release. `linear` is the
    released warmup_linear, (x/w while x ≤ w, else 1) · (1 − x) with x = step / total_steps. `cosine` falls from 1 to 0
    between the end of the warm-up and the end of the run (paper, section 4.1). `constant` stays at 1. `wsd`
    (warm-up, stable, decay) stays at 1 and falls to 0 as a line over the last fifth of the steps.

    Args:
        schedule: `linear`, `cosine`, `constant` or `wsd`.
        warmup: Steps of warm-up; below 1, a fraction of all steps.
        step: The step, from 0.
        total_steps: Steps of the run.

    Returns:
        A number from 0 to 1.
    """
    x = step / total_steps
    w = warmup if warmup < 1 else warmup / total_steps
    w = min(w, 1.0)
    warmup_factor = x / w if w and x <= w else 1.0
    if schedule == "constant":
        return warmup_factor
    if schedule == "wsd":
        return min(warmup_factor, (1 - x) / WSD_DECAY_FRACTION)
    if schedule == "linear":
        return warmup_factor * (1 - x)
    return warmup_factor if x <= w else 0.5 * (1 + math.cos(math.pi * (x - w) / (1 - w)))


def never_decays(schedule: str, warmup: float, total_steps: int) -> bool:
    """Whether the warm-up of a cosine takes the whole run, so that the learning rate only rises."""
    return schedule == "cosine" and warmup >= max(1, total_steps)
