"""Labels become targets, logits become predictions, and the loss is that of the paper."""

from __future__ import annotations

import json
import math
from decimal import Decimal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt1.config import FinetuneConfig, build_config
from gpt1.errors import UserError
from gpt1.files.foreign import Fields
from gpt1.tasks.kinds import KINDS
from gpt1.tasks.labels import as_label, label_sort_key
from gpt1.tasks.targets import (
    TARGET_TYPES,
    Answers,
    Classes,
    OrdinalBins,
    StandardizedNumber,
    decode_predictions,
    target_from_json,
    target_to_json,
)

numbers = st.floats(-1e6, 1e6)


def softmax(row: np.ndarray) -> np.ndarray:
    e = np.exp(row - row.max())
    return e / e.sum()


def test_labels_are_sorted_by_number_then_alphabetically():
    assert Classes.from_labels(["b", "10", "a", "2", "b"]).labels == ("2", "10", "a", "b")


@given(order=st.permutations(["3", "nan", "10", "-inf", "b", "NaN"]))
def test_the_label_nan_is_sorted_as_a_word(order: list[str]):
    assert sorted(order, key=label_sort_key) == ["-inf", "3", "10", "NaN", "b", "nan"]


def test_numbers_texts_and_spaces_give_the_same_label():
    target = Classes.from_labels(["0", "1"])
    assert [int(target.encode(label)) for label in (1, 1.0, "1", " 1 ")] == [1, 1, 1, 1]


def test_an_unknown_label_is_an_error_that_suggests_the_closest_one():
    with pytest.raises(UserError) as refused:
        Classes.from_labels(["positive", "negative"]).encode("postive")
    assert "'postive'" in refused.value.problem
    assert "Did you mean positive?" in refused.value.problem
    assert "negative, positive" in refused.value.fix


@pytest.mark.parametrize("empty", ["", "  ", None, float("nan")])
def test_an_empty_label_is_an_error(empty: object):
    with pytest.raises(UserError, match="label is empty"):
        Classes.from_labels(["a", "b", empty])


def test_a_single_label_is_an_error():
    with pytest.raises(UserError, match=r"same label \('yes'\)"):
        Classes.from_labels(["yes", "yes"])


def test_more_than_5000_labels_are_an_error():
    with pytest.raises(UserError, match="5,001 different values"):
        Classes.from_labels(range(5001))
    assert Classes.from_labels(range(5000)).outputs == 5000


@given(st.lists(st.lists(st.floats(-20, 20), min_size=3, max_size=3), min_size=1, max_size=5), st.data())
def test_the_loss_of_classes_is_cross_entropy(rows, data):
    target = Classes(("a", "b", "c"))
    labels = [data.draw(st.sampled_from(target.labels)) for _ in rows]
    expected = [-math.log(softmax(np.array(row))["abc".index(label)]) for row, label in zip(rows, labels, strict=True)]
    found = target.loss(torch.tensor(rows), torch.stack([target.encode(label) for label in labels]))
    assert found.tolist() == pytest.approx(expected, abs=1e-4)


@given(st.lists(st.floats(-20, 20), min_size=3, max_size=3))
def test_the_most_likely_class_is_predicted_with_a_probability_per_label(row):
    (found,) = Classes(("a", "b", "c")).decode(torch.tensor([row]))
    p = softmax(np.array(row))
    assert list(found) == ["prediction", "probability_a", "probability_b", "probability_c"]
    assert [found[f"probability_{label}"] for label in "abc"] == pytest.approx(p, abs=1e-5)
    assert found[f"probability_{found['prediction']}"] == max(found[f"probability_{label}"] for label in "abc")
    assert math.fsum(found[f"probability_{label}"] for label in "abc") == pytest.approx(1, abs=1e-15)


