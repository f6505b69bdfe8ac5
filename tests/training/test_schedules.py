"""The learning rate of each step, against the formulas."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt1.training.schedules import lr_factor, never_decays

runs = st.tuples(st.integers(1, 500), st.integers(0, 499)).filter(lambda run: run[1] < run[0])
warmups = st.integers(0, 600) | st.floats(0, 0.999, allow_subnormal=False)
schedules = st.sampled_from(["cosine", "linear", "constant", "wsd"])


def warmup_fraction(warmup: float, steps: int) -> float:
    return min(1.0, warmup if warmup < 1 else warmup / steps)


@given(run=runs, warmup=warmups)
def test_linear_equals_the_released_warmup_linear(run, warmup):
    steps, step = run
    x, w = step / steps, warmup_fraction(warmup, steps)
    s = 1.0 if x <= w else 0.0
    expected = (s * (x / w if w else 1.0) + (1 - s)) * (1 - x)
    assert lr_factor("linear", warmup, step, steps) == pytest.approx(expected)


@given(run=runs, warmup=st.integers(1, 600))
def test_cosine_rises_during_warm_up_and_falls_to_0_afterwards(run, warmup):
    steps, step = run
    if step <= warmup:
        expected = step / min(warmup, steps) if warmup < steps else step / steps
    else:
        expected = math.cos(math.pi / 2 * (step - warmup) / (steps - warmup)) ** 2  # = (1 + cos) / 2
    assert lr_factor("cosine", warmup, step, steps) == pytest.approx(expected)


@given(run=runs, warmup=warmups)
def test_constant_stays_at_the_peak_after_warm_up(run, warmup):
    steps, step = run
    w = warmup_fraction(warmup, steps) * steps
    assert lr_factor("constant", warmup, step, steps) == pytest.approx(min(1.0, step / w) if w else 1.0)


@given(run=runs, warmup=st.floats(0, 0.7, allow_subnormal=False))
def test_wsd_stays_at_the_peak_and_falls_as_a_line_over_the_last_fifth(run, warmup):
    steps, step = run
    if step / steps > 0.8:
        expected = (1 - step / steps) / 0.2
    else:
        expected = lr_factor("constant", warmup, step, steps)
    assert lr_factor("wsd", warmup, step, steps) == pytest.approx(expected)


@given(schedule=schedules, run=runs, warmup=warmups)
def test_the_factor_is_between_0_and_1(schedule, run, warmup):
    steps, step = run
    assert 0 <= lr_factor(schedule, warmup, step, steps) <= 1


@given(schedule=schedules, steps=st.integers(1, 10_000), warmup=warmups.filter(lambda w: w > 0))
def test_the_first_step_has_learning_rate_0(schedule, steps, warmup):
    assert lr_factor(schedule, warmup, 0, steps) == 0


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd"])
@pytest.mark.parametrize("warmup", [0.1, 100, 0])
def test_the_learning_rate_never_rises_after_warm_up(schedule: str, warmup: float):
    rates = [lr_factor(schedule, warmup, step, 1000) for step in range(100, 1001)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0)


@given(run=runs, schedule=schedules, updates=st.integers(2, 400))
def test_warm_up_can_be_steps_or_a_fraction_of_them(run, schedule, updates):
    steps, step = run
    if updates < steps:
        as_share = lr_factor(schedule, updates / steps, step, steps)
        assert lr_factor(schedule, updates, step, steps) == pytest.approx(as_share)


@given(schedule=schedules, steps=st.integers(2, 300), warmup=st.floats(0.01, 0.9) | st.integers(1, 600))
def test_a_schedule_that_never_decays_only_rises(schedule, steps, warmup):
    rates = [lr_factor(schedule, warmup, step, steps) for step in range(steps)]
    assert never_decays(schedule, warmup, steps) == (schedule == "cosine" and warmup >= steps)
    if never_decays(schedule, warmup, steps):
        assert rates == sorted(rates)
