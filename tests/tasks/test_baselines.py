"""The trivial answer, the TF-IDF baseline within a limit of work, and the warnings about weak models."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from gpt1.progress import Progress
from gpt1.tasks import baselines
from gpt1.tasks.baselines import (
    describe_score,
    quality_warning,
    summarize_baselines,
    tfidf_baseline,
    trivial_answer,
    trivial_baseline,
)
from gpt1.tasks.kinds import KINDS, Example
from gpt1.tasks.targets import Answers, Classes, StandardizedNumber

CLASSES, NUMBERS = Classes(("no", "yes")), StandardizedNumber(2.0, 1.0)


def test_the_trivial_answer_is_the_most_frequent_label_or_the_mean():
    assert trivial_answer(CLASSES, ["yes", "no", " yes "]) == "yes"
    assert trivial_answer(Answers(3), [2, 0, 2]) == 2
    assert trivial_answer(NUMBERS, ["1", 2, 4.5]) == 2.5


def test_the_trivial_answer_is_scored_as_a_constant_prediction():
    assert trivial_baseline(CLASSES, "yes", ["yes", "no", "perhaps", "yes"])["metrics"]["accuracy"] == 0.5
    scores = trivial_baseline(NUMBERS, 2.0, [1, 2, 6])["metrics"]
    assert scores == {"pearson": 0, "spearman": 0, "rmse": pytest.approx(np.sqrt(17 / 3)), "mae": pytest.approx(5 / 3)}


def rows(n: int) -> list[Example]:
    return [Example((f"text {i} {'good' if i % 3 else 'bad'}",), label="yes" if i % 3 else "no") for i in range(n)]


def test_tf_idf_learns_from_a_stratified_sample_of_more_rows_than_its_limit(monkeypatch: pytest.MonkeyPatch):
    training, test = rows(300), rows(30)
    whole = tfidf_baseline(KINDS["classification"], CLASSES, training, test, seed=0, progress=Progress())
    assert (whole["rows"], whole["of"], whole["metrics"]["accuracy"]) == (300, 300, 1.0)
    seen: list[Example] = []
    fit = baselines.tfidf_scores
    monkeypatch.setattr(baselines, "tfidf_scores", lambda *args: (seen.extend(args[2]), fit(*args))[1])
    monkeypatch.setattr(baselines, "MAX_TFIDF_WORK", 600)
    sample = tfidf_baseline(KINDS["classification"], CLASSES, training, test, seed=0, progress=Progress())
    assert (sample["rows"], sample["of"]) == (len(seen), 300)
    assert sum(len(example.fields[0]) for example in seen) <= 700
    counts = Counter(example.label for example in seen)
    assert counts["yes"] / len(seen) == pytest.approx(2 / 3, abs=0.05)


def test_empty_texts_have_no_tf_idf():
    training = [Example((" ",), label=label) for label in ("yes", "no")]
    assert tfidf_baseline(KINDS["classification"], CLASSES, training, training, seed=0, progress=Progress()) == {}


def make_scores(accuracy: float, low: float) -> dict[str, Any]:
    return {"rows": 50, "metrics": {"accuracy": accuracy}, "interval": {"matthews": [low, 0.5]}}


def make_baselines(trivial: float, tfidf: float) -> dict[str, Any]:
    return {
        "trivial": {"name": "always ‘yes’", "metrics": {"accuracy": trivial}},
        "tfidf": {"name": "TF-IDF", "metrics": {"accuracy": tfidf}},
    }


def test_a_classifier_that_is_not_above_the_most_frequent_label_has_learned_nothing():
    found = quality_warning(CLASSES, make_scores(0.50, -0.1), make_baselines(0.52, 0.70), "accuracy", "Try this.")
    assert found.startswith("this model has learned nothing: accuracy 0.500 is not above")
    assert found.endswith("TF-IDF learns from the same rows (accuracy 0.700). Try this.")
    assert "TF-IDF also learns nothing" in quality_warning(
        CLASSES, make_scores(0.5, -0.1), make_baselines(0.52, 0.5), "accuracy"
    )
    assert "Likely causes" in quality_warning(
        CLASSES, make_scores(0.5, -0.1), {"trivial": make_baselines(0.5, 0)["trivial"]}, "accuracy"
    )


def test_a_handful_of_rows_shows_nothing():
    assert (
        quality_warning(
            CLASSES, {**make_scores(0.0, -0.1), "rows": 9}, {"trivial": make_baselines(0.0, 0)["trivial"]}, "accuracy"
        )
        == ""
    )


def test_a_classifier_of_rare_labels_can_be_below_the_most_frequent_label_and_have_learned():
    assert quality_warning(CLASSES, make_scores(0.94, 0.2), make_baselines(0.95, 0.9), "accuracy") == ""


def test_a_warning_is_printed_if_tf_idf_is_better():
    assert quality_warning(CLASSES, make_scores(0.6, 0.2), make_baselines(0.5, 0.7), "accuracy", "Try this.") == (
        "TF-IDF is better (accuracy 0.700). Try this."
    )
    assert quality_warning(CLASSES, make_scores(0.7, 0.2), make_baselines(0.5, 0.7), "accuracy") == ""


@pytest.mark.parametrize(
    ("spread", "low", "expected"),
    [(0.05, 0.3, "hardly depend on the text"), (0.4, -0.1, "includes 0"), (0.4, 0.1, "")],
)
def test_scores_that_hardly_depend_on_the_text_count_as_nothing_learned(spread: float, low: float, expected: str):
    own = {"rows": 50, "metrics": {"pearson": 0.2, "rmse": 1.0}, "interval": {"pearson": [low, 0.5]}, "spread": spread}
    trivial = {"trivial": {"name": "always the mean", "metrics": {"pearson": 0.0, "rmse": 1.0}}}
    found = quality_warning(NUMBERS, own, trivial, "pearson")
    assert expected in found
    assert bool(found) == bool(expected)


def test_the_lower_error_is_better():
    own = {"rows": 50, "metrics": {"rmse": 1.0}, "interval": {"pearson": [0.1, 0.5]}, "spread": 0.5}
    for rmse, expected in ((0.9, True), (1.1, False)):
        others = {"tfidf": {"name": "TF-IDF", "metrics": {"rmse": rmse}}}
        assert quality_warning(NUMBERS, own, others, "rmse").startswith("TF-IDF is better") == expected


def test_scores_with_larger_errors_than_the_mean_are_a_warning():
    own = {"rows": 50, "metrics": {"pearson": 0.6, "rmse": 1.3, "mae": 0.9}, "interval": {"pearson": [0.4, 0.7]}}
    mean = {"name": "always the mean (3.02)", "metrics": {"pearson": 0.0, "rmse": 1.16, "mae": 1.0}}
    found = quality_warning(NUMBERS, {**own, "spread": 0.8}, {"trivial": mean}, "pearson", "Try this.")
    assert found == "this model is worse than predicting always the mean (3.02): RMSE 1.30 instead of 1.16. Try this."
    tfidf = {"name": "TF-IDF", "metrics": {"pearson": 0.7, "rmse": 1.0, "mae": 0.8}}
    found = quality_warning(NUMBERS, {**own, "spread": 0.8}, {"trivial": mean, "tfidf": tfidf}, "pearson", "Try this.")
    assert found.endswith("1.16. TF-IDF is better (Pearson correlation 0.700). Try this.")
    better = {**own, "metrics": {"pearson": 0.6, "rmse": 1.1, "mae": 0.9}, "spread": 0.8}
    assert quality_warning(NUMBERS, better, {"trivial": mean}, "pearson") == ""


def test_a_larger_mae_than_the_mean_and_ties_in_print_are_not_a_warning():
    """Prices with a long tail: the MAE of the mean is smaller than that of a model with Pearson 0.505."""
    own = {"rows": 50, "metrics": {"pearson": 0.505, "rmse": 265.0, "mae": 157.0}, "interval": {"pearson": [0.3, 0.7]}}
    mean = {"name": "always the mean (91)", "metrics": {"pearson": 0.0, "rmse": 284.0, "mae": 135.0}}
    assert quality_warning(NUMBERS, {**own, "spread": 0.5}, {"trivial": mean}, "pearson") == ""
    tied = {**own, "metrics": {"pearson": 0.505, "rmse": 12.749, "mae": 9.0}, "spread": 0.5}
    mean = {**mean, "metrics": {"pearson": 0.0, "rmse": 12.7001, "mae": 9.0}}
    tfidf = {"name": "TF-IDF", "metrics": {"pearson": 0.50502, "rmse": 12.0, "mae": 9.0}}
    assert quality_warning(NUMBERS, tied, {"trivial": mean, "tfidf": tfidf}, "pearson") == ""


def test_the_summary_of_scores_names_each_number():
    mean = {"name": "always the mean (3.02)", "metrics": {"pearson": 0.0, "rmse": 1.16}}
    tfidf = {"name": "TF-IDF", "metrics": {"pearson": 0.7, "rmse": 1.0}}
    both = {"trivial": mean, "tfidf": tfidf}
    assert summarize_baselines(both, "pearson") == "TF-IDF 0.700, RMSE 1.00; always the mean (3.02) RMSE 1.16"
    assert summarize_baselines(both, "rmse") == "TF-IDF 1.000; always the mean (3.02) 1.160"
    assert describe_score("pearson", {"pearson": 0.0, "rmse": 1.0}, " [-0.1, 0.1]") == "0.000 [-0.1, 0.1], RMSE 1.00"
    assert describe_score("accuracy", {"accuracy": 0.0}) == "0.000"
