"""Fine-tuning from labeled rows to a model folder: what is trained, resuming, invalid inputs."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from finetune_helpers import (
    FAST_SETTINGS,
    KIND_OPTIONS,
    TEXT_OPTIONS,
    changed_tensors,
    copy_until_checkpoint,
    load_head,
    load_weights,
    read_metrics,
    read_results,
    special_token_embeddings,
)
from logged_lines import LoggedLines

from gpt1.corpus.order import steps_per_epoch
from gpt1.errors import UserError
from gpt1.model.gpt import GPT
from gpt1.model.weights import read_safetensors
from gpt1.recipes import MIN_FINETUNING_STEPS
from gpt1.tables.table import Table, write_table
from gpt1.training import finetune_setup
from gpt1.training.finetune import (
    finetune,
    model_dependent_defaults,
    resolve_finetune_settings,
    table_dependent_defaults,
)

pytestmark = pytest.mark.usefixtures("no_reports")

TINY_SHAPE = {"n_embd": 128, "dropout": 0.0}


# ---- what is trained


def test_head_only_training_leaves_every_backbone_weight_bit_identical(
    table: Table, pretrained_run: Path, tmp_path: Path
):
    run = finetune(table, from_=pretrained_run, out=tmp_path / "run", train="head", **TEXT_OPTIONS, **FAST_SETTINGS)
    assert changed_tensors(load_weights(run), load_weights(pretrained_run)) == set()
    assert read_results(run)["parameters_trained"] == 32 * 2 + 2
    before = finetune(
        table, from_=pretrained_run, out=tmp_path / "start", train="head", peak_lr=0, **TEXT_OPTIONS, **FAST_SETTINGS
    )
    assert not torch.equal(load_head(run)["linear.weight"], load_head(before)["linear.weight"])
    assert torch.equal(
        special_token_embeddings(run), special_token_embeddings(before)
    )  # they stay at their random start


@pytest.mark.parametrize(("train", "part"), [("last:1", "blocks.1."), ("all", "")])
def test_training_changes_every_weight_of_its_part_and_no_other_bit(
    train: str, part: str, table: Table, pretrained_run: Path, tmp_path: Path
):
    run = finetune(table, from_=pretrained_run, out=tmp_path / "run", train=train, **TEXT_OPTIONS, **FAST_SETTINGS)
    before = load_weights(pretrained_run)
    assert changed_tensors(load_weights(run), before) == {name for name in before if name.startswith(part)}


def test_transfer_settings_decide_which_weights_are_transferred(table: Table, pretrained_run: Path, tmp_path: Path):
    """With learning rate 0 a run ends with its initial weights."""
    begun = load_weights(pretrained_run)
    block_0 = {name for name in begun if name.startswith("blocks.0.")}
    block_1 = {name for name in begun if name.startswith("blocks.1.")}
    matrices = {
        name for name, tensor in begun.items() if tensor.dim() > 1
    }  # new LayerNorm weights and biases are 1 and 0
    for settings, fresh in [
        ({}, set()),
        ({"transfer_layers": 1}, block_1),
        ({"transfer_layers": 0}, block_0 | block_1),
        ({"from_scratch": True}, set(begun)),
    ]:
        out = tmp_path / str(len(fresh))
        run = finetune(table, from_=pretrained_run, out=out, peak_lr=0, **settings, **TEXT_OPTIONS, **FAST_SETTINGS)
        assert changed_tensors(load_weights(run), begun) & matrices == fresh & matrices


def test_training_on_cached_features_equals_training_through_the_frozen_backbone(
    table: Table, pretrained_run: Path, tmp_path: Path
):
    """The gradient of the head does not depend on where its features come from."""
    settings = {
        **TEXT_OPTIONS,
        **FAST_SETTINGS,
        "epochs": 2,
        "dropout": 0,
        "head_dropout": 0,
        "lm_coef": 0,
        "optimizer": "sgd",
    }
    shared = {"peak_lr": 1e-2, "warmup": 0, "weight_decay": 0, "clip_norm": 0, "valid_fraction": 0}
    cached = finetune(table, from_=pretrained_run, out=tmp_path / "head", train="head", **settings, **shared)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune_setup, "freeze", lambda model, train: model.gpt.requires_grad_(False))
        through = finetune(table, from_=pretrained_run, out=tmp_path / "all", head_first=False, **settings, **shared)
    for name, value in load_head(cached).items():
        torch.testing.assert_close(value, load_head(through)[name], rtol=0, atol=1e-5)


def test_micro_batches_and_shared_contexts_do_not_change_the_step(table: Table, pretrained_run: Path, tmp_path: Path):
    settings = {
        **KIND_OPTIONS["choice"],
        **FAST_SETTINGS,
        "dropout": 0,
        "head_dropout": 0,
        "optimizer": "sgd",
        "peak_lr": 0.1,
    }
    found = []
    for micro_batch, shared_context in ((0, False), (0, True), (1, True), (2, False), (5, True)):
        own: dict[str, Any] = {"micro_batch": micro_batch, "shared_context": shared_context}
        run = finetune(table, from_=pretrained_run, out=tmp_path / str(len(found)), **own, **settings)
        found.append({**load_weights(run), **load_head(run)})
    for other in found[1:]:
        for name, value in other.items():
            torch.testing.assert_close(value, found[0][name], rtol=0, atol=1e-5, msg=name)


# ---- a run


@pytest.fixture(scope="module")
def whole_runs(table: Table, pretrained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three epochs with dropout and a checkpoint after each step: all weights, the head, the last block."""
    folder = tmp_path_factory.mktemp("runs")
    settings = {
        **TEXT_OPTIONS,
        **FAST_SETTINGS,
        "epochs": 3,
        "dropout": 0.2,
        "head_dropout": 0.2,
        "checkpoint_every": 1,
        "keep": 99,
    }
    return {
        train: finetune(table, from_=pretrained_run, out=folder / train, train=train, **settings)
        for train in ("all", "head", "last:1")
    }


