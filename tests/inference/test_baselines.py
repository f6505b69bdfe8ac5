"""The baselines of a model on test rows: the trivial answer, and TF-IDF on the training rows of the run."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from logged_lines import LoggedLines

from gpt1.config import FinetuneConfig
from gpt1.console import print_metrics
from gpt1.datasets import labeled
from gpt1.inference.evaluate import evaluate
from gpt1.progress import Progress
from gpt1.runs.folder import read_results
from gpt1.tables.table import Table, read_table, write_table
from gpt1.tasks.examples import read_examples
from gpt1.tasks.tfidf import LinearProblem, tfidf_scores

pytestmark = pytest.mark.usefixtures("no_reports")


@pytest.fixture(scope="module")
def finetuned_folder(table: Table, pretrained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.csv, test.csv and a run that was trained on the first."""
    from gpt1.training.finetune import finetune

    root = tmp_path_factory.mktemp("finetuned")
    for name, rows in (("train", table.rows[:48]), ("test", table.rows[48:])):
        write_table(root / f"{name}.csv", [{"text": row["text"], "label": row["label"]} for row in rows])
    settings = {"kind": "classification", "text": "text", "epochs": 1, "precision": "fp32", "device": "cpu"}
    finetune(root / "train.csv", from_=pretrained_run, out=root / "run", **settings)
    return root


def test_the_baselines_are_scored_on_the_test_rows(finetuned_folder: Path, capsys: Any):
    found = evaluate(finetuned_folder / "run", finetuned_folder / "test.csv")
    request = labeled.TaskRequest(finetuned_folder / "train.csv", None, "classification", {"text": "text"})
    data = labeled.load_task_data(request, FinetuneConfig(), Progress())
    test = read_examples(
        read_table(finetuned_folder / "test.csv").rows, data.kind, {"text": "text", "label": "label"}, str
    )
    expected = tfidf_scores(data.kind, data.target, data.training, test)
    tfidf, trivial = found["baselines"]["tfidf"], found["baselines"]["trivial"]
    assert tfidf["metrics"]["accuracy"] == expected["accuracy"]
    counts, most = Counter(example.label for example in data.training), trivial["answer"]
    assert counts[most] == max(counts.values())
    assert trivial["metrics"]["accuracy"] == np.mean([example.label == most for example in test])
    print_metrics(found)
    head = next(line for line in capsys.readouterr().out.splitlines() if line.strip())
    assert re.split(" {2,}", head.strip())[-2:] == [f"always ‘{most}’", "TF-IDF"]


def test_the_tf_idf_settings_that_finetune_chose_are_used_again(
    finetuned_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    stored = read_results(finetuned_folder / "run")["baselines"]["tfidf"]
    monkeypatch.setattr(LinearProblem, "folds", lambda *_: pytest.fail("cross-validation"))
    found = evaluate(finetuned_folder / "run", finetuned_folder / "test.csv")["baselines"]["tfidf"]
    assert {**found, "metrics": 0} == {**stored, "metrics": 0}


def test_rows_that_the_model_was_trained_on_are_counted(finetuned_folder: Path):
    lines = {}
    for name in ("train", "test"):
        progress = LoggedLines()
        evaluate(finetuned_folder / "run", finetuned_folder / f"{name}.csv", progress=progress)
        lines[name] = [line for line in progress.lines if "training rows of this run: expect lower" in line]
    assert len(lines["train"]) == 1
    assert not lines["test"]


def test_rows_with_weights_are_recognized_as_training_rows(
    finetuned_folder: Path, pretrained_run: Path, tmp_path: Path
):
    from gpt1.training.finetune import finetune

    rows = [{**row, "weight": 1 + i % 3} for i, row in enumerate(read_table(finetuned_folder / "train.csv").rows)]
    write_table(tmp_path / "train.csv", rows)
    settings = {"kind": "classification", "text": "text", "epochs": 1, "precision": "fp32", "device": "cpu"}
    run = finetune(tmp_path / "train.csv", from_=pretrained_run, out=tmp_path / "run", weight="weight", **settings)
    assert "tfidf" in evaluate(run, finetuned_folder / "test.csv")["baselines"]


@pytest.mark.parametrize("kind", ["classification", "multilabel", "regression"])
def test_training_rows_of_a_run_with_a_kept_head_are_recognized(kind: str, pretrained_run: Path, tmp_path: Path):
    """The target of such a run is that of the model before it: it has more labels, or another mean."""
    from gpt1.training.finetune import finetune

    def write_rows(name: str, labels: list[Any]) -> Path:
        rows = [{"text": f"text {i} with {i % 7}", "label": labels[i % len(labels)]} for i in range(40)]
        return write_table(tmp_path / name, rows) or tmp_path / name

    first, second = ([1.5, 2.5, 7.5], [1.5, 2.5]) if kind == "regression" else (["a", "b", "c"], ["a", "b"])
    settings = {"kind": kind, "text": "text", "epochs": 1, "precision": "fp32", "device": "cpu", "baselines": False}
    before = finetune(write_rows("first.csv", first), from_=pretrained_run, out=tmp_path / "first", **settings)
    path = write_rows("second.csv", second)
    run = finetune(path, from_=before, out=tmp_path / "run", keep_head=True, **settings)
    progress = LoggedLines()
    assert "tfidf" in evaluate(run, path, progress=progress)["baselines"]
    assert any("were training rows of this run" in line for line in progress.lines)


def test_tf_idf_is_left_out_if_the_training_rows_are_gone_or_changed(finetuned_folder: Path, tmp_path: Path):
    evaluate(finetuned_folder / "run", finetuned_folder / "test.csv")
    rows, progress = (finetuned_folder / "train.csv").read_bytes(), LoggedLines()
    try:
        (finetuned_folder / "train.csv").write_bytes(rows + b"one more,yes\n")
        found = evaluate(finetuned_folder / "run", finetuned_folder / "test.csv", progress=progress)
    finally:
        (finetuned_folder / "train.csv").write_bytes(rows)
    assert set(found["baselines"]) == {"trivial"}
    assert any("no TF-IDF baseline" in line for line in progress.lines)
    assert set(evaluate(finetuned_folder / "run" / "model", finetuned_folder / "test.csv")["baselines"]) == {"trivial"}
    assert "baselines" not in evaluate(finetuned_folder / "run", finetuned_folder / "test.csv", baselines=False)
