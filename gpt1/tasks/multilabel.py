"""Several labels for one text: one logistic regression with a separate threshold for each label."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from gpt1.errors import UserError
from gpt1.files.foreign import Fields
from gpt1.tables.cells import cell_list
from gpt1.tasks.labels import as_label, format_labels, label_sort_key, unknown_label_error

SEPARATORS = ("|", ";", ",")
"""Possible separators of the labels in a cell; the first one that occurs in the training rows is used."""
MAX_MULTILABEL = 1000
DEFAULT_THRESHOLD = 0.5
THRESHOLD_FOLDS = 5


@dataclass(frozen=True)
class MultiLabel:
    """Any number of labels for each row: sigmoid and binary cross-entropy, added over the labels.

    Attributes:
        labels: All labels, sorted.
        separator: Between the labels of a cell; empty for cells with lists, or with one label each.
        thresholds: Probability from which a label is predicted, for each label; empty: 0.5 for all.
    """

    labels: tuple[str, ...]
    separator: str = ""
    thresholds: tuple[float, ...] = ()
    metrics: ClassVar[tuple[str, ...]] = ("f1_micro", "f1_macro", "accuracy")
    primary_metric: ClassVar[str] = "f1_micro"
    activated_name: ClassVar[str] = "probabilities"

    @staticmethod
    def parse(value: Any) -> list[str] | str:
        """The labels of a list, or the text of a cell."""
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return []
        if (labels := cell_list(value)) is not None:
            return [as_label(label) for label in labels]
        return as_label(value) if str(value).strip() else []

    @classmethod
    def from_labels(cls, values: Sequence[Any]) -> MultiLabel:
        cells = [cls.parse(value) for value in values]
        texts = [cell for cell in cells if isinstance(cell, str)]
        separator = find_separator(texts)
        unnamed = cls((), separator)
        labels = sorted({label for cell in cells for label in unnamed.split(cell)}, key=label_sort_key)
        if len(labels) < 2:
            found = f"only the label '{labels[0]}'" if labels else "no labels"
            raise UserError(f"the rows have {found}.", "Use rows with at least two labels.")
        if len(labels) > MAX_MULTILABEL:
            raise UserError(
                f"the label column has {len(labels):,} different labels; at most {MAX_MULTILABEL:,} are supported.",
                "Check the column, and what separates its labels: | or ; or a comma.",
            )
        return cls(tuple(labels), separator)

    def split(self, value: Any) -> list[str]:
        """The different labels of a cell, in order of appearance."""
        cell = self.parse(value)
        parts = cell if isinstance(cell, list) else cell.split(self.separator) if self.separator else [cell]
        found = (as_label(part) for part in parts if part.strip())
        return list(dict.fromkeys(self.spellings.get(label, label) for label in found))

    @cached_property
    def spellings(self) -> dict[str, str]:
        """Each label as it is read → as in `labels`; they differ in older model folders (`true`, `1.0`)."""
        return {as_label(label): label for label in self.labels} | {label: label for label in self.labels}

    def read_labels(self, values: Sequence[Any]) -> list[Any]:
        """The labels of other rows, as lists if their separator is another one than that of the training rows.

        Of all separators it is the one with which most cells have only labels of the training rows.
        """
        cells, trained = [cell for cell in values if isinstance(cell, str)], {*self.labels}

        def count_known(other: MultiLabel) -> int:
            return sum(trained.issuperset(other.split(cell)) for cell in cells)

        best = max((self, *(replace(self, separator=char) for char in SEPARATORS)), key=count_known)
        return list(values) if best is self else [best.split(v) if isinstance(v, str) else v for v in values]

    @property
    def outputs(self) -> int:
        return len(self.labels)

    @property
    def label_thresholds(self) -> dict[str, float]:
        """The probability from which each label is predicted."""
        return dict(zip(self.labels, self.thresholds or (DEFAULT_THRESHOLD,) * len(self.labels), strict=True))

    def encode(self, value: Any) -> Tensor:  # → [labels], 1 for each label of the row
        encoded = torch.zeros(len(self.labels))
        for label in self.split(value):
            if label not in self.labels:
                raise unknown_label_error(label, self.labels)
            encoded[self.labels.index(label)] = 1.0
        return encoded

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:  # [n, labels], [n, labels] → [n]
        """-log P(labels), which are independent of one another given the text."""
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(-1)

    def activate(self, logits: Tensor) -> Tensor:  # [n, labels] → the same, the probability of each label
        return logits.sigmoid()

    def decode(self, logits: Tensor) -> list[dict[str, Any]]:  # [n, labels]
        thresholds = self.label_thresholds.values()
        found = []
        for row in self.activate(logits.double()).tolist():
            chosen = self.select_labels([p >= threshold for p, threshold in zip(row, thresholds, strict=True)])
            probabilities = {f"probability_{label}": p for label, p in zip(self.labels, row, strict=True)}
            found.append({"prediction": chosen, **probabilities})
        return found

    def select_labels(self, has: Sequence[Any]) -> list[str]:
        """The labels whose value in `has` is true."""
        return [label for label, one in zip(self.labels, has, strict=True) if one]

    def sort_labels(self, value: Any) -> list[str]:
        """The labels of a cell in the order of `labels`, unknown ones last: the form of a prediction."""
        found = self.split(value)
        known = self.select_labels([label in found for label in self.labels])
        return known + [label for label in found if label not in known]

    def summary(self, values: Sequence[Any]) -> str:
        rows = [self.split(value) for value in values]
        counts = Counter(label for row in rows for label in row)
        listed = format_labels([f"{label} {counts[label]:,}" for label in self.labels], 8)
        mean = sum(map(len, rows)) / max(1, len(rows))
        return f"{len(self.labels)} labels ({listed}), {mean:.2g} per row"

    def binary_rows(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Each label of each row as a row of two classes: (logits [n · labels, 2], right column [n · labels])."""
        flat = logits.flatten()
        return torch.stack([torch.zeros_like(flat), flat], dim=1), targets.flatten().long()

    def with_thresholds(self, logits: Tensor, targets: Tensor) -> MultiLabel:
        """The target with the threshold of the highest F1 on these rows for each label, unless it has thresholds."""
        if self.thresholds:
            return self
        columns = zip(self.activate(logits.double()).numpy().T, targets.numpy().T, strict=True)
        return replace(self, thresholds=tuple(best_f1_threshold(p, gold) for p, gold in columns))

    @classmethod
    def from_json(cls, stored: Fields, labels: Sequence[str]) -> MultiLabel:
        thresholds = tuple(stored.items("thresholds", float)) if stored.values.get("thresholds") else ()
        if thresholds and (len(thresholds) != len(labels) or not all(0 <= t <= 1 for t in thresholds)):
            stored.refuse("'thresholds' must be a probability for each label")
        return cls(tuple(labels), stored.choice("separator", ("", *SEPARATORS), ""), thresholds)