@pytest.mark.parametrize(
    ("train", "step"), [("all", 0), ("all", 1), ("all", 4), ("all", 11), ("all", 12), ("head", 5), ("last:1", 7)]
)
def test_a_run_resumed_after_any_checkpoint_gives_the_same_bits_metrics_and_results(
    train: str, step: int, whole_runs: dict[str, Path], table: Table, pretrained_run: Path, tmp_path: Path
):
    run = copy_until_checkpoint(step, whole_runs[train], tmp_path / "run")
    finetune(table, from_=pretrained_run, out=run, resume=True, baselines=False, **TEXT_OPTIONS)
    found, expected = (read_safetensors(r / "model" / "model.safetensors") for r in (run, whole_runs[train]))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert read_metrics(run) == read_metrics(whole_runs[train])
    assert read_results(run) == read_results(whole_runs[train])


def test_a_run_cannot_be_resumed_with_other_rows(
    whole_runs: dict[str, Path], table: Table, pretrained_run: Path, tmp_path: Path
):
    run = copy_until_checkpoint(4, whole_runs["all"], tmp_path / "run")
    other = replace(table, rows=[*table.rows[:-1], {**table.rows[-1], "label": "yes"}])
    with pytest.raises(UserError, match="was trained with other rows"):
        finetune(other, from_=pretrained_run, out=run, resume=True, **TEXT_OPTIONS)


def test_a_run_cannot_be_resumed_from_another_model(
    whole_runs: dict[str, Path], table: Table, pretrained_run: Path, tmp_path: Path
):
    run = copy_until_checkpoint(4, whole_runs["all"], tmp_path / "run")
    other = tmp_path / "other"
    shutil.copytree(pretrained_run, other)
    with pytest.raises(UserError, match="was started with starting model"):
        finetune(table, from_=other, out=run, resume=True, **TEXT_OPTIONS)
    model = GPT.from_pretrained(other / "model")
    with torch.no_grad():
        model.positions.weight[0, 0] += 1
    model.save(other / "model")
    settings = yaml.safe_load((run / "config.yaml").read_text())
    settings["command"]["from"] = str(other)
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(UserError, match="was trained with another model"):
        finetune(table, from_=other, out=run, resume=True, **TEXT_OPTIONS)


