"""Fine-tuning on rows longer than the context: training, prediction, saving and resuming with each `--long`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finetune_helpers import (
    FAST_SETTINGS,
    KIND_OPTIONS,
    TEXT_OPTIONS,
    changed_tensors,
    copy_until_checkpoint,
    load_head,
    load_weights,
    read_results,
)
from torch import Tensor

from gpt1.inference.evaluate import evaluate
from gpt1.inference.predictor import load_task_predictor
from gpt1.model.gpt import GPT
from gpt1.tables.table import Table
from gpt1.training import finetune_setup
from gpt1.training.finetune import finetune

pytestmark = pytest.mark.usefixtures("no_reports")


@pytest.fixture(scope="module")
def long_rows(table: Table) -> Table:
    """Every fourth text needs several windows."""
    rows = [{**row, "text": " ".join([row["text"]] * (1 + 4 * (i % 4 == 0)))} for i, row in enumerate(table.rows)]
    return replace(table, rows=rows)


@pytest.mark.parametrize("long", ["head-tail", "windows"])
@pytest.mark.parametrize("name", KIND_OPTIONS)
def test_every_kind_trains_and_predicts_with_the_saved_long_option(
    name: str, long: str, long_rows: Table, pretrained_run: Path, tmp_path: Path
):
    run = finetune(
        long_rows, from_=pretrained_run, out=tmp_path / "run", long=long, **KIND_OPTIONS[name], **FAST_SETTINGS
    )
    assert json.loads((run / "model" / "task.json").read_text())["long"] == long
    data = read_results(run)["data"]
    share = data["cut" if long == "head-tail" else "read_in_windows"]
    assert share >= 0.25
    assert long == "head-tail" or data["cut"] == 0
    model = load_task_predictor(run)
    model.predict(long_rows.rows)
    (example,) = model.encode(model.read_rows(long_rows.rows[:1]))
    assert (example.windows > 1) == (long == "windows")
    assert evaluate(run, long_rows)["metrics"]


@pytest.mark.parametrize("train", ["all", "head"])
def test_a_resumed_run_with_windows_is_bitwise_identical(
    train: str, long_rows: Table, pretrained_run: Path, tmp_path: Path
):
    settings = {
        **TEXT_OPTIONS,
        **FAST_SETTINGS,
        "epochs": 3,
        "long": "windows",
        "train": train,
        "checkpoint_every": 1,
        "keep": 99,
    }
    whole = finetune(long_rows, from_=pretrained_run, out=tmp_path / "whole", **settings)
    for step in (2, 5):
        run = copy_until_checkpoint(step, whole, tmp_path / f"from {step}")
        finetune(long_rows, from_=pretrained_run, out=run, resume=True, baselines=False, **TEXT_OPTIONS)
        assert changed_tensors(load_weights(run), load_weights(whole)) == set()
        assert all(torch.equal(tensor, load_head(whole)[name]) for name, tensor in load_head(run).items())
        assert read_results(run) == read_results(whole)


def test_training_sees_one_window_per_epoch_and_finally_all(
    long_rows: Table, pretrained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    trained_on: set[tuple[int, ...]] = set()
    hidden_states = GPT.hidden_states

    def record_sequences(self: GPT, ids: Tensor, kv_cache: Any = None, packing: Any = None) -> Tensor:
        sequences = torch.split(ids, packing.lengths.tolist())
        trained_on.update(tuple(sequence.tolist()) for sequence in sequences if self.training)
        return hidden_states(self, ids, kv_cache=kv_cache, packing=packing)

    monkeypatch.setattr(GPT, "hidden_states", record_sequences)
    rows = replace(long_rows, rows=[long_rows.rows[0], {**long_rows.rows[0], "label": "no"}])
    settings = {**TEXT_OPTIONS, **FAST_SETTINGS, "valid_fraction": 0, "deduplicate": False, "long": "windows"}
    run = finetune(rows, from_=pretrained_run, out=tmp_path / "run", **{**settings, "epochs": 20})
    model = load_task_predictor(run)
    (example, _) = model.encode(model.read_rows(rows.rows))
    assert 1 < example.windows < 20
    assert trained_on == {tuple(sequence) for sequence in example.sequences}


def test_head_only_training_on_windows_equals_training_with_a_frozen_backbone(
    long_rows: Table, pretrained_run: Path, tmp_path: Path
):
    settings = {
        **TEXT_OPTIONS,
        **FAST_SETTINGS,
        "epochs": 2,
        "dropout": 0,
        "head_dropout": 0,
        "lm_coef": 0,
        "optimizer": "sgd",
    }
    shared = {"peak_lr": 1e-2, "warmup": 0, "weight_decay": 0, "clip_norm": 0, "long": "windows"}
    features = finetune(long_rows, from_=pretrained_run, out=tmp_path / "head", train="head", **settings, **shared)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune_setup, "freeze", lambda model, train: model.gpt.requires_grad_(False))
        through = finetune(
            long_rows, from_=pretrained_run, out=tmp_path / "all", head_first=False, **settings, **shared
        )
    for name, value in load_head(features).items():
        torch.testing.assert_close(value, load_head(through)[name], rtol=0, atol=1e-5)
    ours, theirs = (read_results(run)["validation"]["metrics"]["loss"] for run in (features, through))
    assert ours == pytest.approx(theirs, abs=1e-5)
