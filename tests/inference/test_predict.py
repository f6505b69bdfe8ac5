"""gpt1 predict works in blocks: same predictions, bounded memory, all errors before predicting."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt1.errors import UserError
from gpt1.inference import predict as module
from gpt1.inference.predict import predict_into
from gpt1.inference.predictor import TaskPredictor, load_task_predictor
from gpt1.progress import Progress
from gpt1.tables import table as tables
from gpt1.tables.table import Table, read_table, write_table
from gpt1.tasks.targets import Classes


@pytest.fixture(scope="module")
def write_formula_model(write_model: Callable[..., Path]) -> Callable[[str], Path]:
    """As `saved`; one of the labels looks like a formula."""
    return lambda name: write_model(name, Classes(("=no", "yes")) if name == "classification" else None)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "BLOCK_ROWS", 7)
    monkeypatch.setattr(module, "BLOCK_ROWS", 7)


class RecordingProgress(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.steps: list[int] = []

    def log(self, line: str) -> None:
        self.lines.append(line)

    def advance(self, done: int, **values: float) -> None:
        self.steps.append(done)


@pytest.fixture
def forbid_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Predicting fails the test: errors must come before."""

    def fail(*_: Any) -> Any:
        raise AssertionError("predictions were computed")

    monkeypatch.setattr(TaskPredictor, "logits", fail)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("name", ["classification", "regression", "choice"])
@pytest.mark.parametrize("source", ["jsonl", "jsonl.gz", "parquet", "parquet.zst", "csv", "tsv.xz"])
@pytest.mark.parametrize("out", ["csv", "jsonl.zst", "parquet"])
def test_blocks_give_the_predictions_of_all_rows_at_once(
    name: str, source: str, out: str, write_formula_model: Any, table: Table, tmp_path: Path
):
    if name == "choice" and source[:3] in ("csv", "tsv"):
        pytest.skip("a list of answers needs a format with lists")
    rows, written, progress = tmp_path / f"rows.{source}", tmp_path / f"out.{out}", RecordingProgress()
    write_table(rows, table.rows)
    said = predict_into(write_formula_model(name), rows, written, progress=progress)
    expected = load_task_predictor(write_formula_model(name)).predict(read_table(rows).rows)
    found = read_table(written).rows
    assert len(found) == len(expected) == 64
    for row, wanted, own in zip(found, expected, read_table(rows).rows, strict=True):
        assert row["text"] == own["text"]
        for column, value in wanted.items():
            same = value if isinstance(value, str) else pytest.approx(value, abs=1e-5)
            assert (row[column] if isinstance(value, str) else float(row[column])) == same
    assert said.startswith(f"{written}: 64 rows; see the column ")
    assert progress.steps == sorted(progress.steps)
    assert progress.steps[-1] == 64
    assert any("64 rows; " in line and "of the tokens unknown" in line for line in progress.lines)


@pytest.mark.usefixtures("small_blocks")
def test_a_field_of_a_late_row_is_a_column_of_every_row(write_formula_model: Any, tmp_path: Path):
    rows = [{"text": f"a {i}"} for i in range(20)] + [{"id": 3}, {"text": "b", "late": 1}]
    write_table(tmp_path / "rows.jsonl", rows)
    predict_into(write_formula_model("classification"), tmp_path / "rows.jsonl", tmp_path / "out.csv")
    found = read_table(tmp_path / "out.csv")
    assert found.columns == ["text", "id", "late", "prediction", "probability_=no", "probability_yes"]
    assert [row["late"] for row in found.rows] == [""] * 21 + ["1"]
    write_table(tmp_path / "late.jsonl", [{"id": i} for i in range(20)] + rows)
    predict_into(write_formula_model("classification"), tmp_path / "late.jsonl", tmp_path / "out.jsonl")
    assert len(read_table(tmp_path / "out.jsonl")) == 42


GOOD = [{"text": f"a text {i}", "id": i} for i in range(20)]
ERRORS: dict[str, tuple[str, list[dict[str, Any]], str]] = {
    "a line break in .tsv": (
        "out.tsv",
        [*GOOD, {"text": "two\nlines", "id": 1}],
        r"line 21 cannot be written as",
    ),
    "a tab in the header of .tsv": ("out.tsv", [{"text": "a", "b\tc": 1}], r"the header cannot be written as \.tsv"),
    "two types in .parquet": ("out.parquet", [*GOOD, {"text": "a", "id": "x"}], r"cannot be written as \.parquet"),
    "a list instead of a text": (
        "out.csv",
        [*GOOD, {"text": ["a"], "id": 1}],
        "line 21, column 'text': .* is not a text",
    ),
    "no such column": ("out.csv", [{"txt": "a"}], "no column 'text'"),
    "an ending of no table": ("out.doc", GOOD, "no supported table extension"),
}


@pytest.mark.usefixtures("small_blocks", "forbid_prediction")
@pytest.mark.parametrize("case", ERRORS)
def test_rows_that_cannot_be_written_are_an_error_before_predicting(
    case: str, write_formula_model: Any, tmp_path: Path
):
    out, rows, problem = ERRORS[case]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=problem):
        predict_into(write_formula_model("classification"), tmp_path / "rows.jsonl", tmp_path / out)
    assert os.listdir(tmp_path) == ["rows.jsonl"]


