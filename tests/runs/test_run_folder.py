"""Run folders: which setting wins, what a resumed run may change, what is refused."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpt1.config import MODEL_SIZES, FinetuneConfig, PretrainConfig
from gpt1.errors import ResourceError, UserError
from gpt1.files.atomic import lock_dir
from gpt1.runs import folder as runs

FACTS: dict[str, Any] = {"corpus": "corpus", "from": None, "valid": None}


def yaml_file(folder: Path, content: str) -> Path:
    path = folder / "settings.yaml"
    path.write_text(content)
    return path


def test_flags_win_over_the_file_the_file_over_the_size_and_the_size_over_the_recipe(tmp_path: Path):
    file = yaml_file(tmp_path, "model: tiny\nn_layer: 3\nseed: 1\n")
    config = runs.resolve_settings(PretrainConfig, file, {"seed": 2, "n_head": None})
    assert config.n_layer == 3  # the file
    assert config.n_embd == MODEL_SIZES["tiny"]["n_embd"]  # the size
    assert config.seed == 2  # the flag
    assert config.peak_lr == MODEL_SIZES["tiny"]["peak_lr"]
    assert config.dropout == 0  # the recipe


def test_a_recipe_may_come_from_the_file(tmp_path: Path):
    file = yaml_file(tmp_path, "recipe: paper\n")
    assert runs.resolve_settings(FinetuneConfig, file, {}) == runs.resolve_settings(
        FinetuneConfig, None, {"recipe": "paper"}
    )


def test_what_suits_a_model_wins_over_the_recipe_and_loses_to_the_user():
    extra = {"peak_lr": 0.5, "epochs": 9.0}
    config = runs.resolve_settings(FinetuneConfig, None, {"epochs": "2"}, extra=extra)
    assert (config.peak_lr, config.epochs) == (0.5, 2)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("pek_lr: 1\n", r"Did you mean peak_lr\?"),
        ("seed: many\n", "this is not a whole number"),
        ("seed: [1\n", "cannot be read as YAML"),
        ("just words\n", "holds no settings"),
        ("", "holds no settings"),
        ("recipe: papr\n", r"Did you mean paper\?"),
        ("model: tinny\n", r"Did you mean tiny\?"),
    ],
)
def test_a_file_of_settings_that_cannot_be_used_is_refused(tmp_path: Path, content: str, problem: str):
    with pytest.raises(UserError, match=problem):
        runs.resolve_settings(PretrainConfig, yaml_file(tmp_path, content), {})


def test_a_missing_file_of_settings_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"nothing.yaml"):
        runs.resolve_settings(PretrainConfig, tmp_path / "nothing.yaml", {})


@pytest.mark.parametrize("config", [PretrainConfig(seed=4, eps=1e-12), FinetuneConfig(train="last:2")])
def test_a_runs_settings_are_read_back_as_they_were(config: PretrainConfig | FinetuneConfig, tmp_path: Path):
    run = runs.create_run(tmp_path / "a" / "run", config, FACTS)
    stored = yaml.safe_load((run / "config.yaml").read_text())
    assert stored["command"] == FACTS
    assert stored["stage"] == ("finetune" if isinstance(config, FinetuneConfig) else "pretrain")
    assert {name: stored[name] for name in asdict(config)} == asdict(config)
    assert runs.open_for_resume(run, type(config), {}, FACTS) == (run, config)


def test_the_settings_of_a_run_are_a_file_of_settings(tmp_path: Path):
    config = PretrainConfig(seed=4, n_layer=5)
    run = runs.create_run(tmp_path / "run", config, FACTS)
    assert runs.resolve_settings(PretrainConfig, run / "config.yaml", {}) == config


@pytest.mark.parametrize("name", sorted(runs.RESUMABLE_FIELDS))
def test_a_resumed_run_may_change_what_changes_nothing_that_is_learnt(name: str, tmp_path: Path):
    config: Any = PretrainConfig if hasattr(PretrainConfig, name) else FinetuneConfig
    run = runs.create_run(tmp_path / "run", config(), FACTS)
    value = {"device": "cpu", "cache_features": False, "recompute": True}.get(name, 7)
    assert getattr(runs.open_for_resume(run, config, {name: value}, FACTS)[1], name) == value


def test_a_resumed_run_may_repeat_its_settings(tmp_path: Path):
    config = PretrainConfig(seed=4)
    run = runs.create_run(tmp_path / "run", config, FACTS)
    assert runs.open_for_resume(run, PretrainConfig, asdict(config), FACTS) == (run, config)


def test_a_resumed_run_may_leave_the_precision_to_what_it_came_to(tmp_path: Path):
    run = runs.create_run(tmp_path / "run", PretrainConfig(precision="bf16"), FACTS)
    assert runs.open_for_resume(run, PretrainConfig, {"precision": "auto"}, FACTS)[1].precision == "bf16"
    with pytest.raises(UserError, match=r"--precision fp32: .* was started with --precision bf16"):
        runs.open_for_resume(run, PretrainConfig, {"precision": "fp32"}, FACTS)


def test_a_switch_that_cannot_be_changed_is_named_as_it_is_typed(tmp_path: Path):
    run = runs.create_run(tmp_path / "run", FinetuneConfig(), FACTS)
    with pytest.raises(UserError, match=r"--no-shared-context: .* was started with --shared-context,"):
        runs.open_for_resume(run, FinetuneConfig, {"shared_context": False}, FACTS)


def test_a_resumed_run_with_another_setting_is_refused(tmp_path: Path):
    run = runs.create_run(tmp_path / "run", PretrainConfig(), FACTS)
    with pytest.raises(UserError, match=r"--seed 5: .* was started with --seed 0"):
        runs.open_for_resume(run, PretrainConfig, {"seed": 5}, FACTS)


def test_a_resumed_run_with_another_input_is_refused(tmp_path: Path):
    run = runs.create_run(tmp_path / "run", PretrainConfig(), FACTS)
    with pytest.raises(UserError, match="was started with corpus corpus, not other"):
        runs.open_for_resume(run, PretrainConfig, {}, {**FACTS, "corpus": "other"})


def test_a_folder_that_another_process_is_in_is_neither_begun_nor_gone_on_with(tmp_path: Path):
    pytest.importorskip("fcntl", reason="Windows")
    (tmp_path / "new").mkdir()
    with lock_dir(tmp_path / "new"), pytest.raises(UserError, match="is being written by another process"):
        runs.create_run(tmp_path / "new", PretrainConfig(), FACTS)
    run = runs.create_run(tmp_path / "new", PretrainConfig(), FACTS)
    with lock_dir(run), pytest.raises(UserError, match="is being written by another process"):
        runs.open_for_resume(run, PretrainConfig, {}, FACTS)


def test_of_two_that_begin_at_once_one_is_refused_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first, make_folder = PretrainConfig(seed=1), Path.mkdir

    def as_another_begins(folder: Path, **how: Any) -> None:
        monkeypatch.undo()
        runs.create_run(folder, first, FACTS)
        make_folder(folder, **how)

    monkeypatch.setattr(Path, "mkdir", as_another_begins)
    with pytest.raises(UserError, match="exists and is not empty"):
        runs.create_run(tmp_path / "run", PretrainConfig(seed=2), FACTS)
    assert runs.open_for_resume(tmp_path / "run", PretrainConfig, {}, FACTS)[1] == first


def test_an_input_may_be_named_in_another_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    run = runs.create_run("run", PretrainConfig(), FACTS)
    for name in ("corpus", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("corpus")
    for same in ("corpus/", "./corpus", "other/../corpus", str(tmp_path / "corpus"), "link"):
        runs.open_for_resume(run, PretrainConfig, {}, {**FACTS, "corpus": same})
    for different in ("other", "missing"):
        with pytest.raises(UserError, match="was started with corpus corpus, not"):
            runs.open_for_resume(run, PretrainConfig, {}, {**FACTS, "corpus": different})
    with pytest.raises(UserError, match="was started with valid None, not other"):
        runs.open_for_resume(run, PretrainConfig, {}, {**FACTS, "valid": "other"})


def test_a_run_of_the_other_stage_is_refused(tmp_path: Path):
    run = runs.create_run(tmp_path / "run", PretrainConfig(), FACTS)
    with pytest.raises(UserError, match="no run of gpt1 finetune"):
        runs.open_for_resume(run, FinetuneConfig, {}, FACTS)


def test_a_full_disk_leaves_no_half_of_what_says_that_a_run_has_begun_or_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = runs.create_run(tmp_path / "run", PretrainConfig(), FACTS)
    (run / "model").mkdir()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="disk is full"):
        runs.write_json(run / "results.json", {"steps": 7})
    assert not runs.is_finished(run)
    with pytest.raises(ResourceError, match="disk is full"):
        runs.create_run(tmp_path / "other", PretrainConfig(), FACTS)
    assert list((tmp_path / "other").iterdir()) == []  # where the same command may begin


def test_a_model_has_its_place_only_when_every_byte_of_it_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    flushed: list[int] = []
    keep = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (flushed.append(os.fstat(handle).st_ino), keep(handle)))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").touch()
    with runs.new_model(tmp_path) as aside:
        (aside / "config.json").write_text("{}")
        (aside / "model.safetensors").write_text("weights")
    model = tmp_path / "model"
    assert sorted(path.name for path in model.iterdir()) == ["config.json", "model.safetensors"]
    assert {path.stat().st_ino for path in [*model.iterdir(), model, tmp_path]} <= set(flushed)


def test_a_finished_run_that_was_killed_before_its_page_gets_one(tmp_path: Path):
    run = runs.create_run(tmp_path / "run", PretrainConfig(), FACTS)
    (run / "report.html").write_text("the page of a run that was stopped")
    os.utime(run / "report.html", (1, 1))
    runs.open_for_resume(run, PretrainConfig, {}, FACTS)
    assert (run / "report.html").read_text() == "the page of a run that was stopped"
    (run / "model").mkdir()
    runs.write_json(run / "results.json", {"stage": "pretrain", "steps": 7, "samples": []})
    runs.open_for_resume(run, PretrainConfig, {}, FACTS)
    assert "<html" in (run / "report.html").read_text()


def test_a_run_whose_settings_are_half_there_is_refused_by_the_file(tmp_path: Path):
    run = runs.create_run(tmp_path / "run", PretrainConfig(), FACTS)
    (run / "config.yaml").write_text("stage: pretrain\nversion: 0.1.0\n")
    with pytest.raises(UserError, match=r"config.yaml was changed or damaged"):
        runs.open_for_resume(run, PretrainConfig, {}, FACTS)


def test_a_folder_that_is_no_run_cannot_be_resumed(tmp_path: Path):
    with pytest.raises(UserError, match="is no run folder"):
        runs.open_for_resume(tmp_path, PretrainConfig, {}, FACTS)


def test_an_empty_folder_may_be_used_and_a_full_one_not(tmp_path: Path):
    assert runs.check_new_folder(tmp_path) == tmp_path
    (tmp_path / "something").write_text("")
    with pytest.raises(UserError, match="exists and is not empty"):
        runs.check_new_folder(tmp_path)
    with pytest.raises(UserError, match="is a file"):
        runs.check_new_folder(tmp_path / "something")


def test_a_run_that_was_killed_while_it_began_may_begin_again(tmp_path: Path):
    """Killed for real, between the writing of config.yaml and its renaming."""
    program = """
