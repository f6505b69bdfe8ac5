"""A model that is fine-tuned already: its output layer is replaced or kept."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetune_helpers import (
    FAST_SETTINGS,
    KIND_OPTIONS,
    TEXT_OPTIONS,
    load_head,
)
from logged_lines import LoggedLines

from gpt1.errors import UserError
from gpt1.inference.predictor import load_task_predictor
from gpt1.tables.table import Table
from gpt1.training.finetune import (
    finetune,
)

pytestmark = pytest.mark.usefixtures("no_reports")


@pytest.fixture(scope="module")
def finetuned_run(table: Table, pretrained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tuned") / "run"
    return finetune(table, from_=pretrained_run, out=out, **TEXT_OPTIONS, **FAST_SETTINGS)


def test_the_head_of_a_finetuned_model_is_kept_or_replaced_with_a_message(
    finetuned_run: Path, table: Table, tmp_path: Path
):
    stay = {**FAST_SETTINGS, **TEXT_OPTIONS, "peak_lr": 0}
    progress = LoggedLines()
    new = finetune(table, from_=finetuned_run, out=tmp_path / "new", progress=progress, **stay)
    assert any("a new output layer replaces its own" in x and "use --keep-head to keep it" in x for x in progress.lines)
    kept = finetune(table, from_=finetuned_run, out=tmp_path / "kept", keep_head=True, **stay)
    before = load_head(finetuned_run)
    assert not torch.equal(load_head(new)["linear.weight"], before["linear.weight"])
    assert all(torch.equal(load_head(kept)[name], value) for name, value in before.items())
    rows = table.rows[:5]
    logits = [(model := load_task_predictor(run)).logits(model.read_rows(rows)) for run in (finetuned_run, kept)]
    torch.testing.assert_close(logits[0], logits[1])


@pytest.mark.parametrize(
    ("name", "settings", "problem"),
    [
        ("regression", {}, "the rows have numbers"),
        ("entailment", {}, "was fine-tuned for classification, not entailment"),
        ("classification", {"label": "other"}, "the rows have the labels"),
        ("classification", {"from_scratch": True}, "keep_head=True with from_scratch=True"),
    ],
)
def test_a_head_that_does_not_fit_cannot_be_kept(
    name: str, settings: dict[str, Any], problem: str, finetuned_run: Path, table: Table, tmp_path: Path
):
    options = {**KIND_OPTIONS[name], **FAST_SETTINGS, **settings}
    with pytest.raises(UserError, match=f"keep_head=True.*{problem}|{problem}"):
        finetune(table, from_=finetuned_run, out=tmp_path / "run", keep_head=True, **options)
    assert not (tmp_path / "run").exists()


def several_labels(separator: str, share: float, names: str = "abc") -> Table:
    """Rows with random labels, each of them in this share of the rows."""
    drawn = random.Random(0)
    rows = [
        {"text": f"text {i} of {drawn.random()}", "label": separator.join(n for n in names if drawn.random() < share)}
        for i in range(60)
    ]
    return Table("rows", ["text", "label"], rows)


def test_a_kept_head_of_several_labels_gets_thresholds_and_separator_of_the_new_rows(
    pretrained_run: Path, tmp_path: Path
):
    how = {**FAST_SETTINGS, "kind": "multilabel", "text": "text", "label": "label", "valid_fraction": 0.3}
    rare, frequent = several_labels("|", 0.1), several_labels(";", 0.9)
    first = finetune(rare, from_=pretrained_run, out=tmp_path / "first", **how)
    kept = finetune(frequent, from_=first, out=tmp_path / "kept", keep_head=True, peak_lr=0, **how)
    progress = LoggedLines()
    finetune(frequent, from_=first, out=tmp_path / "new", progress=progress, **how)
    assert any("same labels: use --keep-head to keep it" in line for line in progress.lines)
    earlier, target = load_task_predictor(first).target, load_task_predictor(kept).target
    assert target.labels == earlier.labels == ("a", "b", "c")
    assert target.separator == ";"
    assert target.thresholds
    assert target.thresholds != earlier.thresholds
    assert np.mean([len(row["prediction"]) for row in load_task_predictor(kept).predict(frequent.rows)]) > 2
    with pytest.raises(UserError, match="the rows have the labels b, c, d, the model was fine-tuned for the labels a"):
        finetune(several_labels("|", 0.5, "bcd"), from_=first, out=tmp_path / "r", keep_head=True, **how)


def test_a_pretrained_model_has_no_head_to_keep(table: Table, pretrained_run: Path, tmp_path: Path):
    with pytest.raises(UserError, match="has no output layer"):
        finetune(table, from_=pretrained_run, out=tmp_path / "run", keep_head=True, **TEXT_OPTIONS)
    assert not (tmp_path / "run").exists()
