"""The training loop on a linear model: best checkpoint, micro-batches, metrics, out of memory, full disk."""

from __future__ import annotations

import errno
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finetune_helpers import equal_weights, read_metrics
from linear_stage import CONFIG, STEPS, make_stage, run_stage
from torch import Tensor

from gpt1.errors import ResourceError, UserError
from gpt1.model.losses import Losses
from gpt1.training import checkpoints
from gpt1.training.loop import StepBatch


def test_the_best_checkpoint_is_kept_and_its_weights_are_the_result(tmp_path: Path):
    scores = iter([0.1, 0.7, 0.3, 0.7, 0.2])
    made = make_stage(evaluate=lambda: {"score": next(scores), "loss": 1.0}, main_metric="score")
    outcome, weights, _ = run_stage(made, tmp_path, config=replace(CONFIG, keep=1, checkpoint_every=0))
    assert (outcome.best, outcome.best_value) == (10, 0.7)
    assert [round(record["score"], 1) for record in outcome.history] == [0.1, 0.7, 0.3, 0.7, 0.2]
    assert checkpoints.list_steps(tmp_path / "checkpoints") == [10, STEPS]
    assert equal_weights(
        weights, checkpoints.load_checkpoint(checkpoints.checkpoint_path(tmp_path / "checkpoints", 10)).weights
    )


ALWAYS_DUE = replace(CONFIG, checkpoint_every=0, checkpoint_minutes=1e-9)


