"""Metrics on labeled rows match those computed from the predictions."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from logged_lines import LoggedLines
from task_models import TABLE_TASKS
from torch import nn

from gpt1.console import print_metrics
from gpt1.errors import UserError
from gpt1.experiments.zeroshot.heuristics import zeroshot
from gpt1.formatting import format_number
from gpt1.inference.evaluate import compute_metrics, evaluate, fit_calibration, predict
from gpt1.inference.predict import predict_into
from gpt1.inference.predictor import load_task_predictor
from gpt1.inference.task import save_task
from gpt1.tables.table import Table, write_table
from gpt1.tasks.baselines import trivial_answer
from gpt1.tasks.metrics import calibration
from gpt1.tasks.targets import Classes, StandardizedNumber


@pytest.mark.parametrize("name", ["classification", "choice"])
def test_accuracy_and_loss_match_the_calibrated_predictions(name: str, write_model: Any, table: Table):
    found = evaluate(write_model(name), table)
    predictions = load_task_predictor(write_model(name)).predict(table.rows)
    gold = [row["label" if name == "classification" else "right"] for row in table.rows]
    right = [row["prediction"] == label for row, label in zip(predictions, gold, strict=True)]
    surprise = [-math.log(row[f"probability_{label}"]) for row, label in zip(predictions, gold, strict=True)]
    assert found["rows"] == 64
    assert found["metrics"]["accuracy"] == np.mean(right)
    assert found["metrics"]["loss"] == pytest.approx(np.mean(surprise), abs=1e-4)
    low, high = found["interval"]["accuracy"]
    assert low <= found["metrics"]["accuracy"] <= high


@pytest.mark.parametrize("name", ["similarity", "regression"])
def test_correlations_match_the_predicted_scores(name: str, write_model: Any, table: Table):
    found = evaluate(write_model(name), table)
    scores = [row["score"] for row in load_task_predictor(write_model(name)).predict(table.rows)]
    stars = [row["stars"] for row in table.rows]
    assert found["metrics"]["pearson"] == pytest.approx(np.corrcoef(scores, stars)[0, 1], abs=1e-4)
    assert found["metrics"]["mae"] == pytest.approx(np.mean(np.abs(np.subtract(scores, stars))), abs=1e-4)
    assert set(found["metrics"]) == {"pearson", "spearman", "rmse", "mae", "loss"}
    assert found["spread"] == pytest.approx(np.std(scores) / np.std(stars), abs=1e-4)


def test_numbers_are_read_as_in_the_training_rows(write_model: Any, table: Table, tmp_path: Path):
    model = load_task_predictor(write_model("regression"))
    save_task(tmp_path, model.task_model, model.tokenizer, model.task, replace(model.target, decimal=","))
    thousands = replace(table, rows=[{**row, "stars": 1000 + round(row["stars"])} for row in table.rows])
    written = replace(table, rows=[{**row, "stars": f"1.00{round(row['stars'])}"} for row in table.rows])
    assert evaluate(tmp_path, written)["metrics"] == evaluate(tmp_path, thousands)["metrics"]


def test_a_file_and_its_table_have_the_same_metrics(write_model: Any, table: Table, tmp_path: Path):
    rows = [{"text": row["text"], "label": row["label"]} for row in table.rows]
    write_table(tmp_path / "rows.csv", rows)
    assert evaluate(write_model("classification"), tmp_path / "rows.csv") == evaluate(
        write_model("classification"), table
    )


def test_truncated_texts_are_counted(write_model: Any, table: Table):
    long = replace(table, rows=[{**row, "text": "very long " * 50} for row in table.rows[:4]] + table.rows[4:])
    assert (
        evaluate(write_model("classification"), long)["cut"] - evaluate(write_model("classification"), table)["cut"]
        == 4
    )


def test_windowed_texts_are_counted_and_not_as_truncated(write_model: Any, table: Table, tmp_path: Path):
    model = load_task_predictor(write_model("classification"))
    save_task(tmp_path, model.task_model, model.tokenizer, {**model.task, "long": "windows"}, model.target)
    long = replace(table, rows=[{**row, "text": "very long " * 50} for row in table.rows[:4]] + table.rows[4:])
    found, short = evaluate(tmp_path, long), evaluate(tmp_path, table)
    assert (found["cut"], short["cut"]) == (0, 0)
    assert found["read_in_windows"] - short["read_in_windows"] == 4


def test_the_calibration_error_is_reported_with_and_without_the_temperature(write_model: Any, table: Table):
    model, progress = load_task_predictor(write_model("classification")), LoggedLines()
    found = evaluate(write_model("classification"), table, progress=progress)["calibration"]
    logits = model.logits(model.read_rows(table.rows)).double()
    gold = np.array([model.labels.index(row["label"]) for row in table.rows])
    for name, temperature in (("ece_before", 1.0), ("ece_after", 2.5)):
        expected = calibration((logits / temperature).softmax(-1).numpy(), gold)["ece"]
        assert found[name] == pytest.approx(expected, abs=1e-6)
    assert found["temperature"] == 2.5
    assert any("temperature 2.5" in line and f"{found['ece_after']:.3f}" in line for line in progress.lines)
    assert "calibration" not in evaluate(write_model("regression"), table)


# ---- known data sets


def test_a_folder_of_the_same_name_does_not_hide_a_data_set(
    write_model: Any, race_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "race").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path)
    assert evaluate(write_model("choice"), "race", data_dir=race_folder)["rows"] == 6
    (tmp_path / "runs").mkdir()
    with pytest.raises(UserError, match="runs is a folder, not a table"):
        evaluate(write_model("choice"), "runs")


def test_a_split_without_public_labels_is_an_error_of_zeroshot(pretrained_run: Path, tmp_path: Path):
    (tmp_path / "test.tsv").write_text("index\tsentence\n0\tgood\n")
    with pytest.raises(UserError, match="sst2:test has no public labels"):
        zeroshot("sst2:test", run=pretrained_run, data_dir=tmp_path)


# ---- subsets


@pytest.fixture
def race_folder(tmp_path: Path) -> Path:
    """A folder like RACE's: two passages of middle schools, one of high schools, two questions each."""
    for level, n in (("middle", 1), ("middle", 2), ("high", 1)):
        passage = {
            "id": f"{level}{n}.txt",
            "article": f"A passage of {level} schools with the number {n}.",
            "questions": ["What is it?", f"Which number has it, {level}?"],
            "options": [["A text.", "A fish.", "A house.", "Nothing."], ["1", "2", "3", "4"]],
            "answers": ["A", "ABCD"[n]],
        }
        file = tmp_path / "RACE" / "test" / level / f"{n}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(passage))
    return tmp_path


