"""`gpt1 inspect` of runs: settings, progress, results, damaged checkpoints."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from workspace import edit_json

from gpt1.files.atomic import lock_dir
from gpt1.inspect import inspect, print_facts
from gpt1.tables.table import Table


def test_a_finished_run_has_its_results(pretrained_run: Path):
    found = inspect(pretrained_run)
    results = json.loads((pretrained_run / "results.json").read_text())
    assert found["finished"]
    assert found["steps"] == results["steps"] == found["latest_verified_checkpoint"]
    assert found["validation"]["loss"] == results["validation"]["loss"]
    assert found["settings"]["n_embd"] == 32
    assert "beta1" not in found["settings"]  # unchanged settings are not shown
    assert found["next"][0].startswith("gpt1 next")


def test_the_suggested_command_resumes_a_stopped_run(
    corpus: Path, tiny_pretrain_settings: Any, tmp_path: Path, run_cli: Any
):
    from gpt1.training.pretrain import pretrain

    run = pretrain(corpus, out=tmp_path / "r", **{**tiny_pretrain_settings, "steps": 4})
    (run / "results.json").unlink()
    shutil.rmtree(run / "model")
    found = inspect(run)
    assert not found["finished"]
    assert found["warnings"] == []
    assert run_cli(*shlex.split(found["next"][0])[1:]).exit_code == 0
    assert inspect(run)["finished"]


def test_a_damaged_checkpoint_is_a_warning_and_the_previous_one_is_named(
    corpus: Path, tiny_pretrain_settings: Any, tmp_path: Path
):
    from gpt1.training.pretrain import pretrain

    run = pretrain(corpus, out=tmp_path / "r", **{**tiny_pretrain_settings, "steps": 4, "checkpoint_every": 2})
    state = run / "checkpoints/step-00000004/state.json"
    state.write_text(state.read_text() + " ")
    found = inspect(run)
    assert found["latest_verified_checkpoint"] == 2
    assert "state.json" in " ".join(found["warnings"])


def test_a_run_without_validation_prints_no_validation_metrics(
    table: Table, pretrained_run: Path, tmp_path: Path, capfd: Any
):
    from gpt1.training.finetune import finetune

    task = {"kind": "classification", "text": "text", "train": "head", "epochs": 1, "valid_fraction": 0.0}
    print_facts(inspect(finetune(table, from_=pretrained_run, out=tmp_path / "r", device="cpu", **task)))
    out = capfd.readouterr().out
    assert "validation  " not in out
    assert "valid_fraction 0" in out
    for usual in ("peak_lr", "weight_decay", "lm_coef"):  # defaults of --train head
        assert usual not in out


def test_a_folder_of_runs_lists_them_with_the_metrics_of_the_best_epoch(
    workspace: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    for name in ("books", "reviews"):  # other tests add runs
        shutil.copytree(workspace / "runs" / name, tmp_path / "runs" / name)
    path = tmp_path / "runs/reviews/results.json"
    results = json.loads(path.read_text())
    results["validation"]["metrics"] = {"accuracy": 0.625}  # differs from the last epoch
    path.write_text(json.dumps(results))
    found = inspect(tmp_path / "runs")
    assert [Path(run["name"]).name for run in found["runs"]] == ["books"]
    assert f"{path} has" in found["warnings"][0]  # warns of the damaged run
    (tmp_path / "runs/reviews/manifest.json").unlink()
    found = inspect(tmp_path / "runs")
    assert [Path(run["name"]).name for run in found["runs"]] == ["books", "reviews"]
    print_facts(found)
    (line,) = [line for line in capfd.readouterr().out.splitlines() if "finetune" in line]
    assert line.strip().endswith("accuracy 0.625")
    print_facts(inspect(tmp_path / "runs/reviews"))
    assert "accuracy 0.625 (best epoch: 1)" in capfd.readouterr().out


def test_resuming_is_not_suggested_for_a_run_that_is_being_trained(
    pretrained_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    pytest.importorskip("fcntl", reason="Windows")
    run = shutil.copytree(pretrained_run, tmp_path / "run")
    for name in ("results.json", "manifest.json"):
        (run / name).unlink()
    assert "--resume" in inspect(run)["next"][0]
    with lock_dir(run):
        found = inspect(run)
    assert (found["in_progress"], found["next"]) == (True, [])
    print_facts(found)
    assert "a pre-training run, in progress" in capfd.readouterr().out


def test_the_warning_of_a_run_is_printed_once_among_the_warnings(workspace: Path, tmp_path: Path, capfd: Any):
    run = shutil.copytree(workspace / "runs/reviews", tmp_path / "run")
    (run / "manifest.json").unlink()
    for warning, heading in (("", "no warnings"), ("this model has learned nothing: it guesses.", "warnings:")):
        edit_json(run / "results.json", warning=warning)
        found = inspect(run)
        assert found["warnings"] == [warning] * bool(warning)
        print_facts(found)
        lines = [line.strip() for line in capfd.readouterr().out.splitlines()]
        assert heading in lines
        assert sum(line.startswith("validation ") for line in lines) == 1
        assert [line for line in lines if "learned nothing" in line] == found["warnings"]


def test_a_run_that_was_stopped_before_its_first_metrics_has_the_steps_of_its_checkpoint(
    pretrained_run: Path, tmp_path: Path
):
    run = shutil.copytree(pretrained_run, tmp_path / "run")
    for name in ("results.json", "manifest.json", "metrics.jsonl"):
        (run / name).unlink()
    shutil.rmtree(run / "model")
    found = inspect(run)
    assert found["steps"] == found["latest_verified_checkpoint"] == 60
    assert found["warnings"] == []