def test_the_predicted_answer_is_an_index_with_a_probability_per_answer():
    rows = torch.tensor([[1.0, 3.0, -math.inf], [500.0, -500.0, 0.0]])
    two, three = Answers(3).decode(rows)
    assert (two["prediction"], three["prediction"]) == (1, 0)
    assert list(two) == ["prediction", "probability_0", "probability_1"]  # the row has two answers
    assert list(three) == [
        "prediction",
        "probability_0",
        "probability_1",
        "probability_2",
    ]  # three, even if one has all of the probability
    assert two["probability_1"] == pytest.approx(1 / (1 + math.exp(-2)), abs=1e-15)


def test_the_loss_of_answers_ignores_missing_answers():
    loss = Answers(3).loss(torch.tensor([[1.0, 3.0, -math.inf]]), torch.tensor([1]))
    assert float(loss) == pytest.approx(math.log(1 + math.exp(-2)))


def test_a_score_between_two_bins_is_interpolated():
    assert OrdinalBins(0, 5).encode(3.4).tolist() == pytest.approx([0, 0, 0, 0.6, 0.4, 0])


@given(low=st.integers(-50, 50), width=st.integers(1, 100), share=st.floats(0, 1))
def test_an_encoded_score_is_a_distribution_whose_mean_is_the_score(low, width, share):
    target = OrdinalBins(low, low + width)
    score = low + share * width
    encoded = target.encode(score)
    assert (encoded >= 0).all()
    assert float(encoded.sum()) == pytest.approx(1, abs=1e-5)
    assert (encoded > 0).sum() <= 2
    (read,) = target.decode(encoded.clamp_min(1e-30).log()[None])
    assert list(read) == ["score"]
    assert read["score"] == pytest.approx(score, abs=1e-3)


def test_a_score_outside_the_range_is_clipped():
    assert OrdinalBins(0, 5).encode(7.2).tolist() == OrdinalBins(0, 5).encode(5).tolist() == [0, 0, 0, 0, 0, 1]
    assert OrdinalBins(0, 5).encode(-1).tolist() == [1, 0, 0, 0, 0, 0]


def test_bins_span_the_training_scores():
    assert OrdinalBins.from_labels([0.2, "3", 4.1]) == OrdinalBins(0, 5)


@pytest.mark.parametrize(("scores", "rule"), [([2, 2.0], "same score"), ([0, 500], "the range must be at most 100")])
def test_scores_that_are_equal_or_too_far_apart_are_an_error(scores: list[float], rule: str):
    with pytest.raises(UserError, match=rule):
        OrdinalBins.from_labels(scores)


def test_the_loss_of_bins_is_cross_entropy_with_the_interpolated_target():
    logits = np.array([0.3, -1.0, 2.0])
    encoded = OrdinalBins(0, 2).encode(1.25)
    expected = -(np.array([0, 0.75, 0.25]) * np.log(softmax(logits))).sum()
    assert float(OrdinalBins(0, 2).loss(torch.from_numpy(logits).float()[None], encoded[None])) == pytest.approx(
        expected, rel=1e-5
    )


@given(values=st.lists(st.floats(-1000, 1000), min_size=2, max_size=20), value=st.floats(-1000, 1000))
def test_decoding_an_encoded_number_returns_it(values, value):
    if np.std(values) < 1e-3:
        return
    target = StandardizedNumber.from_labels(values)
    (read,) = target.decode(target.encode(value)[None, None])
    assert read == {"score": pytest.approx(value, abs=1e-2, rel=1e-4)}


def test_training_numbers_are_standardized():
    values = [3.0, 5.0, 10.0, -2.0]
    target = StandardizedNumber.from_labels(values)
    encoded = torch.stack([target.encode(value) for value in values])
    assert float(encoded.mean()) == pytest.approx(0, abs=1e-6)
    assert float(encoded.std(unbiased=False)) == pytest.approx(1, abs=1e-6)
    assert target.loss(torch.tensor([[2.0], [0.5]]), torch.tensor([0.5, 0.5])).tolist() == [2.25, 0]