@pytest.fixture
def disable_save_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of the linear model takes less time than a checkpoint; it may take all the time here."""
    monkeypatch.setattr(checkpoints, "MAX_SAVING_SHARE", float("inf"))


@pytest.mark.usefixtures("disable_save_budget")
def test_checkpoints_by_time_change_no_bit_and_are_replaced_by_the_next_one(tmp_path: Path):
    weights = [
        run_stage(make_stage(), tmp_path / name, config=config)[1]
        for name, config in (("timed", ALWAYS_DUE), ("plain", replace(CONFIG, checkpoint_minutes=0)))
    ]
    assert equal_weights(*weights)
    assert read_metrics(tmp_path / "timed") == read_metrics(tmp_path / "plain")
    assert checkpoints.list_steps(tmp_path / "timed" / "checkpoints") == [5, 10, 15, 20, STEPS]


@pytest.mark.usefixtures("disable_save_budget")
def test_a_killed_run_has_a_checkpoint_by_time_beside_the_last_regular_one(tmp_path: Path):
    made = make_stage()

    def run_out_of_memory(step: int) -> StepBatch:
        if step == 8:
            raise MemoryError("out of memory")
        return made.step_batch(step)

    with pytest.raises(ResourceError):
        run_stage(replace(made, step_batch=run_out_of_memory), tmp_path, config=ALWAYS_DUE)
    assert checkpoints.list_steps(tmp_path / "checkpoints") == [5, 8]
    _, resumed, _ = run_stage(make_stage(), tmp_path, resume=True, config=ALWAYS_DUE)
    _, whole, _ = run_stage(make_stage(), tmp_path / "whole")
    assert equal_weights(resumed, whole)


def test_without_the_interval_there_are_only_regular_checkpoints(tmp_path: Path):
    made = make_stage(should_evaluate=lambda done: done == STEPS)
    run_stage(made, tmp_path, config=replace(CONFIG, checkpoint_every=0, checkpoint_minutes=0))
    assert checkpoints.list_steps(tmp_path / "checkpoints") == [STEPS]


@pytest.mark.parametrize(("warmup", "warns"), [(2000, True), (STEPS, True), (STEPS - 1, False), (0.5, False)])
def test_a_warm_up_that_takes_the_whole_run_is_announced(warmup: float, warns: bool, tmp_path: Path):
    config = replace(CONFIG, warmup=warmup, schedule="cosine")
    messages = run_stage(make_stage(), tmp_path, config=config)[2].messages
    assert ["the learning rate never decays" in line for line in messages] == [True] * warns


def test_the_lower_loss_decides_between_equal_scores(tmp_path: Path):
    metrics = iter([(0.7, 2.0), (0.7, 1.0), (0.7, 1.5), (0.6, 0.1), (0.7, 1.0)])
    made = make_stage(evaluate=lambda: dict(zip(("score", "loss"), next(metrics), strict=True)), main_metric="score")
    assert run_stage(made, tmp_path)[0].best == 10


def test_without_a_main_metric_the_last_weights_are_the_result(tmp_path: Path):
    outcome, weights, _ = run_stage(make_stage(), tmp_path)
    assert outcome.best == 0
    assert equal_weights(
        weights, checkpoints.load_checkpoint(checkpoints.checkpoint_path(tmp_path / "checkpoints", STEPS)).weights
    )


def test_evaluation_is_without_dropout_and_training_continues_with_it(tmp_path: Path):
    modes: list[tuple[str, bool]] = []
    made = make_stage()
    evaluate, objective = made.evaluate, made.loss_fn

    def record_evaluate() -> dict[str, float]:
        modes.append(("evaluate", made.model.training))
        return evaluate()

    def record_objective(rows: Tensor) -> Losses:
        modes.append(("objective", made.model.training))
        return objective(rows)

    watched = replace(made, evaluate=record_evaluate, loss_fn=record_objective)
    run_stage(watched, tmp_path, config=replace(CONFIG, checkpoint_every=0))
    assert set(modes) == {("evaluate", False), ("objective", True)}
    assert not made.model.training


def test_a_step_of_micro_batches_equals_the_step_of_one_batch(tmp_path: Path):
    found = []
    for size in (1, 3, 8):
        made = make_stage()
        made.model[0].p = 0.0  # type: ignore[index, operator, union-attr]
        update = made.step_batch

        def split_batch(step: int, size: int = size, update: Any = update) -> StepBatch:
            rows = torch.cat(list(update(step).micro_batches))
            return StepBatch(0, torch.split(rows, size), 8)

        found.append(
            run_stage(
                replace(made, step_batch=split_batch), tmp_path / str(size), config=replace(CONFIG, optimizer="sgd")
            )[1]
        )
    for weights in found[1:]:
        for name, value in weights.items():
            torch.testing.assert_close(value, found[0][name], rtol=0, atol=1e-5)


def test_a_line_of_metrics_is_the_mean_over_the_steps_since_the_last_line(tmp_path: Path):
    value = iter(range(1, 100))

    def objective(rows: Tensor) -> Losses:
        loss = made.model[1].bias.sum() * 0 + next(value) / 2  # type: ignore[index, union-attr, operator]
        return Losses(loss, {"loss": loss.detach()})

    made = make_stage()
    made = replace(made, loss_fn=objective)
    outcome, _, _ = run_stage(made, tmp_path, config=replace(CONFIG, checkpoint_every=0))
    means = [(line["step"], line["loss"]) for line in read_metrics(tmp_path) if line["split"] == "train"]
    # Step i adds the micro-batches 2i + 1 and 2i + 2, halved: 2i + 1.5.
    assert means == [(10, 10.5), (20, 30.5), (23, 43.5)]
    assert outcome.train_loss == 43.5


def test_frozen_weights_are_neither_trained_nor_stored(tmp_path: Path):
    made = make_stage()
    made.model[1].bias.requires_grad_(False)  # type: ignore[index, union-attr]
    before = made.model[1].bias.clone()  # type: ignore[index, union-attr, operator]
    _, weights, _ = run_stage(made, tmp_path)
    assert torch.equal(weights["1.bias"], before)
    stored = checkpoints.load_checkpoint(checkpoints.checkpoint_path(tmp_path / "checkpoints", STEPS))
    assert set(stored.weights) == {"1.weight"}


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"),
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("could not create a primitive"),
        ImportError("libarrow.so: failed to map segment from shared object"),
    ],
    ids=["cpu", "gpu", "python", "onednn", "loader"],
)
@pytest.mark.parametrize(
    ("together", "checkpointing", "advice"),
    [
        (1, False, "--activation-checkpointing"),
        (2, False, "--micro-batch 1 "),
        (9, False, "--micro-batch 4 "),
        (9, True, "--micro-batch 4 "),
        (1, True, "a smaller model"),
        (0, True, "other programs"),
    ],
)
def test_out_of_memory_suggests_a_setting_and_a_value(
    error: BaseException, together: int, checkpointing: bool, advice: str, tmp_path: Path
):
    def objective(rows: Tensor) -> Losses:
        raise error

    with pytest.raises(ResourceError, match="out of memory") as ended:
        run_stage(
            make_stage(loss_fn=objective, micro_batch_size=together),
            tmp_path,
            config=replace(CONFIG, activation_checkpointing=checkpointing),
        )
    assert advice in ended.value.fix
    assert not (checkpointing and "--activation-checkpointing" in ended.value.fix)
    assert ended.value.exit_code == 1


def test_other_errors_are_not_translated(tmp_path: Path):
    def objective(rows: Tensor) -> Losses:
        raise RuntimeError("a mistake in the code")

    with pytest.raises(RuntimeError, match="a mistake in the code"):
        run_stage(make_stage(loss_fn=objective), tmp_path)


def test_a_full_disk_is_reported_and_earlier_checkpoints_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    original = checkpoints.save_checkpoint

    def save(folder: Path, step: int, *rest: Any) -> Path:
        if step == 4:
            raise OSError(errno.ENOSPC, "No space left on device", str(folder))
        return original(folder, step, *rest)

    monkeypatch.setattr(checkpoints, "save_checkpoint", save)
    with pytest.raises(ResourceError, match="the disk is full") as ended:
        run_stage(make_stage(), tmp_path)
    assert "--resume" in ended.value.fix
    assert checkpoints.list_steps(tmp_path / "checkpoints") == [1, 2, 3]


@pytest.mark.parametrize("when", [9, 10, 14])
def test_a_run_folder_deleted_during_training_is_an_error_and_not_created_again(when: int, tmp_path: Path):
    made = make_stage()
    update = made.step_batch

    def delete_run(step: int) -> StepBatch:
        if step == when:
            shutil.rmtree(tmp_path / "run")
        return update(step)

    with pytest.raises(UserError, match="no longer exists") as ended:
        run_stage(replace(made, step_batch=delete_run), tmp_path / "run", config=replace(CONFIG, checkpoint_every=2))
    assert str(tmp_path / "run") in str(ended.value)
    assert list(tmp_path.iterdir()) == []
