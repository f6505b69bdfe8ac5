"""Run folders: precedence of settings, what may change on --resume, what is refused."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpt1.config import FinetuneConfig, PretrainConfig
from gpt1.errors import ResourceError, UserError
from gpt1.files.atomic import atomic_write_json, is_being_written, lock_dir
from gpt1.files.output import check_new_folder
from gpt1.recipes import MODEL_SIZES
from gpt1.runs import folder as runs

COMMAND: dict[str, Any] = {"corpus": "corpus", "from": None, "valid": None}


def write_yaml(folder: Path, content: str) -> Path:
    path = folder / "settings.yaml"
    path.write_text(content)
    return path


def resolve(config: Any, file: Path | None, overrides: dict[str, Any] | None = None, **options: Any) -> Any:
    return runs.resolve_settings(config, runs.user_settings(config, file, overrides or {}), **options)


def test_flags_override_the_file_which_overrides_the_size_which_overrides_the_recipe(tmp_path: Path):
    file = write_yaml(tmp_path, "model: tiny\nn_layer: 3\nseed: 1\n")
    config = resolve(PretrainConfig, file, {"seed": 2, "n_head": None})
    assert config.n_layer == 3  # the file
    assert config.n_embd == MODEL_SIZES["tiny"]["n_embd"]  # the size
    assert config.seed == 2  # the flag
    assert config.peak_lr == MODEL_SIZES["tiny"]["peak_lr"]
    assert config.dropout == 0  # the recipe


def test_the_file_can_choose_the_recipe(tmp_path: Path):
    file = write_yaml(tmp_path, "recipe: paper\n")
    assert resolve(FinetuneConfig, file) == resolve(FinetuneConfig, None, {"recipe": "paper"})


def test_defaults_of_a_model_override_the_recipe_and_not_the_user():
    extra = {"peak_lr": 0.5, "epochs": 9.0}
    config = resolve(FinetuneConfig, None, {"epochs": "2"}, extra=extra)
    assert (config.peak_lr, config.epochs) == (0.5, 2)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("pek_lr: 1\n", r"Did you mean peak_lr\?"),
        ("seed: many\n", 'seed="many" is not a whole number'),
        ("seed: [1\n", "cannot be read as YAML"),
        ("just words\n", "contains no settings"),
        ("", "contains no settings"),
        ("recipe: papr\n", r"Did you mean paper\?"),
        ("model: tinny\n", r"Did you mean tiny\?"),
    ],
)
def test_an_invalid_settings_file_is_refused(tmp_path: Path, content: str, problem: str):
    with pytest.raises(UserError, match=problem):
        resolve(PretrainConfig, write_yaml(tmp_path, content))


def test_a_missing_settings_file_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"nothing.yaml"):
        resolve(PretrainConfig, tmp_path / "nothing.yaml")


@pytest.mark.parametrize("config", [PretrainConfig(seed=4, eps=1e-12), FinetuneConfig(train="last:2")])
def test_the_settings_of_a_run_are_read_back_unchanged(config: PretrainConfig | FinetuneConfig, tmp_path: Path):
    run = runs.create_run(tmp_path / "a" / "run", config, COMMAND)
    stored = yaml.safe_load((run / "config.yaml").read_text())
    assert stored["command"] == COMMAND
    assert stored["stage"] == ("finetune" if isinstance(config, FinetuneConfig) else "pretrain")
    assert {name: stored[name] for name in asdict(config)} == asdict(config)
    assert runs.open_for_resume(run, type(config), {}, COMMAND) == (run, config)


def test_the_config_yaml_of_a_run_is_a_settings_file(tmp_path: Path):
    config = PretrainConfig(seed=4, n_layer=5)
    run = runs.create_run(tmp_path / "run", config, COMMAND)
    assert resolve(PretrainConfig, run / "config.yaml") == config


@pytest.mark.parametrize("name", sorted(runs.RESUMABLE_FIELDS))
def test_settings_that_do_not_affect_the_weights_may_change_on_resume(name: str, tmp_path: Path):
    config: Any = PretrainConfig if hasattr(PretrainConfig, name) else FinetuneConfig
    run = runs.create_run(tmp_path / "run", config(), COMMAND)
    values = {"device": "cpu", "cache_features": False, "activation_checkpointing": True, "track": "wandb"}
    value = values.get(name, 7)
    assert getattr(runs.open_for_resume(run, config, {name: value}, COMMAND)[1], name) == value


@pytest.mark.parametrize("source", ["keyword", "flag", "file"])
def test_a_former_name_of_a_setting_works_and_is_reported_once(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    runs.log_once.cache_clear()
    file = write_yaml(tmp_path, "recompute: true\n") if source == "file" else None
    overrides = {"keyword": {"recompute": True}, "flag": {"recompute": "true"}, "file": {}}[source]
    for _ in range(2):
        assert resolve(PretrainConfig, file, overrides).activation_checkpointing
    assert capsys.readouterr().err == "--recompute is now called --activation-checkpointing.\n"


def test_a_run_of_an_older_version_with_a_former_name_resumes(tmp_path: Path):
    config = PretrainConfig(activation_checkpointing=True)
    run = runs.create_run(tmp_path / "run", config, COMMAND)
    stored = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(stored.replace("activation_checkpointing: true", "recompute: true"))
    assert "recompute: true" in (run / "config.yaml").read_text()
    assert runs.open_for_resume(run, PretrainConfig, {}, COMMAND) == (run, config)
    off = runs.user_settings(PretrainConfig, None, {"activation_checkpointing": False})
    assert not runs.open_for_resume(run, PretrainConfig, off, COMMAND)[1].activation_checkpointing


def test_a_resumed_run_may_repeat_its_settings(tmp_path: Path):
    config = PretrainConfig(seed=4)
    run = runs.create_run(tmp_path / "run", config, COMMAND)
    assert runs.open_for_resume(run, PretrainConfig, asdict(config), COMMAND) == (run, config)


def test_precision_auto_on_resume_means_the_stored_precision(tmp_path: Path):
    run = runs.create_run(tmp_path / "run", PretrainConfig(precision="bf16"), COMMAND)
    assert runs.open_for_resume(run, PretrainConfig, {"precision": "auto"}, COMMAND)[1].precision == "bf16"
    with pytest.raises(UserError, match=r'precision="fp32": .* was started with precision="bf16"'):
        runs.open_for_resume(run, PretrainConfig, {"precision": "fp32"}, COMMAND)


def test_a_switch_that_cannot_change_is_named_as_typed(tmp_path: Path):
    run = runs.create_run(tmp_path / "run", FinetuneConfig(), COMMAND)
    with pytest.raises(UserError, match=r'class_weight="balanced": .* was started with no class_weight'):
        runs.open_for_resume(run, FinetuneConfig, {"class_weight": "balanced"}, COMMAND)
    with pytest.raises(UserError, match=r"shared_context=False: .* was started with shared_context=True\."):
        runs.open_for_resume(run, FinetuneConfig, {"shared_context": False}, COMMAND)


def test_a_resumed_run_with_another_setting_is_refused(tmp_path: Path):
    run = runs.create_run(tmp_path / "run", PretrainConfig(), COMMAND)
    with pytest.raises(UserError, match=r"seed=5: .* was started with seed=0"):
        runs.open_for_resume(run, PretrainConfig, {"seed": 5}, COMMAND)


def test_a_resumed_run_with_another_input_is_refused(tmp_path: Path):
    run = runs.create_run(tmp_path / "run", PretrainConfig(), COMMAND)
    with pytest.raises(UserError, match="was started with corpus corpus, not other"):
        runs.open_for_resume(run, PretrainConfig, {}, {**COMMAND, "corpus": "other"})


def test_a_folder_locked_by_another_process_is_neither_created_nor_resumed(tmp_path: Path):
    pytest.importorskip("fcntl", reason="Windows")
    (tmp_path / "new").mkdir()
    with lock_dir(tmp_path / "new"), pytest.raises(UserError, match="is being written by another process"):
        runs.create_run(tmp_path / "new", PretrainConfig(), COMMAND)
    run = runs.create_run(tmp_path / "new", PretrainConfig(), COMMAND)
    with lock_dir(run), pytest.raises(UserError, match="is being written by another process"):
        runs.open_for_resume(run, PretrainConfig, {}, COMMAND)


def test_the_second_of_two_runs_created_at_once_is_refused_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first, make_folder = PretrainConfig(seed=1), Path.mkdir

    def create_first(folder: Path, **how: Any) -> None:
        monkeypatch.undo()
        runs.create_run(folder, first, COMMAND)
        make_folder(folder, **how)

    monkeypatch.setattr(Path, "mkdir", create_first)
    with pytest.raises(UserError, match="exists and is not empty"):
        runs.create_run(tmp_path / "run", PretrainConfig(seed=2), COMMAND)
    assert runs.open_for_resume(tmp_path / "run", PretrainConfig, {}, COMMAND)[1] == first


def test_an_input_may_be_another_path_of_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    run = runs.create_run("run", PretrainConfig(), COMMAND)
    for name in ("corpus", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("corpus")
    for same in ("corpus/", "./corpus", "other/../corpus", str(tmp_path / "corpus"), "link"):
        runs.open_for_resume(run, PretrainConfig, {}, {**COMMAND, "corpus": same})
    for different in ("other", "missing"):
        with pytest.raises(UserError, match="was started with corpus corpus, not"):
            runs.open_for_resume(run, PretrainConfig, {}, {**COMMAND, "corpus": different})
    with pytest.raises(UserError, match="was started without valid="):
        runs.open_for_resume(run, PretrainConfig, {}, {**COMMAND, "valid": "other"})


def test_a_run_of_the_other_stage_is_refused(tmp_path: Path):
    run = runs.create_run(tmp_path / "run", PretrainConfig(), COMMAND)
    with pytest.raises(UserError, match="is not a run of gpt1 finetune"):
        runs.open_for_resume(run, FinetuneConfig, {}, COMMAND)


def test_a_full_disk_leaves_no_half_written_config_or_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = runs.create_run(tmp_path / "run", PretrainConfig(), COMMAND)
    (run / "model").mkdir()

    def raise_disk_full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", raise_disk_full)
    with pytest.raises(ResourceError, match="disk is full"):
        atomic_write_json(run / "results.json", {"steps": 7})
    assert not runs.is_finished(run)
    with pytest.raises(ResourceError, match="disk is full"):
        runs.create_run(tmp_path / "other", PretrainConfig(), COMMAND)
    assert list((tmp_path / "other").iterdir()) == []  # so the same command can start again


def test_a_model_is_synced_to_disk_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    synced: list[int] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(os.fstat(handle).st_ino), fsync(handle)))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").touch()
    with runs.new_model(tmp_path) as folder:
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_text("weights")
    model = tmp_path / "model"
    assert sorted(path.name for path in model.iterdir()) == ["config.json", "model.safetensors"]
    assert {path.stat().st_ino for path in [*model.iterdir(), model, tmp_path]} <= set(synced)


def test_resume_writes_the_missing_report_of_a_finished_run(tmp_path: Path):
    run = runs.create_run(tmp_path / "run", PretrainConfig(), COMMAND)
    (run / "report.html").write_text("the report of an unfinished run")
    os.utime(run / "report.html", (1, 1))
    runs.open_for_resume(run, PretrainConfig, {}, COMMAND)
    assert (run / "report.html").read_text() == "the report of an unfinished run"
    (run / "model").mkdir()
    atomic_write_json(run / "results.json", {"stage": "pretrain", "steps": 7, "samples": []})
    runs.open_for_resume(run, PretrainConfig, {}, COMMAND)
    assert "<html" in (run / "report.html").read_text()


def test_a_run_with_an_incomplete_config_is_refused_by_its_file(tmp_path: Path):
    run = runs.create_run(tmp_path / "run", PretrainConfig(), COMMAND)
    (run / "config.yaml").write_text("stage: pretrain\nversion: 0.1.0\n")
    with pytest.raises(UserError, match=r"config.yaml was changed or damaged"):
        runs.open_for_resume(run, PretrainConfig, {}, COMMAND)


def test_a_folder_without_a_run_cannot_be_resumed(tmp_path: Path):
    with pytest.raises(UserError, match="is not a run folder"):
        runs.open_for_resume(tmp_path, PretrainConfig, {}, COMMAND)


def test_only_an_empty_folder_may_be_used_for_a_run(tmp_path: Path):
    assert check_new_folder(tmp_path) == tmp_path
    (tmp_path / "something").write_text("")
    with pytest.raises(UserError, match="exists and is not empty"):
        check_new_folder(tmp_path)
    with pytest.raises(UserError, match="is a file"):
        check_new_folder(tmp_path / "something")


def test_a_run_that_was_killed_during_its_creation_can_be_created_again(tmp_path: Path):
    """Killed for real, between writing config.yaml and renaming it."""
    program = """
