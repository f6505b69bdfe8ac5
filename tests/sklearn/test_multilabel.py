"""GPTClassifier with several labels a row: y and predictions are indicator matrices."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from sklearn.metrics import f1_score
from sklearn.model_selection import cross_val_score

from gpt1 import load
from gpt1.sklearn import GPTClassifier, GPTPairClassifier
from gpt1.tables.table import Table

pytestmark = pytest.mark.usefixtures("no_reports")

HOW: dict[str, Any] = {"epochs": 20, "batch_size": 16, "device": "cpu", "precision": "fp32", "random_state": 0}
LEARNS = {**HOW, "settings": {"peak_lr": 5e-3, "dropout": 0.0}}
NAMES = ["zebra", "has a nine", "never"]


@pytest.fixture(scope="module")
def rows(table: Table) -> tuple[list[str], np.ndarray]:
    """Texts that name their labels; the last label is never there."""
    labels = np.array([[i % 2, (i // 2) % 2, 0] for i in range(len(table.rows))])
    words = [" ".join(name for name, has in zip(("yes", "valid"), row[:2], strict=True) if has) for row in labels]
    return [f"the file is {text or 'none'}" for text in words], labels


@pytest.fixture(scope="module")
def model(pretrained_run: Path, rows: Any) -> GPTClassifier:
    texts, labels = rows
    return GPTClassifier(str(pretrained_run), **LEARNS).fit(texts, pd.DataFrame(labels, columns=NAMES))


def test_predictions_are_indicator_matrices_with_the_columns_of_y(model: GPTClassifier, rows: Any):
    texts, labels = rows
    assert model.multilabel_
    assert model.classes_.tolist() == NAMES
    predicted, probabilities = model.predict(texts), model.predict_proba(texts)
    assert predicted.shape == probabilities.shape == labels.shape
    assert predicted.dtype == labels.dtype
    assert {*np.unique(predicted)} <= {0, 1}
    assert f1_score(labels[:, :2], predicted[:, :2], average="macro") > 0.9
    assert not predicted[:, 2].any(), "a label that no row had is predicted as absent"
    assert not probabilities[:, 2].any()


def test_a_prediction_is_what_the_model_itself_predicts(model: GPTClassifier, rows: Any, tmp_path: Path):
    texts, _ = rows
    saved = load(model.save(tmp_path / "model"), device="cpu")
    assert saved.labels == sorted(NAMES[:2])
    expected = [[NAMES[k] for k in np.flatnonzero(row)] for row in model.predict(texts)]
    assert [sorted(row["prediction"]) for row in saved.predict(texts)] == [sorted(row) for row in expected]
    columns = [NAMES.index(label) for label in saved.labels]
    np.testing.assert_allclose(model.predict_proba(texts)[:, columns], saved.predict_proba(texts), atol=1e-6)


def test_a_pickle_predicts_the_same(model: GPTClassifier, rows: Any):
    texts, _ = rows
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(texts), model.predict(texts))


@pytest.mark.parametrize("form", [np.asarray, csr_matrix, lambda y: y.tolist(), lambda y: y.astype(bool)])
def test_an_indicator_matrix_comes_in_any_form(form: Any, pretrained_run: Path, rows: Any):
    texts, labels = rows
    fitted = GPTClassifier(str(pretrained_run), **{**HOW, "epochs": 1}).fit(texts, form(labels))
    assert fitted.classes_.tolist() == [0, 1, 2]
    assert fitted.predict(texts).shape == labels.shape


def test_cross_validation_takes_indicator_matrices(pretrained_run: Path, rows: Any):
    texts, labels = rows
    model = GPTClassifier(str(pretrained_run), **{**HOW, "epochs": 1})
    scores = cross_val_score(model, texts, labels[:, :2], cv=2, scoring="f1_micro")
    assert scores.shape == (2,)
    assert np.isfinite(scores).all()


def test_sample_weights_of_zero_leave_rows_out(pretrained_run: Path, rows: Any):
    texts, labels = rows
    model = GPTClassifier(str(pretrained_run), **HOW)
    with pytest.raises(ValueError, match="have 1 of its labels"):
        model.fit(texts, labels, sample_weight=1 - labels[:, 1])


@pytest.mark.parametrize(
    ("make", "y", "problem"),
    [
        (lambda run: GPTClassifier(run, class_weight="balanced"), np.eye(4, dtype=int), "class_weight needs one label"),
        (lambda run: GPTPairClassifier(run), np.eye(4, dtype=int), "GPTPairClassifier needs one label"),
        (lambda run: GPTClassifier(run), np.zeros((4, 3), dtype=int), "have 0 of its labels"),
        (lambda run: GPTClassifier(run), np.eye(3, dtype=int), "inconsistent numbers of samples"),
        (
            lambda run: GPTClassifier(run),
            pd.DataFrame(np.eye(4, dtype=int), columns=["a", "b", "a ", "c"]),
            "must be unique",
        ),
    ],
)
def test_labels_that_an_estimator_cannot_learn_are_refused(make: Any, y: Any, problem: str, pretrained_run: Path):
    X = [("a", "b")] * 4 if isinstance(make(""), GPTPairClassifier) else ["a text"] * 4
    with pytest.raises(ValueError, match=problem):
        make(str(pretrained_run)).fit(X, y)