def test_the_model_has_the_weights_of_the_best_epoch(table: Table, pretrained_run: Path, tmp_path: Path):
    settings = {**TEXT_OPTIONS, **FAST_SETTINGS, "epochs": 6, "peak_lr": 2e-2, "valid_fraction": 0.25, "keep": 1}
    found = read_results(finetune(table, from_=pretrained_run, out=tmp_path / "run", **settings))
    best = max(found["history"], key=lambda record: (record["accuracy"], -record["loss"]))
    assert len(found["history"]) == 6
    assert found["best_epoch"] == best["epoch"]
    assert found["validation"]["metrics"]["accuracy"] == best["accuracy"]


def test_the_seed_determines_the_run(table: Table, pretrained_run: Path, tmp_path: Path):
    runs = [
        finetune(table, from_=pretrained_run, out=tmp_path / str(i), seed=seed, **TEXT_OPTIONS, **FAST_SETTINGS)
        for i, seed in enumerate((1, 1, 2))
    ]
    assert changed_tensors(load_weights(runs[0]), load_weights(runs[1])) == set()
    assert changed_tensors(load_weights(runs[0]), load_weights(runs[2]))


# ---- rows


def test_a_file_a_table_and_its_compressed_file_train_the_same(table: Table, pretrained_run: Path, tmp_path: Path):
    rows = [{"text": row["text"], "label": row["label"]} for row in table.rows]
    found = []
    for name in ("rows.csv", "rows.jsonl.gz"):
        write_table(tmp_path / name, rows)
        run = finetune(
            str(tmp_path / name), from_=pretrained_run, out=tmp_path / f"run {name}", **TEXT_OPTIONS, **FAST_SETTINGS
        )
        found.append(load_weights(run))
    direct = finetune(table, from_=pretrained_run, out=tmp_path / "run", **TEXT_OPTIONS, **FAST_SETTINGS)
    assert all(changed_tensors(other, load_weights(direct)) == set() for other in found)


def test_duplicate_and_leaked_rows_are_removed_and_counted(table: Table, pretrained_run: Path, tmp_path: Path):
    repeated = replace(table, rows=[*table.rows, *table.rows[:3]])
    valid = replace(table, rows=table.rows[10:15])
    out = tmp_path / "run"
    data = read_results(
        finetune(repeated, from_=pretrained_run, out=out, valid=valid, **TEXT_OPTIONS, **FAST_SETTINGS)
    )["data"]
    assert (data["rows"], data["duplicates"], data["leaked"]) == (67, 3, 5)
    assert (data["train"], data["validation"]) == (59, 5)


def test_duplicate_rows_stay_without_deduplication(table: Table, pretrained_run: Path, tmp_path: Path):
    repeated = replace(table, rows=[*table.rows, *table.rows[:3]])
    settings = {"deduplicate": False, "valid_fraction": 0}
    data = read_results(
        finetune(repeated, from_=pretrained_run, out=tmp_path / "run", **settings, **TEXT_OPTIONS, **FAST_SETTINGS)
    )["data"]
    assert (data["train"], data["duplicates"]) == (67, 0)


def test_texts_that_are_too_long_are_truncated_and_counted(table: Table, pretrained_run: Path, tmp_path: Path):
    long = replace(
        table, rows=[{**row, "text": row["text"] * (1 + 9 * (i % 4 == 0))} for i, row in enumerate(table.rows)]
    )
    found = read_results(finetune(long, from_=pretrained_run, out=tmp_path / "run", **TEXT_OPTIONS, **FAST_SETTINGS))
    assert found["data"]["cut"] >= 0.25


# ---- settings


def test_recipe_paper_in_a_config_file_equals_the_flag(table: Table, pretrained_run: Path, tmp_path: Path):
    (tmp_path / "paper.yaml").write_text("recipe: paper\nepochs: 1\nprecision: fp32\n")
    given = {"recipe": "paper", "epochs": 1, "precision": "fp32"}
    by_file = finetune(
        table, from_=pretrained_run, out=tmp_path / "file", config=tmp_path / "paper.yaml", **TEXT_OPTIONS
    )
    by_flag = finetune(table, from_=pretrained_run, out=tmp_path / "flag", **given, **TEXT_OPTIONS)
    settings = [yaml.safe_load((run / "config.yaml").read_text()) for run in (by_file, by_flag)]
    assert settings[0] == settings[1]
    assert settings[0]["peak_lr"] == 6.25e-5


