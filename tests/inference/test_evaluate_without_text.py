"""Rows without text have no prediction: `evaluate` counts them as mistakes, whatever their label."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from logged_lines import LoggedLines
from report_runs import PageParser

from gpt1.inference.evaluate import evaluate, prediction_records
from gpt1.inference.predictor import load_task_predictor
from gpt1.inference.task import save_task
from gpt1.tables.table import Table
from gpt1.tasks.examples import read_examples
from gpt1.tasks.multilabel import MultiLabel

COUNTED = "no text, so no prediction; counted as"


@pytest.mark.parametrize("label", ["no", "yes"])
def test_a_row_without_text_is_a_mistake_whatever_its_label(label: str, write_model: Any, table: Table, tmp_path: Path):
    progress, page = LoggedLines(), tmp_path / "test.html"
    empty = [{**table.rows[0], "text": " ", "label": label}] * 4
    known = evaluate(write_model("classification"), table)
    found = evaluate(
        write_model("classification"), replace(table, rows=[*empty, *table.rows]), report=page, progress=progress
    )
    assert found["metrics"]["accuracy"] == pytest.approx(known["metrics"]["accuracy"] * 64 / 68)
    assert found["calibration"]["ece_after"] == known["calibration"]["ece_after"]
    assert any(line == f"4 rows have {COUNTED} wrong" for line in progress.lines)
    assert "Rows without text, which have no prediction, are left out: 4." in PageParser(page).text
    alone = evaluate(write_model("classification"), replace(table, rows=empty))
    assert {name: alone["metrics"][name] for name in ("accuracy", "f1", "matthews")} == dict.fromkeys(
        ("accuracy", "f1", "matthews"), 0.0
    )
    assert alone["interval"]["f1"] == [0, 0]


@pytest.mark.parametrize("right", [0, 1])
def test_a_question_without_text_is_a_mistake_whatever_its_answer(right: int, write_model: Any, table: Table):
    empty = [{**table.rows[0], "text": "", "answers": ["", ""], "right": right}] * 3
    found = evaluate(write_model("choice"), replace(table, rows=empty))
    assert found["metrics"]["accuracy"] == 0
    assert "calibration" not in found


def test_no_label_is_predicted_for_a_row_without_text_of_several_labels(write_model: Any, table: Table, tmp_path: Path):
    model, progress = load_task_predictor(write_model("classification")), LoggedLines()
    target = MultiLabel(("no", "yes"), "|")
    save_task(tmp_path, model.task_model, model.tokenizer, {**model.task, "kind": "multilabel"}, target)
    rows = [{"text": "", "label": "yes"}, {"text": "", "label": "no|yes"}, {"text": " ", "label": ""}]
    found = evaluate(tmp_path, Table("rows", ["text", "label"], rows), baselines=False, progress=progress)
    assert found["metrics"]["f1_micro"] == 0
    assert found["metrics"]["accuracy"] == pytest.approx(1 / 3)  # no label is right where there is none
    assert any(line == f"3 rows have {COUNTED} the prediction of no label" for line in progress.lines)


@pytest.mark.parametrize(("name", "score"), [("regression", 2.0), ("similarity", 2.5)])
def test_the_number_that_a_row_without_text_counts_as_is_logged(
    name: str, score: float, write_model: Any, table: Table
):
    progress = LoggedLines()
    rows = [{**table.rows[0], "text": "", "other": "", "stars": score + 1}]
    found = evaluate(write_model(name), replace(table, rows=rows), progress=progress)
    assert found["metrics"]["mae"] == pytest.approx(1)
    assert any(line == f"1 row has {COUNTED} the score {score:g}" for line in progress.lines)


def test_the_record_of_a_row_without_text_has_no_label_as_its_prediction(write_model: Any):
    model = load_task_predictor(write_model("classification"))
    columns = {"text": "text", "label": "label"}
    examples = read_examples([{"text": "", "label": "no"}, {"text": "a film", "label": "no"}], model.kind, columns, str)
    empty, full = prediction_records(model, examples, model.logits(examples))
    assert (empty["prediction"], empty["probabilities"]) == ("", {"no": 0.5, "yes": 0.5})
    assert full["prediction"] in model.labels
