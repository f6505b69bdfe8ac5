"""The TF-IDF baseline learns from single words, for every kind of task; cross-validation needs enough rows."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score, log_loss, matthews_corrcoef

from gpt1.inference.evaluate import compute_metrics
from gpt1.tasks import tfidf
from gpt1.tasks.examples import target_from_examples
from gpt1.tasks.kinds import KINDS, Example
from gpt1.tasks.multilabel import MultiLabel
from gpt1.tasks.overlap import fit_overlap
from gpt1.tasks.targets import Classes, Target
from gpt1.tasks.tfidf import (
    BALANCED,
    C_VALUES,
    DEFAULT_CHOICE,
    VECTORIZERS,
    LinearProblem,
    TfidfFeatures,
    build_problem,
    fit_tfidf,
    label_scorer,
    mean_log_likelihood,
    tfidf_scores,
)

THINGS = ("file", "list", "number", "logger", "option", "string", "path", "name")


def examples(kind: str, count: int) -> list[Example]:
    """Rows whose label is a word of their text (or of the right answer)."""
    texts = [f"the {THINGS[i % 8]} {i} is" for i in range(count)]
    good = [i % 2 == 0 for i in range(count)]
    if kind == "choice":
        answers = [("valid", "broken") if g else ("broken", "valid") for g in good]
        return [Example((text, ""), answer, answer.index("valid")) for text, answer in zip(texts, answers, strict=True)]
    ends = ["valid" if g else "broken" for g in good]
    second = [] if len(KINDS[kind].columns) == 1 else ["it is so"]
    return [
        Example((f"{text} {end}", *second), label=float(g) + 0.5 * g if kind == "regression" else end)
        for text, end, g in zip(texts, ends, good, strict=True)
    ]


def rare_label_rows() -> list[Example]:
    """A quarter of the labels is "0". A word is in 60% of their texts and 30% of the others: "1" is always likelier."""
    rows = []
    for i in range(240):
        label, place = "01"[i % 4 > 0], i // 4
        odd = place % 5 < 3 if label == "0" else (place + i % 4) % 10 < 3
        rows.append(Example((f"{'odd' if odd else 'even'} number {i % 7}", "odd one"), label=label))
    return rows


def target_of(rows: list[Example]) -> Target:
    return target_from_examples(KINDS["classification"], False, rows, str, "rows")


@pytest.mark.parametrize("kind", KINDS)
def test_a_word_that_determines_the_label_is_learned(kind: str) -> None:
    rows = examples(kind, 48)
    training, test = rows[:32], rows[32:]
    target = target_from_examples(KINDS[kind], False, training, str, "rows")
    found = tfidf_scores(KINDS[kind], target, training, test)
    assert found[target.primary_metric] > 0.95
    assert found["features"] in VECTORIZERS
    assert any(found["C"] == pytest.approx(c) for c in C_VALUES)


@pytest.mark.parametrize("kind", ["classification", "entailment", "multilabel", "choice"])
def test_test_rows_without_text_are_mistakes_as_for_the_model(kind: str) -> None:
    rows = examples(kind, 64)
    training, test = rows[:48], rows[48:]
    target = target_from_examples(KINDS[kind], False, training, str, "rows")
    empty = [replace(e, fields=("",) * len(e.fields), answers=(" ",) * len(e.answers)) for e in test]
    assert tfidf_scores(KINDS[kind], target, training, empty)["accuracy"] == 0
    assert tfidf_scores(KINDS[kind], target, training, [*test, *empty])["accuracy"] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("own", [True, False])
def test_validation_rows_choose_the_thresholds_of_several_labels_as_for_the_model(own: bool) -> None:
    rows = [
        Example((f"the {THINGS[i % 8]} {i}",), label=["rare"] * (i % 8 == i % 3) + ["half"] * (i % 2))
        for i in range(96)
    ]
    training, validation, test = rows[:32], rows[32:64], rows[64:]
    target = target_from_examples(KINDS["multilabel"], False, training, str, "rows")
    model = fit_tfidf(KINDS["multilabel"], target, training)[1]
    logits = [
        torch.from_numpy(model.model.predict_proba(model.features.transform(part))).logit()
        for part in (validation, test)
    ]
    gold = torch.stack([target.encode(row.label) for row in validation])
    if own:
        expected = compute_metrics(target, logits[0], gold, [row.label for row in validation], cross_fit=True)[
            "metrics"
        ]
        found = tfidf_scores(KINDS["multilabel"], target, training, validation, validation=validation)
    else:
        fitted = target.with_thresholds(logits[0], gold)
        test_gold = torch.stack([target.encode(row.label) for row in test])
        expected = compute_metrics(fitted, logits[1], test_gold, [row.label for row in test])["metrics"]
        found = tfidf_scores(KINDS["multilabel"], fitted, training, test, validation=validation)
        at_half = tfidf_scores(KINDS["multilabel"], fitted, training, test)
        assert (
            at_half["f1_micro"]
            == compute_metrics(target, logits[1], test_gold, [row.label for row in test])["metrics"]["f1_micro"]
        )
        assert at_half["f1_micro"] != found["f1_micro"]
    assert {name: found[name] for name in MultiLabel.metrics} == {name: expected[name] for name in MultiLabel.metrics}


def test_too_few_rows_use_the_default_choice() -> None:
    rows = examples("classification", 8)
    target = target_from_examples(KINDS["classification"], False, rows[:4], str, "rows")
    found = tfidf_scores(KINDS["classification"], target, rows[:4], rows[4:])
    assert {name: found[name] for name in DEFAULT_CHOICE} == DEFAULT_CHOICE


def test_a_choice_that_was_made_before_gives_the_same_model_without_cross_validation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kind, rows = KINDS["classification"], examples("classification", 48)
    target = target_from_examples(kind, False, rows, str, "rows")
    found = tfidf_scores(kind, target, rows[:32], rows[32:])
    rare = rare_label_rows()
    balanced = tfidf_scores(kind, target_of(rare), rare[:120], rare[120:], metric="matthews")
    assert balanced["class_weight"] == BALANCED
    monkeypatch.setattr(LinearProblem, "folds", lambda *_: pytest.fail("cross-validation"))
    assert tfidf_scores(kind, target, rows[:32], rows[32:], chosen=found) == found
    assert tfidf_scores(kind, target_of(rare), rare[:120], rare[120:], chosen=balanced) == balanced


def test_a_damaged_choice_is_ignored() -> None:
    kind, rows = KINDS["classification"], examples("classification", 32)
    target = target_from_examples(kind, False, rows, str, "rows")
    for damaged in ({"features": [], "C": 1.0, "class_weight": []}, {"features": "words", "C": [1]}, {"features": {}}):
        assert tfidf_scores(kind, target, rows, rows, chosen=damaged) == tfidf_scores(kind, target, rows, rows)


def test_a_given_c_is_used() -> None:
    kind, rows = KINDS["classification"], examples("classification", 32)
    problem = build_problem(target_from_examples(kind, False, rows, str, "rows"), rows)
    assert problem.enough
    fitted = problem.fit(TfidfFeatures(kind, VECTORIZERS["words"]), rows, c=3.0)
    assert fitted.model.C == fitted.c == 3.0


def test_the_score_of_cross_validation_is_the_mean_log_likelihood() -> None:
    kind, rows = KINDS["classification"], examples("classification", 48)
    problem = build_problem(target_from_examples(kind, False, rows, str, "rows"), rows[:32])
    fitted = problem.fit(TfidfFeatures(kind, VECTORIZERS["words"]), rows[:32], c=1.0)
    x, y = fitted.features.transform(rows[32:]), [row.label for row in rows[32:]]
    assert mean_log_likelihood(fitted.model, x, y) == pytest.approx(-log_loss(y, fitted.model.predict_proba(x)))
    assert mean_log_likelihood(fitted.model, x, ["valid", "broken", "never seen"]) < -10


def test_c_is_chosen_although_the_rows_of_the_single_split_lack_a_label(monkeypatch: pytest.MonkeyPatch) -> None:
    """12 labels with five rows each: the 10% of the rows that the models are compared on have six labels at most."""
    monkeypatch.setattr(tfidf, "SINGLE_SPLIT_ROWS", 1)
    kind = KINDS["classification"]
    rows = [Example((f"word{k} word{k} the list {i}",), label=f"label {k}") for i in range(5) for k in range(12)]
    target = target_from_examples(kind, False, rows, str, "rows")
    fitted = build_problem(target, rows).fit(TfidfFeatures(kind, VECTORIZERS["words"]), rows)
    assert math.isfinite(fitted.score)
    assert fitted.c > C_VALUES[0]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_weight_0_do_not_matter(kind: str) -> None:
    rows = examples(kind, 64)
    training, test = [replace(row, weight=float(i % 4 != 0)) for i, row in enumerate(rows[:48])], rows[48:]
    wrong = [replace(row, label=training[i + 1].label) if row.weight == 0 else row for i, row in enumerate(training)]
    assert [row.label for row in wrong] != [row.label for row in training]
    target = target_from_examples(KINDS[kind], False, training, str, "rows")
    chosen = {"features": "words", "C": 10.0}
    expected, found = (tfidf_scores(KINDS[kind], target, part, test, chosen=chosen) for part in (training, wrong))
    assert found == pytest.approx(expected, abs=1e-3)
    assert found[target.primary_metric] > 0.95
    assert tfidf_scores(KINDS[kind], target, wrong, test)[target.primary_metric] > 0.95


@pytest.mark.parametrize("fit", [fit_tfidf, fit_overlap])
def test_a_metric_of_labels_chooses_the_weight_of_rare_labels(fit: Any) -> None:
    kind, rows = KINDS["entailment"], rare_label_rows()
    for metric, wanted in {"accuracy": 0, "matthews": 0.2}.items():
        found = fit(kind, target_of(rows), rows[:120], metric=metric)
        score = (found[1] if fit is fit_tfidf else found).scores(target_of(rows), rows[120:])["matthews"]
        assert score > wanted if wanted else score == 0


@pytest.mark.filterwarnings("ignore:A single label was found")
@given(st.lists(st.tuples(st.sampled_from("01"), st.sampled_from("01")), min_size=2, max_size=20))
def test_the_scores_that_choose_are_those_of_scikit_learn(rows: list[tuple[str, str]]) -> None:
    gold, predicted = (list(column) for column in zip(*rows, strict=True))
    model = SimpleNamespace(predict=lambda x: np.array(x))
    target = Classes(("0", "1"))
    f1, matthews = (label_scorer(target, metric)(model, predicted, gold) for metric in ("f1", "matthews"))
    assert f1 == pytest.approx(f1_score(gold, predicted, pos_label="1", zero_division=0))
    assert matthews == pytest.approx(matthews_corrcoef(gold, predicted))
    assert label_scorer(target, "accuracy") is None
