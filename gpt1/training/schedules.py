"""The learning rate of an update, as a share of its peak."""

from __future__ import annotations

import math


def lr_factor(schedule: str, warmup: float, step: int, total_steps: int) -> float:
    """The share of the peak rate that update `step` (from 0) of `total_steps` takes.

    Linear warm-up from 0 over `warmup` updates (below 1: that fraction of all), so the first update has rate 0, as in
    the release. Then `linear` is 1 − t/T over the whole run (the released warmup_linear: (x/w while x ≤ w, else 1) ·
    (1 − x)), and `cosine` falls from 1 to 0 between the end of warm-up and the end of the run (paper 4.1).
    """
    x = step / total_steps
    w = warmup if warmup < 1 else warmup / total_steps
    w = min(w, 1.0)
    rising = x / w if w and x <= w else 1.0
    if schedule == "constant":
        return rising
    if schedule == "linear":
        return rising * (1 - x)
    return rising if x <= w else 0.5 * (1 + math.cos(math.pi * (x - w) / (1 - w)))