def test_equal_numbers_are_an_error():
    with pytest.raises(UserError, match=r"same number \(4\)"):
        StandardizedNumber.from_labels([4, 4, 4])
    with pytest.raises(UserError, match=r"same number \(0.1\)"):
        StandardizedNumber.from_labels([0.1] * 10)  # their mean is not quite 0.1


@pytest.mark.parametrize("scale", [1e-300, 1e200])
def test_numbers_without_a_finite_variance_are_an_error(scale: float):
    with pytest.raises(UserError, match="variance is not finite"):
        StandardizedNumber.from_labels([scale, 2 * scale, 5 * scale])


@given(low=st.integers(-(10**12), 10**12), share=st.floats(0, 1))
def test_a_large_mean_does_not_cost_precision(low: int, share: float):
    value = low + 3 * share
    (number,) = StandardizedNumber.from_labels([low, low + 1, low + 3]).decode(
        StandardizedNumber.from_labels([low, low + 1, low + 3]).encode(value)[None, None]
    )
    (binned,) = OrdinalBins(low, low + 3).decode(OrdinalBins(low, low + 3).encode(value).clamp_min(1e-30).log()[None])
    assert number["score"] - low == pytest.approx(3 * share, abs=1e-3)
    assert binned["score"] - low == pytest.approx(3 * share, abs=1e-3)


@pytest.mark.parametrize("target", [StandardizedNumber, OrdinalBins])
@pytest.mark.parametrize("value", ["four", "", None, "nan", "inf", float("nan")])
def test_a_score_must_be_a_finite_number(target: type[StandardizedNumber | OrdinalBins], value: object):
    with pytest.raises(UserError, match="finite number"):
        target.from_labels([1, 2, value])


STORED_TARGETS = [
    Classes(("a", "ü")),
    Answers(4),
    OrdinalBins(-1, 5),
    OrdinalBins(-1, 5, decimal="."),
    StandardizedNumber(1.5, 0.1),
    StandardizedNumber(1.5, 0.1, ","),
]


@pytest.mark.parametrize("target", STORED_TARGETS)
def test_a_target_is_restored_from_json(target):
    assert target_from_json(Fields(json.loads(json.dumps(target_to_json(target))), "task.json")) == target


@pytest.mark.parametrize(
    ("stored", "problem"),
    [
        ({}, "'name' is missing"),
        ({"name": "poem"}, "'name' must be one of classes, labels, answers, bins, number"),
        ({"name": ["classes"]}, "'name' must be one of"),
        ({"name": "classes", "labels": "ab"}, "'labels' must be a list of str"),
        ({"name": "classes", "labels": ["a", 1]}, "'labels' must be a list of str"),
        ({"name": "classes", "labels": ["a"]}, "it has 1 labels instead of 2 to 5,000"),
        ({"name": "classes", "labels": ["a", "b", "a"]}, "its labels must be different texts"),
        ({"name": "classes", "labels": ["a", " b"]}, "its labels must be different texts"),
        ({"name": "classes", "labels": ["0", "1"], "values": [1, 0]}, "'values' must be the labels"),
        ({"name": "classes", "labels": ["0", "1"], "values": [0]}, "'values' must be the labels"),
        ({"name": "answers", "most": 10**9}, "'most' must be an integer from 1 to 10000"),
        ({"name": "bins", "low": 3, "high": 3}, "'high' must be an integer from 4 to 103"),
        ({"name": "number", "mean": math.nan, "deviation": 1}, "'mean' must be a number"),
        ({"name": "number", "mean": 0, "deviation": 0}, "'deviation' must be more than 0"),
        ({"name": "number", "mean": 0, "deviation": -1}, "'deviation' must be a number from 0"),
        ({"name": "number", "mean": 0, "deviation": 1, "decimal": ";"}, "'decimal' must be one of"),
    ],
)
def test_an_invalid_stored_target_is_an_error_that_names_the_file(stored, problem: str):
    with pytest.raises(UserError) as refused:
        target_from_json(Fields(stored, "task.json"))
    assert refused.value.problem.startswith("task.json: ")
    assert problem in refused.value.problem


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_target_of_a_kind_is_storable_and_has_metrics(kind):
    for target in filter(None, (kind.target, kind.score_target)):
        assert target in TARGET_TYPES.values()
        assert target.primary_metric in target.metrics