def find_separator(texts: Sequence[str]) -> str:
    """The first of SEPARATORS that occurs in a text; empty if none does."""
    return next((char for char in SEPARATORS if any(char in text for text in texts)), "")


def best_f1_threshold(probabilities: NDArray[np.float64], gold: NDArray[Any]) -> float:
    """The threshold with the highest F1, in the middle between two rows; of equal ones that nearest to 0.5.

    A label that no row has keeps 0.5.
    """
    if not gold.any():
        return DEFAULT_THRESHOLD
    order = np.argsort(-probabilities, kind="stable")
    p, hits = probabilities[order], np.cumsum(gold[order])
    f1 = 2 * hits / (np.arange(1, len(p) + 1) + gold.sum())
    last_of_equal = np.append(p[:-1] != p[1:], True)  # a threshold cannot separate rows of the same probability
    middles = (p + np.append(p[1:], 0.0)) / 2
    best = np.flatnonzero(last_of_equal & (f1 == f1[last_of_equal].max()))
    return float(min(middles[best], key=lambda threshold: abs(threshold - DEFAULT_THRESHOLD)))


def cross_fit_labels(target: MultiLabel, logits: Tensor, targets: Tensor) -> list[list[str]]:
    """The labels of each row, predicted with the thresholds that the rows of the other folds choose (fixed seed).

    Thresholds that are scored on the rows that chose them find labels even in noise: on random labels (six, each in 30%
    of 60 rows) their micro F1 was 0.48, that of all labels for each row 0.45, and the cross-fitted one 0.43.
    """
    found: list[list[str]] = [[] for _ in range(len(logits))]
    order = np.random.default_rng(0).permutation(len(logits))
    for fold in np.array_split(order, min(THRESHOLD_FOLDS, len(order))):
        others = np.setdiff1d(order, fold)
        fitted = replace(target, thresholds=()).with_thresholds(logits[others], targets[others])
        for i, row in zip(fold, fitted.decode(logits[fold]), strict=True):
            found[i] = row["prediction"]
    return found


