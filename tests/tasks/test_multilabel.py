"""Several labels for one row: how they are read, and numbers that agree with scikit-learn's."""

from __future__ import annotations

import itertools
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from finetune_helpers import FAST_SETTINGS, read_results
from hypothesis import given
from hypothesis import strategies as st
from logged_lines import LoggedLines
from sklearn.metrics import accuracy_score, f1_score, log_loss, matthews_corrcoef, precision_recall_curve

from gpt1 import evaluate, load
from gpt1.errors import UserError
from gpt1.files.foreign import Fields
from gpt1.inference.evaluate import compute_metrics, fit_calibration
from gpt1.inference.predict import predict_into
from gpt1.inference.task_logits import average_windows, compute_task_logits
from gpt1.tables.table import Table, read_table, write_table
from gpt1.tasks.baselines import quality_warning
from gpt1.tasks.metrics import confidence_interval
from gpt1.tasks.multilabel import (
    MultiLabel,
    best_constant_labels,
    best_f1_threshold,
    cross_fit_labels,
    indicator,
    multilabel_scores,
    within_label_correlation,
)
from gpt1.tasks.targets import target_from_json, target_to_json
from gpt1.training.finetune import finetune

LABELS = ("a", "b", "c")
rows_of_labels = st.lists(st.lists(st.sampled_from(LABELS), max_size=3, unique=True), min_size=2, max_size=12)


@pytest.mark.parametrize(
    ("cells", "separator", "labels"),
    [
        ([["b", "a"], [], ["c"]], "", LABELS),
        (["b|a", "", "c"], "|", LABELS),
        (["b; a", None, "c"], ";", LABELS),
        (["b, a", float("nan"), "c"], ",", LABELS),
        (["b c|a", "x, y"], "|", ("a", "b c", "x, y")),
        (["10|9", "9"], "|", ("9", "10")),
        (["a", "b", "c"], "", LABELS),
        ([np.array(["a", "b"]), ("c",)], "", LABELS),
        (['["a", "b"]', "[]", '["c"]'], "", LABELS),
        (["['a', \"b's\"]", "[ 'c' ]"], "", ("a", "b's", "c")),
        (["[1, 2]", "[3]"], "", ("1", "2", "3")),
        (["['a' 'b']", "[x]|a", '[["a"]]'], "|", ("['a' 'b']", '[["a"]]', "[x]", "a")),
    ],
)
def test_labels_are_read_from_lists_and_separated_text(cells: list[Any], separator: str, labels: tuple[str, ...]):
    target = MultiLabel.from_labels(cells)
    assert (target.separator, target.labels) == (separator, labels)
    encoded = torch.stack([target.encode(cell) for cell in cells])
    assert (encoded.amax(), encoded.sum()) == (1, sum(len(target.split(cell)) for cell in cells))
    assert target.summary(cells).endswith(f", {float(encoded.sum()) / len(cells):.2g} per row")


@pytest.mark.parametrize("cells", [[], [[], []], ["a", "a"], [None]])
def test_fewer_than_two_labels_are_an_error(cells: list[Any]):
    with pytest.raises(UserError, match="the rows have"):
        MultiLabel.from_labels(cells)


def test_an_unknown_label_is_an_error_that_suggests_the_closest_one():
    with pytest.raises(UserError, match=r"unknown label 'bb'"):
        MultiLabel(LABELS, "|").encode("a|bb")


