"""TF-IDF baseline: a linear model on word counts, trained on the labels alone."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpt1.tasks import metrics
from gpt1.tasks.kinds import Example, Kind
from gpt1.tasks.labels import as_number
from gpt1.tasks.multilabel import MultiLabel, cross_fit_labels
from gpt1.tasks.targets import Answers, Classes, Target, withhold_predictions

VECTORIZERS: dict[str, dict[str, Any]] = {
    "words": {"ngram_range": (1, 2), "token_pattern": r"(?u)\b\w+\b|\S"},
    "pieces": {"analyzer": "char_wb", "ngram_range": (2, 4), "max_features": 100_000},
}
"""Settings of scikit-learn's TfidfVectorizer: unigrams and bigrams of words; character n-grams, for any language."""
C_VALUES = (0.1, 1.0, 10.0, 100.0, 1000.0)
"""Values of C (inverse regularization strength) from which cross-validation chooses."""
TFIDF_FOLDS = 5
SINGLE_SPLIT_ROWS, SINGLE_SPLIT_WORK = 10_000, 2_000_000
"""With at least this many rows, or this much work (see `fitting_work`), one split of 90% and 10% replaces the folds."""
DEFAULT_CHOICE: dict[str, Any] = {"features": "pieces", "C": 10.0}
"""Used if there are too few rows for cross-validation."""
BALANCED = "balanced"
"""Labels weigh the same in all (scikit-learn's `class_weight`)."""
Scorer = Callable[[Any, Any, Sequence[Any]], float]
"""(trained model, features, targets) → score, higher is better."""


def tfidf_scores(
    kind: Kind,
    target: Target,
    training: Sequence[Example],
    test: Sequence[Example],
    seed: int = 0,
    chosen: Mapping[str, Any] | None = None,
    validation: Sequence[Example] = (),
    metric: str = "",
) -> dict[str, Any]:
    """Train a linear model on TF-IDF features of `training` and evaluate it on `test`.

    `chosen`: what an earlier call returned for the same `training` beside the metrics. It is used without
    cross-validation, and gives the same model. `validation`: rows that choose the thresholds of several labels, as they
    choose those of the model; cross-fitted if they are `test` itself; without such rows 0.5. `metric`: see
    `label_scorer`.

    Returns:
        The metrics of the task; `features` (a key of VECTORIZERS) and `C`, both chosen by cross-validation if each
        label has at least five rows; `class_weight` if it chose balanced labels.
    """
    with warnings.catch_warnings():  # of scikit-learn, if there are almost as many labels as rows
        warnings.simplefilter("ignore", UserWarning)
        features, best = fit_tfidf(kind, target, training, seed, chosen, metric)
    balanced = {"class_weight": BALANCED} if best.balanced else {}
    return {**best.scores(target, test, validation), "features": features, "C": best.c, **balanced}


def fit_tfidf(
    kind: Kind,
    target: Target,
    training: Sequence[Example],
    seed: int = 0,
    chosen: Mapping[str, Any] | None = None,
    metric: str = "",
) -> tuple[str, FittedLinearModel]:
    """(key of VECTORIZERS, trained model) with the best score in cross-validation, or as `chosen` before.

    `metric`: see `label_scorer`.
    """
    problem = build_problem(target, training)
    names, c, balanced = (list(VECTORIZERS) if problem.enough else [DEFAULT_CHOICE["features"]]), None, False
    if chosen and chosen.get("features") in [*VECTORIZERS] and chosen.get("C") in C_VALUES:  # a list has no hash
        names, c = [chosen["features"]], float(chosen["C"])
        balanced = isinstance(target, Classes) and chosen.get("class_weight") == BALANCED
    how = (training, seed, c, balanced, label_scorer(target, metric))
    fitted = {name: problem.fit(TfidfFeatures(kind, VECTORIZERS[name]), *how) for name in names}
    return max(fitted.items(), key=lambda item: item[1].score)


