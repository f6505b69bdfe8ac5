"""Resuming pre-training: the same bits, and errors for changed settings and inputs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from finetune_helpers import copy_until_checkpoint, equal_weights, load_weights, read_metrics, read_results

import gpt1
from gpt1 import devices
from gpt1.cli.main import main
from gpt1.corpus.corpus import write_corpus
from gpt1.errors import UserError
from gpt1.inspect import inspect
from gpt1.tokenization.tokenizer import Tokenizer
from gpt1.training import checkpoints
from gpt1.training.pretrain import pretrain


@pytest.fixture(scope="module")
def whole_run(corpus: Path, tiny_pretrain_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirteen steps with dropout and a checkpoint after each."""
    settings = {**tiny_pretrain_settings, "steps": 13, "batch_size": 4, "dropout": 0.2, "eval_every": 5}
    out = tmp_path_factory.mktemp("runs") / "whole"
    return pretrain(corpus, out=out, checkpoint_every=1, keep=99, **settings)


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("step", [0, 1, 4, 5, 9, 10, 12, 13])
def test_a_run_resumed_after_any_checkpoint_gives_the_same_bits_metrics_and_results(
    step: int, whole_run: Path, corpus: Path, tmp_path: Path
):
    resumed = pretrain(corpus, out=copy_until_checkpoint(step, whole_run, tmp_path / "run"), resume=True)
    assert equal_weights(load_weights(resumed), load_weights(whole_run))
    assert read_metrics(resumed) == read_metrics(whole_run)
    assert read_results(resumed) == read_results(whole_run)


@pytest.mark.usefixtures("no_report")
def test_a_run_of_a_version_without_valid_split_resumes_with_its_split(
    corpus: Path, tiny_pretrain_settings: dict[str, Any], tmp_path: Path
):
    settings = {**tiny_pretrain_settings, "valid_split": "end", "steps": 6, "checkpoint_every": 1, "keep": 9}
    run = pretrain(corpus, out=tmp_path / "whole", **settings)
    stopped = copy_until_checkpoint(3, run, tmp_path / "run")
    stored = yaml.safe_load((stopped / "config.yaml").read_text())
    del stored["valid_split"]
    (stopped / "config.yaml").write_text(yaml.safe_dump(stored))
    with pytest.raises(UserError, match=r'valid_split="documents": .* was started with valid_split="end"'):
        pretrain(corpus, out=stopped, resume=True, valid_split="documents")
    pretrain(corpus, out=stopped, resume=True)
    assert equal_weights(load_weights(stopped), load_weights(run))
    assert read_metrics(stopped) == read_metrics(run)
    assert read_results(stopped) == read_results(run)


@pytest.mark.usefixtures("no_report")
def test_memory_and_checkpoint_settings_may_change_on_resume(whole_run: Path, corpus: Path, tmp_path: Path):
    run = copy_until_checkpoint(6, whole_run, tmp_path / "run")
    pretrain(corpus, out=run, resume=True, keep=1, checkpoint_every=50, activation_checkpointing=True)
    assert checkpoints.list_steps(run / "checkpoints") == [13]
    assert equal_weights(load_weights(run), load_weights(whole_run))