@given(rows=rows_of_labels, data=st.data())
def test_loss_and_scores_are_those_of_scikit_learn(rows: list[list[str]], data: Any):
    target = MultiLabel(LABELS)
    gold = torch.stack([target.encode(row) for row in rows])
    logits = torch.tensor(data.draw(st.lists(st.floats(-3, 3), min_size=3 * len(rows), max_size=3 * len(rows))))
    logits = logits.reshape(len(rows), 3).double()
    losses = [log_loss(gold[:, k], logits[:, k].sigmoid(), labels=[0, 1]) for k in range(3)]
    assert float(target.loss(logits, gold.double()).mean()) == pytest.approx(sum(losses))
    predicted = [row["prediction"] for row in target.decode(logits)]
    own, theirs = multilabel_scores(rows, predicted, LABELS), indicator(predicted, LABELS)
    assert own["f1_micro"] == pytest.approx(f1_score(gold, theirs, average="micro", zero_division=0))
    assert own["f1_macro"] == pytest.approx(f1_score(gold, theirs, average="macro", zero_division=0))
    assert own["accuracy"] == pytest.approx(accuracy_score(gold, theirs))


@given(rows=rows_of_labels, unknown=st.sets(st.integers(0, 11)))
def test_a_label_that_was_not_in_training_is_a_false_negative(rows: list[list[str]], unknown: set[int]):
    gold = [[*row, "z"] if i in unknown else row for i, row in enumerate(rows)]
    found = multilabel_scores(gold, rows, LABELS)
    used = (*LABELS, "z") if any("z" in row for row in gold) else LABELS
    arrays = indicator(gold, used), indicator(rows, used)
    assert found["f1_micro"] == pytest.approx(f1_score(*arrays, average="micro", zero_division=0))
    assert found["f1_macro"] == pytest.approx(f1_score(*arrays, average="macro", zero_division=0))
    assert found["accuracy"] == pytest.approx(accuracy_score(*arrays))
    of_one = confidence_interval("f1_micro", [["a", "z"]] * 9, [["a"]] * 9, LABELS)
    assert of_one == pytest.approx((2 / 3, 2 / 3))


@given(data=st.data(), n=st.integers(1, 15))
def test_a_threshold_has_the_highest_f1_of_all(data: Any, n: int):
    p = np.array(
        data.draw(st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.7, 1.0]) | st.floats(0, 1), min_size=n, max_size=n))
    )
    gold = np.array(data.draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)))
    threshold = best_f1_threshold(p, gold)
    assert 0 <= threshold <= 1
    if not gold.any():
        assert threshold == 0.5
        return
    precision, recall, _ = precision_recall_curve(gold, p)
    with np.errstate(invalid="ignore"):
        best = np.nanmax(2 * precision * recall / (precision + recall))
    assert f1_score(gold, p >= threshold) == pytest.approx(best)


def test_thresholds_decide_and_are_chosen_once():
    logits = torch.tensor([[2.0, -2.0], [1.0, -1.0], [-1.0, -3.0]])
    gold = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    target = MultiLabel(("a", "b")).with_thresholds(logits, gold)
    assert [row["prediction"] for row in target.decode(logits)] == [["a"], ["b"], []]
    assert target.with_thresholds(-logits, gold) is target
    assert target.thresholds[0] > 0.7
    assert target.thresholds[1] < 0.3
    assert [row["prediction"] for row in MultiLabel(("a", "b")).decode(logits)] == [["a"], ["a"], []]


def test_a_stored_target_is_the_same_and_a_damaged_one_is_refused():
    for target in (MultiLabel(LABELS), MultiLabel(LABELS, "|", (0.1, 0.5, 1.0))):
        stored = json.loads(json.dumps(target_to_json(target)))
        assert target_from_json(Fields(stored, "task.json", "")) == target
    stored = target_to_json(MultiLabel(LABELS, "|", (0.1, 0.5, 1.0)))
    for damage in ({"thresholds": [0.5]}, {"thresholds": [0.5, 2.0, 0.1]}, {"separator": "/"}, {"labels": ["a"]}):
        with pytest.raises(UserError, match=r"task\.json"):
            target_from_json(Fields(json.loads(json.dumps(stored | damage)), "task.json", ""))


