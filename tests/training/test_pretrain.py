"""Stage 1 from a corpus folder to a model folder: resumed runs, pieces of an update, what is refused."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from finetune_helpers import copy_until_checkpoint

import gpt1
from gpt1 import devices
from gpt1.cli.main import main
from gpt1.corpus.corpus import Corpus, write_corpus
from gpt1.corpus.windows import split_corpus
from gpt1.errors import Diverged, UserError
from gpt1.files.atomic import lock_dir
from gpt1.inference.predictor import load
from gpt1.inspect import inspect
from gpt1.model.gpt import GPT
from gpt1.tokenization.tokenizer import Tokenizer
from gpt1.training import checkpoints
from gpt1.training import pretrain as pretraining
from gpt1.training.pretrain import pretrain


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page that every run leaves has tests of its own."""
    monkeypatch.setattr(pretraining, "report_on_exit", lambda run: nullcontext())


def weights(run: Path) -> dict[str, torch.Tensor]:
    return GPT.from_pretrained(run / "model").state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def lines(run: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "tokens_per_s"} for line in found]


def results(run: Path) -> dict[str, Any]:
    found = json.loads((run / "results.json").read_text())
    return {name: value for name, value in found.items() if name != "seconds"}


# ---- what a run is


def test_a_run_learns(pretrained_run: Path, tiny_pretrain_settings: dict[str, Any]):
    found = results(pretrained_run)
    assert found["validation"]["loss"] < math.log(300) - 1  # from what a fresh model loses
    assert lines(pretrained_run)[-2]["loss"] < lines(pretrained_run)[0]["loss"]
    assert found["steps"] == found["validation"]["step"] == tiny_pretrain_settings["steps"]


def test_a_run_counts_its_tokens(pretrained_run: Path, tiny_pretrain_settings: dict[str, Any], corpus: Path):
    found, opened = results(pretrained_run), Corpus.open(corpus)
    assert (
        found["tokens_seen"]
        == tiny_pretrain_settings["steps"] * tiny_pretrain_settings["batch_size"] * tiny_pretrain_settings["context"]
    )
    assert found["corpus"] | {"unknown": 0} == {
        "tokens": opened.tokens,
        "documents": opened.documents,
        "bytes": opened.n_bytes,
        "unknown": 0,
    }


def test_perplexity_and_bits_per_byte_say_the_held_out_loss_in_other_units(pretrained_run: Path, corpus: Path):
    opened = Corpus.open(corpus)
    _, held_out = split_corpus(opened, 32, 0.01)
    assert held_out is not None
    text = opened.load_tokenizer().decode(opened.read(held_out.start, held_out.stop).tolist())
    tokens, n_bytes = held_out.stop - held_out.start, len(text.encode())
    for found in (results(pretrained_run)["validation"], results(pretrained_run)["unigram"]):
        assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
        assert found["bits_per_byte"] == pytest.approx(found["loss"] / math.log(2) * tokens / n_bytes, rel=0.03)


def test_the_held_out_loss_is_that_of_the_finished_model_on_the_held_out_windows(pretrained_run: Path, corpus: Path):
    _, held_out = split_corpus(Corpus.open(corpus), 32, 0.01)
    assert held_out is not None
    ids = torch.from_numpy(held_out.read(held_out.evenly_spaced(8)))
    with torch.no_grad():
        log_p = GPT.from_pretrained(pretrained_run / "model")(ids[:, :-1]).log_softmax(-1)
    expected = -log_p.gather(-1, ids[:, 1:, None]).mean().item()
    assert results(pretrained_run)["validation"]["loss"] == pytest.approx(expected, abs=1e-5)


def test_a_run_leaves_its_settings_its_model_and_its_page(pretrained_run: Path, tiny_pretrain_settings: dict[str, Any]):
    settings = yaml.safe_load((pretrained_run / "config.yaml").read_text())
    assert {name: settings[name] for name in tiny_pretrain_settings} == tiny_pretrain_settings
    assert settings["stage"] == "pretrain"
    assert (pretrained_run / "report.html").stat().st_size > 1000
    assert load(pretrained_run).tokenizer.vocab_size == 300
    assert sorted(path.name for path in pretrained_run.iterdir() if path.name.startswith(".")) == []