def test_each_subset_of_a_data_set_has_the_metrics_that_it_has_alone(write_model: Any, race_folder: Path):
    found = evaluate(write_model("choice"), "race", data_dir=race_folder)
    assert {name: part["rows"] for name, part in found["subsets"].items()} == {"middle": 4, "high": 2}
    for name, part in found["subsets"].items():
        alone = evaluate(write_model("choice"), f"race:test-{name}", data_dir=race_folder)
        assert "subsets" not in alone
        assert part["metrics"] == pytest.approx(alone["metrics"], abs=1e-5)
        assert part["interval"] == alone["interval"]
    right = sum(part["metrics"]["accuracy"] * part["rows"] for part in found["subsets"].values())
    assert found["metrics"]["accuracy"] == pytest.approx(right / found["rows"])
    assert json.loads(json.dumps(found)) == found


def test_a_column_named_subset_in_a_user_table_creates_no_subsets(write_model: Any, table: Table):
    rows = [{**row, "subset": str(i % 2)} for i, row in enumerate(table.rows)]
    assert "subsets" not in evaluate(write_model("classification"), replace(table, rows=rows))


def test_printed_metrics_have_a_column_per_subset(write_model: Any, race_folder: Path, capsys: Any):
    found = evaluate(write_model("choice"), "race", data_dir=race_folder)
    print_metrics(found)
    head, *lines = [line.strip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert re.split(" {2,}", head) == ["6 rows", "95% confidence interval", "middle, 4 rows", "high, 2 rows"]
    (accuracy,) = (line for line in lines if line.startswith("accuracy"))
    accuracies = [format_number(found["subsets"][name]["metrics"]["accuracy"]) for name in ("middle", "high")]
    assert accuracy.split()[-2:] == accuracies


def test_predictions_are_added_to_the_rows(write_model: Any, table: Table):
    found = predict(write_model("classification"), table)
    for row, given in zip(found, table.rows, strict=True):
        assert given.items() <= row.items()
        assert set(row) - set(given) == {"prediction", "probability_no", "probability_yes"}


def test_columns_that_predictions_replace_are_logged(write_model: Any, table: Table):
    earlier, progress = predict(write_model("regression"), table), LoggedLines()
    own = [{**row, "prediction": "mine"} for row in earlier]
    columns = list(own[0])
    found = predict(write_model("classification"), Table("own.csv", columns, own), progress=progress)
    assert found[0]["prediction"] != "mine"
    assert found[0]["score"] == earlier[0]["score"]
    assert progress.lines[-1] == "own.csv: existing columns are replaced by predictions: prediction"
    again = LoggedLines()
    predict(write_model("classification"), table, progress=again)
    assert not any("replaced" in line for line in again.lines)


def test_the_input_table_is_not_overwritten(write_model: Any, table: Table, tmp_path: Path):
    rows = tmp_path / "rows.jsonl"
    write_table(rows, table.rows)
    before = rows.read_bytes()
    with pytest.raises(UserError, match="is also the input table"):
        predict_into(write_model("classification"), rows, tmp_path / "." / "rows.jsonl")
    assert rows.read_bytes() == before


@pytest.fixture
def stsb_folder(tmp_path: Path) -> Path:
    """A folder with as many unlabeled test rows of STS-B as GLUE has."""
    header = "index\tgenre\tsentence1\tsentence2\n"
    (tmp_path / "STS-B").mkdir()
    (tmp_path / "STS-B" / "test.tsv").write_text(header + "".join(f"{i}\tg\ta {i}\tb\n" for i in range(1379)))
    return tmp_path


def test_a_glue_test_split_is_written_as_a_submission_or_a_table(write_model: Any, stsb_folder: Path):
    summary = predict_into(write_model("similarity"), "stsb:test", stsb_folder / "out", data_dir=stsb_folder)
    assert summary == f"{stsb_folder / 'out' / 'STS-B.tsv'}: 1,379 rows, in the format of gluebenchmark.com"
    lines = (stsb_folder / "out" / "STS-B.tsv").read_text().splitlines()
    scores = [row["score"] for row in predict(write_model("similarity"), "stsb:test", data_dir=stsb_folder)]
    assert lines == ["index\tprediction", *(f"{i}\t{min(max(s, 0), 5):.3f}" for i, s in enumerate(scores))]
    summary = predict_into(write_model("similarity"), "stsb:test", stsb_folder / "p.tsv", data_dir=stsb_folder)
    assert summary == f"{stsb_folder / 'p.tsv'}: 1,379 rows; see the column score"
    assert (stsb_folder / "p.tsv").read_text().startswith("text_a\ttext_b\tscore\n")


def test_other_data_than_a_glue_test_split_needs_a_table_name_as_out(
    write_model: Any, race_folder: Path, table: Table, tmp_path: Path
):
    write_table(tmp_path / "rows.jsonl", table.rows)
    for rows in ("race:test", str(tmp_path / "rows.jsonl")):
        with pytest.raises(UserError, match="out has no supported table extension"):
            predict_into(write_model("choice"), rows, tmp_path / "out", data_dir=race_folder)
    assert predict_into(write_model("choice"), "race", tmp_path / "out.csv", data_dir=race_folder).endswith(
        "the column prediction"
    )


def test_rows_with_an_unseen_label_count_as_wrong_and_are_named(write_model: Any, table: Table):
    progress = LoggedLines()
    other = replace(table, rows=[{**row, "label": "perhaps"} if i < 3 else row for i, row in enumerate(table.rows)])
    found = evaluate(write_model("classification"), other, progress=progress)
    known = evaluate(write_model("classification"), replace(table, rows=table.rows[3:]))
    right = known["metrics"]["accuracy"] * known["rows"]
    assert found["metrics"]["accuracy"] == pytest.approx(right / found["rows"])
    assert found["metrics"]["loss"] == pytest.approx(known["metrics"]["loss"], abs=1e-5)
    assert found["unseen"] == {"perhaps": 3}
    assert any("a label that was not in training; counted as wrong: perhaps (3)" in x for x in progress.lines)
    assert known["unseen"] == {}


def test_unseen_labels_are_refused_on_request_and_where_no_label_is_known(write_model: Any, table: Table):
    other = replace(table, rows=[*table.rows[:5], {**table.rows[5], "label": "perhaps"}])
    with pytest.raises(UserError, match=r"rows.jsonl, row 6: unknown label 'perhaps'"):
        evaluate(write_model("classification"), other, unseen="refuse")
    strange = replace(table, rows=[{**row, "label": "perhaps"} for row in table.rows])
    with pytest.raises(
        UserError, match=r"no label in column 'label' \(perhaps\) was in training.*: no, yes\."
    ) as refused:
        evaluate(write_model("classification"), strange)
    assert refused.value.fix == "Choose another column with --label."
    with pytest.raises(UserError, match='unseen="ignore" is not a valid choice'):
        evaluate(write_model("classification"), table, unseen="ignore")


def test_the_column_that_has_the_training_labels_is_suggested(write_model: Any, table: Table):
    rows = [{**row, "verdict": row["label"], "label": i} for i, row in enumerate(table.rows)]
    renamed = replace(table, columns=[*table.columns, "verdict"], rows=rows)
    with pytest.raises(UserError, match=r"no label in column 'label' \(0, 1, 2 … \(64 in total\)\)") as refused:
        evaluate(write_model("classification"), renamed)
    assert refused.value.fix == "Did you mean --label verdict?"
    with pytest.raises(UserError, match="no label in column 'text'") as refused:
        evaluate(write_model("classification"), table, label="text", text="other")
    assert refused.value.fix == "Did you mean --label label?"


# ---- warnings and errors


@pytest.mark.parametrize("name", ["classification", "regression"])
def test_a_model_that_learned_nothing_is_evaluated_with_a_warning(
    name: str, write_model: Any, table: Table, tmp_path: Path
):
    model = load_task_predictor(write_model(name))
    nn.init.zeros_(model.task_model.head.linear.weight)
    answer = trivial_answer(model.target, [row[TABLE_TASKS[name][1]["label"]] for row in table.rows])
    save_task(tmp_path, model.task_model, model.tokenizer, {**model.task, "trivial_answer": answer}, model.target)
    warning = evaluate(tmp_path, table)["warning"]
    assert "this model has learned nothing" in warning
    assert ("always ‘" if name == "classification" else "hardly depend on the text") in warning


def test_rows_without_labels_are_an_error_that_suggests_predict(write_model: Any, table: Table):
    columns = ["text", "other"]
    bare = replace(table, columns=columns, rows=[{name: row[name] for name in columns} for row in table.rows])
    with pytest.raises(UserError, match="no column 'label'") as refused:
        evaluate(write_model("classification"), bare)
    assert "gpt1 predict" in refused.value.fix
    assert len(predict(write_model("classification"), bare)) == 64


def test_a_similar_label_column_is_suggested(write_model: Any, table: Table):
    rows = [{"text": row["text"], "lable": row["label"]} for row in table.rows]
    with pytest.raises(UserError, match=r"no column 'label'\. Columns: text, lable\. Did you mean lable\?"):
        evaluate(write_model("classification"), Table("t.csv", ["text", "lable"], rows))


def test_a_table_without_the_text_column_is_an_error(write_model: Any, table: Table):
    other = replace(table, columns=["sentence", "label"], rows=[{"sentence": "x", "label": "no"}])
    with pytest.raises(UserError, match=r"no column 'text'\. Columns: sentence, label"):
        evaluate(write_model("classification"), other)


def test_a_table_without_rows_is_an_error(write_model: Any, table: Table):
    with pytest.raises(UserError, match="has no rows"):
        evaluate(write_model("classification"), replace(table, rows=[]))


def test_a_pretrained_model_cannot_be_evaluated_on_a_table(pretrained_run: Path, table: Table):
    with pytest.raises(UserError, match="is pre-trained but not fine-tuned"):
        evaluate(pretrained_run, table)


def test_a_missing_table_is_an_error(write_model: Any):
    with pytest.raises(UserError, match=r"nowhere.csv"):
        evaluate(write_model("classification"), "nowhere.csv")


# ---- metrics from logits

LOGITS = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0], [0.0, 1.0]])