def test_windows_are_averaged_as_probabilities_of_each_label():
    logits = torch.tensor([[2.0, -30.0], [-1.0, -40.0], [0.5, 0.25]])
    averaged = average_windows(logits, [2, 1], independent=True)
    expected = torch.stack([logits[:2].double().sigmoid().mean(0), logits[2].double().sigmoid()])
    torch.testing.assert_close(averaged.double().sigmoid(), expected, atol=1e-7, rtol=1e-5)


def test_a_long_text_in_windows_is_the_mean_over_its_windows(pretrained_run: Path, tmp_path: Path):
    path, label = write_labels_table("text", tmp_path)
    how = {**FAST_SETTINGS, "kind": "multilabel", "text": "text", "label": label, "long": "windows"}
    model = load(finetune(path, from_=pretrained_run, out=tmp_path / "run", **how))
    (example,) = model.encode(model.read_rows(["the list of a file and its name, " * 9]))
    assert example.windows > 2
    each = compute_task_logits(model.task_model, example.split_windows(), model.device)
    together = compute_task_logits(model.task_model, [example], model.device)
    expected = each.sigmoid().mean(0)
    torch.testing.assert_close(together[0].sigmoid(), expected, atol=1e-6, rtol=1e-5)


def test_the_temperature_is_that_of_the_binary_problems():
    torch.manual_seed(0)
    logits = torch.randn(400, 3)
    gold = torch.bernoulli((logits / 3).sigmoid())  # three times too confident
    found = fit_calibration(MultiLabel(LABELS), logits, gold)
    assert found["fitted"] == pytest.approx(3, rel=0.25)
    assert found["ece_after"] < found["ece_before"]


def test_intervals_contain_the_score_and_shrink_with_the_rows():
    random = np.random.default_rng(0)
    widths = []
    for n in (40, 400):
        gold = [[label for label in LABELS if random.random() < 0.4] for _ in range(n)]
        predicted = [[label for label in LABELS if (label in row) != (random.random() < 0.2)] for row in gold]
        for name, value in multilabel_scores(gold, predicted, LABELS).items():
            low, high = confidence_interval(name, gold, predicted, LABELS)
            assert low < value < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