import os, signal, sys
from pathlib import Path
from gpt1.config import PretrainConfig
from gpt1.runs import folder

Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
folder.make(sys.argv[1], PretrainConfig(), {})
"""
    killed = subprocess.run([sys.executable, "-c", program, tmp_path / "run"])
    assert killed.returncode
    (left,) = (tmp_path / "run").iterdir()
    assert left.name.startswith(".config.yaml.partial-")
    with pytest.raises(UserError, match="is no run folder"):
        runs.open_for_resume(tmp_path / "run", PretrainConfig, {}, FACTS)
    run = runs.create_run(tmp_path / "run", PretrainConfig(), FACTS)
    assert [path.name for path in run.iterdir()] == ["config.yaml"]


def test_a_model_whose_writing_is_interrupted_leaves_nothing(tmp_path: Path):
    with suppress(KeyboardInterrupt), runs.new_model(tmp_path) as aside:
        (aside / "config.json").write_text("{}")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_full_folder_that_is_a_run_may_be_resumed(tmp_path: Path):
    runs.create_run(tmp_path / "run", PretrainConfig(), FACTS)
    with pytest.raises(UserError) as refused:
        runs.check_new_folder(tmp_path / "run")
    assert "--resume" in refused.value.fix


def test_a_run_stands_for_its_model_folder(tmp_path: Path):
    run = runs.create_run(tmp_path / "run", PretrainConfig(), FACTS)
    with pytest.raises(UserError, match="no finished model yet"):
        runs.find_model_folder(run)
    (run / "model").mkdir()
    assert runs.find_model_folder(run) == run / "model"
    assert runs.find_model_folder(run / "model") == run / "model"
    with pytest.raises(UserError, match="nowhere"):
        runs.find_model_folder(tmp_path / "nowhere")