@pytest.mark.usefixtures("no_report")
def test_the_seed_decides_the_weights(corpus: Path, tiny_pretrain_settings: dict[str, Any], tmp_path: Path):
    short = {**tiny_pretrain_settings, "steps": 3, "dropout": 0.1}
    runs = [pretrain(corpus, out=tmp_path / str(i), **short, seed=seed) for i, seed in enumerate((5, 5, 6))]
    assert same(weights(runs[0]), weights(runs[1]))
    assert not same(weights(runs[0]), weights(runs[2]))


# ---- resuming


@pytest.fixture(scope="module")
def whole(corpus: Path, tiny_pretrain_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirteen updates with dropout and a checkpoint after each."""
    settings = {**tiny_pretrain_settings, "steps": 13, "batch_size": 4, "dropout": 0.2, "eval_every": 5}
    out = tmp_path_factory.mktemp("runs") / "whole"
    return pretrain(corpus, out=out, checkpoint_every=1, keep=99, **settings)


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("step", [0, 1, 4, 5, 9, 10, 12, 13])
def test_a_run_resumed_after_any_checkpoint_gives_the_same_bits_metrics_and_results(
    step: int, whole: Path, corpus: Path, tmp_path: Path
):
    resumed = pretrain(corpus, out=copy_until_checkpoint(step, whole, tmp_path / "run"), resume=True)
    assert same(weights(resumed), weights(whole))
    assert lines(resumed) == lines(whole)
    assert results(resumed) == results(whole)


@pytest.mark.usefixtures("no_report")
def test_a_resumed_run_may_use_less_memory_and_keep_fewer_checkpoints(whole: Path, corpus: Path, tmp_path: Path):
    run = copy_until_checkpoint(6, whole, tmp_path / "run")
    pretrain(corpus, out=run, resume=True, keep=1, checkpoint_every=50, activation_checkpointing=True)
    assert checkpoints.list_steps(run / "checkpoints") == [13]
    assert same(weights(run), weights(whole))


@pytest.mark.usefixtures("no_report")
def test_a_run_goes_on_in_the_precision_that_auto_came_to(
    corpus: Path, tiny_pretrain_settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = {**tiny_pretrain_settings, "precision": "auto", "steps": 3, "checkpoint_every": 1, "keep": 9}
    monkeypatch.setattr(devices, "cpu_features", lambda: {"avx512_bf16"})
    run = pretrain(corpus, out=tmp_path / "whole", **settings)
    stopped = copy_until_checkpoint(2, run, tmp_path / "run")
    assert inspect(str(run))["precision"] == "bf16 (auto: this CPU has avx512_bf16)"
    monkeypatch.setattr(devices, "cpu_features", lambda: {"avx2"})  # as on another processor
    assert same(weights(pretrain(corpus, out=stopped, resume=True)), weights(run))


@pytest.mark.parametrize("change", [{"peak_lr": 0.5}, {"seed": 9}, {"batch_size": 5}, {"n_layer": 3}])
def test_a_run_is_not_resumed_with_another_setting(whole: Path, corpus: Path, change: dict[str, Any]):
    ((name, value),) = change.items()
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')} {value}: .* was started with"):
        pretrain(corpus, out=whole, resume=True, **change)


def test_a_run_is_not_resumed_with_another_corpus(whole: Path, corpus: Path, tmp_path: Path):
    other = tmp_path / "other"
    shutil.copytree(corpus, other)
    with pytest.raises(UserError, match="was started with corpus"):
        pretrain(other, out=whole, resume=True)


@pytest.mark.parametrize("change", ["corpus", "tokenizer"])
def test_a_run_is_not_resumed_when_the_corpus_in_its_place_is_another(
    change: str, whole: Path, corpus: Path, prose: list[str], tokenizer: Tokenizer, tmp_path: Path
):
    run = copy_until_checkpoint(6, whole, tmp_path / "run")
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
def test_a_run_goes_on_with_a_corpus_that_has_moved(
    whole: Path, corpus: Path, tiny_pretrain_settings: dict[str, Any], tmp_path: Path
):
    before, after = tmp_path / "before", tmp_path / "after"
    shutil.copytree(corpus, before)
    settings = {**tiny_pretrain_settings, "steps": 4, "checkpoint_every": 1, "keep": 9}
    run = pretrain(before, out=tmp_path / "whole", **settings)
    stopped = [copy_until_checkpoint(step, run, tmp_path / f"run{step}") for step in (0, 2)]
    before.rename(after)
    assert same(weights(pretrain(after, out=stopped[1], resume=True)), weights(run))
    with pytest.raises(UserError, match="was started with corpus"):  # no checkpoint says that it is the same
        pretrain(after, out=stopped[0], resume=True)


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("change", ["model", "--valid corpus"])
def test_a_run_is_not_resumed_when_what_stands_in_the_place_of_its_inputs_is_another(
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


def test_resuming_a_finished_run_changes_nothing(whole: Path, corpus: Path):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    assert pretrain(corpus, out=whole, resume=True) == whole
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no SIGINT for one process there")
def test_ctrl_c_saves_exits_with_130_and_resume_goes_on_to_the_same_bits(
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
    assert same(weights(run), weights(uninterrupted))
    assert lines(run) == lines(uninterrupted)
    assert results(run) == results(uninterrupted)


# ---- the same update in other ways


@pytest.mark.usefixtures("no_report")
def test_gradients_accumulated_over_pieces_give_the_same_update(
    corpus: Path, tiny_pretrain_settings: dict[str, Any], tmp_path: Path
):
    settings = {
        **tiny_pretrain_settings,
        "steps": 5,
        "optimizer": "sgd",
        "peak_lr": 0.5,
        "warmup": 0,
        "schedule": "constant",
    }
    found = []
    for micro_batch in (0, 1, 2, 3, 8):
        run = pretrain(corpus, out=tmp_path / str(micro_batch), **settings, micro_batch=micro_batch)
        found.append(weights(run))
        assert lines(run)[-1]["loss"] == pytest.approx(lines(tmp_path / "0")[-1]["loss"], abs=1e-5)
    for other in found[1:]:
        for name, value in other.items():
            torch.testing.assert_close(value, found[0][name], rtol=0, atol=1e-5, msg=name)


@pytest.mark.usefixtures("no_report")
def test_activations_computed_again_give_the_same_run(
    corpus: Path, tiny_pretrain_settings: dict[str, Any], tmp_path: Path
):
    settings = {**tiny_pretrain_settings, "steps": 5, "dropout": 0.2}
    kept, again = (
        pretrain(corpus, out=tmp_path / str(on), **settings, activation_checkpointing=on) for on in (False, True)
    )
    for name, value in weights(again).items():
        torch.testing.assert_close(value, weights(kept)[name], rtol=0, atol=1e-6, msg=name)


@pytest.mark.usefixtures("no_report")
def test_bf16_reaches_the_loss_of_fp32(corpus: Path, tiny_pretrain_settings: dict[str, Any], tmp_path: Path):
    found = {
        precision: results(
            pretrain(corpus, out=tmp_path / precision, **{**tiny_pretrain_settings, "precision": precision})
        )
        for precision in ("fp32", "bf16")
    }
    assert found["bf16"]["validation"]["loss"] == pytest.approx(found["fp32"]["validation"]["loss"], rel=0.02)
    assert all(tensor.dtype == torch.float32 for tensor in weights(tmp_path / "bf16").values())


# ---- --from, --valid


@pytest.mark.usefixtures("no_report")
def test_a_run_may_continue_from_a_model(
    pretrained_run: Path, corpus: Path, tiny_pretrain_settings: dict[str, Any], tmp_path: Path
):
    settings = {name: tiny_pretrain_settings[name] for name in ("batch_size", "precision", "device", "eval_windows")}
    still = pretrain(corpus, out=tmp_path / "still", from_=pretrained_run, steps=2, peak_lr=0, **settings)
    assert same(weights(still), weights(pretrained_run))
    further = pretrain(corpus, out=tmp_path / "further", from_=pretrained_run, steps=40, peak_lr=3e-3, **settings)
    afresh = pretrain(corpus, out=tmp_path / "afresh", **{**tiny_pretrain_settings, "steps": 40, "peak_lr": 3e-3})
    assert results(further)["validation"]["loss"] < results(afresh)["validation"]["loss"]


def test_a_model_cannot_be_continued_in_another_shape(pretrained_run: Path, corpus: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"--n-layer 4: .* has 2"):
        pretrain(corpus, out=tmp_path / "run", from_=pretrained_run, n_layer=4)
    with pytest.raises(UserError, match="--context 64 is longer than the 32 positions"):
        pretrain(corpus, out=tmp_path / "run", from_=pretrained_run, context=64)
    assert not (tmp_path / "run").exists()


def test_a_model_cannot_be_continued_on_a_corpus_of_another_tokenizer(
    pretrained_run: Path, prose: list[str], tmp_path: Path
):
    (tmp_path / "texts.txt").write_text("\n".join(prose[:50]))
    write_corpus([str(tmp_path / "texts.txt")], tmp_path / "other", Tokenizer.train(prose[:50], 290, "lossless"))
    with pytest.raises(UserError, match="another tokenizer"):
        pretrain(tmp_path / "other", out=tmp_path / "run", from_=pretrained_run)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_report")
def test_held_out_figures_may_come_from_another_corpus(
    corpus: Path, tiny_pretrain_settings: dict[str, Any], tokenizer: Tokenizer, tmp_path: Path
):
    (tmp_path / "same.txt").write_text("same words again and again, " * 200)
    write_corpus([str(tmp_path / "same.txt")], tmp_path / "valid", tokenizer)
    run = pretrain(corpus, out=tmp_path / "run", valid=tmp_path / "valid", **{**tiny_pretrain_settings, "steps": 2})
    text = Corpus.open(tmp_path / "valid")
    ids = torch.from_numpy(text.read(0, 33))[None]
    with torch.no_grad():
        log_p = GPT.from_pretrained(run / "model")(ids[:, :-1]).log_softmax(-1)
    expected = -log_p.gather(-1, ids[:, 1:, None]).mean().item()
    assert results(run)["validation"]["loss"] == pytest.approx(expected, abs=0.3)
    assert results(run)["tokens_seen"] == 2 * 8 * 32


@pytest.mark.usefixtures("no_report")
def test_a_run_may_hold_nothing_out(corpus: Path, tiny_pretrain_settings: dict[str, Any], tmp_path: Path):
    run = pretrain(corpus, out=tmp_path / "run", valid_fraction=0, **{**tiny_pretrain_settings, "steps": 2})
    assert results(run)["unigram"] == {}
    assert (run / "model" / "model.safetensors").exists()


# ---- refused before anything is written


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"context": 200_000}, "fewer than one window"),
        ({"pek_lr": 1}, "Did you mean peak_lr"),
        ({"n_embd": 33}, "not a multiple"),
        ({"device": "abacus"}, "--device abacus is not a valid device"),
        ({"steps": 5, "epochs": 2}, "contradict each other"),
    ],
)
def test_what_cannot_be_trained_is_refused_and_leaves_nothing(
    corpus: Path, tmp_path: Path, settings: dict[str, Any], problem: str
):
    with pytest.raises(UserError, match=problem):
        pretrain(corpus, out=tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_a_missing_corpus_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="nowhere"):
        pretrain(tmp_path / "nowhere", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_not_empty_is_refused(
    corpus: Path, pretrained_run: Path, tiny_pretrain_settings: dict[str, Any]
):
    with pytest.raises(UserError, match="exists and is not empty") as refused:
        pretrain(corpus, out=pretrained_run, **tiny_pretrain_settings)
    assert "--resume" in refused.value.fix


def test_a_run_is_held_until_its_page_is_written(
    corpus: Path, tiny_pretrain_settings: dict[str, Any], tmp_path: Path, monkeypatch: Any
):
    pytest.importorskip("fcntl", reason="Windows")
    held = []

    def finish(run: Path, *_: Any) -> None:
        with pytest.raises(UserError, match="is being written by another process"), lock_dir(run):
            pass
        held.append(run)

    monkeypatch.setattr(pretraining, "finish_pretraining", finish)
    assert [pretrain(corpus, out=tmp_path / "run", **tiny_pretrain_settings | {"steps": 2})] == held


def test_a_run_that_diverges_keeps_no_bad_checkpoint_and_says_the_same_on_resume(
    corpus: Path, tiny_pretrain_settings: dict[str, Any], tmp_path: Path, no_report: None
):
    settings = tiny_pretrain_settings | {"peak_lr": 1e30, "checkpoint_every": 2, "steps": 60}
    said = []
    for resume in (False, True, True):
        with pytest.raises(Diverged, match=r"Training diverged: .* such step in a row") as ended:
            pretrain(corpus, out=tmp_path / "run", resume=resume, **settings)
        said.append(str(ended.value))
        for step in checkpoints.list_steps(tmp_path / "run" / "checkpoints"):
            checkpoints.load_checkpoint(checkpoints.checkpoint_path(tmp_path / "run" / "checkpoints", step))
    assert len(set(said)) == 1
    assert not (tmp_path / "run" / "results.json").exists()
