"""TF-IDF and a linear model: what labels alone give, in a minute. Every honest curve has it beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt1.tasks import metrics
from gpt1.tasks.kinds import Example, Kind
from gpt1.tasks.targets import Answers, Classes, Target, as_label, as_number

VECTORIZERS: dict[str, dict[str, Any]] = {
    "words": {"ngram_range": (1, 2), "token_pattern": r"(?u)\b\w+\b|\S"},
    "pieces": {"analyzer": "char_wb", "ngram_range": (2, 4), "max_features": 100_000},
}
"""Settings of scikit-learn's TfidfVectorizer: words and pairs of words; pieces of words, which serve any language."""
STRENGTHS = (0.1, 1.0, 10.0, 100.0, 1000.0)
"""C of the logistic regression (the inverse of its regularisation): cross-validation chooses among these."""
FOLDS = 5
MANY = 10_000
"""Rows from which on one held-out tenth serves instead of the folds."""
FEW: dict[str, Any] = {"features": "pieces", "C": 10.0}
"""What is taken where the rows do not suffice to choose."""


def tfidf_scores(
    kind: Kind, target: Target, training: Sequence[Example], test: Sequence[Example], seed: int = 0
) -> dict[str, Any]:
    """The task's metrics on `test` of a linear model on TF-IDF features of `training`, and what was chosen for it.

    `features` (of VECTORIZERS) and `C` are chosen by cross-validation where each label has five rows or more.
    """
    problem = problem_of(target, training)
    names = list(VECTORIZERS) if problem.enough else [FEW["features"]]
    fitted = {name: problem.fit(Features(kind, VECTORIZERS[name]), training, seed) for name in names}
    features, best = max(fitted.items(), key=lambda item: item[1].score)
    return {**best.scores(target, test), "features": features, "C": best.c}


class Features:
    """TF-IDF vectors of examples. One text: its own. A pair: those of both, their distance and their product; sum,
    distance and product where the pair has no order. Multiple choice: of each answer, and its product with what was
    asked."""

    def __init__(self, kind: Kind, vectorizer: Mapping[str, Any]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.kind, self.vectors = kind, TfidfVectorizer(sublinear_tf=True, **vectorizer)

    def fit(self, examples: Sequence[Example]) -> Any:
        self.vectors.fit([text for e in examples for text in dict.fromkeys((*e.fields, *e.answers))])
        return self.transform(examples)

    def transform(self, examples: Sequence[Example]) -> Any:  # → sparse [examples (all their answers), features]
        from scipy.sparse import hstack

        if self.kind.multiple_choice:
            asked = self.vectors.transform([" ".join(example.fields) for example in examples])
            answers = self.vectors.transform([answer for example in examples for answer in example.answers])
            product = answers.multiply(asked[owners(examples)])
            return hstack([answers, product, product.sum(axis=1)]).tocsr()
        texts = [self.vectors.transform(column) for column in zip(*(e.fields for e in examples), strict=True)]
        if len(texts) == 1:
            return texts[0].tocsr()
        a, b = texts
        sides = [a + b] if self.kind.sequences > 1 else [a, b]
        return hstack([*sides, abs(a - b), a.multiply(b)]).tocsr()


def owners(examples: Sequence[Example]) -> Any:
    """The example of each answer."""
    return np.repeat(np.arange(len(examples)), [len(example.answers) for example in examples])


@dataclass(frozen=True)
class Fitted:
    """A linear model on TF-IDF features; `score` is that of the cross-validation."""

    features: Features
    model: Any
    c: float
    score: float

    def scores(self, target: Target, examples: Sequence[Example]) -> dict[str, Any]:
        """The task's metrics on `examples`."""
        x = self.features.transform(examples)
        if isinstance(target, Classes):
            gold = [as_label(example.label) for example in examples]
            found = metrics.class_scores(gold, self.model.predict(x).tolist(), target.labels)
            return {name: value for name, value in found.items() if name != "f1_of"}
        if isinstance(target, Answers):
            ends = np.cumsum([len(example.answers) for example in examples])[:-1]
            given = [int(part.argmax()) for part in np.split(self.model.decision_function(x), ends)]
            return metrics.choice_scores([int(example.label) for example in examples], given)
        return metrics.number_scores([as_number(example.label) for example in examples], self.model.predict(x))


@dataclass(frozen=True)
class Problem:
    """Rows to separate or to fit: y of each, which of them belong together, whether they suffice to choose by."""

    y: list[Any]
    groups: Any
    enough: bool
    numbers: bool = False

    def fit(self, features: Features, training: Sequence[Example], seed: int = 0, c: float | None = None) -> Fitted:
        """Fit with the strength `c`, or with the one that cross-validation chooses where the rows suffice."""
        from sklearn.linear_model import LogisticRegression, Ridge
        from sklearn.model_selection import GridSearchCV

        x = features.fit(training)
        if self.numbers:
            model, name, scoring = Ridge(solver="sparse_cg"), "alpha", "neg_mean_squared_error"
            values = [1 / c for c in STRENGTHS]
        else:
            model, name, scoring = LogisticRegression(max_iter=2000, random_state=seed), "C", "neg_log_loss"
            values = list(STRENGTHS)
        if c is None and not self.enough:
            c = FEW["C"]
        if c is not None:
            model.set_params(**{name: 1 / c if self.numbers else c})
            return Fitted(features, model.fit(x, self.y), c, 0.0)
        found = GridSearchCV(model, {name: values}, cv=self.folds(seed), scoring=scoring)
        found.fit(x, self.y, groups=self.groups)
        value = float(found.best_params_[name])
        return Fitted(features, found.best_estimator_, 1 / value if self.numbers else value, float(found.best_score_))

    def folds(self, seed: int) -> Any:
        from sklearn.model_selection import GroupKFold, GroupShuffleSplit, KFold, ShuffleSplit, StratifiedKFold

        if len(self.y) >= MANY:
            split = ShuffleSplit if self.groups is None else GroupShuffleSplit
            return split(1, test_size=0.1, random_state=seed)
        if self.groups is not None:
            return GroupKFold(FOLDS)
        return (KFold if self.numbers else StratifiedKFold)(FOLDS, shuffle=True, random_state=seed)


def problem_of(target: Target, training: Sequence[Example]) -> Problem:
    if isinstance(target, Classes):
        labels = [as_label(example.label) for example in training]
        return Problem(labels, None, enough=min(Counter(labels).values()) >= FOLDS)
    if isinstance(target, Answers):
        right = [k == int(e.label) for e in training for k in range(len(e.answers))]
        return Problem(right, owners(training), enough=len(training) >= 4 * FOLDS)
    y = [as_number(example.label) for example in training]
    return Problem(y, None, enough=len(y) >= 2 * FOLDS, numbers=True)