@pytest.mark.usefixtures("no_report")
def test_a_resumed_run_keeps_the_precision_that_auto_chose(
    corpus: Path, tiny_pretrain_settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = {**tiny_pretrain_settings, "precision": "auto", "steps": 3, "checkpoint_every": 1, "keep": 9}
    monkeypatch.setattr(devices, "cpu_features", lambda: {"avx512_bf16"})
    run = pretrain(corpus, out=tmp_path / "whole", **settings)
    stopped = copy_until_checkpoint(2, run, tmp_path / "run")
    assert inspect(str(run))["precision"] == "bf16 (auto: this CPU has avx512_bf16)"
    monkeypatch.setattr(devices, "cpu_features", lambda: {"avx2"})  # as on another CPU
    assert equal_weights(load_weights(pretrain(corpus, out=stopped, resume=True)), load_weights(run))


@pytest.mark.parametrize("change", [{"peak_lr": 0.5}, {"seed": 9}, {"batch_size": 5}, {"n_layer": 3}])
def test_a_run_cannot_be_resumed_with_another_setting(whole_run: Path, corpus: Path, change: dict[str, Any]):
    ((name, value),) = change.items()
    with pytest.raises(UserError, match=f"{name}=.*{value}.*: .* was started with"):
        pretrain(corpus, out=whole_run, resume=True, **change)


def test_a_run_cannot_be_resumed_with_another_corpus(whole_run: Path, corpus: Path, tmp_path: Path):
    other = tmp_path / "other"
    shutil.copytree(corpus, other)
    with pytest.raises(UserError, match="was started with corpus"):
        pretrain(other, out=whole_run, resume=True)


@pytest.mark.parametrize("change", ["corpus", "tokenizer"])
def test_a_run_cannot_be_resumed_after_its_corpus_was_replaced(
    change: str, whole_run: Path, corpus: Path, prose: list[str], tokenizer: Tokenizer, tmp_path: Path
):
    run = copy_until_checkpoint(6, whole_run, tmp_path / "run")
    replaced = tmp_path / "tokens"
    (tmp_path / "other.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in prose[:200]))
    made_with = Tokenizer.train(prose[:100], 300, "lossless") if change == "tokenizer" else tokenizer
    write_corpus([str(tmp_path / "other.jsonl")], replaced, made_with)
    settings = yaml.safe_load((run / "config.yaml").read_text())
    settings["command"]["corpus"] = str(replaced)
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(UserError, match=f"was trained with another (corpus|{change})"):
        pretrain(replaced, out=run, resume=True)


@pytest.mark.usefixtures("no_report")
def test_a_run_can_be_resumed_with_a_moved_corpus(
    whole_run: Path, corpus: Path, tiny_pretrain_settings: dict[str, Any], tmp_path: Path
):
    before, after = tmp_path / "before", tmp_path / "after"
    shutil.copytree(corpus, before)
    settings = {**tiny_pretrain_settings, "steps": 4, "checkpoint_every": 1, "keep": 9}
    run = pretrain(before, out=tmp_path / "whole", **settings)
    stopped = [copy_until_checkpoint(step, run, tmp_path / f"run{step}") for step in (0, 2)]
    before.rename(after)
    assert equal_weights(load_weights(pretrain(after, out=stopped[1], resume=True)), load_weights(run))
    with pytest.raises(UserError, match="was started with corpus"):  # no checkpoint has its fingerprint
        pretrain(after, out=stopped[0], resume=True)


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("change", ["model", "corpus of valid="])
def test_a_run_cannot_be_resumed_after_an_input_was_replaced(
    change: str,
    pretrained_run: Path,
    corpus: Path,
    tiny_pretrain_settings: dict[str, Any],
    prose: list[str],
    tmp_path: Path,
):
    begun, valid = tmp_path / "begun", tmp_path / "valid"
    shutil.copytree(pretrained_run, begun)
    shutil.copytree(corpus, valid)
    settings = {"steps": 3, "batch_size": 4, "checkpoint_every": 1, "keep": 9, "precision": "fp32", "device": "cpu"}
    run = pretrain(corpus, out=tmp_path / "whole", from_=begun, valid=valid, **settings)
    stopped = copy_until_checkpoint(2, run, tmp_path / "run")
    if change == "model":
        shutil.rmtree(begun)
        pretrain(corpus, out=begun, **{**tiny_pretrain_settings, "n_embd": 16, "steps": 1})
    else:
        shutil.rmtree(valid)
        (tmp_path / "other.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in prose[:200]))
        write_corpus([str(tmp_path / "other.jsonl")], valid, Tokenizer.load(corpus / "tokenizer"))
    with pytest.raises(UserError, match=f"was trained with another {change}"):
        pretrain(corpus, out=stopped, from_=begun, valid=valid, resume=True)


def test_resuming_a_finished_run_changes_nothing(whole_run: Path, corpus: Path):
    before = {path: path.stat().st_mtime_ns for path in whole_run.rglob("*")}
    assert pretrain(corpus, out=whole_run, resume=True) == whole_run
    assert {path: path.stat().st_mtime_ns for path in whole_run.rglob("*")} == before


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no SIGINT for one process there")
def test_ctrl_c_saves_and_exits_with_130_and_resume_gives_the_same_bits(
    corpus: Path, tiny_pretrain_settings: dict[str, Any], tmp_path: Path
):
    settings = {**tiny_pretrain_settings, "steps": 300, "dropout": 0.1, "eval_every": 0, "checkpoint_every": 0}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    run = tmp_path / "stopped"
    command = [sys.executable, "-m", "gpt1", "pretrain", str(corpus), "--out", str(run), *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(gpt1.__file__).parents[1])}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while not (run / "metrics.jsonl").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 130, (output, errors)
    assert "the state is saved" in errors
    assert "--resume" in errors
    (step,) = checkpoints.list_steps(run / "checkpoints")
    assert 10 <= step < 300
    assert not (run / "model").exists()

    main(["pretrain", str(corpus), "--out", str(run), "--resume"])
    uninterrupted = pretrain(corpus, out=tmp_path / "whole", **settings)
    assert equal_weights(load_weights(run), load_weights(uninterrupted))
    assert read_metrics(run) == read_metrics(uninterrupted)
    assert read_results(run) == read_results(uninterrupted)
