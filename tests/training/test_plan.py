"""Plans for a given time, and estimates: they choose plain settings and change nothing else."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from logged_lines import LoggedLines

from gpt1.config import PretrainConfig
from gpt1.corpus.corpus import Corpus
from gpt1.errors import ResourceError, UserError
from gpt1.model.gpt import GPT
from gpt1.progress import Progress
from gpt1.training import pretrain as pretraining
from gpt1.training.distributed import SINGLE_PROCESS
from gpt1.training.initial_model import new_model_config
from gpt1.training.plan import (
    MAX_EPOCHS,
    MIN_PLANNED_BATCH,
    MIN_PLANNED_STEPS,
    PLANNED_SIZES,
    Plan,
    Speed,
    describe_plan,
    measure_speed,
    plan_run,
)
from gpt1.training.pretrain import pretrain
from gpt1.training.speed import flops_per_token


class Sized:
    """A corpus of a given length."""

    vocab_size = 8000

    def __init__(self, tokens: float) -> None:
        self.tokens = int(tokens)


def plan_on(flops_per_second: float, minutes: float, tokens: float = 1e9, **requested: Any) -> Plan:
    """The plan for a machine that computes `flops_per_second` with every size."""

    def measure(cfg: PretrainConfig, vocab_size: int) -> Speed:
        return Speed(flops_per_token(new_model_config(cfg, vocab_size)) / flops_per_second, 1e-3)

    return plan_run(minutes, requested, {}, cast(Corpus, Sized(tokens)), measure)


machines = st.floats(1e9, 1e15)


@given(machine=machines, minutes=st.floats(1, 10_000))
def test_a_plan_takes_at_most_the_time(machine: float, minutes: float):
    try:
        plan = plan_on(machine, minutes)
    except UserError as error:  # the time that it names is enough
        minutes = float(re.findall(r"--minutes (\d+)", error.fix)[0])
        plan = plan_on(machine, minutes)
    assert plan.steps >= MIN_PLANNED_STEPS
    assert plan.seconds <= 60 * minutes
    assert plan.steps * plan.cfg.batch_size * plan.cfg.context <= MAX_EPOCHS * 1e9


@given(machine=st.floats(1e11, 1e15), minutes=st.floats(1, 1000), more=st.floats(1, 100))
def test_more_time_never_gives_a_smaller_model_or_a_higher_loss(machine: float, minutes: float, more: float):
    short, long = plan_on(machine, minutes), plan_on(machine, minutes * more)
    assert PLANNED_SIZES.index(short.cfg.model) <= PLANNED_SIZES.index(long.cfg.model)
    assert long.expected_loss <= short.expected_loss


def test_the_size_fits_the_machine_and_the_time():
    """A laptop gets the smallest model in ten minutes, a GPU the paper's in a day."""
    assert plan_on(2e11, 10).cfg.model == "tiny"
    assert plan_on(2e11, 300).cfg.model == "mini"
    assert plan_on(1e14, 24 * 60, tokens=1e10).cfg.model == "gpt1"


def test_a_small_corpus_is_not_repeated_for_the_whole_time_but_gets_a_larger_model():
    plan = plan_on(1e12, 60, tokens=1_000_000)
    assert plan.steps * plan.cfg.batch_size * plan.cfg.context <= MAX_EPOCHS * 1_000_000
    assert plan.seconds < 60 * 60
    assert PLANNED_SIZES.index(plan.cfg.model) > PLANNED_SIZES.index(plan_on(1e12, 60).cfg.model)


def test_a_size_that_does_not_fit_into_memory_is_not_planned():
    def measure(cfg: PretrainConfig, vocab_size: int) -> Speed:
        if cfg.model != "tiny":
            raise ResourceError("out of memory.")
        return Speed(1e-9, 1e-3)

    assert plan_run(600, {}, {}, cast(Corpus, Sized(1e9)), measure).cfg.model == "tiny"
    with pytest.raises(ResourceError, match="out of memory"):
        plan_run(600, {"model": "gpt1"}, {}, cast(Corpus, Sized(1e9)), measure)


@pytest.mark.parametrize("shape", [{"model": "small"}, {"n_embd": 96}, {"context": 64}, {"recipe": "paper"}])
def test_a_setting_of_the_shape_leaves_the_size_as_it_is(shape: dict[str, Any]):
    plan = plan_on(1e13, 1, **shape) if "recipe" not in shape else plan_on(1e15, 1, **shape)
    for name, value in shape.items():
        assert getattr(plan.cfg, name) == value
    assert plan.cfg.model == {"small": "small", "paper": "gpt1"}.get(next(iter(shape.values())), "mini")


@pytest.mark.parametrize("minutes", [0, -1, float("inf"), float("nan")])
def test_an_invalid_time_is_an_error(minutes: float):
    with pytest.raises(UserError, match=r"minutes=.* is out of range"):
        plan_on(1e11, minutes)


@pytest.mark.parametrize("other", [{"steps": 5}, {"epochs": 1.0}])
def test_a_time_and_a_length_contradict_each_other(other: dict[str, Any]):
    with pytest.raises(UserError, match="contradict each other"):
        plan_on(1e11, 5, **other)


def test_a_plan_takes_smaller_batches_before_it_has_too_few_steps():
    full = plan_on(1e11, 60, model="mini")
    assert full.cfg.batch_size == PretrainConfig.batch_size
    short = plan_on(1e11, 5, model="mini")
    assert MIN_PLANNED_BATCH <= short.cfg.batch_size < PretrainConfig.batch_size
    assert MIN_PLANNED_STEPS <= short.steps < full.steps


