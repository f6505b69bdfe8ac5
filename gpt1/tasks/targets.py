"""What a head's numbers mean: how labels become targets, the loss between them (L2), and how to read predictions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt1.errors import UserError, did_you_mean
from gpt1.files.foreign import Fields

MOST_LABELS = 1000
MOST_STEPS = 100
"""Whole steps between the lowest and the highest score."""


@dataclass(frozen=True)
class Classes:
    """One of several labels; softmax and cross-entropy (paper, eq. 3 and 4)."""

    labels: tuple[str, ...]
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "f1", "matthews")
    primary_metric: ClassVar[str] = "accuracy"

    @staticmethod
    def parse(value: Any) -> str:
        return as_label(value)

    @classmethod
    def from_labels(cls, values: Sequence[Any]) -> Classes:
        labels = sorted({as_label(value) for value in values}, key=label_sort_key)
        if len(labels) < 2:
            only = labels[0] if labels else "none"
            raise UserError(
                f"all rows have the same label ('{only}').", "Two labels at least are needed to learn from."
            )
        if len(labels) > MOST_LABELS:
            raise UserError(
                f"the label column has {len(labels):,} different values; at most 1,000 are taken for labels.",
                "Is it the right column? For a number to predict use --kind regression.",
            )
        return cls(tuple(labels))

    @property
    def outputs(self) -> int:
        return len(self.labels)

    def encode(self, value: Any) -> Tensor:
        label = as_label(value)
        if label not in self.labels:
            raise UserError(
                f"unknown label '{label}'.{did_you_mean(label, self.labels)}",
                f"The labels are: {format_labels(self.labels)}.",
            )
        return torch.tensor(self.labels.index(label))

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:  # [n, labels], [n] → [n]
        return F.cross_entropy(logits, targets, reduction="none")

    def decode(self, logits: Tensor) -> list[dict[str, Any]]:  # [n, labels]
        rows = logits.double().softmax(-1).tolist()  # in float32 they sum to 1 within 1e-7: scikit-learn warns of it
        return [
            {"prediction": self.labels[max(range(len(row)), key=row.__getitem__)], **self.probabilities(row)}
            for row in rows
        ]

    def probabilities(self, row: Sequence[float]) -> dict[str, float]:
        return {f"probability_{label}": p for label, p in zip(self.labels, row, strict=True)}

    def summary(self, values: Sequence[Any]) -> str:
        counts = Counter(as_label(value) for value in values)
        return (
            f"{len(self.labels)} labels ({format_labels([f'{label} {counts[label]:,}' for label in self.labels], 8)})"
        )


@dataclass(frozen=True)
class Answers:
    """Which of an example's answers is right; softmax over the answers (paper 3.3)."""

    most: int
    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    primary_metric: ClassVar[str] = "accuracy"
    outputs: ClassVar[int] = 1

    @staticmethod
    def parse(value: Any) -> int:
        return int(value)

    def summary(self, values: Sequence[Any]) -> str:
        return "multiple choice"

    @classmethod
    def from_labels(cls, values: Sequence[Any]) -> Answers:
        return cls(max((int(value) for value in values), default=1) + 1)

    def encode(self, value: Any) -> Tensor:
        return torch.tensor(int(value))

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:  # [n, answers], [n] → [n]
        return F.cross_entropy(logits, targets, reduction="none")

    def decode(self, logits: Tensor) -> list[dict[str, Any]]:
        found = []
        for row, exists in zip(logits.double().softmax(-1).tolist(), (logits > -torch.inf).tolist(), strict=True):
            probabilities = {f"probability_{k}": p for k, p in enumerate(row) if exists[k]}
            found.append({"prediction": max(range(len(row)), key=row.__getitem__), **probabilities})
        return found


@dataclass(frozen=True)
class OrdinalBins:
    """A number as a distribution over the integers low..high; its expectation is the score (released helper, STS-B)."""

    low: int
    high: int
    metrics: ClassVar[tuple[str, ...]] = ("pearson", "spearman")
    primary_metric: ClassVar[str] = "pearson"

    @staticmethod
    def parse(value: Any) -> float:
        return as_number(value)

    @classmethod
    def from_labels(cls, values: Sequence[Any]) -> OrdinalBins:
        numbers = [as_number(value) for value in values]
        low, high = math.floor(min(numbers)), math.ceil(max(numbers))
        if low == high:
            raise UserError(f"all rows have the same score ({low}).", "Scores have to differ to be learnt from.")
        if high - low > MOST_STEPS:
            raise UserError(
                f"the scores run from {low} to {high}: more than 100 whole steps.",
                "Rescale them, or use --kind regression.",
            )
        return cls(low, high)

    def summary(self, values: Sequence[Any]) -> str:
        return f"scores from {self.low} to {self.high}"

    @property
    def outputs(self) -> int:
        return self.high - self.low + 1

    def encode(self, value: Any) -> Tensor:  # 3.4 → 0.6 on 3 and 0.4 on 4
        number = min(max(as_number(value), self.low), self.high)
        target = torch.zeros(self.outputs)
        below = min(math.floor(number), self.high - 1)
        target[below - self.low] = below + 1 - number
        target[below + 1 - self.low] = number - below
        return target

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:  # [n, bins], [n, bins] → [n]
        return F.cross_entropy(logits, targets, reduction="none")

    def decode(self, logits: Tensor) -> list[dict[str, Any]]:
        values = torch.arange(self.low, self.high + 1, dtype=torch.float64, device=logits.device)
        return [{"score": score} for score in (logits.double().softmax(-1) @ values).tolist()]


