"""Steps that are not finite are skipped, counted and never saved; a diverged run stops with its last good state."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finetune_helpers import copy_until_checkpoint, equal_weights, read_metrics
from linear_stage import CONFIG, STEPS, RecordingProgress, assert_same_outcome, make_stage, run_stage
from torch import Tensor

from gpt1.errors import Diverged, Interrupted
from gpt1.model.losses import Losses
from gpt1.training import checkpoints
from gpt1.training.guard import MAX_SKIPPED
from gpt1.training.loop import Stage, StepBatch


def make_broken_stage(values: Mapping[int, float], **changes: Any) -> Stage:
    """A stage whose loss in training is multiplied by a value at some steps (from 1), at each visit of that step."""
    made = make_stage(**changes)
    update, objective, factor = made.step_batch, made.loss_fn, [1.0]

    def step_batch(step: int) -> StepBatch:
        factor[0] = values.get(step + 1, 1.0)
        return update(step)

    def scaled_loss(rows: Tensor) -> Losses:
        losses = objective(rows)
        total = losses.total * (factor[0] if made.model.training else 1.0)
        return Losses(total, {"loss": total.detach()})

    return replace(made, step_batch=step_batch, loss_fn=scaled_loss)


def load_state(folder: Path, step: int) -> dict[str, Tensor]:
    loaded = checkpoints.load_checkpoint(checkpoints.checkpoint_path(folder / "checkpoints", step))
    return loaded.weights | loaded.optimizer


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30], ids=["NaN", "infinite", "infinite gradient norm"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_a_step_that_is_not_finite_changes_nothing_and_training_continues(value: float, optimizer: str, tmp_path: Path):
    config = replace(CONFIG, optimizer=optimizer)
    outcome, _, progress = run_stage(make_broken_stage({7: value, 8: value, 13: value}), tmp_path, config=config)
    assert (outcome.step, outcome.skipped, outcome.skipped_in_row) == (STEPS, 3, 0)
    assert equal_weights(load_state(tmp_path, 6), load_state(tmp_path, 8))
    assert equal_weights(load_state(tmp_path, 12), load_state(tmp_path, 13))
    assert not equal_weights(load_state(tmp_path, 8), load_state(tmp_path, 9))
    assert [line.get("skipped_steps") for line in read_metrics(tmp_path) if line["split"] == "train"] == [2, 3, 3]
    assert all(math.isfinite(line["loss"]) for line in read_metrics(tmp_path))
    assert [line.split(" is ")[0] for line in progress.messages] == ["step 7", "step 13"]


def test_a_run_with_skipped_steps_resumes_to_the_same_bits_from_any_checkpoint(tmp_path: Path):
    values = {2: math.nan, 9: math.nan, 10: math.inf, 11: math.nan, 23: math.nan}
    outcome, weights, _ = run_stage(make_broken_stage(values), tmp_path / "whole")
    for step in range(STEPS):
        folder = copy_until_checkpoint(step, tmp_path / "whole", tmp_path / str(step))
        resumed, found, _ = run_stage(make_broken_stage(values), folder, resume=True)
        assert equal_weights(found, weights)
        assert read_metrics(folder) == read_metrics(tmp_path / "whole")
        assert_same_outcome(resumed, outcome)


def test_too_many_skipped_steps_in_a_row_stop_the_run_even_across_a_resume(tmp_path: Path):
    values = dict.fromkeys(range(8, 8 + MAX_SKIPPED), math.nan)
    with pytest.raises(Diverged, match=f"loss is nan at step 12, the {MAX_SKIPPED}th such step") as ended:
        run_stage(make_broken_stage(values), tmp_path)
    for part in ("--peak-lr (now 0.05)", "--warmup (now 3)", "step-00000011", "--resume"):
        assert part in ended.value.fix
    assert checkpoints.list_steps(tmp_path / "checkpoints")[-1] == 11
    assert equal_weights(load_state(tmp_path, 7), load_state(tmp_path, 11))
    with pytest.raises(Diverged) as again:
        run_stage(make_broken_stage(values), tmp_path, resume=True)
    assert str(again.value) == str(ended.value)
    assert (
        run_stage(make_broken_stage(dict.fromkeys(range(8, 7 + MAX_SKIPPED), math.nan)), tmp_path / "fewer")[0].skipped
        == 4
    )


def test_skipped_last_steps_after_the_last_line_of_metrics_do_not_lose_the_run(tmp_path: Path):
    outcome, weights, _ = run_stage(make_broken_stage(dict.fromkeys((21, 22, 23), math.nan)), tmp_path)
    assert (outcome.step, outcome.skipped) == (STEPS, 3)
    assert all(torch.equal(weight, load_state(tmp_path, 20)[name]) for name, weight in weights.items())
    lines = [line for line in read_metrics(tmp_path) if line["split"] == "train"]
    assert [line["step"] for line in lines] == [10, 20]
    assert outcome.train_loss == lines[-1]["loss"]


def test_a_run_without_a_finite_step_stops_with_advice(tmp_path: Path):
    made = make_broken_stage(dict.fromkeys(range(1, 4), math.nan), total_steps=3)
    with pytest.raises(Diverged, match="no step up to step 3 had a finite loss") as ended:
        run_stage(made, tmp_path, config=replace(CONFIG, checkpoint_every=0))
    assert "No checkpoint was written" in ended.value.fix


def test_finite_weights_without_a_finite_loss_are_not_saved(tmp_path: Path):
    def enlarge_weight(record: dict[str, Any]) -> None:
        if record["split"] == "train" and record["step"] == 10:
            with torch.no_grad():
                made.model[1].weight.fill_(1e30)  # type: ignore[index, union-attr, operator]

    made = make_stage(should_evaluate=lambda done: False)
    with pytest.raises(Diverged, match="such step in a row") as ended:
        run_stage(made, tmp_path, progress=RecordingProgress(enlarge_weight), config=replace(CONFIG, clip_norm=0.0))
    assert checkpoints.list_steps(tmp_path / "checkpoints")[-1] == 9
    assert "step-00000009" in ended.value.fix


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_validation_loss_that_is_not_finite_stops_the_run_before_it_is_saved(value: float, tmp_path: Path):
    figures = iter([1.0, value])
    made = make_stage(evaluate=lambda: {"loss": next(figures)})
    with pytest.raises(Diverged, match=f"validation loss is {value} at step 10") as ended:
        run_stage(made, tmp_path)
    assert checkpoints.list_steps(tmp_path / "checkpoints")[-1] == 9
    assert "step-00000009" in ended.value.fix


@pytest.mark.parametrize("where", ["weights", "optimizer"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_checkpoint_of_an_earlier_version_that_is_not_finite_is_skipped(where: str, value: float, tmp_path: Path):
    outcome, weights, _ = run_stage(make_stage(), tmp_path)
    folder = copy_until_checkpoint(12, tmp_path, tmp_path / "stopped") / "checkpoints"
    found = checkpoints.load_checkpoint(checkpoints.checkpoint_path(folder, 12))
    next(iter(getattr(found, where).values())).view(-1)[0] = value
    checkpoints.save_checkpoint(folder, 12, found.weights, found.optimizer, found.state)
    resumed, trained, progress = run_stage(make_stage(), tmp_path / "stopped", resume=True)
    file = {"weights": "model", "optimizer": "optimizer"}[where]
    assert f"step-00000012/{file}.safetensors contains NaN or infinite values" in progress.messages[0]
    assert progress.messages[1] == "resuming after step 11"
    assert equal_weights(trained, weights)
    assert_same_outcome(resumed, outcome)


def test_ctrl_c_after_a_skipped_step_saves_a_state_that_resumes_to_the_same_bits(tmp_path: Path):
    values = {10: math.nan, 11: math.nan}
    _, weights, _ = run_stage(make_broken_stage(values), tmp_path / "whole")

    def stop(record: dict[str, Any]) -> None:
        if record["split"] == "train" and record["step"] == 10:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="stopped after step 10"):
        run_stage(
            make_broken_stage(values),
            tmp_path / "stopped",
            progress=RecordingProgress(stop),
            config=replace(CONFIG, checkpoint_every=0),
        )
    assert equal_weights(run_stage(make_broken_stage(values), tmp_path / "stopped", resume=True)[1], weights)
