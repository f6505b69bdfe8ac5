"""What a finished fine-tuning stores: predictions, calibration, baselines, the metric that chose the epoch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from finetune_helpers import (
    FAST_SETTINGS,
    KIND_OPTIONS,
    TEXT_OPTIONS,
    read_metrics,
    read_results,
)
from logged_lines import LoggedLines

from gpt1.errors import UserError
from gpt1.inference.predictor import load_task_predictor
from gpt1.tables.table import Table
from gpt1.tasks.baselines import describe_score
from gpt1.training.finetune import (
    finetune,
)

pytestmark = pytest.mark.usefixtures("no_reports")


@pytest.fixture(scope="module", params=KIND_OPTIONS)
def kind_run(
    request: pytest.FixtureRequest, table: Table, pretrained_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, LoggedLines]:
    """(kind, a run of it, its lines)."""
    out, progress = tmp_path_factory.mktemp("kind") / "run", LoggedLines()
    options = {**KIND_OPTIONS[request.param], **FAST_SETTINGS, "baselines": True}
    return request.param, finetune(table, from_=pretrained_run, out=out, progress=progress, **options), progress


def test_every_kind_trains_and_predicts_with_its_documented_keys(kind_run: tuple[str, Path, LoggedLines], table: Table):
    name, run, _ = kind_run
    found = read_results(run)
    model = load_task_predictor(run)
    predictions = model.predict(table.rows[:6])
    if "score" in name or name == "regression":
        assert all(set(row) == {"score"} for row in predictions)
        assert {"pearson", "spearman", "loss"} <= set(found["validation"]["metrics"])
        assert found["calibration"] == {}
    elif name == "choice":
        for row, prediction in zip(table.rows, predictions, strict=False):
            answers = range(len(row["answers"]))
            assert set(prediction) == {"prediction", *(f"probability_{k}" for k in answers)}
            assert prediction["prediction"] in answers
        assert {"accuracy", "loss"} <= set(found["validation"]["metrics"])
    else:
        assert all(set(row) == {"prediction", "probability_no", "probability_yes"} for row in predictions)
        assert {"accuracy", "f1", "matthews", "loss"} <= set(found["validation"]["metrics"])
        assert found["labels"] == model.labels == ["no", "yes"]
    records = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    assert len(records) == found["validation"]["rows"] == found["data"]["validation"]
    assert all(({"prediction", "probabilities"} <= set(record)) != ("score" in record) for record in records)
    assert {"loss", "task_loss", "lm_loss"} <= set(read_metrics(run)[0])


def test_a_temperature_that_helps_is_saved_and_used(table: Table, pretrained_run: Path, tmp_path: Path):
    """A model that is validated on its own training rows is not confident enough."""
    settings = {"epochs": 3, "peak_lr": 2e-3, "dropout": 0, "head_dropout": 0, "lm_coef": 0, "deduplicate": False}
    run = finetune(
        table, from_=pretrained_run, out=tmp_path / "run", valid=table, **TEXT_OPTIONS, **{**FAST_SETTINGS, **settings}
    )
    found = read_results(run)
    calibration, model = found["calibration"], load_task_predictor(run)
    assert model.temperature == calibration["temperature"] == calibration["fitted"] != 1
    before = next(h["loss"] for h in found["history"] if h["epoch"] == found["best_epoch"])
    assert found["validation"]["metrics"]["loss"] < before
    logits = model.logits(model.read_rows(table.rows[:5]))
    expected = (logits / calibration["temperature"]).softmax(-1)
    for row, p in zip(model.predict(table.rows[:5]), expected.tolist(), strict=True):
        assert [row["probability_no"], row["probability_yes"]] == pytest.approx(p, abs=1e-5)
    records = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    predicted = model.predict([record["fields"]["text"] for record in records])
    for record, row in zip(records, predicted, strict=True):
        assert record["probabilities"]["yes"] == pytest.approx(row["probability_yes"], abs=1e-5)


def test_the_baselines_of_every_kind_are_shown_beside_the_model(kind_run: tuple[str, Path, LoggedLines]):
    _, run, progress = kind_run
    found = read_results(run)
    main = found["main"]
    for one in (trivial := found["baselines"]["trivial"], tfidf := found["baselines"]["tfidf"]):
        assert set(one["metrics"]) == set(found["validation"]["metrics"]) - {"loss"}
    assert tfidf["rows"] == tfidf["of"] == found["data"]["train"]
    line = next(line for line in progress.lines if line.startswith("best epoch"))
    assert f"TF-IDF {tfidf['metrics'][main]:.3f}" in line
    assert f"{trivial['name']} {describe_score(main, trivial['metrics'])}" in line
    assert load_task_predictor(run).task["trivial_answer"] == trivial["answer"]
    printed = progress.lines[progress.lines.index(line) + 1 :]
    assert printed[1:] == [f"  {command}".replace(" RUN-", f" {run}-") for command in found["advice"]]
    assert printed[:1] == ([f"warning: {found['warning']}"] if found["warning"] else [])
    assert [command.split()[1] for command in found["advice"]] in ([], ["tokenize", "pretrain", "finetune"])


def test_the_commands_of_the_advice_are_stored_if_tfidf_is_better(table: Table, pretrained_run: Path, tmp_path: Path):
    """One step with a learning rate of almost zero learns nothing, and TF-IDF learns these rows."""
    options = {**TEXT_OPTIONS, **FAST_SETTINGS, "baselines": True, "peak_lr": 1e-9}
    found = read_results(finetune(table, from_=pretrained_run, out=tmp_path / "run", **options))
    assert "TF-IDF" in found["warning"]
    assert [command.split()[1] for command in found["advice"]] == ["tokenize", "pretrain", "finetune"]


@pytest.mark.parametrize(("settings", "left"), [({"baselines": False}, {"trivial"}), ({"valid_fraction": 0}, set())])
def test_baselines_are_left_out_on_request_or_without_validation_rows(
    settings: dict[str, Any], left: set[str], table: Table, pretrained_run: Path, tmp_path: Path
):
    options = {**TEXT_OPTIONS, **FAST_SETTINGS, "baselines": True, **settings}
    found = read_results(finetune(table, from_=pretrained_run, out=tmp_path / "run", **options))
    assert set(found["baselines"]) == left
    assert left or not found["warning"]


def test_a_model_that_learned_nothing_is_published_with_a_warning(table: Table, pretrained_run: Path, tmp_path: Path):
    for name in ("classification", "regression"):
        progress = LoggedLines()
        settings = {**FAST_SETTINGS, "baselines": True, "peak_lr": 0, "valid_fraction": 0.3}
        run = finetune(
            table, from_=pretrained_run, out=tmp_path / name, progress=progress, **KIND_OPTIONS[name], **settings
        )
        warning = read_results(run)["warning"]
        assert "learned nothing" in warning or "TF-IDF is better" in warning
        assert f"warning: {warning.splitlines()[0]}" in progress.lines


@pytest.mark.parametrize(
    ("name", "metric", "best"),
    [("classification", "f1", max), ("classification", "matthews", max), ("regression", "rmse", min)],
)
def test_the_chosen_metric_selects_the_epoch(
    name: str, metric: str, best: Any, table: Table, pretrained_run: Path, tmp_path: Path
):
    settings = {**FAST_SETTINGS, "epochs": 5, "peak_lr": 1e-2, "valid_fraction": 0.3, "metric": metric}
    found = read_results(finetune(table, from_=pretrained_run, out=tmp_path / "run", **KIND_OPTIONS[name], **settings))
    assert found["main"] == metric
    assert found["validation"]["metrics"][metric] == pytest.approx(best(h[metric] for h in found["history"]))


def test_a_metric_that_the_labels_do_not_have_is_refused(table: Table, pretrained_run: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r'metric="pearson" does not apply .*\n?.*accuracy, f1, matthews'):
        finetune(table, from_=pretrained_run, out=tmp_path / "run", metric="pearson", **TEXT_OPTIONS)
    assert not (tmp_path / "run").exists()


def test_texts_and_labels_with_half_a_character_are_stored(table: Table, pretrained_run: Path, tmp_path: Path):
    rows = [{"text": row["text"] + " \ud83d", "label": row["label"] + "\udce9"} for row in table.rows]
    run = finetune(
        replace(table, rows=rows), from_=pretrained_run, out=tmp_path / "run", **TEXT_OPTIONS, **FAST_SETTINGS
    )
    records = [json.loads(line) for line in (run / "predictions.jsonl").read_text("utf-8").splitlines()]
    assert all("\ud83d" in json.dumps(record, ensure_ascii=False) for record in records)
    assert load_task_predictor(run).labels == ["no\udce9", "yes\udce9"]