class TfidfFeatures:
    """TF-IDF features of examples.

    One text: its vector. A pair: both vectors (their sum if the pair is unordered), distance and product. Multiple
    choice: for each answer its vector and the product with that of the question and context.
    """

    def __init__(self, kind: Kind, vectorizer: Mapping[str, Any]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.kind, self.vectors = kind, TfidfVectorizer(sublinear_tf=True, **vectorizer)

    def fit(self, examples: Sequence[Example]) -> Any:
        self.vectors.fit([text for e in examples for text in dict.fromkeys((*e.fields, *e.answers))])
        return self.transform(examples)

    def transform(self, examples: Sequence[Example]) -> Any:  # → sparse [examples (all their answers), features]
        from scipy.sparse import hstack

        if self.kind.multiple_choice:
            questions = self.vectors.transform([" ".join(example.fields) for example in examples])
            answers = self.vectors.transform([answer for example in examples for answer in example.answers])
            product = answers.multiply(questions[answer_owners(examples)])
            return hstack([answers, product, product.sum(axis=1)]).tocsr()
        texts = [self.vectors.transform(column) for column in zip(*(e.fields for e in examples), strict=True)]
        if len(texts) == 1:
            return texts[0].tocsr()
        a, b = texts
        sides = [a + b] if self.kind.is_symmetric else [a, b]
        return hstack([*sides, abs(a - b), a.multiply(b)]).tocsr()


def answer_owners(examples: Sequence[Example]) -> Any:
    """Position of the example of each answer."""
    return np.repeat(np.arange(len(examples)), [len(example.answers) for example in examples])


@dataclass(frozen=True)
class FittedLinearModel:
    """A trained linear model; `score` is its cross-validation score (0 if C was given)."""

    features: TfidfFeatures
    model: Any
    c: float
    score: float
    balanced: bool = False

    def scores(self, target: Target, examples: Sequence[Example], validation: Sequence[Example] = ()) -> dict[str, Any]:
        """Metrics of the task on `examples`; `validation` as for `tfidf_scores`. Rows without text are mistakes, as for
        the model."""
        predicted: list[Any]
        if isinstance(target, MultiLabel):
            predicted = self.predict_labels(target, examples, validation)
        elif isinstance(target, Answers):
            ends = np.cumsum([len(example.answers) for example in examples])[:-1]
            found = self.model.decision_function(self.features.transform(examples))
            predicted = [int(part.argmax()) for part in np.split(found, ends)]
        else:
            predicted = self.model.predict(self.features.transform(examples)).tolist()
        gold = metrics.gold_answers(target, [example.label for example in examples])
        predicted = withhold_predictions(target, predicted, [example.has_text for example in examples])
        scores = metrics.target_scores(target, gold, predicted)
        return {name: value for name, value in scores.items() if name != "f1_of"}

    def predict_labels(
        self, target: MultiLabel, examples: Sequence[Example], validation: Sequence[Example]
    ) -> list[list[str]]:
        """The labels of each row, with the thresholds that the validation rows choose."""

        def logits(rows: Sequence[Example]) -> Tensor:  # → [rows, labels]
            return torch.from_numpy(self.model.predict_proba(self.features.transform(rows))).logit()

        def gold(rows: Sequence[Example]) -> Tensor:  # → [rows, labels]
            return torch.stack([target.encode(example.label) for example in rows])

        if validation is examples and len(examples):
            return cross_fit_labels(target, logits(examples), gold(examples))
        fitted = replace(target, thresholds=())
        if len(validation):
            fitted = fitted.with_thresholds(logits(validation), gold(validation))
        return [row["prediction"] for row in fitted.decode(logits(examples))]


@dataclass(frozen=True)
class LinearProblem:
    """A classification or regression problem.

    Attributes:
        y: Target of each row.
        groups: Group of each row that cross-validation must not split (the answers of an example), or None.
        enough: Whether there are enough rows for cross-validation.
        numbers: Whether this is regression.
        work: See `fitting_work`.
        several: Whether `y` has several labels for each row; C is then not chosen by cross-validation.
        weights: Weight of each row, or None if all are equal.
    """

    y: list[Any]
    groups: Any
    enough: bool
    numbers: bool = False
    work: int = 0
    several: bool = False
    weights: Any = None

    def fit(
        self,
        features: TfidfFeatures,
        training: Sequence[Example],
        seed: int = 0,
        c: float | None = None,
        balanced: bool = False,
        scorer: Scorer | None = None,
    ) -> FittedLinearModel:
        """Train with C = `c`, or with the C that cross-validation chooses if there are enough rows.

        The likelihood or the squared error chooses, or a `scorer` of labels, which also chooses whether they are
        `balanced`.
        """
        from sklearn import config_context
        from sklearn.linear_model import LogisticRegression, Ridge
        from sklearn.model_selection import GridSearchCV
        from sklearn.multiclass import OneVsRestClassifier

        x = features.fit(training)
        scoring: Any
        if self.numbers:
            model, name, scoring = Ridge(solver="sparse_cg"), "alpha", "neg_mean_squared_error"
            values = [1 / c for c in C_VALUES]
        else:
            model, name, scoring = LogisticRegression(max_iter=2000, random_state=seed), "C", mean_log_likelihood
            values = list(C_VALUES)
        weights = {} if self.weights is None else {"sample_weight": self.weights}
        if self.several:
            with config_context(enable_metadata_routing=True):
                model = model.set_fit_request(sample_weight=True)
            model, name = OneVsRestClassifier(model), "estimator__C"
        if c is None and not self.enough:
            c = DEFAULT_CHOICE["C"]
        if c is not None:
            model.set_params(**{name: 1 / c if self.numbers else c}, **({"class_weight": BALANCED} if balanced else {}))
            with config_context(enable_metadata_routing=self.several):
                return FittedLinearModel(features, model.fit(x, np.array(self.y), **weights), c, 0.0, balanced)
        grid: dict[str, list[Any]] = {name: values}
        if scorer:
            grid["class_weight"], scoring = [None, BALANCED], scorer
        found = GridSearchCV(model, grid, cv=self.folds(seed), scoring=scoring)
        found.fit(x, self.y, groups=self.groups, **weights)
        value = float(found.best_params_[name])
        return FittedLinearModel(
            features,
            found.best_estimator_,
            1 / value if self.numbers else value,
            float(found.best_score_),
            found.best_params_.get("class_weight") == BALANCED,
        )

    def folds(self, seed: int) -> Any:
        from sklearn.model_selection import GroupKFold, GroupShuffleSplit, KFold, ShuffleSplit, StratifiedKFold

        if len(self.y) >= SINGLE_SPLIT_ROWS or self.work >= SINGLE_SPLIT_WORK:
            split = ShuffleSplit if self.groups is None else GroupShuffleSplit
            return split(1, test_size=0.1, random_state=seed)
        if self.groups is not None:
            return GroupKFold(TFIDF_FOLDS)
        return (KFold if self.numbers else StratifiedKFold)(TFIDF_FOLDS, shuffle=True, random_state=seed)


def mean_log_likelihood(model: Any, x: Any, y: Sequence[Any]) -> float:
    """Mean log-probability of the labels `y`. Unlike scikit-learn's, it accepts rows that lack a label of the model."""
    column = {label: k for k, label in enumerate(model.classes_)}
    probabilities = model.predict_proba(x)
    own = [probabilities[i, column[label]] if label in column else 0.0 for i, label in enumerate(y)]
    return float(np.log(np.maximum(own, np.finfo(np.float64).eps)).mean())


def label_scorer(target: Target, metric: str) -> Scorer | None:
    """Chooses by Matthews' correlation or F1, the metrics for which the most likely label is not the best prediction.

    None for other metrics.
    """
    if not isinstance(target, Classes) or metric not in ("f1", "matthews"):
        return None
    return lambda model, x, y: float(metrics.target_scores(target, y, model.predict(x).tolist())[metric])


def build_problem(target: Target, training: Sequence[Example]) -> LinearProblem:
    work, found = fitting_work(target, training), np.array([example.weight for example in training])
    weights = None if len({*found.tolist()}) < 2 else found / found.mean()
    if isinstance(target, Classes):
        labels = [target.canonical_label(example.label) for example in training]
        enough = min(Counter(labels).values()) >= TFIDF_FOLDS
        return LinearProblem(labels, None, enough, work=work, weights=weights)
    if isinstance(target, Answers):
        right = [k == int(e.label) for e in training for k in range(len(e.answers))]
        owners, enough = answer_owners(training), len(training) >= 4 * TFIDF_FOLDS
        return LinearProblem(right, owners, enough, work=work, weights=None if weights is None else weights[owners])
    if isinstance(target, MultiLabel):
        rows = [target.encode(example.label).int().tolist() for example in training]
        return LinearProblem(rows, None, enough=False, work=work, several=True, weights=weights)
    y = [as_number(example.label) for example in training]
    return LinearProblem(y, None, len(y) >= 2 * TFIDF_FOLDS, numbers=True, work=work, weights=weights)


def fitting_work(target: Target, training: Sequence[Example]) -> int:
    """Work of training: characters × vectors of weights (one for two labels, else one for each label)."""
    characters = sum(len(text) for example in training for text in (*example.fields, *example.answers))
    labels = len(getattr(target, "labels", ()))
    vectors = labels if labels > 2 else 1
    return characters * vectors