SAME_LABELS: dict[str, list[object]] = {
    "1": [1, 1.0, "1", "1.0", " 1.00 ", b"1", np.float32(1), np.int64(1), Decimal("1.0")],
    "0": [0, 0.0, -0.0, "0", "-0.0", "0.0"],
    "2.5": [2.5, "2.5", np.float32(2.5)],
    "True": [True, "true", "True", "TRUE", np.bool_(True)],
    "False": [False, "false", "FALSE"],
}


@pytest.mark.parametrize("label", SAME_LABELS)
def test_a_label_is_the_same_in_every_format(label: str):
    assert {as_label(value) for value in SAME_LABELS[label]} == {label}
    target = Classes.from_labels(["x", *SAME_LABELS[label]])
    assert {int(target.encode(value)) for value in SAME_LABELS[label]} == {target.labels.index(label)}


def test_texts_that_are_the_same_number_stay_different_labels():
    assert Classes.from_labels(["007", "7", "3.1", "3.10"]).labels == ("3.1", "3.10", "007", "7")


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        ([1, 0, 1], [0, 1]),
        ([1.0, 0.0], [0.0, 1.0]),
        ([1, 2.5], [1.0, 2.5]),
        ([2, 1.0], [1, 2]),
        ([True, False], [False, True]),
        (["true", "false"], ["false", "true"]),
        (["1.0", "0.0"], ["0.0", "1.0"]),
        (["1.0", "1", "0"], ["0", "1"]),
        ([True, "false"], ["False", "True"]),
        ([1, "0"], ["0", "1"]),
        (["b", "a"], ["a", "b"]),
        ([np.int64(3), np.int64(4)], [3, 4]),
    ],
)
def test_predictions_have_the_type_and_spelling_of_the_labels(cells: list[object], values: list[object]):
    target = Classes.from_labels(cells)
    restored = target_from_json(Fields(json.loads(json.dumps(target_to_json(target))), "task.json"))
    for own in (target, restored):
        rows = decode_predictions(own, torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        found = [row["prediction"] for row in rows]
        assert found == values
        assert [type(value) for value in found] == [type(value) for value in values]
        assert list(rows[0]) == ["prediction", *(f"probability_{value}" for value in values)]


def test_a_model_folder_of_an_earlier_version_keeps_its_labels():
    target = target_from_json(Fields({"name": "classes", "labels": ["1.0", "true"]}, "task.json"))
    assert [int(target.encode(label)) for label in ("1.0", 1, 1.0, "true", True)] == [0, 0, 0, 1, 1]
    assert [row["prediction"] for row in decode_predictions(target, torch.eye(2))] == ["1.0", "true"]


@pytest.mark.parametrize("value", ["3_5", True, "1.23,5"])
def test_text_that_is_not_a_number_is_never_read_as_one(value: object):
    with pytest.raises(UserError, match="is not a finite number"):
        StandardizedNumber.from_labels([1, 2, value])


def test_a_comma_that_has_two_readings_is_an_error():
    assert StandardizedNumber.parse("3,5") == 3.5
    with pytest.raises(UserError, match=r"'1,234' can be 1.234 or 1234"):
        StandardizedNumber.parse("1,234")


def test_every_metric_of_every_target_can_be_chosen():
    """The error for a metric that does not apply names those that do."""
    metrics = {name for target in TARGET_TYPES.values() for name in target.metrics}
    for name in metrics:
        assert build_config(FinetuneConfig, {"metric": name}).metric == name
