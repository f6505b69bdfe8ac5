"""Weights of classes and rows equal scikit-learn's, in value and in their effect on the loss and its gradient."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetune_helpers import FAST_SETTINGS, TEXT_OPTIONS, load_head
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight

from gpt1.config import FinetuneConfig
from gpt1.errors import UserError
from gpt1.experiments.label_efficiency import curve
from gpt1.model.head import Head
from gpt1.model.losses import FeatureMicroBatch, l2
from gpt1.runs.folder import read_results, read_run_config, user_settings
from gpt1.tables.table import Table
from gpt1.tasks.kinds import Example
from gpt1.tasks.targets import Classes, StandardizedNumber
from gpt1.tasks.weights import add_row_weights, class_weights, example_weights, parse_class_weights
from gpt1.training.finetune import finetune

pytestmark = pytest.mark.usefixtures("no_reports")

some_labels = st.lists(st.sampled_from("abc"), min_size=2, max_size=30).filter(lambda labels: len({*labels}) > 1)


def make_examples(labels: list[Any]) -> list[Example]:
    return [Example((str(label),), label=label) for label in labels]


@given(labels=some_labels)
def test_balanced_weights_are_those_of_scikit_learn(labels: list[str]):
    target = Classes.from_labels(labels)
    expected = compute_class_weight("balanced", classes=np.array(target.labels), y=labels)
    found = class_weights(make_examples(labels), target, "balanced")
    assert [found[label] for label in target.labels] == pytest.approx(expected.tolist())
    weights = example_weights(make_examples(labels), target, "balanced")
    own = compute_sample_weight("balanced", labels)
    assert own.mean() == pytest.approx(1)
    assert (np.ones(len(labels)) if weights is None else weights.numpy()) == pytest.approx(own, abs=1e-6)


@pytest.mark.parametrize("names", [(0.0, 1.0), (0, 1), (False, True), ("false", "TRUE"), ("-0", "1.0"), ("no", "yes")])
@pytest.mark.parametrize("shown", [str, lambda name: str(name).lower()], ids=["as in the rows", "in lower case"])
def test_a_weight_names_its_label_in_any_spelling_that_the_rows_may_have(names: tuple[Any, Any], shown: Any):
    examples = make_examples([*names, names[1]])
    target = Classes.from_labels([example.label for example in examples])
    for text in (f"{shown(names[1])}=3", json.dumps({shown(names[1]): 3})):
        assert class_weights(examples, target, text) == dict(zip(target.labels, (1.0, 3.0), strict=True))


@pytest.mark.parametrize("text", ["1=2,1.0=3", '{"1": 2, "1.0": 3}', "=3,1=2", '{" ": 3}'])
def test_a_label_with_two_weights_and_a_weight_without_a_label_are_refused(text: str):
    examples = make_examples(["0", "1"])
    with pytest.raises(UserError, match=r"twice|without a label"):
        class_weights(examples, Classes(("0", "1")), text)


@given(labels=some_labels, data=st.data())
def test_given_weights_are_scaled_to_a_mean_of_1(labels: list[str], data: Any):
    target = Classes.from_labels(labels)
    given_weights = {label: data.draw(st.floats(0.1, 10)) for label in target.labels[1:]}
    text = ",".join(f"{label}={weight}" for label, weight in given_weights.items())
    weights = example_weights(make_examples(labels), target, text)
    expected = compute_sample_weight({target.labels[0]: 1.0, **given_weights}, labels)
    found = np.ones(len(labels)) if weights is None else weights.numpy()
    assert found == pytest.approx(expected / expected.mean(), rel=1e-5)


@given(n=st.integers(2, 20), data=st.data())
def test_the_weighted_loss_is_the_log_loss_of_scikit_learn(n: int, data: Any):
    labels = data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    weights = torch.tensor(data.draw(st.lists(st.floats(0.1, 5), min_size=n, max_size=n)))
    weights = weights / weights.mean()
    head = Head(4, 3, each=False, p=0.0)
    torch.nn.init.normal_(head.linear.weight)
    batch = FeatureMicroBatch(torch.randn(n, 4), torch.arange(n), torch.tensor(labels), n, weights)
    logits = head(batch.features, batch.example_index)
    expected = log_loss(labels, logits.double().softmax(-1).detach(), sample_weight=weights, labels=[0, 1, 2])
    assert float(l2(head, Classes(("a", "b", "c")).loss, batch).total.detach()) == pytest.approx(expected, rel=1e-4)


def test_the_weighted_optimum_is_that_of_scikit_learn():
    """Full-batch descent on the head, without a penalty, against LogisticRegression."""
    torch.manual_seed(0)
    n = 300
    x = torch.randn(n, 3)
    y = (x @ torch.tensor([1.0, -1.0, 0.5]) + torch.randn(n) > 1.5).long()
    labels = [str(int(label)) for label in y]
    target = Classes.from_labels(labels)
    weights = example_weights(make_examples(labels), target, "balanced")
    head = Head(3, 2, each=False, p=0.0)
    batch = FeatureMicroBatch(x, torch.arange(n), y, n, weights)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=200, tolerance_grad=1e-9)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = l2(head, target.loss, batch).total
        loss.backward()
        return loss

    optimizer.step(closure)
    reference = LogisticRegression(C=np.inf, class_weight="balanced", tol=1e-8).fit(x, y)
    found = head(x, torch.arange(n)).softmax(-1)[:, 1].detach().numpy()
    assert found == pytest.approx(reference.predict_proba(x)[:, 1], abs=2e-3)
    plain = LogisticRegression(C=np.inf).fit(x, y).predict_proba(x)[:, 1]
    assert np.abs(found - plain).max() > 0.1


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a=1,b=2.5", {"a": 1, "b": 2.5}), ('{"a, b": 3, "c=d": 1}', {"a, b": 3, "c=d": 1}), ("x=y=2", {"x=y": 2})],
)
def test_class_weights_are_read_from_text(text: str, expected: dict[str, float]):
    assert parse_class_weights(text) == expected


@pytest.mark.parametrize("text", ["balanse", "a", "a=", "a=0", "a=-1", "a=nan", "a=inf", "a=1,a=2", '{"a": "x"}', "{"])
def test_class_weights_that_mean_nothing_are_an_error(text: str):
    with pytest.raises(UserError, match="class_weight="):
        parse_class_weights(text)


def test_weights_that_do_not_fit_the_labels_are_an_error():
    examples = make_examples(["yes", "no"])
    with pytest.raises(UserError, match=r"names the label 'yess'.*Did you mean yes"):
        example_weights(examples, Classes(("no", "yes")), "yess=2")
    with pytest.raises(UserError, match="needs labels that are classes"):
        example_weights(examples, StandardizedNumber(0.0, 1.0), "balanced")


@pytest.mark.parametrize("weight", ["x", None, float("nan"), -1, float("inf")])
def test_a_row_weight_that_is_not_a_number_is_an_error_with_its_row(weight: Any):
    table = Table("rows.csv", ["text", "w"], [{"text": "a", "w": 1}, {"text": "b", "w": weight}])
    with pytest.raises(UserError, match=r"rows\.csv, row 2: the weight"):
        add_row_weights(make_examples(["a", "b"]), table, "w")
    with pytest.raises(UserError, match="has no column 'weight'"):
        add_row_weights(make_examples(["a", "b"]), table, "weight")


@pytest.mark.parametrize(
    ("cells", "weights"),
    [(["0,5", "2"], [0.5, 2]), (["1.000", "0,5"], [1000, 0.5]), (["1,000", "0.5"], [1000, 0.5]), ([2, 0.5], [2, 0.5])],
)
def test_row_weights_are_read_like_the_numbers_of_labels(cells: list[Any], weights: list[float]):
    table = Table("rows.csv", ["text", "w"], [{"text": "a", "w": cell} for cell in cells])
    assert [example.weight for example in add_row_weights(make_examples(["a", "b"]), table, "w")] == weights


def test_weights_of_0_leave_nothing_to_learn():
    table = Table("rows.csv", ["text", "w"], [{"text": "a", "w": 0}, {"text": "b", "w": 0}])
    with pytest.raises(UserError, match="all rows have the weight 0"):
        example_weights(add_row_weights(make_examples(["a", "b"]), table, "w"), Classes(("a", "b")), "")


def test_class_weights_may_be_numbers_of_numpy():
    weights = {0: np.int64(3), np.int64(1): np.float32(0.5)}
    setting = user_settings(FinetuneConfig, None, {"class_weight": weights})["class_weight"]
    assert parse_class_weights(setting) == {"0": 3.0, "1": 0.5}


def test_class_weights_reach_the_tfidf_baseline(pretrained_run: Path, tmp_path: Path):
    """The test rows share no word with the training rows, so the weights decide which label TF-IDF predicts."""
    labels = ["rare", "usual", "usual"] * 30
    train, test = ([{"text": f"{word}{i}", "label": label} for i, label in enumerate(labels)] for word in "ab")
    how: dict[str, Any] = {"from_": pretrained_run, **TEXT_OPTIONS, "precision": "fp32"}
    for weights, accuracy in (("usual=1000", 2 / 3), ("rare=1000", 1 / 3)):
        settings = {**how, **FAST_SETTINGS, "baselines": True, "train": "head", "class_weight": weights}
        run = finetune(train, out=tmp_path / weights, valid=test, **settings)
        assert read_results(run)["baselines"]["tfidf"]["metrics"]["accuracy"] == pytest.approx(accuracy)
        options: dict[str, Any] = {"sizes": [60], "seeds": 1, "methods": ["tfidf"], "class_weight": weights}
        found = read_results(curve(train, test=test, out=tmp_path / f"curve {weights}", **how | options))
        assert found["curves"]["TF-IDF + linear model"]["60"]["median"] == pytest.approx(accuracy)


@pytest.mark.parametrize("train", ["all", "head"])
def test_class_weights_are_row_weights_in_training(table: Table, pretrained_run: Path, tmp_path: Path, train: str):
    rows = [{**row, "w": 3 if row["label"] == "yes" else 1} for row in table.rows]
    weighted = Table("rows.jsonl", [*table.columns, "w"], rows)
    how = {**TEXT_OPTIONS, **FAST_SETTINGS, "from_": pretrained_run, "train": train}
    by_row = finetune(weighted, out=tmp_path / "rows", weight="w", **how)
    by_class = finetune(weighted, out=tmp_path / "classes", class_weight={"yes": 3, "no": 1}, **how)
    plain = finetune(weighted, out=tmp_path / "plain", **how)
    heads = [load_head(run)["linear.weight"] for run in (by_row, by_class, plain)]
    torch.testing.assert_close(heads[0], heads[1], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(heads[0], heads[2], atol=1e-4)
    assert read_run_config(by_class)["class_weight"] == '{"yes": 3, "no": 1}'
    assert finetune(weighted, out=by_row, weight="w", resume=True, **how) == by_row
    with pytest.raises(UserError, match="weight"):
        finetune(weighted, out=by_row, weight="stars", resume=True, **how)