def best_constant_labels(target: MultiLabel, rows: Sequence[Sequence[str]], metric: str) -> list[str]:
    """The labels with the best value of `metric` on these rows if they are predicted for each row.

    Accuracy: the most frequent set. F1: the most frequent labels, as many as are best.
    """
    if metric == "accuracy":
        return [*Counter(map(tuple, rows)).most_common(1)[0][0]]
    counts = indicator(rows, target.labels).sum(0)
    order = np.argsort(-counts, kind="stable")
    chosen, golds = np.tri(len(order)), counts[order]  # the first label, the first two, …
    f1 = f1_of_counts(metric, chosen * golds, golds, chosen * len(rows))
    best = {*order[: int(np.argmax(f1)) + 1].tolist()}
    return target.select_labels([k in best for k in range(len(order))])


def multilabel_scores(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], labels: Sequence[str]
) -> dict[str, float]:
    """`f1_micro` (over all pairs of row and label), `f1_macro` (mean over labels), `accuracy` (all labels right).

    A label of `gold` that is not one of `labels` is a label too, which is never predicted.
    """
    labels = add_unknown_labels(labels, gold)
    g, p = indicator(gold, labels), indicator(predicted, labels)
    hits, golds, predictions = (g * p).sum(0), g.sum(0), p.sum(0)
    return {
        "f1_micro": float(f1_of_counts("f1_micro", hits, golds, predictions)),
        "f1_macro": float(f1_of_counts("f1_macro", hits, golds, predictions)),
        "accuracy": float((g == p).all(1).mean()),
    }


def add_unknown_labels(labels: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [*dict.fromkeys([*labels, *(label for row in rows for label in row)])]


def indicator(rows: Sequence[Sequence[str]], labels: Sequence[str]) -> NDArray[np.float64]:  # → [rows, labels]
    return np.array([[label in row for label in labels] for row in rows], dtype=np.float64)


def f1_of_counts(metric: str, hits: Any, golds: Any, predictions: Any) -> Any:  # each [..., labels] → [...]
    """F1 from counts per label; 0 where a label is neither right nor predicted anywhere, as in scikit-learn."""
    if metric == "f1_micro":
        hits, golds, predictions = (np.sum(counts, axis=-1, keepdims=True) for counts in (hits, golds, predictions))
    total = np.asarray(golds + predictions)
    return np.divide(2 * hits, total, out=np.zeros(total.shape), where=total > 0).mean(-1)


def within_label_correlation(hits: Any, golds: Any, predictions: Any, rows: int) -> float:  # each [labels]
    """Correlation of right and predicted labels, from their covariances within each label, added over the labels.

    For one label it is Matthews correlation. It is 0 for every constant prediction, whatever its F1.
    """
    covariance = float((rows * hits - golds * predictions).sum())
    scale = float((golds * (rows - golds)).sum() * (predictions * (rows - predictions)).sum())
    return covariance / math.sqrt(scale) if scale else 0.0


def bootstrap_multilabel(
    metric: str, gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], labels: Sequence[str], samples: int
) -> NDArray[np.float64]:  # → [samples]
    """F1 of each bootstrap sample of rows, or `matthews`: see `within_label_correlation`."""
    labels = add_unknown_labels(labels, gold)
    g, p = indicator(gold, labels), indicator(predicted, labels)
    random, n = np.random.default_rng(0), len(g)
    found = []
    for _ in range(samples):
        counts = np.bincount(random.integers(n, size=n), minlength=n).astype(np.float64)
        sampled = counts @ (g * p), counts @ g, counts @ p
        found.append(within_label_correlation(*sampled, n) if metric == "matthews" else f1_of_counts(metric, *sampled))
    return np.array(found)