@pytest.mark.parametrize(("width", "rate"), [(768, 6.25e-5), (384, 1.25e-4), (128, 3.75e-4), (16, 3.75e-4)])
def test_narrow_models_have_a_larger_default_learning_rate(width: int, rate: float):
    """That of the weight matrices falls with the width, that of the token embedding is the same at every width."""
    found = model_dependent_defaults(width, {})
    assert found == {"peak_lr": pytest.approx(rate), "embedding_lr_factor": pytest.approx(3.75e-4 / rate)}
    scratch = model_dependent_defaults(width, {"from_scratch": True})
    assert scratch == {**found, "peak_lr": pytest.approx(rate * 8 / 3), "head_first": False}
    assert model_dependent_defaults(width, {"train": "last:1"}) == {"peak_lr": pytest.approx(rate)}
    assert model_dependent_defaults(width, {"recipe": "paper"}) == {}
    assert model_dependent_defaults(width, {"recipe": "paper", "from_scratch": True}) == {}


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_fine_tuning_keeps_the_dropout_of_pre_training_unless_there_are_few_rows(dropout: float):
    model = {"n_embd": 384, "dropout": dropout}
    assert resolve_finetune_settings(model, {}, 2000).dropout == dropout
    assert resolve_finetune_settings(model, {}, 1999).dropout == 0.1
    assert resolve_finetune_settings(model, {"dropout": 0.3}, 2000).dropout == 0.3
    assert resolve_finetune_settings(model, {"recipe": "paper"}, 2000).dropout == 0.1


@pytest.mark.parametrize(("width", "rate"), [(768, 2.5e-4), (384, 5e-4), (128, 3.75e-4)])
def test_classification_of_many_texts_has_a_larger_learning_rate(width: int, rate: float):
    def peak_lr(rows: int = 2000, dropout: float = 0.0, kind: str = "classification", **requested: Any) -> float:
        return resolve_finetune_settings({"n_embd": width, "dropout": dropout}, requested, rows, kind).peak_lr

    usual = pytest.approx(model_dependent_defaults(width, {})["peak_lr"])
    assert [peak_lr(), peak_lr(lm_coef=1.0), peak_lr(peak_lr=1e-5)] == [pytest.approx(rate)] * 2 + [1e-5]
    assert [peak_lr(lm_coef=0.1), peak_lr(1999), peak_lr(2000, 0.1), peak_lr(kind="similarity")] == [usual] * 4
    assert [peak_lr(train="last:1"), peak_lr(recipe="paper")] == [usual, 6.25e-5]


def test_small_tables_have_small_batches_and_enough_steps():
    for rows in (10, 100, 249, 250, 1000, 1999):
        found = table_dependent_defaults(rows, 0.0, {})
        assert found["epochs"] * steps_per_epoch(rows, found["batch_size"]) >= MIN_FINETUNING_STEPS
    assert [table_dependent_defaults(rows, 0.0, {})["epochs"] for rows in (500, 1999, 2000)] == [13, 8, 7]
    assert [table_dependent_defaults(rows, 0.0, {})["batch_size"] for rows in (249, 250, 2000)] == [8, 16, 32]
    assert table_dependent_defaults(100_000, 0.0, {}) == {
        "epochs": 3.0, "batch_size": 32, "dropout": 0.0, "head_first": False
    }  # fmt: skip
    assert [resolve_finetune_settings(TINY_SHAPE, {}, rows).head_first for rows in (1999, 2000)] == [True, False]
    assert resolve_finetune_settings(TINY_SHAPE, {"head_first": True}, 2000).head_first
    for settings in ({"recipe": "paper"}, {"train": "head"}):
        assert table_dependent_defaults(100, 0.0, settings) == {}
    own = resolve_finetune_settings(TINY_SHAPE, {"epochs": 2.0, "batch_size": 4}, rows=100)
    assert (own.epochs, own.batch_size) == (2.0, 4)
    larger = resolve_finetune_settings(TINY_SHAPE, {"batch_size": 50}, rows=100)
    assert larger.epochs == MIN_FINETUNING_STEPS / 2