@pytest.mark.usefixtures("small_blocks")
def test_integers_and_floats_in_one_column_fit_in_parquet(write_formula_model: Any, tmp_path: Path):
    rows = [{"text": "a", "n": None}] * 7 + [{"text": "a", "n": 1}] * 7 + [{"text": "a", "n": 2.5}]
    write_table(tmp_path / "rows.jsonl", rows)
    predict_into(write_formula_model("classification"), tmp_path / "rows.jsonl", tmp_path / "out.parquet")
    assert [row["n"] for row in read_table(tmp_path / "out.parquet").rows] == [None] * 7 + [1.0] * 7 + [2.5]


def test_rows_that_change_between_checking_and_predicting_are_an_error(
    write_formula_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = tmp_path / "rows.csv"
    write_table(rows, GOOD)
    check = module.check_rows

    def check_then_shorten(*args: Any) -> Any:
        plan = check(*args)
        write_table(rows, GOOD[:5])
        return plan

    monkeypatch.setattr(module, "check_rows", check_then_shorten)
    with pytest.raises(UserError, match="changed while it was being read"):
        predict_into(write_formula_model("classification"), rows, tmp_path / "out.csv")
    assert os.listdir(tmp_path) == ["rows.csv"]


def test_a_killed_prediction_leaves_the_previous_file(write_formula_model: Any, tmp_path: Path):
    write_table(tmp_path / "rows.csv", GOOD)
    (tmp_path / "out.csv").write_text("prediction\nbefore\n")
    code = (
        "import os, signal, sys\n"
        "from gpt1.inference import predict\n"
        "from gpt1.tables import table\n"
        "table.BLOCK_ROWS = 7\n"
        "blocks = []\n"
        "class Killing(predict.InputStatistics):\n"
        "    def add(self, *args):\n"
        "        super().add(*args); blocks.append(1)\n"
        "        if len(blocks) == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "predict.InputStatistics = Killing\n"
        "predict.predict_into(*sys.argv[1:], overwrite=True)\n"
    )
    words = [str(write_formula_model("classification")), str(tmp_path / "rows.csv"), str(tmp_path / "out.csv")]
    assert subprocess.run([sys.executable, "-c", code, *words]).returncode == -signal.SIGKILL
    assert (tmp_path / "out.csv").read_text() == "prediction\nbefore\n"
    predict_into(*words, overwrite=True)
    assert len(read_table(tmp_path / "out.csv")) == 20
    assert sorted(os.listdir(tmp_path)) == ["out.csv", "rows.csv"]


@pytest.mark.usefixtures("small_blocks")
def test_a_block_is_written_before_the_next_one_is_predicted(
    write_formula_model: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    write_table(tmp_path / "rows.csv", GOOD)
    predict_block, written = TaskPredictor.logits, []

    def record_block(self: TaskPredictor, examples: Any, *others: Any) -> Any:
        sys.stdout.flush()
        written.append((len(examples), capfd.readouterr().out.count("\n")))
        return predict_block(self, examples, *others)

    monkeypatch.setattr(TaskPredictor, "logits", record_block)
    predict_into(write_formula_model("classification"), tmp_path / "rows.csv")
    assert written == [(7, 1), (7, 7), (6, 7)]  # the header first


# ---- formulas

FORMULAS = ["=cmd|' /C calc'!A0", "+A1", "-A1", "@SUM(A1)", "\t=1", "\r=1", "\uff1d1"]
HARMLESS = ["-1", "+2.5e-3", "-.5", "text", " = ", "'=1", "-1,5", ""]


@pytest.mark.parametrize("safe", [False, True])
def test_formulas_are_counted_or_escaped(safe: bool, write_formula_model: Any, tmp_path: Path):
    rows, progress = [{"text": "a", "=c": cell} for cell in [*FORMULAS, *HARMLESS]], RecordingProgress()
    write_table(tmp_path / "rows.jsonl", rows)
    out = tmp_path / "out.csv"
    predict_into(
        write_formula_model("classification"), tmp_path / "rows.jsonl", out, excel_safe=safe, progress=progress
    )
    found = read_table(out)
    mark = "'" if safe else ""
    assert found.columns[1] == f"{mark}=c"
    assert [row[f"{mark}=c"] for row in found.rows] == [mark + cell for cell in FORMULAS] + HARMLESS
    labels = sum(row["prediction"] == f"{mark}=no" for row in found.rows)
    assert {row["prediction"] for row in found.rows} <= {f"{mark}=no", "yes"}
    noted = [line for line in progress.lines if "--excel-safe" in line]
    assert [line.removeprefix("a spreadsheet would run ").split(" cells")[0] for line in noted] == (
        [] if safe else [str(len(FORMULAS) + 1 + labels)]
    )


def test_excel_safe_requires_csv_or_tsv(write_formula_model: Any, tmp_path: Path):
    write_table(tmp_path / "rows.csv", GOOD)
    with pytest.raises(UserError, match=r"excel_safe=True requires \.csv or \.tsv"):
        predict_into(
            write_formula_model("classification"), tmp_path / "rows.csv", tmp_path / "o.jsonl", excel_safe=True
        )


@pytest.mark.parametrize("name", ["classification", "regression", "choice"])
def test_a_row_without_text_has_no_prediction_and_equal_probabilities(name: str, write_formula_model: Any):
    model = load_task_predictor(write_formula_model(name))
    rows = [{"text": " ", "answers": ["", None]}, {"text": "a film", "answers": ["good", "bad"]}]
    empty, full = model.predict(rows)
    assert list(empty) == list(full)
    assert {*empty.values()} == {None}
    assert None not in full.values()
    if model.labels:
        probabilities = model.predict_proba(rows)[0]
        assert {*probabilities[probabilities > 0]} == {0.5}
