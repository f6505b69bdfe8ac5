"""Pre-training from a corpus to a model folder: resuming, micro-batches, invalid inputs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from finetune_helpers import equal_weights, load_weights, read_metrics, read_results
from logged_lines import LoggedLines

from gpt1.config import PretrainConfig
from gpt1.corpus.corpus import Corpus, write_corpus
from gpt1.corpus.windows import split_corpus
from gpt1.errors import Diverged, UserError
from gpt1.files.atomic import lock_dir
from gpt1.inference.predictor import load
from gpt1.model.gpt import GPT
from gpt1.runs.folder import resolve_settings
from gpt1.tokenization.tokenizer import Tokenizer
from gpt1.training import checkpoints
from gpt1.training import pretrain as pretraining
from gpt1.training.pretrain import pretrain

# ---- a run


@pytest.mark.usefixtures("no_report")
def test_a_run_warns_while_its_loss_is_not_below_the_unigram_loss(
    corpus: Path, tiny_pretrain_settings: dict[str, Any], tmp_path: Path
):
    messages = LoggedLines()
    settings = {**tiny_pretrain_settings, "steps": 10, "eval_every": 2, "peak_lr": 0.0, "warmup": 0}
    found = read_results(pretrain(corpus, out=tmp_path / "r", progress=messages, **settings))
    assert not pretraining.is_below_unigram(found["unigram"], found["validation"])
    warnings = [line for line in messages.lines if line.startswith("warning")]
    assert len(warnings) == 2
    assert "step 4:" in warnings[0]
    assert "Do not fine-tune it" in warnings[1]


def test_a_loss_a_little_below_the_unigram_loss_is_that_of_a_model_without_context():
    losses = {6.47: False, 6.445: False, 6.42: False, 6.3: True, 5.2: True}  # mini on books; unigram 6.445
    found = {loss: pretraining.is_below_unigram({"loss": 6.445}, {"loss": loss}) for loss in losses}
    assert found == losses
    assert pretraining.is_below_unigram({}, {"loss": 7.0})
    assert pretraining.is_below_unigram({"loss": 6.445}, {})


@pytest.mark.usefixtures("no_report")
def test_a_run_that_learns_does_not_warn(corpus: Path, tiny_pretrain_settings: dict[str, Any], tmp_path: Path):
    messages = LoggedLines()
    settings = {**tiny_pretrain_settings, "steps": 150, "eval_every": 0}
    found = read_results(pretrain(corpus, out=tmp_path / "r", progress=messages, **settings))
    assert pretraining.is_below_unigram(found["unigram"], found["validation"])
    assert not any(line.startswith("warning") for line in messages.lines)


def test_a_run_learns(pretrained_run: Path, tiny_pretrain_settings: dict[str, Any]):
    found = read_results(pretrained_run)
    assert found["validation"]["loss"] < math.log(300) - 1  # less than an untrained model
    assert read_metrics(pretrained_run)[-2]["loss"] < read_metrics(pretrained_run)[0]["loss"]
    assert found["steps"] == found["validation"]["step"] == tiny_pretrain_settings["steps"]


def test_a_run_counts_its_tokens(pretrained_run: Path, tiny_pretrain_settings: dict[str, Any], corpus: Path):
    found, opened = read_results(pretrained_run), Corpus.open(corpus)
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


def test_perplexity_and_bits_per_byte_are_the_validation_loss_in_other_units(pretrained_run: Path, corpus: Path):
    opened = Corpus.open(corpus)
    _, validation = split_corpus(opened, 32, 0.01)
    assert validation is not None
    ids = validation.text.read(0, validation.text.tokens)
    tokens, n_bytes = len(ids), len(opened.load_tokenizer().decode(ids.tolist()).encode())
    for found in (read_results(pretrained_run)["validation"], read_results(pretrained_run)["unigram"]):
        assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
        assert found["bits_per_byte"] == pytest.approx(found["loss"] / math.log(2) * tokens / n_bytes, rel=0.03)


def test_the_validation_loss_is_that_of_the_finished_model_on_the_validation_windows(
    pretrained_run: Path, corpus: Path
):
    _, validation = split_corpus(Corpus.open(corpus), 32, 0.01)
    assert validation is not None
    ids = torch.from_numpy(validation.read(validation.evenly_spaced(8)))
    with torch.no_grad():
        log_p = GPT.from_pretrained(pretrained_run / "model")(ids[:, :-1]).log_softmax(-1)
    expected = -log_p.gather(-1, ids[:, 1:, None]).mean().item()
    assert read_results(pretrained_run)["validation"]["loss"] == pytest.approx(expected, abs=1e-5)


def test_a_run_writes_its_settings_its_model_and_its_report(
    pretrained_run: Path, tiny_pretrain_settings: dict[str, Any]
):
    settings = yaml.safe_load((pretrained_run / "config.yaml").read_text())
    assert {name: settings[name] for name in tiny_pretrain_settings} == tiny_pretrain_settings
    assert settings["stage"] == "pretrain"
    assert (pretrained_run / "report.html").stat().st_size > 1000
    assert load(pretrained_run).tokenizer.vocab_size == 300
    assert sorted(path.name for path in pretrained_run.iterdir() if path.name.startswith(".")) == []


@pytest.mark.usefixtures("no_report")
def test_the_seed_determines_the_weights(corpus: Path, tiny_pretrain_settings: dict[str, Any], tmp_path: Path):
    short = {**tiny_pretrain_settings, "steps": 3, "dropout": 0.1}
    runs = [pretrain(corpus, out=tmp_path / str(i), **short, seed=seed) for i, seed in enumerate((5, 5, 6))]
    assert equal_weights(load_weights(runs[0]), load_weights(runs[1]))
    assert not equal_weights(load_weights(runs[0]), load_weights(runs[2]))


# ---- the same step computed differently


@pytest.mark.usefixtures("no_report")
def test_gradient_accumulation_over_micro_batches_gives_the_same_step(
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
        found.append(load_weights(run))
        assert read_metrics(run)[-1]["loss"] == pytest.approx(read_metrics(tmp_path / "0")[-1]["loss"], abs=1e-5)
    for other in found[1:]:
        for name, value in other.items():
            torch.testing.assert_close(value, found[0][name], rtol=0, atol=1e-5, msg=name)


@pytest.mark.usefixtures("no_report")
def test_activation_checkpointing_gives_the_same_run(
    corpus: Path, tiny_pretrain_settings: dict[str, Any], tmp_path: Path
):
    settings = {**tiny_pretrain_settings, "steps": 5, "dropout": 0.2}
    kept, again = (
        pretrain(corpus, out=tmp_path / str(on), **settings, activation_checkpointing=on) for on in (False, True)
    )
    for name, value in load_weights(again).items():
        torch.testing.assert_close(value, load_weights(kept)[name], rtol=0, atol=1e-6, msg=name)


@pytest.mark.usefixtures("no_report")
def test_bf16_reaches_the_loss_of_fp32(corpus: Path, tiny_pretrain_settings: dict[str, Any], tmp_path: Path):
    found = {
        precision: read_results(
            pretrain(corpus, out=tmp_path / precision, **{**tiny_pretrain_settings, "precision": precision})
        )
        for precision in ("fp32", "bf16")
    }
    assert found["bf16"]["validation"]["loss"] == pytest.approx(found["fp32"]["validation"]["loss"], rel=0.02)
    assert all(tensor.dtype == torch.float32 for tensor in load_weights(tmp_path / "bf16").values())


# ---- --from, --valid


@pytest.mark.usefixtures("no_report")
def test_a_run_can_start_from_a_model(
    pretrained_run: Path, corpus: Path, tiny_pretrain_settings: dict[str, Any], tmp_path: Path
):
    settings = {name: tiny_pretrain_settings[name] for name in ("batch_size", "precision", "device", "eval_windows")}
    still = pretrain(corpus, out=tmp_path / "still", from_=pretrained_run, steps=2, peak_lr=0, **settings)
    assert equal_weights(load_weights(still), load_weights(pretrained_run))
    further = pretrain(corpus, out=tmp_path / "further", from_=pretrained_run, steps=40, peak_lr=3e-3, **settings)
    afresh = pretrain(corpus, out=tmp_path / "afresh", **{**tiny_pretrain_settings, "steps": 40, "peak_lr": 3e-3})
    assert read_results(further)["validation"]["loss"] < read_results(afresh)["validation"]["loss"]


def test_a_model_cannot_be_trained_further_with_another_shape(pretrained_run: Path, corpus: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"n_layer=4: .* has 2"):
        pretrain(corpus, out=tmp_path / "run", from_=pretrained_run, n_layer=4)
    with pytest.raises(UserError, match="context=64 exceeds the 32 positions"):
        pretrain(corpus, out=tmp_path / "run", from_=pretrained_run, context=64)
    assert not (tmp_path / "run").exists()


def test_a_model_cannot_be_trained_further_on_a_corpus_of_another_tokenizer(
    pretrained_run: Path, prose: list[str], tmp_path: Path
):
    (tmp_path / "texts.txt").write_text("\n".join(prose[:50]))
    write_corpus([str(tmp_path / "texts.txt")], tmp_path / "other", Tokenizer.train(prose[:50], 290, "lossless"))
    with pytest.raises(UserError, match="different tokenizer"):
        pretrain(tmp_path / "other", out=tmp_path / "run", from_=pretrained_run)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_report")
def test_validation_can_use_another_corpus(
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
    assert read_results(run)["validation"]["loss"] == pytest.approx(expected, abs=0.3)
    assert read_results(run)["tokens_seen"] == 2 * 8 * 32


def test_the_validation_text_is_whole_documents_by_default_and_the_end_with_recipe_paper(corpus: Path):
    opened = Corpus.open(corpus)
    parts = {}
    for recipe in ("default", "paper"):
        cfg = resolve_settings(PretrainConfig, {"recipe": recipe, "context": 32, "valid_fraction": 0.1})
        validation = pretraining.split_windows(cfg, opened, None)[1]
        assert validation is not None
        parts[recipe] = validation.text
    assert set(parts["default"].starts.tolist()) <= set(opened.document_starts().tolist())
    assert set(parts["default"].stops.tolist()) <= {*opened.document_starts().tolist(), opened.tokens}
    assert len(parts["default"].starts) > 5
    assert parts["paper"].stops.tolist() == [opened.tokens]


@pytest.mark.usefixtures("no_report")
def test_a_run_can_have_no_validation_windows(corpus: Path, tiny_pretrain_settings: dict[str, Any], tmp_path: Path):
    run = pretrain(corpus, out=tmp_path / "run", valid_fraction=0, **{**tiny_pretrain_settings, "steps": 2})
    assert read_results(run)["unigram"] == {}
    assert (run / "model" / "model.safetensors").exists()


@pytest.mark.usefixtures("no_report")
def test_the_settings_of_a_run_can_be_used_again(corpus: Path, pretrained_run: Path, tmp_path: Path):
    file = pretrained_run / "config.yaml"  # has both steps and epochs
    again = pretrain(corpus, out=tmp_path / "again", config=file)
    assert equal_weights(load_weights(again), load_weights(pretrained_run))
    shorter = pretrain(corpus, out=tmp_path / "shorter", config=file, steps=2)
    assert read_results(shorter)["steps"] == 2
    with pytest.raises(UserError, match="contradict each other"):
        pretrain(corpus, out=tmp_path / "other", config=file, epochs=2)


@pytest.mark.usefixtures("no_report")
def test_validation_on_the_training_corpus_is_pointed_out(
    corpus: Path, tiny_pretrain_settings: dict[str, Any], tmp_path: Path
):
    progress = LoggedLines()
    pretrain(corpus, out=tmp_path / "run", valid=corpus, progress=progress, **{**tiny_pretrain_settings, "steps": 2})
    assert any("--valid is the training corpus" in line for line in progress.lines)


# ---- errors before anything is written


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"context": 200_000}, "one window of context="),
        ({"pek_lr": 1}, "Did you mean peak_lr"),
        ({"n_embd": 33}, "not a multiple"),
        ({"device": "abacus"}, 'device="abacus" is not a valid device'),
        ({"steps": 5, "epochs": 2}, "contradict each other"),
        ({"valid": "other", "valid_fraction": 0.1}, "valid_fraction= has no effect with valid="),
    ],
)
def test_invalid_settings_are_an_error_and_leave_nothing(
    corpus: Path, tmp_path: Path, settings: dict[str, Any], problem: str
):
    with pytest.raises(UserError, match=problem):
        pretrain(corpus, out=tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_a_missing_corpus_is_an_error(tmp_path: Path):
    with pytest.raises(UserError, match="nowhere"):
        pretrain(tmp_path / "nowhere", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_out_folder_that_is_not_empty_is_an_error(
    corpus: Path, pretrained_run: Path, tiny_pretrain_settings: dict[str, Any]
):
    with pytest.raises(UserError, match="exists and is not empty") as refused:
        pretrain(corpus, out=pretrained_run, **tiny_pretrain_settings)
    assert "--resume" in refused.value.fix


def test_a_run_is_locked_until_its_report_is_written(
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


def test_a_diverged_run_keeps_no_bad_checkpoint_and_fails_the_same_on_resume(
    corpus: Path, tiny_pretrain_settings: dict[str, Any], tmp_path: Path, no_report: None
):
    settings = tiny_pretrain_settings | {"peak_lr": 1e30, "checkpoint_every": 2, "steps": 60}
    errors = []
    for resume in (False, True, True):
        with pytest.raises(Diverged, match=r"Training diverged: .* such step in a row") as ended:
            pretrain(corpus, out=tmp_path / "run", resume=resume, **settings)
        errors.append(str(ended.value))
        for step in checkpoints.list_steps(tmp_path / "run" / "checkpoints"):
            checkpoints.load_checkpoint(checkpoints.checkpoint_path(tmp_path / "run" / "checkpoints", step))
    assert len(set(errors)) == 1
    assert not (tmp_path / "run" / "results.json").exists()