def test_a_run_on_a_small_table_stores_its_epochs_and_evaluates_at_most_twenty_times(
    table: Table, pretrained_run: Path, tmp_path: Path
):
    progress, few = LoggedLines(), replace(table, rows=table.rows[:40])
    run = finetune(few, from_=pretrained_run, out=tmp_path / "run", valid=table, precision="fp32", progress=progress,
                   deduplicate=False, **TEXT_OPTIONS)  # fmt: skip
    settings = yaml.safe_load((run / "config.yaml").read_text())
    assert (settings["batch_size"], settings["epochs"]) == (8, MIN_FINETUNING_STEPS / 5)
    history = read_results(run)["history"]
    assert 10 <= len(history) <= 20
    assert history[-1]["epoch"] == settings["epochs"]


def test_head_only_in_a_config_file_uses_the_head_only_defaults(table: Table, pretrained_run: Path, tmp_path: Path):
    (tmp_path / "head.yaml").write_text("train: head\n")
    run = finetune(table, from_=pretrained_run, out=tmp_path / "run", config=tmp_path / "head.yaml", **TEXT_OPTIONS)
    assert yaml.safe_load((run / "config.yaml").read_text())["lm_coef"] == 0


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"train": "head", "lm_coef": 0.5}, 'lm_coef=0.5 has no effect with train="head"'),
        ({"recipe": "paper", "long": "windows"}, 'long="windows" with cut="shares"'),
        ({"long": "middle"}, 'long="middle" is not a valid choice'),
        ({"train": "last:3"}, 'train="last:3" is not a valid choice'),
        ({"train": "last:0"}, "is not a valid choice"),
        ({"valid": "other.csv", "valid_fraction": 0.2}, "valid_fraction= has no effect with valid="),
        ({"transfer_layers": 3}, "the model has 2 blocks"),
        ({"kind": "clasification"}, "Did you mean classification"),
        ({"kind": "entailment"}, "entailment does not accept text="),
        ({"text": "txt"}, "no column 'txt'"),
        ({"label": "lable"}, "no column 'lable'"),
        ({"label": "answers"}, "rows.jsonl, row 1: .* is not a label"),
        ({"kind": "regression"}, "rows.jsonl, row 1: 'yes' is not a finite number"),
        ({"score": True}, 'score=True requires kind="similarity"'),
        ({"lm_coeff": 0.5}, "Did you mean lm_coef"),
        ({"epochs": -1}, "epochs=-1"),
        ({"device": "abacus"}, 'device="abacus" is not a valid device'),
    ],
)
def test_invalid_settings_are_an_error_and_leave_nothing(
    table: Table, pretrained_run: Path, tmp_path: Path, settings: dict[str, Any], problem: str
):
    with pytest.raises(UserError, match=problem):
        finetune(table, from_=pretrained_run, out=tmp_path / "run", **{**TEXT_OPTIONS, **settings})
    assert not (tmp_path / "run").exists()


def test_rows_of_one_label_are_refused(table: Table, pretrained_run: Path, tmp_path: Path):
    same = replace(table, rows=[{**row, "label": "yes"} for row in table.rows])
    with pytest.raises(UserError, match=r"same label \('yes'\)"):
        finetune(same, from_=pretrained_run, out=tmp_path / "run", **TEXT_OPTIONS)
    assert not (tmp_path / "run").exists()


def test_a_validation_label_that_training_has_not_is_refused_with_its_row(
    table: Table, pretrained_run: Path, tmp_path: Path
):
    valid = replace(table, name="valid.csv", rows=[table.rows[0], {**table.rows[1], "label": "perhaps"}])
    with pytest.raises(UserError, match=r"valid.csv, row 2: unknown label 'perhaps'"):
        finetune(table, from_=pretrained_run, out=tmp_path / "run", valid=valid, **TEXT_OPTIONS)
    assert not (tmp_path / "run").exists()


def test_a_label_that_training_loses_to_the_validation_rows_is_refused_before_anything_is_written(
    shared_data: Path, pretrained_run: Path, tmp_path: Path
):
    case = shared_data / "cases" / "03-valid-takes-a-label-away"
    options = {**TEXT_OPTIONS, **FAST_SETTINGS, "from_": pretrained_run, "valid": case / "valid.csv"}
    with pytest.raises(UserError, match=r"valid.csv, line 2: unknown label 'z'.* also in .*valid.csv"):
        finetune(case / "train.csv", out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
    run = finetune(case / "train.csv", out=tmp_path / "run", deduplicate=False, **options)
    assert read_results(run)["labels"] == ["x", "y", "z"]
