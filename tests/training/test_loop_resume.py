"""Stopped, killed and resumed training gives the same bits, and loses no checkpoint."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from finetune_helpers import copy_until_checkpoint, equal_weights, read_metrics
from linear_stage import CONFIG, STEPS, RecordingProgress, assert_same_outcome, make_stage, run_stage
from torch import Tensor

from gpt1.errors import Interrupted, ResourceError, UserError
from gpt1.model.losses import Losses
from gpt1.training import checkpoints
from gpt1.training.loop import Outcome, Stage


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome, dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("whole")
    outcome, weights, _ = run_stage(make_stage(), folder)
    return folder, outcome, weights


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_a_run_resumed_after_any_checkpoint_gives_the_same_bits_and_the_same_metrics(
    step: int, whole_run, tmp_path: Path
):
    folder, outcome, weights = whole_run
    resumed, found, progress = run_stage(make_stage(), copy_until_checkpoint(step, folder, tmp_path), resume=True)
    assert progress.messages == [f"resuming after step {step:,}"]
    assert equal_weights(found, weights)
    assert read_metrics(tmp_path) == read_metrics(folder)
    assert_same_outcome(resumed, outcome)


def test_a_run_killed_before_its_first_checkpoint_starts_again(whole_run, tmp_path: Path):
    folder, outcome, weights = whole_run
    resumed, found, _ = run_stage(make_stage(), copy_until_checkpoint(0, folder, tmp_path), resume=True)
    assert equal_weights(found, weights)
    assert read_metrics(tmp_path) == read_metrics(folder)
    assert_same_outcome(resumed, outcome)


@pytest.mark.parametrize("damage", [b"", b"12\n[]\n", b"\0\0\0", b"\xff\xfe"])
def test_a_partial_line_of_a_killed_process_is_dropped(damage: bytes, whole_run, tmp_path: Path):
    folder, _, _ = whole_run
    copy_until_checkpoint(12, folder, tmp_path)
    content = (tmp_path / "metrics.jsonl").read_bytes()
    (tmp_path / "metrics.jsonl").write_bytes(content[: len(content) // 2] + damage)
    run_stage(make_stage(), tmp_path, resume=True)
    assert read_metrics(tmp_path)[-3:] == read_metrics(folder)[-3:]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("when", [10, 20])
def test_a_stopped_run_is_saved_and_resumes_to_the_same_bits(number: int, when: int, whole_run, tmp_path: Path):
    folder, _, weights = whole_run

    def stop(record: dict[str, Any]) -> None:
        if record["split"] == "train" and record["step"] == when:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    config = replace(CONFIG, checkpoint_every=0)  # only the one that the signal causes
    never = {"should_evaluate": lambda done: done == STEPS}
    progress = RecordingProgress(stop)
    with pytest.raises(Interrupted, match=f"stopped after step {when} of {STEPS}") as stopped:
        run_stage(make_stage(**never), tmp_path, progress=progress, config=config)
    assert progress.messages == ["Finishing this step…"]
    assert stopped.value.exit_code == 130
    assert stopped.value.fix == "Resume with the same command and --resume, without --overwrite."
    assert signal.getsignal(number) is before
    assert checkpoints.list_steps(tmp_path / "checkpoints") == [when]
    _, found, _ = run_stage(make_stage(**never), tmp_path, resume=True, config=config)
    assert equal_weights(found, weights)
    assert [line for line in read_metrics(tmp_path) if line["split"] == "train"] == [
        line for line in read_metrics(folder) if line["split"] == "train"
    ]


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_a_closing_terminal_stops_the_run_even_with_repeated_signals(whole_run, tmp_path: Path):
    def hang_up(record: dict[str, Any]) -> None:
        if record["split"] == "train" and record["step"] == 10:
            os.kill(os.getpid(), signal.SIGHUP)  # from the terminal
            os.kill(os.getpid(), signal.SIGHUP)  # from its shell

    before = signal.signal(signal.SIGHUP, lambda *_: pytest.fail("the run did not handle the signal"))
    try:
        with pytest.raises(Interrupted, match="stopped after step 10"):
            run_stage(make_stage(), tmp_path, progress=RecordingProgress(hang_up))
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        _, found, _ = run_stage(
            make_stage(),
            tmp_path,
            resume=True,
            progress=RecordingProgress(lambda _: os.kill(os.getpid(), signal.SIGHUP)),
        )
    finally:
        signal.signal(signal.SIGHUP, before)
    assert equal_weights(found, whole_run[2])


def test_a_second_ctrl_c_ends_immediately(tmp_path: Path):
    def stop_twice(rows: Tensor) -> Losses:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("went on")

    with pytest.raises(KeyboardInterrupt):
        run_stage(make_stage(loss_fn=stop_twice), tmp_path)


def damage(folder: Path, step: int) -> Path:
    damaged = checkpoints.checkpoint_path(folder / "checkpoints", step) / "optimizer.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-3] ^= 4
    damaged.write_bytes(content)
    return damaged


def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_is_used(whole_run, tmp_path: Path):
    folder, outcome, weights = whole_run
    copy_until_checkpoint(12, folder, tmp_path)
    damaged = damage(tmp_path, 12)
    resumed, found, progress = run_stage(make_stage(), tmp_path, resume=True)
    assert str(damaged) in progress.messages[0]
    assert progress.messages[1] == "resuming after step 11"
    assert equal_weights(found, weights)
    assert_same_outcome(resumed, outcome)


@pytest.mark.parametrize("keep", [1, 2])
def test_damaged_checkpoints_do_not_displace_valid_ones(keep: int, whole_run, tmp_path: Path):
    copy_until_checkpoint(20, whole_run[0], tmp_path)
    for step in checkpoints.list_steps(tmp_path / "checkpoints"):
        if step not in (8, 19, 20):
            shutil.rmtree(checkpoints.checkpoint_path(tmp_path / "checkpoints", step))
    damage(tmp_path, 19)
    damage(tmp_path, 20)
    config = replace(CONFIG, checkpoint_every=0, keep=keep)

    def stop(record: dict[str, Any]) -> None:
        if record["split"] == "train" and record["step"] == 10:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        run_stage(make_stage(), tmp_path, resume=True, progress=RecordingProgress(stop), config=config)
    _, _, progress = run_stage(make_stage(), tmp_path, resume=True, config=config)
    assert progress.messages == ["resuming after step 10"]


def test_a_run_with_a_damaged_best_checkpoint_creates_it_again(tmp_path: Path):
    def make_scored_stage() -> Stage:
        plain = make_stage()
        scores = {5: 0.1, 10: 0.7, 15: 0.3, 20: 0.2, STEPS: 0.2}
        schedule = {
            "should_evaluate": lambda done: done in scores and bool(now.append(done) or True),
            "main_metric": "score",
        }
        now: list[int] = []
        return replace(plain, **schedule, evaluate=lambda: {"score": scores[now[-1]], "loss": plain.evaluate()["loss"]})

    outcome, weights, _ = run_stage(make_scored_stage(), tmp_path)
    assert outcome.best == 10
    damaged = damage(tmp_path, 10)
    again, found, progress = run_stage(make_scored_stage(), tmp_path, resume=True)
    assert str(damaged) in progress.messages[0]
    assert progress.messages[-1] == "resuming after step 9"
    assert equal_weights(found, weights)
    assert_same_outcome(again, outcome)


def test_a_full_disk_loses_no_line_of_metrics(whole_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    copy_until_checkpoint(12, whole_run[0], tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()

    def raise_disk_full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", raise_disk_full)
    with pytest.raises(ResourceError, match="disk is full"):
        run_stage(make_stage(), tmp_path, resume=True)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("name", ["corpus", "tokenizer"])
def test_a_run_cannot_be_resumed_with_another_corpus_or_tokenizer(name: str, whole_run, tmp_path: Path):
    copy_until_checkpoint(12, whole_run[0], tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other = make_stage(fingerprints={"corpus": "c", "tokenizer": "t"} | {name: "other"})
    with pytest.raises(UserError, match=f"was trained with another {name}"):
        run_stage(other, tmp_path, resume=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_setting_that_was_changed_in_the_file_of_a_run_is_refused(whole_run, tmp_path: Path):
    folder, outcome, _ = whole_run
    run = copy_until_checkpoint(12, folder, tmp_path / "run")
    with pytest.raises(
        UserError, match=r"config.yaml was changed: .*0.5.*, but the run was trained with .*0.05"
    ) as error:
        run_stage(make_stage(), run, resume=True, config=replace(CONFIG, peak_lr=0.5))
    assert "Undo the change" in error.value.fix
    allowed = replace(CONFIG, keep=5, checkpoint_every=2, micro_batch=3)
    assert_same_outcome(run_stage(make_stage(), run, resume=True, config=allowed)[0], outcome)
