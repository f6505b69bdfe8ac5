"""A time limit becomes a number of epochs before the run, which then is a run like any other."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import polars as pl
import pytest
import torch
from finetune_helpers import FAST_SETTINGS, TEXT_OPTIONS, load_weights, read_results
from logged_lines import LoggedLines

from gpt1 import evaluate
from gpt1.config import FinetuneConfig
from gpt1.errors import UserError
from gpt1.runs.folder import read_run_config
from gpt1.tables.table import Table
from gpt1.training import time_limit
from gpt1.training.finetune import finetune

pytestmark = pytest.mark.usefixtures("no_reports")

SETTINGS: dict[str, Any] = {**TEXT_OPTIONS, **FAST_SETTINGS}


def test_the_run_is_the_one_with_the_planned_number_of_epochs(
    table: Table, pretrained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(time_limit, "measure_step", lambda *_: 2.0)  # 4 steps an epoch
    how = {name: value for name, value in SETTINGS.items() if name != "epochs"}
    run = finetune(table, from_=pretrained_run, out=tmp_path / "limited", time_limit=1, **how)
    epochs = read_run_config(run)["epochs"]
    assert 1 <= epochs <= 6  # 60 s, less what is spent and reserved, at 8 s an epoch and its evaluation
    assert epochs == int(epochs)
    plain = finetune(table, from_=pretrained_run, out=tmp_path / "plain", **{**how, "epochs": epochs})
    first, second = load_weights(run), load_weights(plain)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert finetune(table, from_=pretrained_run, out=run, resume=True, time_limit=1, **how) == run


def test_the_fit_of_the_head_is_shown_once(table: Table, pretrained_run: Path, tmp_path: Path):
    how = {name: value for name, value in SETTINGS.items() if name not in ("epochs", "head_first", "cache_features")}
    messages = LoggedLines()
    finetune(table, from_=pretrained_run, out=tmp_path / "run", time_limit=0.001, progress=messages, **how)
    lines = [line for line in messages.lines if line.startswith(("head: ", "features of "))]
    assert lines
    assert len(lines) == len(set(lines))


@pytest.mark.parametrize("train", ["all", "head"])
def test_a_limit_that_is_too_short_still_trains_a_step(table: Table, pretrained_run: Path, tmp_path: Path, train: str):
    how = {name: value for name, value in SETTINGS.items() if name != "epochs"}
    messages = LoggedLines()
    run = finetune(
        table, from_=pretrained_run, out=tmp_path / "run", time_limit=1e-6, train=train, progress=messages, **how
    )
    (warning,) = (line for line in messages.lines if "time limit" in line)
    assert warning.startswith("warning: time limit 1e-06 min: only 25% of an epoch, 1 step (an epoch takes about ")
    assert "; one fits with --time-limit 1" in warning
    assert read_run_config(run)["epochs"] == 0.25
    assert read_results(run)["history"][-1]["step"] == 1


@pytest.mark.parametrize(
    ("rows", "seconds", "spent", "epochs", "message"),
    [
        (40, 1.0, 0, 1.0, "time limit 0.1 min: 1 epoch (an epoch takes about 5.0 s)"),
        (40, 1.2, 0, 1.0, "time limit 0.1 min: 1 epoch (an epoch takes about 6.0 s)"),  # 4.5 of 5 steps fit
        (
            40,
            3.0,
            2,
            0.24,
            "warning: time limit 0.1 min: only 24% of an epoch, 2 steps (an epoch takes about 15 s, the ",
        ),
        (
            8,
            9.0,
            2,
            1.0,
            "warning: time limit 0.1 min is too short: 1 epoch is trained (an epoch takes about 9.0 s, the ",
        ),
    ],
)
def test_the_message_of_a_time_limit_does_not_contradict_the_run(
    rows: int, seconds: float, spent: float, epochs: float, message: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(time_limit, "measure_step", lambda *_: seconds)
    monkeypatch.setattr(time_limit, "time", SimpleNamespace(monotonic=lambda: 100.0))
    log, cfg = LoggedLines(), FinetuneConfig(batch_size=8)
    stage: Any = SimpleNamespace(evaluate=lambda: None)
    planned = time_limit.plan_epochs(stage, cfg, rows, 0.1, 100.0 - spent, log)
    assert planned.epochs == pytest.approx(epochs)
    assert log.lines[0].startswith(message)
    assert ("; one fits with --time-limit 1" in log.lines[0]) == ("warning" in message)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"time_limit": 0.0}, "time_limit=0"),
        ({"time_limit": 1, "epochs": 2}, "sets the number of epochs"),
        ({"time_limit": 1, "epochs": "3"}, r"Omit epochs= \(now 3\)"),  # as a flag
    ],
)
def test_a_limit_that_cannot_be_kept_is_an_error(
    table: Table, pretrained_run: Path, tmp_path: Path, options: dict[str, Any], problem: str
):
    how = {name: value for name, value in SETTINGS.items() if name != "epochs"}
    with pytest.raises(UserError, match=problem):
        finetune(table, from_=pretrained_run, out=tmp_path / "run", **how, **options)
    assert not (tmp_path / "run").exists()


def test_a_limit_and_a_number_of_epochs_in_the_file_of_settings_contradict_each_other(
    table: Table, pretrained_run: Path, tmp_path: Path
):
    (tmp_path / "own.yaml").write_text("epochs: 7\n")
    with pytest.raises(UserError, match="sets the number of epochs"):
        finetune(table, from_=pretrained_run, out=tmp_path / "run", time_limit=1, config=tmp_path / "own.yaml")


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, list], ids=["pandas", "polars", "rows"])
def test_a_frame_trains_the_same_model_as_its_table(table: Table, pretrained_run: Path, tmp_path: Path, make: Any):
    rows = [{"text": row["text"], "label": row["label"]} for row in table.rows]
    run = finetune(make(rows), from_=pretrained_run, out=tmp_path / "frame", **SETTINGS)
    other = finetune(Table("t", ["text", "label"], rows), from_=pretrained_run, out=tmp_path / "table", **SETTINGS)
    first, second = load_weights(run), load_weights(other)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert finetune(make(rows), from_=pretrained_run, out=run, resume=True, **SETTINGS) == run
    assert evaluate(run, make(rows)) == evaluate(run, Table("t", ["text", "label"], rows))


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (pd.DataFrame({"texts": ["a", "b"], "label": ["x", "y"]}), "the DataFrame has no column 'text'"),
        (pd.DataFrame([["a", "b", "x"]], columns=["text", "text", "label"]), "two columns named 'text'"),
        (pd.DataFrame({"text": ["a", None], "label": ["x", "y"]}), "column 'text': the text is missing"),
        (pl.DataFrame({"text": ["a", "b"], "label": ["x", None]}), "the DataFrame, position 1: the label is empty"),
        (pd.Series(["a"]), "a Series has no columns"),
    ],
)
def test_a_frame_that_cannot_be_trained_on_is_an_error(rows: Any, problem: str, pretrained_run: Path, tmp_path: Path):
    with pytest.raises(UserError, match=problem):
        finetune(rows, from_=pretrained_run, out=tmp_path / "run", **SETTINGS)
    assert not (tmp_path / "run").exists()