def test_metrics_of_rows_are_those_of_the_decoded_predictions_and_choose_no_thresholds():
    logits, gold = torch.tensor([[-1.0, -4.0], [-2.0, -3.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    labels = [["a"], ["b"]]
    for target, f1 in ((MultiLabel(("a", "b")), 0), (MultiLabel(("a", "b"), "", (0.2, 0.03)), 1)):
        assert [row["prediction"] for row in target.decode(logits)] == (labels if f1 else [[], []])
        assert compute_metrics(target, logits, gold, labels)["metrics"]["f1_micro"] == f1


@given(rows=rows_of_labels, metric=st.sampled_from(MultiLabel.metrics))
def test_the_constant_prediction_is_the_best_of_all_sets_of_labels(rows: list[list[str]], metric: str):
    target = MultiLabel(LABELS)
    rows = [target.sort_labels(row) for row in rows]
    sets = [list(chosen) for size in range(4) for chosen in itertools.combinations(LABELS, size)]
    values = [multilabel_scores(rows, [chosen] * len(rows), LABELS)[metric] for chosen in sets]
    found = best_constant_labels(target, rows, metric)
    assert values[sets.index(found)] == pytest.approx(max(values))


@pytest.mark.filterwarnings("ignore:A single label was found")
@given(gold=st.lists(st.booleans(), min_size=2, max_size=30), data=st.data())
def test_the_correlation_within_one_label_is_that_of_matthews_and_0_for_a_constant(gold: list[bool], data: Any):
    p = np.array(data.draw(st.lists(st.booleans(), min_size=len(gold), max_size=len(gold))), dtype=float)
    g, n = np.array(gold, dtype=float), len(gold)
    found = within_label_correlation(np.array([g @ p]), np.array([g.sum()]), np.array([p.sum()]), n)
    assert found == pytest.approx(matthews_corrcoef(g, p), abs=1e-9)
    both = np.stack([g, 1 - g], axis=1)
    constant = np.tile([1.0, 0.0], (n, 1))
    assert within_label_correlation((both * constant).sum(0), both.sum(0), constant.sum(0), n) == 0


def test_a_model_of_several_labels_can_be_below_the_constant_prediction_and_have_learned():
    """Thresholds of rare labels cost micro F1: 0.487 against 0.526 for the most frequent label (docs/finetuning.md)."""
    trivial = {"trivial": {"name": "always ‘a’", "metrics": {"f1_micro": 0.526}}}
    for low, learned in ((0.1, True), (-0.02, False)):
        own = {"rows": 500, "metrics": {"f1_micro": 0.487}, "interval": {"matthews": [low, 0.3]}}
        assert (quality_warning(MultiLabel(LABELS), own, trivial, "f1_micro") == "") == learned


@given(data=st.data(), n=st.integers(1, 12))
def test_cross_fitted_labels_of_a_row_do_not_depend_on_its_own_gold_labels(data: Any, n: int):
    logits = torch.tensor(data.draw(st.lists(st.floats(-3, 3), min_size=3 * n, max_size=3 * n))).reshape(n, 3)
    gold = torch.tensor(data.draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=3 * n, max_size=3 * n))).reshape(n, 3)
    row = data.draw(st.integers(0, n - 1))
    other = gold.clone()
    other[row] = 1 - other[row]
    target = MultiLabel(LABELS)
    assert cross_fit_labels(target, logits, gold)[row] == cross_fit_labels(target, logits, other)[row]


# ---- training


def write_labels_table(form: str, folder: Path) -> tuple[Path, str]:
    """(table, --label): texts whose words are their labels, in three forms."""
    words = ["file", "list", "name"]
    rows: list[dict[str, Any]] = []
    for i in range(72):
        has = [word for k, word in enumerate(words) if i >> k & 1]
        row: dict[str, Any] = {"text": f"number {i} " + " and ".join(has)}
        forms = {"list": {"label": has}, "text": {"label": "|".join(has)}}
        forms["columns"] = {word: int(word in has) for word in words}
        rows.append(row | forms[form])
    path = folder / ("rows.jsonl" if form == "list" else "rows.csv")
    write_table(path, rows)
    return path, ",".join(words) if form == "columns" else "label"


@pytest.mark.parametrize("train", ["all", "head"])
def test_the_three_forms_of_labels_train_the_same_model(pretrained_run: Path, tmp_path: Path, train: str):
    how = {**FAST_SETTINGS, "kind": "multilabel", "text": "text", "from_": pretrained_run, "train": train}
    probabilities = []
    for form in ("list", "text", "columns"):
        path, label = write_labels_table(form, tmp_path)
        run = finetune(path, out=tmp_path / f"{form} {train}", label=label, **how)
        model = load(run)
        assert model.labels == ["file", "list", "name"]
        probabilities.append(model.predict_proba(["the list", "a name"]))
        found = evaluate(run, path)
        assert found["metrics"].keys() == {"f1_micro", "f1_macro", "accuracy", "loss"}
        assert found["calibration"]["ece_after"] < 0.5
        results = read_results(run)
        assert len(load(run).target.thresholds) == 3
        assert (
            results["validation"]["metrics"]["f1_micro"] >= results["baselines"]["trivial"]["metrics"]["f1_micro"] - 1
        )
        assert math.isfinite(results["validation"]["interval"]["f1_micro"][0])
        assert (run / "report.html").exists()
    np.testing.assert_allclose(probabilities[0], probabilities[1], atol=1e-6)
    np.testing.assert_allclose(probabilities[0], probabilities[2], atol=1e-6)


@pytest.mark.slow
def test_words_that_are_labels_are_learned(pretrained_run: Path, tmp_path: Path):
    path, label = write_labels_table("text", tmp_path)
    how = {**FAST_SETTINGS, "epochs": 40, "peak_lr": 5e-3, "dropout": 0.0, "valid_fraction": 0.2}
    run = finetune(path, from_=pretrained_run, out=tmp_path / "run", kind="multilabel", text="text", label=label, **how)
    assert evaluate(run, path)["metrics"]["f1_micro"] > 0.8
    model = load(run)
    (explained,) = model.explain(["number 3 file and list"], label="file")
    assert max(explained["words"], key=lambda word: word["contribution"])["word"] == "file"


def test_evaluate_scores_the_predictions_of_a_run_without_validation_rows(pretrained_run: Path, tmp_path: Path):
    path, label = write_labels_table("list", tmp_path)
    how = {**FAST_SETTINGS, "kind": "multilabel", "text": "text", "label": label, "valid_fraction": 0.0}
    run = finetune(path, from_=pretrained_run, out=tmp_path / "run", **how)
    rows = read_table(path).rows
    predicted = [row["prediction"] for row in load(run).predict([row["text"] for row in rows])]
    expected = multilabel_scores([row["label"] for row in rows], predicted, load(run).labels)
    found = evaluate(run, path, baselines=False)["metrics"]
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_a_model_of_random_labels_has_learned_nothing(pretrained_run: Path, tmp_path: Path):
    drawn = random.Random(0)
    rows = [
        {"text": f"text {i} of {drawn.random()}", "label": [name for name in "abcdef" if drawn.random() < 0.3]}
        for i in range(200)
    ]
    how = {**FAST_SETTINGS, "kind": "multilabel", "text": "text", "train": "head", "valid_fraction": 0.3}
    run = finetune(Table("rows", ["text", "label"], rows), from_=pretrained_run, out=tmp_path / "run", **how)
    assert read_results(run)["warning"].startswith("this model has learned nothing: F1 (micro)")


def test_predictions_are_lists_in_every_format(pretrained_run: Path, tmp_path: Path, run_cli: Any):
    path, label = write_labels_table("columns", tmp_path)
    how = {**FAST_SETTINGS, "kind": "multilabel", "text": "text", "label": label}
    run = finetune(path, from_=pretrained_run, out=tmp_path / "run", **how)
    expected = [row["prediction"] for row in load(run).predict([row["text"] for row in read_table(path).rows])]
    for name in ("p.csv", "p.jsonl", "p.parquet"):
        answer = run_cli("predict", str(run), str(path), "--out", str(tmp_path / name))
        assert answer.exit_code == 0, answer.stderr
        found = [row["prediction"] for row in read_table(tmp_path / name).rows]
        assert [json.loads(cell) if isinstance(cell, str) else cell for cell in found] == expected
        assert evaluate(run, tmp_path / name, label="prediction", baselines=False)["metrics"]["accuracy"] == 1
    answer = run_cli("evaluate", str(run), str(path))
    assert "F1 (micro)" in answer.stdout


def test_lists_without_labels_can_be_written_as_parquet(pretrained_run: Path, tmp_path: Path):
    path, label = write_labels_table("text", tmp_path)
    how = {**FAST_SETTINGS, "kind": "multilabel", "text": "text", "label": label}
    model = finetune(path, from_=pretrained_run, out=tmp_path / "run", **how) / "model"
    task = json.loads((model / "task.json").read_text())
    written = []
    for thresholds in ([1.0] * 3, [0.0, 1.0, 1.0]):
        task["target"]["thresholds"] = thresholds
        (model / "task.json").write_text(json.dumps(task))
        predict_into(model, path, tmp_path / "p.parquet", overwrite=True, verify=False)
        assert {tuple(row["prediction"]) for row in read_table(tmp_path / "p.parquet").rows} == {
            ("file",) if 0.0 in thresholds else ()
        }
        written.append(pyarrow.parquet.read_schema(tmp_path / "p.parquet").field("prediction").type)
    assert written == [pyarrow.list_(pyarrow.string())] * 2


def test_rows_with_an_unseen_label_among_several_count_as_wrong_and_are_named(pretrained_run: Path, tmp_path: Path):
    path, label = write_labels_table("list", tmp_path)
    how = {**FAST_SETTINGS, "kind": "multilabel", "text": "text", "label": label}
    run, progress = finetune(path, from_=pretrained_run, out=tmp_path / "run", **how), LoggedLines()
    rows = [
        {**row, "label": [*row["label"], "new", *["other"] * (i == 1)] if i < 3 else row["label"]}
        for i, row in enumerate(read_table(path).rows)
    ]
    found = evaluate(run, rows, report=tmp_path / "page.html", progress=progress)
    predicted = [row["prediction"] for row in load(run).predict([row["text"] for row in rows])]
    expected = multilabel_scores([row["label"] for row in rows], predicted, load(run).labels)
    assert {name: found["metrics"][name] for name in expected} == pytest.approx(expected)
    assert expected["f1_micro"] < evaluate(run, path)["metrics"]["f1_micro"]
    assert found["metrics"]["loss"] == pytest.approx(evaluate(run, path)["metrics"]["loss"])
    assert found["unseen"] == {"new": 3, "other": 1}
    assert any("3 rows have a label that was not in training; counted as wrong: new (3)" in x for x in progress.lines)
    assert "new (3), other (1)" in (tmp_path / "page.html").read_text()
    with pytest.raises(UserError, match="unknown label 'new'"):
        evaluate(run, rows, unseen="refuse")
    with pytest.raises(UserError, match="no label in column 'text'") as refused:
        evaluate(run, [{**row, "text": row["text"] + "!", "other": "x"} for row in rows], label="text", text="other")
    assert refused.value.fix == "Did you mean --label label?"
    assert evaluate(run, [{**row, "label": []} for row in rows])["metrics"]["f1_micro"] == 0


@pytest.mark.parametrize("trained", ["list", "columns", "text"])
def test_rows_with_another_separator_have_the_same_scores(pretrained_run: Path, tmp_path: Path, trained: str):
    path, label = write_labels_table(trained, tmp_path)
    how = {**FAST_SETTINGS, "kind": "multilabel", "text": "text", "label": label}
    run = finetune(path, from_=pretrained_run, out=tmp_path / "run", **how)
    expected, lists = evaluate(run, path), read_table(write_labels_table("list", tmp_path)[0]).rows
    for write in ("|".join, "; ".join, ", ".join, json.dumps, str):
        found = evaluate(run, [{**row, "tags": write(row["label"])} for row in lists], label="tags")
        assert (found["metrics"], found["unseen"]) == (expected["metrics"], {})


@pytest.mark.parametrize(
    ("rows", "label", "options", "problem"),
    [
        ([{"text": "x", "a": 1, "b": 0}, {"text": "y", "a": 2, "b": 1}], "a,b", {}, "row 2: column 'a' has '2'"),
        ([{"text": "x", "a": 1, "b": 0}], "a,c", {}, "has no column 'c'"),
        ([{"text": "x", "label": "a|b"}] * 9, "label", {"class_weight": "balanced"}, "needs labels that are classes"),
        ([{"text": "x", "label": "a|b"}] * 9, "text", {}, "is also the input column"),
    ],
)
def test_rows_that_cannot_be_learned_are_an_error(
    rows: list[dict[str, Any]], label: str, options: dict[str, Any], problem: str, pretrained_run: Path, tmp_path: Path
):
    how = {**FAST_SETTINGS, "kind": "multilabel", "text": "text", "deduplicate": False}
    with pytest.raises(UserError, match=problem):
        finetune(
            Table("rows", list(rows[0]), rows), from_=pretrained_run, out=tmp_path / "r", label=label, **how, **options
        )
    assert not (tmp_path / "r").exists()