@pytest.mark.parametrize("fixed", [{"batch_size": 32}, {"recipe": "paper"}])
def test_a_batch_size_that_is_set_stays(fixed: dict[str, Any]):
    with pytest.raises(UserError, match="is too short"):
        plan_on(1e11, 2, **{"model": "mini", **fixed})


def test_a_time_for_a_handful_of_steps_is_an_error_that_names_the_time_needed():
    with pytest.raises(UserError, match=r"minutes=1 is too short: 1 step of 2,048 tokens would fit") as error:
        plan_on(1e10, 1, model="mini")
    assert re.fullmatch(r"Use --minutes \d+, or --model tiny\.", error.value.fix)

    def slow(cfg: PretrainConfig, vocab_size: int) -> Speed:
        return Speed(1e-2, 1e-3)

    inherited = {"n_layer": 6, "n_head": 6, "n_embd": 384, "context": 256, "model": "mini"}
    with pytest.raises(UserError) as error:
        plan_run(4, {}, inherited, cast(Corpus, Sized(1e9)), slow)
    assert re.fullmatch(r"Use --minutes \d+\.", error.value.fix)


def test_a_corpus_that_is_too_small_for_a_plan_is_an_error():
    with pytest.raises(UserError, match=r"minutes=5: 4 epochs of this corpus are only 3 steps of 1,024 tokens"):
        plan_on(1e13, 5, tokens=1000)


def test_a_plan_is_described_in_words():
    corpus = cast(Corpus, Sized(1e6))
    plan = Plan(PretrainConfig(batch_size=8, context=256), 1, 120.0, 3.0)
    assert describe_plan(plan, 4, corpus, "from starter") == (
        "plan for 4 min: from starter, 1 step of 2,048 tokens (0.20% of an epoch), about 2 min on this machine"
    )
    assert "(2.05 epochs)" in describe_plan(replace(plan, steps=1000), 4, corpus, "tiny")


def test_the_measured_speed_is_that_of_this_machine(tiny_pretrain_settings: dict[str, Any]):
    cfg = PretrainConfig(**{**tiny_pretrain_settings, "steps": 0})
    speed = measure_speed(cfg, 300, 1)
    assert 0 < speed.token_seconds < 1
    assert 0 < speed.update_seconds < 60
    assert speed.run_seconds(cfg, 100) > 50 * speed.run_seconds(cfg, 1) > 0


@pytest.mark.usefixtures("no_report")
def test_a_planned_run_is_a_run_with_plain_settings(
    corpus: Path, tiny_pretrain_settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pretraining, "measure_speed", lambda *_, **__: Speed(4e-5, 1e-3))
    settings = {name: value for name, value in tiny_pretrain_settings.items() if name != "steps"}
    messages = LoggedLines()
    run = pretrain(corpus, out=tmp_path / "planned", minutes=0.02, progress=messages, **settings)
    stored = yaml.safe_load((run / "config.yaml").read_text())
    assert "minutes" not in stored
    assert stored["command"]["minutes"] == 0.02
    assert messages.lines[0].startswith(f"plan for 0.02 min: tiny, {stored['steps']:,} steps of 256 tokens")
    plain = pretrain(corpus, out=tmp_path / "plain", **{**settings, "steps": stored["steps"]})
    found, expected = (GPT.from_pretrained(folder / "model").state_dict() for folder in (run, plain))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert pretrain(corpus, out=run, minutes=0.02, resume=True) == run
    with pytest.raises(UserError, match=r"was started with minutes=0\.02, not 5"):
        pretrain(corpus, out=run, minutes=5, resume=True)


@pytest.mark.usefixtures("no_report")
def test_a_run_says_before_it_starts_how_long_it_takes_and_the_measurement_changes_no_bit(
    corpus: Path, tiny_pretrain_settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = {**tiny_pretrain_settings, "steps": 5, "dropout": 0.1}
    plain = pretrain(corpus, out=tmp_path / "plain", **settings)
    monkeypatch.setattr(pretraining, "NEGLIGIBLE_FLOPS", 0)
    messages = LoggedLines()
    measured = pretrain(corpus, out=tmp_path / "measured", progress=messages, **settings)
    assert any(line.startswith("5 steps of 256 tokens: about ") for line in messages.lines)
    found, expected = (GPT.from_pretrained(folder / "model").state_dict() for folder in (measured, plain))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_estimate_counts_no_more_windows_than_the_corpus_has(
    corpus: Path, tiny_pretrain_settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    settings = {**tiny_pretrain_settings, "steps": 3, "batch_size": 10**6}
    opened, messages = Corpus.open(corpus), LoggedLines()
    prepare = pretraining.prepare_pretraining
    setup, cfg = prepare(PretrainConfig(**settings), opened, None, None, SINGLE_PROCESS, Progress())
    tokens = setup.make_stage(cfg).step_batch(0).tokens
    monkeypatch.setattr(pretraining, "NEGLIGIBLE_FLOPS", 0)
    monkeypatch.setattr(pretraining, "measure_speed", lambda *_: Speed(60 / tokens, 0.0))  # a step takes a minute
    setup.log_time(replace(cfg, eval_windows=1), messages)
    assert messages.lines[0].startswith(f"3 steps of {tokens:,} tokens: about 3 min on this machine")
