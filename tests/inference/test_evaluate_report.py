"""`evaluate --report` writes a page of the same numbers, and only a page."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from report_runs import PageParser
from task_models import TABLE_TASKS, MakePredictor

from gpt1.errors import UserError
from gpt1.inference.evaluate import evaluate
from gpt1.inference.task import save_task
from gpt1.tables.table import Table, write_table
from gpt1.tokenization.tokenizer import Tokenizer

RunFolder = Callable[[str], Path]


@pytest.mark.parametrize("name", ["classification", "similarity", "choice"])
def test_the_page_of_an_evaluation_has_the_numbers_of_the_result_and_the_names_of_the_columns(
    name: str, write_model: RunFolder, table: Table, tmp_path: Path
) -> None:
    page = tmp_path / "new" / "test.html"
    found = evaluate(write_model(name), table, report=page)
    reader = PageParser(page)
    assert set(found["metrics"].values()) <= set(reader.numbers)
    assert f" on {len(table.rows)} rows of {table.name}" in reader.headings[0]
    assert "validation" not in reader.text
    shown = re.findall("<dt>(.*?)</dt>", page.read_text(encoding="utf-8"))
    columns = {column for role, column in TABLE_TASKS[name][1].items() if role not in ("label", "choices")}
    assert columns <= set(shown)
    assert not {"text_a", "context"} & set(shown)
    wrong = {"classification": "Confusion matrix", "similarity": "Predicted and true scores", "choice": "Data"}
    assert wrong[name] in reader.headings


def test_the_page_shows_the_bins_of_the_calibration_with_their_rows(
    make_predictor: MakePredictor, tokenizer: Tokenizer, table: Table, tmp_path: Path
) -> None:
    model = make_predictor("entailment")
    (tmp_path / "model").mkdir()
    save_task(tmp_path / "model", model.task_model, tokenizer, model.task, model.target)
    columns = {"premise": "text", "hypothesis": "other", "label": "label"}
    calibration = evaluate(tmp_path / "model", table, report=tmp_path / "test.html", **columns)["calibration"]
    assert calibration["bins"] != calibration["bins_before"]
    for bins, error in (("bins_before", "ece_before"), ("bins", "ece_after")):
        assert sum(one["count"] for one in calibration[bins]) == len(table.rows)
        gaps = [one["count"] * abs(one["confidence"] - one["accuracy"]) for one in calibration[bins]]
        assert sum(gaps) / len(table.rows) == pytest.approx(calibration[error])
    page = PageParser(tmp_path / "test.html")
    assert "Calibration" in page.headings
    assert f"Rows by predicted probability, {len(table.rows):,} in all." in page.text


def test_the_page_has_the_command_for_the_rows_of_a_file_with_the_options_that_were_given(
    write_model: RunFolder, table: Table, tmp_path: Path
) -> None:
    page, run, rows = tmp_path / "test.html", write_model("classification"), tmp_path / "my rows.csv"
    write_table(rows, [{"my review": row["text"], "stars": row["label"]} for row in table.rows])
    evaluate(run, rows, report=page, verify=False, baselines=False, text="my review", label="stars")
    command = f"gpt1 predict {run} '{rows}' --text 'my review' --no-verify --out predictions.jsonl"
    assert command in PageParser(page).text
    evaluate(run, table, report=page, overwrite=True, baselines=False)
    assert "gpt1 predict" not in PageParser(page).text
    assert "Next steps" not in PageParser(page).headings


def test_writing_the_page_does_not_change_the_result(write_model: RunFolder, table: Table, tmp_path: Path) -> None:
    model, page = write_model("classification"), tmp_path / "test.html"
    page.write_text('<!doctype html><meta name="generator" content="gpt1"><title>an earlier page</title>')
    assert evaluate(model, table, report=page, overwrite=True) == evaluate(model, table)
    assert "earlier" not in page.read_text(encoding="utf-8")


def test_a_report_path_that_is_not_a_page_is_refused_before_the_work(
    write_model: RunFolder, table: Table, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("keep")
    with pytest.raises(UserError, match="the report is a page"):
        evaluate("no model", table, report=rows)
    assert rows.read_text() == "keep"
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        evaluate("no model", table, report=tmp_path / "folder.html")
    with pytest.raises(UserError, match="is a file"):
        evaluate("no model", table, report=rows / "test.html")


def test_a_corpus_has_no_page(pretrained_run: Path, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not apply to a corpus"):
        evaluate(pretrained_run, corpus, report=tmp_path / "test.html")
    assert not (tmp_path / "test.html").exists()
