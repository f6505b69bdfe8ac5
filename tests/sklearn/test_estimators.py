"""The estimators work in scikit-learn's tools: pipelines, cross-validation, grid searches, calibration, pickles."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from gpt1 import evaluate, load
from gpt1.errors import UserError
from gpt1.sklearn import GPTChoice, GPTClassifier, GPTFeatures, GPTPairClassifier, GPTPairRegressor, GPTRegressor
from gpt1.sklearn.inputs import training_column_names
from gpt1.tables.table import Table

pytestmark = pytest.mark.usefixtures("no_reports")

QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 16, "device": "cpu", "precision": "fp32", "random_state": 0}


@pytest.fixture(scope="module")
def run(pretrained_run: Path) -> str:
    return str(pretrained_run)


@pytest.fixture(scope="module")
def texts(table: Table) -> list[str]:
    return [row["text"] for row in table.rows]


@pytest.fixture(scope="module")
def labels(table: Table) -> list[str]:
    return [row["label"] for row in table.rows]


@pytest.fixture(scope="module")
def classifier(run: str, texts: list[str], labels: list[str]) -> GPTClassifier:
    return GPTClassifier(run, **QUICK).fit(texts, labels)


@pytest.mark.parametrize(
    "names",
    [["no", "yes"], [True, False], [10, 9], [2.0, -1.0], ["10", "9"], ["b c", "ä,"]],
    ids=["words", "bools", "integers", "floats", "numbers as words", "odd words"],
)
def test_a_prediction_is_the_class_of_the_highest_probability(run: str, texts: list[str], names: list[Any]):
    y = np.array([names[i % 2] for i in range(len(texts))])
    model = GPTClassifier(run, **QUICK).fit(texts, y)
    assert model.classes_.tolist() == sorted(names)
    probabilities = model.predict_proba(texts)
    assert probabilities.shape == (len(texts), 2)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    np.testing.assert_array_equal(model.predict(texts), model.classes_[probabilities.argmax(1)])


def test_a_small_table_gets_the_batch_size_and_the_steps_of_gpt1_finetune(
    run: str, texts: list[str], labels: list[str], capsys: Any
):
    GPTClassifier(run, device="cpu", precision="fp32", random_state=0, verbose=True).fit(texts, labels)
    assert "50 epochs, 8 rows per step" in capsys.readouterr().err  # 57 rows: 8 steps per epoch, 400 steps


def test_ten_classes_keep_their_columns(run: str, texts: list[str]):
    """Class codes 0 … 10 must not be sorted as words."""
    y = [f"class {i % 11:02}" for i in range(len(texts))]
    how = {**QUICK, "epochs": 30, "settings": {"peak_lr": 5e-3, "dropout": 0.0, "valid_fraction": 0.0}}
    model = GPTClassifier(run, **how).fit([f"{name} {text[:9]}" for name, text in zip(y, texts, strict=True)], y)
    assert model.score([f"{name} {text[:9]}" for name, text in zip(y, texts, strict=True)], y) > 0.5


def test_texts_come_in_any_container(classifier: GPTClassifier, texts: list[str]):
    expected = classifier.predict_proba(texts)
    containers: list[Any] = [
        np.array(texts),
        np.array(texts, dtype=object)[:, None],
        pd.Series(texts),
        pl.Series(texts),
    ]
    containers += [pd.DataFrame({"any name": texts}), pl.DataFrame({"t": texts}), tuple(texts)]
    for container in containers:
        np.testing.assert_allclose(classifier.predict_proba(container), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("X", "error"),
    [
        ("a text", "not a single str"),
        ([None, "a"], "missing .* in row 0"),
        (["a", pd.NA], "missing .* in row 1"),
        (pd.DataFrame({"a": ["x", "y"], "b": ["x", "y"]}), "2 columns"),
        (pd.Series(["a", None]), "missing .* in row 1"),
    ],
)
def test_anything_but_texts_is_a_value_error(classifier: GPTClassifier, run: str, X: Any, error: str):
    with pytest.raises(ValueError, match=error):
        classifier.predict(X)
    with pytest.raises(ValueError, match=error):
        GPTClassifier(run, **QUICK).fit(X, ["a", "b"])


def test_a_single_class_is_a_value_error(run: str):
    with pytest.raises(ValueError, match="at least two classes"):
        GPTClassifier(run, **QUICK).fit(["a", "b"], ["x", "x"])


def test_a_model_that_does_not_exist_is_an_error(texts: list[str], labels: list[str]):
    with pytest.raises(UserError, match="nowhere does not exist"):
        GPTClassifier("nowhere").fit(texts, labels)


@pytest.mark.parametrize("dump", ["pickle", "joblib"])
def test_a_pickle_holds_the_model_itself(
    run: str, texts: list[str], labels: list[str], tmp_path: Path, dump: str, classifier: GPTClassifier
):
    if dump == "pickle":
        again = pickle.loads(pickle.dumps(classifier))
    else:
        joblib.dump(classifier, tmp_path / "model.joblib")
        again = joblib.load(tmp_path / "model.joblib")
    again.pretrained = "gone"
    np.testing.assert_array_equal(again.predict_proba(texts), classifier.predict_proba(texts))
    features = GPTFeatures(run, device="cpu").fit(texts)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(features)).transform(texts), features.transform(texts))


def test_a_saved_model_is_a_model_folder(classifier: GPTClassifier, texts: list[str], tmp_path: Path):
    model = load(classifier.save(tmp_path / "model"), device="cpu")
    np.testing.assert_allclose(model.predict_proba(texts), classifier.predict_proba(texts), atol=1e-6)


def test_the_same_random_state_gives_the_same_model(run: str, texts: list[str], labels: list[str]):
    model = GPTClassifier(run, **QUICK)
    first, again = model.fit(texts, labels).predict_proba(texts), clone(model).fit(texts, labels).predict_proba(texts)
    np.testing.assert_array_equal(first, again)
    other = clone(model).set_params(random_state=1).fit(texts, labels).predict_proba(texts)
    assert not np.array_equal(first, other)


def test_settings_reach_the_run(run: str, texts: list[str], labels: list[str]):
    model = GPTClassifier(run, **QUICK, settings={"peak_lr": 0.0, "lm_coef": 0.0}).fit(texts, labels)
    before = load(run, device="cpu").gpt.blocks[0].mlp.widen.weight
    assert (model.model_.gpt.blocks[0].mlp.widen.weight == before).all()
    with pytest.raises(UserError, match="there is no setting 'epoch'"):
        GPTClassifier(run, settings={"epoch": 1}).fit(texts, labels)


# ---- scikit-learn's tools


def test_cross_validation_and_grid_search_work(run: str, texts: list[str], labels: list[str]):
    model = GPTClassifier(run, **QUICK)
    assert cross_val_score(model, texts, labels, cv=2).shape == (2,)
    assert cross_val_predict(model, texts, labels, cv=2, method="predict_proba").shape == (64, 2)
    search = GridSearchCV(model, {"train": ["all", "head"], "epochs": [1, 2]}, cv=2, scoring="neg_log_loss")
    search.fit(texts, labels)
    assert set(search.best_params_) == {"train", "epochs"}
    assert search.predict(texts).shape == (64,)


def test_features_work_in_a_pipeline_and_a_column_transformer(run: str, texts: list[str], labels: list[str]):
    features = GPTFeatures(run, device="cpu")
    pipeline = make_pipeline(features, LogisticRegression(max_iter=1000))
    assert cross_val_score(pipeline, texts, labels, cv=2).shape == (2,)
    frame = pd.DataFrame({"text": texts, "color": ["red", "green"] * 32}, index=range(100, 164))
    columns = ColumnTransformer([("vectors", features, "text"), ("colors", OneHotEncoder(), ["color"])])
    assert columns.fit_transform(frame).shape == (64, 34)
    for library in ("pandas", "polars"):
        made = clone(columns).set_params(colors__sparse_output=False).set_output(transform=library).fit_transform(frame)
        assert list(made.columns)[:2] == ["vectors__gptfeatures0", "vectors__gptfeatures1"]
    assert list(features.set_output(transform="pandas").fit_transform(frame["text"]).index) == list(frame.index)
    expected = load(run, device="cpu").features(texts)
    np.testing.assert_allclose(clone(features).fit(texts).transform(texts), expected, atol=1e-6)


def test_a_classifier_can_be_calibrated_again(run: str, texts: list[str], labels: list[str]):
    calibrated = CalibratedClassifierCV(GPTClassifier(run, **QUICK), cv=2).fit(texts, labels)
    np.testing.assert_allclose(calibrated.predict_proba(texts).sum(1), 1)


def test_pretraining_comes_first_where_there_is_no_model(
    prose: list[str], texts: list[str], labels: list[str], tmp_path: Path
):
    settings = {"model": "tiny", "n_layer": 1, "n_head": 1, "n_embd": 16, "context": 32, "steps": 2}
    model = GPTClassifier(**QUICK).pretrain(prose[:50], tmp_path / "run", vocab_size=300, **settings)
    assert model.pretrained == str(tmp_path / "run")
    assert clone(model).fit(texts, labels).predict(texts).shape == (64,)


# ---- sample weights


@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_rows_of_weight_0_are_as_if_they_were_not_there(
    run: str, texts: list[str], labels: list[str], class_weight: Any
):
    weights = np.array([1.0] * 40 + [0.0] * 24)
    weights[::4] = 0  # half of the rows of one class
    kept = np.flatnonzero(weights)
    model = GPTClassifier(run, **QUICK, class_weight=class_weight)
    weighted = model.fit(texts, labels, weights).predict_proba(texts)
    shorter = clone(model).fit([texts[i] for i in kept], [labels[i] for i in kept])
    np.testing.assert_array_equal(weighted, shorter.predict_proba(texts))


def test_only_the_ratio_of_weights_counts(run: str, texts: list[str], labels: list[str]):
    weights = np.arange(1.0, 65.0)
    first = GPTClassifier(run, **QUICK).fit(texts, labels, weights).predict_proba(texts)
    second = GPTClassifier(run, **QUICK).fit(texts, labels, 8 * weights).predict_proba(texts)
    np.testing.assert_array_equal(first, second)
    plain = GPTClassifier(run, **QUICK).fit(texts, labels).predict_proba(texts)
    assert not np.array_equal(first, plain)
    equal = GPTClassifier(run, **QUICK).fit(texts, labels, 3 * np.ones(64)).predict_proba(texts)
    np.testing.assert_array_equal(equal, plain)


def test_class_weights_are_sample_weights(run: str, texts: list[str]):
    y = np.array([0] * 48 + [1] * 16)
    balanced = GPTClassifier(run, **QUICK, class_weight="balanced").fit(texts, y).predict_proba(texts)
    given = GPTClassifier(run, **QUICK, class_weight={0: 1, 1: 3}).fit(texts, y).predict_proba(texts)
    rows = GPTClassifier(run, **QUICK).fit(texts, y, np.where(y, 3.0, 1.0)).predict_proba(texts)
    np.testing.assert_allclose(balanced, rows, atol=1e-6)
    np.testing.assert_allclose(given, rows, atol=1e-6)


@pytest.mark.parametrize("weights", [np.zeros(64), np.full(64, -1.0), np.ones(3), np.full(64, np.nan)])
def test_weights_that_mean_nothing_are_a_value_error(run: str, texts: list[str], labels: list[str], weights: Any):
    with pytest.raises(ValueError):
        GPTClassifier(run, **QUICK).fit(texts, labels, weights)


# ---- pairs, numbers, choices


def test_pairs_are_classified(run: str, table: Table, labels: list[str]):
    pairs = [(row["text"], row["other"]) for row in table.rows]
    for symmetric in (False, True):
        model = GPTPairClassifier(run, symmetric=symmetric, **QUICK).fit(pairs, labels)
        expected = model.predict_proba(pairs)
        for container in (np.array(pairs), pd.DataFrame(pairs, columns=["x", "y"]), [list(pair) for pair in pairs]):
            np.testing.assert_allclose(model.predict_proba(container), expected, atol=1e-6)
        swapped = model.predict_proba([(b, a) for a, b in pairs])
        assert np.allclose(swapped, expected, atol=1e-5) == symmetric
    with pytest.raises(ValueError, match="1 column in"):
        model.predict(["a text"])
    assert cross_val_score(model, pd.DataFrame(pairs), labels, cv=2).shape == (2,)


def test_numbers_are_predicted(run: str, table: Table, texts: list[str]):
    numbers = np.array([row["stars"] for row in table.rows])
    model = GPTRegressor(run, **QUICK).fit(texts, numbers)
    assert model.predict(texts).shape == (64,)
    assert model.score(texts, numbers) <= 1
    shifted = GPTRegressor(run, **QUICK).fit(texts, 1000 * numbers + 5).predict(texts)
    np.testing.assert_allclose(shifted, 1000 * model.predict(texts) + 5, rtol=1e-3)
    pairs = [(row["text"], row["other"]) for row in table.rows]
    pair_model = GPTPairRegressor(run, **QUICK).fit(pairs, 1000 * numbers - 7)
    predicted = pair_model.predict(pairs)
    assert ((predicted >= 493) & (predicted <= 4493)).all()
    np.testing.assert_allclose(pair_model.predict([(b, a) for a, b in pairs]), predicted, rtol=1e-4)
    for wrong in (np.full(64, 2.0), np.full(64, np.nan)):
        with pytest.raises((ValueError, UserError)):
            GPTPairRegressor(run, **QUICK).fit(pairs, wrong)


def test_the_right_answer_is_chosen(run: str, table: Table):
    rows = [(row["text"], row["answers"]) for row in table.rows]
    right = [row["right"] for row in table.rows]
    model = GPTChoice(run, **QUICK).fit(rows, right)
    assert model.classes_.tolist() == [0, 1, 2]
    probabilities = model.predict_proba(rows)
    np.testing.assert_array_equal(model.predict(rows), model.classes_[probabilities.argmax(1)])
    assert (probabilities[[len(answers) == 2 for _, answers in rows], 2] == 0).all()
    frame = pd.DataFrame({"c": [c for c, _ in rows], "q": "", "a": [a for _, a in rows]})
    np.testing.assert_allclose(model.predict_proba(frame), probabilities, atol=1e-6)
    numbers = [("which", ["1", "0"]), ("which", ["0", "1"])] * 8
    assert GPTChoice(run, **QUICK).fit(numbers, [1, 0] * 8).predict(numbers).shape == (16,)
    assert cross_val_score(model, rows, right, cv=2).shape == (2,)
    with pytest.raises(ValueError, match="y has the answer 2"):
        GPTChoice(run, **QUICK).fit(rows[:2], [2, 0])
    with pytest.raises(ValueError, match="row 0 of X is not"):
        model.predict(["a text"])


# ---- saved models


def save_and_load(model: Any, folder: Path) -> tuple[Any, dict[str, Any]]:
    """The saved model as `gpt1.load` reads it, and its task.json."""
    loaded = load(model.save(folder), device="cpu")
    return loaded, loaded.task


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["no", "yes"], ["no", "yes"]),
        ([True, False], [False, True]),
        ([10, 9], [9, 10]),
        ([2.0, -1.0], [-1.0, 2.0]),
        (["10", "9"], ["9", "10"]),
    ],
    ids=["words", "bools", "integers", "floats", "numbers as words"],
)
def test_a_saved_classifier_has_the_labels_of_the_user(
    run: str, texts: list[str], names: list[Any], labels: list[Any], tmp_path: Path
):
    y = pd.Series([names[i % 2] for i in range(len(texts))], name="verdict")
    model = GPTClassifier(run, **QUICK).fit(pd.Series(texts, name="review"), y)
    loaded, task = save_and_load(model, tmp_path / "model")
    assert [type(label) for label in loaded.labels] == [type(label) for label in labels]
    assert list(loaded.labels) == labels == list(model.model_.labels)
    assert task["columns"] == {"text": "review", "label": "verdict"}
    own = loaded.predict([{"review": text} for text in texts])
    assert [row["prediction"] for row in own] == model.predict(texts).tolist()
    columns = [model.classes_.tolist().index(label) for label in labels]
    np.testing.assert_allclose(loaded.predict_proba(texts), model.predict_proba(texts)[:, columns], atol=1e-6)
    rows = [{"review": text, "verdict": label} for text, label in zip(texts, y, strict=True)]
    found = evaluate(tmp_path / "model", rows)
    assert found["metrics"]["accuracy"] == pytest.approx(model.score(texts, y))


@pytest.mark.parametrize(
    ("X", "y", "columns"),
    [
        (["a"], ["b"], ["text", "label"]),
        (pd.Series(["a"]), pd.Series(["b"], name="stars"), ["text", "stars"]),
        (pd.DataFrame({"label": ["a"]}), pd.Series(["b"]), ["label", "gpt1 label"]),
        (pd.DataFrame({"title,body": ["a"]}), pl.Series("y", ["b"]), ["text", "y"]),
        (pd.DataFrame({0: ["a"]}), pd.DataFrame({"y": ["b"]}), ["text", "y"]),
        (pl.DataFrame({"label": ["a"]}), pl.Series("label", ["b"]), ["label", "gpt1 label"]),
    ],
)
def test_columns_have_the_names_of_frames_and_series(X: Any, y: Any, columns: list[str]):
    assert training_column_names(X, y, ("text",)) == columns


def test_every_saved_estimator_keeps_its_task(run: str, table: Table, tmp_path: Path):
    pairs = pd.DataFrame({"q1": [row["text"] for row in table.rows], "q2": [row["other"] for row in table.rows]})
    names = pd.Series([row["label"] for row in table.rows], name="same")
    stars = pd.Series([1000 * row["stars"] - 7 for row in table.rows], name="stars")
    for symmetric, roles in ((True, ("text_a", "text_b")), (False, ("premise", "hypothesis"))):
        model = GPTPairClassifier(run, symmetric=symmetric, **QUICK).fit(pairs, names)
        loaded, task = save_and_load(model, tmp_path / f"pairs-{symmetric}")
        assert task["columns"] == {roles[0]: "q1", roles[1]: "q2", "label": "same"}
        assert list(loaded.labels) == sorted(set(names))
    for number, regressor, X in (
        (1, GPTRegressor, pairs["q1"]),
        (2, GPTPairRegressor, pairs),
    ):
        model = regressor(run, **QUICK).fit(X, stars)
        loaded, task = save_and_load(model, tmp_path / f"numbers-{number}")
        assert task["columns"]["label"] == "stars"
        assert stars.min() <= task["trivial_answer"] <= stars.max()
        np.testing.assert_allclose(loaded.predict(X)["score"], model.predict(X), rtol=1e-5)
        np.testing.assert_allclose(
            evaluate(tmp_path / f"numbers-{number}", pairs.assign(stars=stars))["metrics"]["rmse"],
            np.sqrt(((model.predict(X) - stars) ** 2).mean()),
            rtol=1e-5,
        )


def test_a_saved_choice_model_keeps_its_columns(run: str, table: Table, tmp_path: Path):
    right = [row["right"] for row in table.rows]
    frame = pd.DataFrame({"story": [row["text"] for row in table.rows], "ends": [row["answers"] for row in table.rows]})
    loaded, task = save_and_load(GPTChoice(run, **QUICK).fit(frame, right), tmp_path / "two")
    assert task["columns"] == {"context": "story", "choices": "ends", "label": "label"}
    assert len(loaded.predict(frame)) == len(frame)
    frame.insert(1, "asked", "why")
    model = GPTChoice(run, **QUICK).fit(frame, right)
    loaded, task = save_and_load(model, tmp_path / "three")
    assert task["columns"] == {"context": "story", "question": "asked", "choices": "ends", "label": "label"}
    np.testing.assert_array_equal(loaded.predict(frame)["prediction"], model.predict(frame))
    with pytest.raises(ValueError, match="X in fit had none"):
        GPTChoice(run, **QUICK).fit(frame[["story", "ends"]], right).predict(frame)


@pytest.mark.parametrize(("names", "problem"), [(["a", " a"], "the same in a table"), (["", "a"], "is empty")])
def test_labels_that_a_table_cannot_hold_are_a_value_error(run: str, names: list[str], problem: str):
    with pytest.raises(ValueError, match=problem):
        GPTClassifier(run, **QUICK).fit(["x", "y", "z", "w"], names * 2)


def test_a_class_without_a_text_has_probability_0(run: str, texts: list[str], labels: list[str]):
    model = GPTClassifier(run, **QUICK).fit([*texts, " "], [*labels, "mute"])
    assert "mute" in model.classes_
    assert (model.predict_proba(texts)[:, model.classes_.tolist().index("mute")] == 0).all()