import os, signal, sys
from pathlib import Path
from gpt1.config import PretrainConfig
from gpt1.runs import folder

Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
folder.create_run(sys.argv[1], PretrainConfig(), {})
"""
    killed = subprocess.run([sys.executable, "-c", program, tmp_path / "run"])
    assert killed.returncode == -signal.SIGKILL
    (left,) = (tmp_path / "run").iterdir()
    assert left.name.startswith(".config.yaml.partial-")
    with pytest.raises(UserError, match="is not a run folder"):
        runs.open_for_resume(tmp_path / "run", PretrainConfig, {}, COMMAND)
    run = runs.create_run(tmp_path / "run", PretrainConfig(), COMMAND)
    assert [path.name for path in run.iterdir()] == ["config.yaml"]


def test_an_interrupted_write_of_a_model_leaves_nothing(tmp_path: Path):
    with suppress(KeyboardInterrupt), runs.new_model(tmp_path) as folder:
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_the_error_for_the_folder_of_a_run_mentions_resume(tmp_path: Path):
    runs.create_run(tmp_path / "run", PretrainConfig(), COMMAND)
    with pytest.raises(UserError) as refused:
        check_new_folder(tmp_path / "run")
    assert "--resume" in refused.value.fix


def test_the_model_folder_of_a_run_is_found(tmp_path: Path):
    run = runs.create_run(tmp_path / "run", PretrainConfig(), COMMAND)
    with pytest.raises(UserError, match="no finished model yet"):
        runs.find_model_folder(run)
    (run / "model").mkdir()
    assert runs.find_model_folder(run) == run / "model"
    assert runs.find_model_folder(run / "model") == run / "model"
    with pytest.raises(UserError, match="nowhere"):
        runs.find_model_folder(tmp_path / "nowhere")


def test_a_run_that_is_being_trained_says_so(tmp_path: Path):
    pytest.importorskip("fcntl", reason="Windows")
    run = runs.create_run(tmp_path / "run", PretrainConfig(), {**COMMAND, "minutes": None})
    with pytest.raises(UserError, match="has no finished model yet") as error:
        runs.find_model_folder(run)
    assert "--resume" in error.value.fix
    with lock_dir(run):
        assert is_being_written(run)
        with pytest.raises(UserError, match="is still training") as error:
            runs.find_model_folder(run)
        assert error.value.fix == "Wait until it ends."
    assert not is_being_written(run)
    with pytest.raises(UserError, match="was started without minutes="):
        runs.open_for_resume(run, PretrainConfig, {}, {"minutes": 5.0})


def test_a_table_where_a_run_belongs_is_named(tmp_path: Path):
    (tmp_path / "r.csv").write_text("text\na\n")
    with pytest.raises(UserError, match=r"r\.csv is a file, not a run or model folder"):
        runs.find_model_folder(tmp_path / "r.csv")
    with pytest.raises(UserError, match="the name of the model is empty"):
        runs.find_model_folder("")


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        (["it was a night"], "once upon a"),
        (["옛날 옛적에 한 마을에 살던", "그"], "옛날 옛적에 한 마을에"),
        ([], "once upon a"),
    ],
)
def test_the_prompt_to_try_is_in_the_language_of_the_run(prompts: list[str], expected: str, tmp_path: Path):
    atomic_write_json(tmp_path / "results.json", {"samples": [{"prompt": prompt, "text": ""} for prompt in prompts]})
    assert runs.example_prompt(tmp_path) == expected
    assert runs.example_prompt(tmp_path / "none") == "once upon a"
