"""A run is resumed with only its folder: inputs and settings that are not repeated are those of the run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from finetune_helpers import FAST_SETTINGS, copy_until_checkpoint, load_weights, read_metrics, read_results

from gpt1.errors import UserError
from gpt1.tables.table import Table, write_table
from gpt1.training.finetune import finetune
from gpt1.training.pretrain import pretrain

pytestmark = pytest.mark.usefixtures("no_reports")

EVERY_STEP = {"checkpoint_every": 1, "keep": 99}


@pytest.fixture(scope="module")
def rows(table: Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "pairs.csv"
    columns = ("text", "other", "label", "stars")
    write_table(path, [{name: row[name] for name in columns} for row in table.rows])
    return path


@pytest.fixture(scope="module")
def whole_run(rows: Path, pretrained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Similarity with scores, an own validation file and a label column that is not the default."""
    valid = rows.parent / "valid.csv"
    shutil.copy(rows, valid)
    settings = {**FAST_SETTINGS, "baselines": True, **EVERY_STEP, "text_a": "text", "text_b": "other", "label": "stars"}
    out = tmp_path_factory.mktemp("runs") / "whole"
    settings |= {"deduplicate": False, "kind": "similarity", "score": True}
    return finetune(rows, from_=pretrained_run, out=out, valid=valid, **settings)


def assert_same_run(found: Path, expected: Path) -> None:
    ours, theirs = load_weights(found), load_weights(expected)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert read_metrics(found) == read_metrics(expected)
    assert read_results(found) == read_results(expected)


@pytest.mark.parametrize("given", [{}, {"label": "stars"}, {"kind": "similarity"}, {"text_a": "text", "score": True}])
def test_fine_tuning_resumes_with_only_its_folder_or_with_any_part_of_its_command(
    given: dict[str, Any], whole_run: Path, tmp_path: Path
):
    run = copy_until_checkpoint(2, whole_run, tmp_path / "run")
    assert_same_run(finetune(out=run, resume=True, **given), whole_run)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"label": "label"}, "was started with columns"),
        ({"text_a": "other"}, "was started with columns text_a = text, .*, not text_a = other"),
        ({"kind": "entailment"}, 'was started with kind="similarity", not entailment'),
        ({"valid": "others.csv"}, "was started with valid="),
    ],
)
def test_repeated_inputs_and_settings_must_be_the_same(
    given: dict[str, Any], problem: str, whole_run: Path, tmp_path: Path
):
    run = copy_until_checkpoint(2, whole_run, tmp_path / "run")
    with pytest.raises(UserError, match=problem):
        finetune(out=run, resume=True, **given)


def test_the_default_label_column_may_be_named_or_not(rows: Path, pretrained_run: Path, tmp_path: Path):
    command: dict[str, Any] = {"kind": "classification", "text": "text"}
    named: dict[str, Any] = {**command, "label": "label"}
    for i, (started, resumed) in enumerate(((command, named), (named, command))):
        out = tmp_path / str(i)
        finetune(rows, from_=pretrained_run, out=out, **started, **FAST_SETTINGS, **EVERY_STEP)
        run = copy_until_checkpoint(1, out, tmp_path / f"{i} resumed")
        assert_same_run(finetune(rows, from_=pretrained_run, out=run, resume=True, baselines=False, **resumed), out)


def test_pre_training_resumes_with_only_its_folder(
    corpus: Path, pretrained_run: Path, tiny_pretrain_settings: dict[str, Any], tmp_path: Path
):
    settings = {name: tiny_pretrain_settings[name] for name in ("batch_size", "precision", "device", "eval_windows")}
    inputs = {"from_": pretrained_run, "valid": corpus}
    run = pretrain(corpus, out=tmp_path / "run", **inputs, steps=4, peak_lr=1e-3, **settings, **EVERY_STEP)
    stopped = copy_until_checkpoint(2, run, tmp_path / "stopped")
    assert_same_run(pretrain(out=stopped, resume=True), run)


def test_a_new_run_needs_its_inputs(corpus: Path, pretrained_run: Path, tmp_path: Path):
    with pytest.raises(UserError, match="the corpus is missing"):
        pretrain(out=tmp_path / "run")
    with pytest.raises(UserError, match="the table of training rows is missing"):
        finetune(out=tmp_path / "run", from_=pretrained_run)
    with pytest.raises(UserError, match="from_= is missing"):
        finetune("rows.csv", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("missing", ["train", "valid"])
def test_a_run_of_rows_in_memory_resumes_only_with_the_same_rows(
    missing: str, table: Table, pretrained_run: Path, tmp_path: Path
):
    rows = {"train_on": table.rows, "valid": [{**row, "text": f"{row['text']}!"} for row in table.rows[:20]]}
    settings = {**FAST_SETTINGS, **EVERY_STEP, "kind": "classification", "text": "text"}
    whole = finetune(**rows, from_=pretrained_run, out=tmp_path / "whole", **settings)
    run = copy_until_checkpoint(2, whole, tmp_path / "run")
    others = {name: value for name, value in rows.items() if not name.startswith(missing)}
    with pytest.raises(UserError, match=r"rows in memory \(the rows\), which it does not store") as refused:
        finetune(**others, out=run, resume=True)
    assert "Resume it in Python with the same" in refused.value.fix
    assert_same_run(finetune(**rows, out=run, resume=True, baselines=False), whole)