@dataclass(frozen=True)
class StandardizedNumber:
    """A number, standardised with the training rows' mean and deviation; squared error."""

    mean: float
    deviation: float
    metrics: ClassVar[tuple[str, ...]] = ("pearson", "spearman")
    primary_metric: ClassVar[str] = "pearson"
    outputs: ClassVar[int] = 1

    @staticmethod
    def parse(value: Any) -> float:
        return as_number(value)

    @classmethod
    def from_labels(cls, values: Sequence[Any]) -> StandardizedNumber:
        numbers = torch.tensor([as_number(value) for value in values], dtype=torch.float64)
        deviation = float(numbers.std(unbiased=False))
        if numbers.min() == numbers.max():  # of equal numbers the deviation may be a rounding error
            raise UserError(
                f"all rows have the same number ({values[0]}).", "Numbers have to differ to be learnt from."
            )
        if not 0 < deviation < math.inf:
            span = f"{numbers.min():g} to {numbers.max():g}"
            raise UserError(f"the numbers, {span}, have squares that a computer cannot hold.", "Rescale them.")
        return cls(float(numbers.mean()), deviation)

    def summary(self, values: Sequence[Any]) -> str:
        return f"numbers with mean {self.mean:.3g} and deviation {self.deviation:.3g}"

    def encode(self, value: Any) -> Tensor:
        return torch.tensor((as_number(value) - self.mean) / self.deviation)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:  # [n, 1], [n] → [n]
        return (logits[:, 0] - targets) ** 2

    def decode(self, logits: Tensor) -> list[dict[str, Any]]:
        # in float32 a deviation of 2 around a mean of 10⁹ would be lost
        return [{"score": score} for score in (logits[:, 0].double() * self.deviation + self.mean).tolist()]


Target = Classes | Answers | OrdinalBins | StandardizedNumber
TARGET_TYPES: dict[str, type[Target]] = {
    "classes": Classes,
    "answers": Answers,
    "bins": OrdinalBins,
    "number": StandardizedNumber,
}


def target_to_json(target: Target) -> dict[str, Any]:
    name = next(name for name, kind in TARGET_TYPES.items() if isinstance(target, kind))
    return {"name": name, **asdict(target)}


def target_from_json(stored: Fields) -> Target:
    """The target that `target_to_json` wrote.

    Raises:
        UserError: for a field that is missing, of another type or out of range.
    """
    name = stored.choice("name", tuple(TARGET_TYPES))
    if name == "classes":
        labels = stored.items("labels", str)
        if not 2 <= len(labels) <= MOST_LABELS:
            stored.refuse(f"{len(labels):,} labels; a model has 2 to {MOST_LABELS:,}")
        if len({*labels}) < len(labels) or not all(label and label == label.strip() for label in labels):
            stored.refuse("its labels must be different texts without spaces around them")
        return Classes(tuple(labels))
    if name == "answers":
        return Answers(stored.integer("most", 1, 10_000))
    if name == "bins":
        low = stored.integer("low", -(2**53), 2**53)
        return OrdinalBins(low, stored.integer("high", low + 1, low + MOST_STEPS))
    deviation = stored.number("deviation", 0)
    if not deviation:
        stored.refuse("'deviation' must be more than 0")
    return StandardizedNumber(stored.number("mean"), deviation)


def as_label(value: Any) -> str:
    """A cell as a label: text without outer spaces; 1.0 and 1 are the same label."""
    if value is None or (isinstance(value, float) and math.isnan(value)) or str(value).strip() == "":
        raise UserError("the label is empty.", "Fill it in, or remove the row.")
    if isinstance(value, list | tuple | dict):
        raise UserError(f"{str(value)[:40]!r} stands where a label belongs.", "Name another column with --label.")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def as_number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"'{value}' stands where a finite number belongs.", "Mend or remove the row.")
    return number


def label_sort_key(label: str) -> tuple[int, float, str]:
    """Sort key: numbers by value, then words by letter; the word "nan" has no place among numbers."""
    try:
        number = float(label)
    except ValueError:
        number = math.nan
    return (1, 0.0, label) if math.isnan(number) else (0, number, label)


def format_labels(labels: Sequence[str], max_shown: int = 10) -> str:
    shown = ", ".join(labels[:max_shown])
    return shown if len(labels) <= max_shown else f"{shown} … ({len(labels)} in all)"