def test_metrics_are_computed_from_the_logits():
    found = compute_metrics(Classes(("0", "1")), LOGITS, torch.tensor([0, 1, 1, 1]), ["0", "1", "1", "1"])
    assert found["metrics"]["accuracy"] == 0.75
    assert found["f1_of"] == "label 1"
    assert found["metrics"]["f1"] == pytest.approx(0.8)  # precision 1, recall 2/3
    assert found["metrics"]["loss"] == pytest.approx(np.mean(np.log1p(np.exp([-2, 1, -3, -1]))), abs=1e-6)


def test_f1_of_labels_other_than_0_and_1_is_macro_averaged():
    found = compute_metrics(Classes(("a", "b")), LOGITS, torch.tensor([0, 1, 1, 1]), ["a", "b", "b", "b"])
    assert found["f1_of"] == "macro"
    assert found["metrics"]["f1"] == pytest.approx((2 / 3 + 0.8) / 2)


def test_the_temperature_fitted_on_many_rows_minimizes_the_loss():
    logits, targets = LOGITS.repeat(500, 1), torch.tensor([0, 1, 1, 0]).repeat(500)
    target = Classes(("a", "b"))
    temperature = fit_calibration(target, logits, targets)["fitted"]

    def loss(t: float) -> float:
        return float(target.loss(logits / t, targets).mean())

    assert all(loss(temperature) <= loss(temperature * change) + 1e-6 for change in (0.5, 0.9, 1.1, 2))


def test_scores_are_not_calibrated():
    assert fit_calibration(StandardizedNumber(0, 1), torch.zeros(3, 1), torch.zeros(3)) == {}
