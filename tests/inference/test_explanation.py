"""The contribution of a word is the change of a prediction without it; frames and lists give the same results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from task_models import TASKS, MakePredictor

from gpt1.errors import UserError
from gpt1.inference import explanation
from gpt1.inference.predictor import TaskPredictor

ROWS = [
    {"t": "one two three", "u": "four, five", "a": ["six seven", "eight"]},
    {"t": "alpha beta", "u": "nine", "a": ["ten", "eleven", "twelve"]},
]
every_task = pytest.mark.parametrize("name", TASKS)


@every_task
@pytest.mark.parametrize("rows_at_once", [1, 4096])
def test_a_contribution_is_the_value_minus_that_without_the_word(
    make_predictor: MakePredictor,
    name: str,
    rows_at_once: int,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(explanation, "OCCLUDED_ROWS", rows_at_once)
    model = make_predictor(name)
    for row, prediction, found in zip(ROWS, model.predict(ROWS), model.explain(ROWS), strict=True):
        texts = [row[column] for role, column in model.text_columns.items() if role != "choices"]
        texts += row["a"] if "choices" in model.text_columns else []
        assert [word["word"] for word in found["words"]] == [w for text in texts for w in text.split()]
        named = found["explained"]
        assert found["value"] == pytest.approx(prediction[named], abs=1e-6)
        for word in found["words"]:
            text = row[word["column"]] if "answer" not in word else row["a"][word["answer"]]
            assert text[word["start"] : word["end"]] == word["word"]
            rest = " ".join(w for w in text.split() if w != word["word"])
            changed = {**row, word["column"]: rest}
            if "answer" in word:
                changed = {**row, "a": [rest if k == word["answer"] else a for k, a in enumerate(row["a"])]}
            (without,) = model.predict([changed])
            assert word["contribution"] == pytest.approx(prediction[named] - without[named], abs=1e-5)


def test_the_memory_of_an_explanation_does_not_grow_with_the_square_of_a_text(
    make_predictor: MakePredictor, monkeypatch: pytest.MonkeyPatch
):
    model = make_predictor("classification")
    rows = ["one two three four five six " * 20, "", "one", "seven eight"]
    expected = model.explain(rows)
    blocks, logits = list[list[int]](), TaskPredictor.logits

    def count(self: TaskPredictor, examples: Any, *rest: Any) -> torch.Tensor:
        blocks.append([len(example.fields[0]) for example in examples])
        return logits(self, examples, *rest)

    monkeypatch.setattr(TaskPredictor, "logits", count)
    monkeypatch.setattr(explanation, "OCCLUDED_ROWS", 7)
    monkeypatch.setattr(explanation, "OCCLUDED_CHARACTERS", 2500)
    found = model.explain(rows)
    assert sum(map(len, blocks)) == len(rows) + 120 + 1 + 2
    assert max(map(len, blocks)) == 7
    assert 2000 < max(map(sum, blocks)) <= 2500
    for row, same in zip(found, expected, strict=True):
        contributions = [[word.pop("contribution") for word in one["words"]] for one in (row, same)]
        assert contributions[0] == pytest.approx(contributions[1], abs=1e-5)
        assert row == {**same, "value": pytest.approx(same["value"], abs=1e-6)}


def test_a_label_can_be_chosen(make_predictor: MakePredictor):
    model = make_predictor("classification")
    for label in model.labels:
        (found,) = model.explain(["one two"], label=label)
        (prediction,) = model.predict(["one two"])
        assert found["explained"] == f"probability_{label}"
        assert found["value"] == pytest.approx(prediction[f"probability_{label}"], abs=1e-6)
    with pytest.raises(UserError, match="unknown label 'd'"):
        model.explain(["one"], label="d")
    with pytest.raises(UserError, match="predicts a score"):
        make_predictor("regression").explain(["one"], label="d")


def test_characters_that_are_written_without_spaces_are_words():
    assert explanation.EXPLAINED_WORD.findall("猫が go 東京, 안녕 하세요") == [
        "猫",
        "が",
        "go",
        "東",
        "京",
        ",",
        "안녕",
        "하세요",
    ]


@pytest.mark.parametrize(("text", "word", "rest"), [("a b c", "b", "a c"), ("a b", "a", "b"), ("a b", "b", "a")])
def test_removing_a_word_removes_one_of_the_spaces_around_it(text: str, word: str, rest: str):
    start = text.index(word)
    assert explanation.remove_span(text, start, start + 1) == rest


# ---- features


@pytest.mark.parametrize("long", ["cut", "windows"])
@pytest.mark.parametrize("name", [name for name in TASKS if name != "choice"])
def test_the_head_maps_the_features_to_the_logits(make_predictor: MakePredictor, name: str, long: str):
    model = make_predictor(name, long)
    rows = [*ROWS, {"t": "a long text, " * 9, "u": "short"}]
    features = model.features(rows)
    assert features.dtype == np.float32
    with torch.no_grad():
        logits = model.task_model.head.linear(torch.from_numpy(features))
    expected = model.logits(model.read_rows(rows))
    same = slice(None) if long == "cut" else slice(2)  # predictions of windows are averaged after the softmax
    torch.testing.assert_close(logits[same], expected[same], atol=1e-5, rtol=1e-5)
    alone = np.concatenate([model.features([row]) for row in rows])
    np.testing.assert_allclose(features, alone, atol=1e-5)


def test_multiple_choice_has_no_features(make_predictor: MakePredictor):
    with pytest.raises(UserError, match="one vector per answer"):
        make_predictor("choice").features(ROWS)


# ---- frames


def frame(library: Any) -> Any:
    rows = [{k: v for k, v in row.items() if k != "a"} for row in ROWS]
    return library.DataFrame(rows) if library is pl else pd.DataFrame(rows, index=["x", "y"])


@pytest.mark.parametrize("library", [pd, pl], ids=["pandas", "polars"])
@pytest.mark.parametrize("name", ["classification", "scored similarity"])
def test_a_frame_is_predicted_like_its_rows_and_keeps_its_index(make_predictor: MakePredictor, name: str, library: Any):
    model = make_predictor(name)
    found = model.predict(frame(library))
    assert type(found) is type(frame(library))
    records = found.to_dicts() if library is pl else found.to_dict("records")
    assert records == model.predict(ROWS)
    if library is pd:
        assert list(found.index) == ["x", "y"]
    if model.labels:
        probabilities = model.predict_proba(frame(library))
        assert list(probabilities.columns) == model.labels
        np.testing.assert_array_equal(probabilities.to_numpy(), model.predict_proba(ROWS))
    assert list(model.features(frame(library)).columns) == [f"feature_{i}" for i in range(32)]
    assert model.explain(frame(library)) == model.explain(ROWS)


def test_a_series_of_texts_is_predicted(make_predictor: MakePredictor):
    model = make_predictor("classification")
    texts = pd.Series(["one", "two"], index=[3, 1])
    assert list(model.predict(texts).index) == [3, 1]
    assert model.predict(texts)["prediction"].tolist() == [row["prediction"] for row in model.predict(["one", "two"])]


def test_a_frame_with_a_missing_column_or_text_is_an_error(make_predictor: MakePredictor):
    model = make_predictor("entailment")
    with pytest.raises(UserError, match=r"the DataFrame has no column 'u'. Columns: t."):
        model.predict(pd.DataFrame({"t": ["a"]}))
    with pytest.raises(UserError, match="column 'u': the text is missing"):
        model.predict(pd.DataFrame({"t": ["a"], "u": [None]}))
