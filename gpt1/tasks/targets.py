"""Targets: labels as tensors, the task loss L2 (paper, eq. 4), and predictions from the head's logits."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, TypeAlias, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt1.errors import UserError
from gpt1.files.foreign import Fields
from gpt1.tables.cells import cell_text
from gpt1.tasks.labels import (
    LabelValue,
    as_label,
    as_number,
    format_labels,
    label_sort_key,
    original_values,
    unknown_label_error,
)
from gpt1.tasks.multilabel import MultiLabel, cross_fit_labels

Numbering: TypeAlias = Literal["0", "1", "A"]
MAX_LABELS = 5000
"""Every label is a column of the predictions, and a row and a column of the confusion matrix of the metrics."""
NO_PREDICTION = ""
"""The class or the answer of a row without text. It is not a label, so it counts as a mistake."""
NUMBER_METRICS = ("pearson", "spearman", "rmse", "mae")
MAX_SCORE_RANGE = 100
"""Largest difference between the highest and the lowest score."""


@dataclass(frozen=True)
class Classes:
    """One of several labels; softmax and cross-entropy (paper, eq. 3 and 4)."""

    labels: tuple[str, ...]
    values: tuple[LabelValue, ...] = ()
    """What predictions return for each label, in the type that the labels had; empty: `labels`."""
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "f1", "matthews")
    primary_metric: ClassVar[str] = "accuracy"
    activated_name: ClassVar[str] = "probabilities"

    @staticmethod
    def parse(value: Any) -> str:
        return as_label(value)

    @classmethod
    def from_labels(cls, values: Sequence[Any]) -> Classes:
        labels = sorted({as_label(value) for value in values}, key=label_sort_key)
        if len(labels) < 2:
            only = labels[0] if labels else "none"
            raise UserError(f"all rows have the same label ('{only}').", "Use rows with at least two labels.")
        if len(labels) > MAX_LABELS:
            raise UserError(
                f"the label column has {len(labels):,} different values; at most {MAX_LABELS:,} labels are supported.",
                "Check the column. To predict a number, use --kind regression.",
            )
        originals = original_values(labels, values)
        return cls(tuple(labels), () if originals == labels else tuple(originals))

    @cached_property
    def indices(self) -> dict[str, int]:
        """Position of each label, also in the spelling of older model folders (`true`, `1.0`)."""
        return {as_label(label): i for i, label in enumerate(self.labels)} | {
            label: i for i, label in enumerate(self.labels)
        }

    @property
    def outputs(self) -> int:
        return len(self.labels)

    def index_of(self, value: Any) -> int | None:
        return self.indices.get(cell_text(value).strip(), self.indices.get(as_label(value)))

    def canonical_label(self, value: Any) -> str:
        """The label that a cell means, as in `labels`; of an unknown label, itself."""
        index = self.index_of(value)
        return as_label(value) if index is None else self.labels[index]

    def encode(self, value: Any) -> Tensor:
        label, index = as_label(value), self.index_of(value)
        if index is None:
            raise unknown_label_error(label, self.labels)
        return torch.tensor(index)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:  # [n, labels], [n] → [n]
        return F.cross_entropy(logits, targets, reduction="none")

    def activate(self, logits: Tensor) -> Tensor:  # [n, labels] → the same, probabilities (paper, eq. 3)
        return logits.softmax(-1)

    def decode(self, logits: Tensor, labels: Sequence[LabelValue] = ()) -> list[dict[str, Any]]:  # [n, labels]
        labels = labels or self.labels
        rows = self.activate(logits.double()).tolist()  # in float32 the sum is off 1 by 1e-7, and scikit-learn warns
        names = [f"probability_{label}" for label in labels]
        return [
            {"prediction": labels[max(range(len(row)), key=row.__getitem__)], **dict(zip(names, row, strict=True))}
            for row in rows
        ]

    def summary(self, values: Sequence[Any]) -> str:
        counts = Counter(as_label(value) for value in values)
        names = zip(self.labels, self.values or self.labels, strict=True)
        return f"{len(self.labels)} labels ({format_labels([f'{name} {counts[label]:,}' for label, name in names], 8)})"


@dataclass(frozen=True)
class Answers:
    """Multiple choice: softmax over the answers of an example (paper, section 3.3)."""

    most: int
    numbering: Numbering = "0"
    """How labels count the answers: from 0, from 1 or from A. Predictions count from 0."""
    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    primary_metric: ClassVar[str] = "accuracy"
    activated_name: ClassVar[str] = "probabilities"
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

    def activate(self, logits: Tensor) -> Tensor:  # [n, answers] → the same, probabilities
        return logits.softmax(-1)

    def decode(self, logits: Tensor) -> list[dict[str, Any]]:
        found = []
        for row, exists in zip(self.activate(logits.double()).tolist(), (logits > -torch.inf).tolist(), strict=True):
            probabilities = {f"probability_{k}": p for k, p in enumerate(row) if exists[k]}
            found.append({"prediction": max(range(len(row)), key=row.__getitem__), **probabilities})
        return found


@dataclass(frozen=True)
class OrdinalBins:
    """A score as a distribution over the integers low..high; the prediction is its mean (as in the release, STS-B)."""

    low: int
    high: int
    origin: float = 0.0
    """The user's number that score 0 stands for; 0 unless the numbers were rescaled to scores."""
    step: float = 1.0
    """The difference between two scores in the user's unit."""
    decimal: str = ""
    """Decimal separator of the training labels, `,` or `.`; empty if they do not show it."""
    metrics: ClassVar[tuple[str, ...]] = NUMBER_METRICS
    primary_metric: ClassVar[str] = "pearson"
    activated_name: ClassVar[str] = "score"

    @staticmethod
    def parse(value: Any) -> float:
        return as_number(value)

    @classmethod
    def from_labels(cls, values: Sequence[Any]) -> OrdinalBins:
        numbers = [as_number(value) for value in values]
        low, high = math.floor(min(numbers)), math.ceil(max(numbers))
        if low == high:
            raise UserError(f"all rows have the same score ({low}).", "Use rows with different scores.")
        if high - low > MAX_SCORE_RANGE:
            raise UserError(
                f"the scores range from {low} to {high}; the range must be at most 100.",
                "Rescale the scores, or use --kind regression.",
            )
        return cls(low, high)

    def summary(self, values: Sequence[Any]) -> str:
        first, last = (f"{self.origin + self.step * score:g}" for score in (self.low, self.high))
        return f"scores from {first} to {last}"

    def covers(self, other: OrdinalBins) -> bool:
        """Whether this target has all scores of `other`."""
        same_unit = (self.origin, self.step) == (other.origin, other.step)
        return same_unit and self.low <= other.low and other.high <= self.high

    @property
    def outputs(self) -> int:
        return self.high - self.low + 1

    def encode(self, value: Any) -> Tensor:  # 3.4 → 0.6 on 3 and 0.4 on 4
        number = min(max((as_number(value) - self.origin) / self.step, self.low), self.high)
        target = torch.zeros(self.outputs)
        below = min(math.floor(number), self.high - 1)
        target[below - self.low] = below + 1 - number
        target[below + 1 - self.low] = number - below
        return target

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:  # [n, bins], [n, bins] → [n]
        return F.cross_entropy(logits, targets, reduction="none")

    def activate(self, logits: Tensor) -> Tensor:  # [n, bins] → [n], the mean score
        scores = torch.arange(self.low, self.high + 1, dtype=logits.dtype, device=logits.device)
        return logits.softmax(-1) @ (self.origin + self.step * scores)

    def decode(self, logits: Tensor) -> list[dict[str, Any]]:
        return [{"score": score} for score in self.activate(logits.double()).tolist()]


@dataclass(frozen=True)
class StandardizedNumber:
    """A number, standardized with the mean and standard deviation of the training rows; squared error."""

    mean: float
    deviation: float
    decimal: str = ""
    """Decimal separator of the training labels, `,` or `.`; empty if they do not show it."""
    metrics: ClassVar[tuple[str, ...]] = NUMBER_METRICS
    primary_metric: ClassVar[str] = "pearson"
    activated_name: ClassVar[str] = "score"
    outputs: ClassVar[int] = 1

    @staticmethod
    def parse(value: Any) -> float:
        return as_number(value)

    @classmethod
    def from_labels(cls, values: Sequence[Any]) -> StandardizedNumber:
        numbers = torch.tensor([as_number(value) for value in values], dtype=torch.float64)
        deviation = float(numbers.std(unbiased=False))
        if numbers.min() == numbers.max():  # rounding can make the deviation of equal numbers positive
            raise UserError(f"all rows have the same number ({values[0]}).", "Use rows with different numbers.")
        if not 0 < deviation < math.inf:
            span = f"{numbers.min():g} to {numbers.max():g}"
            raise UserError(
                f"the numbers ({span}) are too large or too small: their variance is not finite.", "Rescale them."
            )
        return cls(float(numbers.mean()), deviation)

    def summary(self, values: Sequence[Any]) -> str:
        return f"numbers with mean {self.mean:.3g} and standard deviation {self.deviation:.3g}"

    def encode(self, value: Any) -> Tensor:
        return torch.tensor((as_number(value) - self.mean) / self.deviation)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:  # [n, 1], [n] → [n]
        return (logits[:, 0] - targets) ** 2

    def activate(self, logits: Tensor) -> Tensor:  # [n, 1] → [n], the number in its own unit
        return logits[:, 0] * self.deviation + self.mean

    def decode(self, logits: Tensor) -> list[dict[str, Any]]:
        # in float32 a deviation of 2 around a mean of 10⁹ would be lost
        return [{"score": score} for score in self.activate(logits.double()).tolist()]


Target = Classes | MultiLabel | Answers | OrdinalBins | StandardizedNumber
TARGET_TYPES: dict[str, type[Target]] = {
    "classes": Classes,
    "labels": MultiLabel,
    "answers": Answers,
    "bins": OrdinalBins,
    "number": StandardizedNumber,
}


def calibration_rows(target: Target, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor] | None:
    """(logits [n, k], right column [n]) on which a temperature is fitted; None for scores, which have none."""
    if isinstance(target, MultiLabel):
        return target.binary_rows(logits, targets)
    return (logits, targets) if isinstance(target, Classes | Answers) else None


def choose_thresholds(target: Target, logits: Tensor, targets: Tensor) -> Target:
    """The target with the thresholds that are best on these rows, if it needs some and has none yet."""
    return target.with_thresholds(logits, targets) if isinstance(target, MultiLabel) else target


def predicted_answers(target: Target, logits: Tensor, cross_fit: Tensor | None = None) -> list[Any]:
    """`prediction` or `score` of each row; with the targets `cross_fit`, several labels as by `cross_fit_labels`."""
    if cross_fit is not None and isinstance(target, MultiLabel):
        return [*cross_fit_labels(target, logits, cross_fit)]
    key = "prediction" if target.activated_name == "probabilities" else "score"
    return [row[key] for row in target.decode(logits)]


def withhold_predictions(target: Target, predicted: Sequence[Any], has_text: Sequence[bool]) -> list[Any]:
    """The predictions, with no label for rows without text; their scores stay."""
    if target.activated_name == "score":
        return list(predicted)
    nothing: Any = [] if isinstance(target, MultiLabel) else NO_PREDICTION
    return [answer if one else nothing for answer, one in zip(predicted, has_text, strict=True)]


def decode_predictions(target: Target, logits: Tensor) -> list[dict[str, Any]]:
    """As `target.decode`, with labels in the type and the spelling that they had in the training rows."""
    return target.decode(logits, target.values) if isinstance(target, Classes) else target.decode(logits)


def label_decimal(target: Target | None) -> str:
    """The decimal separator of numbers in the training labels; empty if it is not known."""
    return target.decimal if isinstance(target, OrdinalBins | StandardizedNumber) else ""


def check_earlier_target(earlier: Target, target: Target) -> Target:
    """`earlier`, the target of a model whose output layer is kept; UserError if the rows do not fit it.

    The new rows decide what is not in the output layer: the numbering of answers, the separator and the thresholds of
    several labels, and the decimal separator of numbers.
    """
    fits = type(earlier) is type(target)
    if isinstance(earlier, Classes | MultiLabel) and isinstance(target, Classes | MultiLabel) and fits:
        fits = set(target.labels) <= set(earlier.labels)
    if isinstance(earlier, OrdinalBins) and isinstance(target, OrdinalBins):
        fits = earlier.covers(target)
    if not fits:
        ours, theirs = describe_target(target), describe_target(earlier)
        raise UserError(
            f"--keep-head: the rows have {ours}, the model was fine-tuned for {theirs}.",
            "Omit --keep-head to train a new output layer.",
        )
    if isinstance(earlier, Answers) and isinstance(target, Answers):
        return replace(earlier, numbering=target.numbering)
    if isinstance(earlier, MultiLabel) and isinstance(target, MultiLabel):
        return replace(earlier, thresholds=(), separator=target.separator or earlier.separator)
    if isinstance(earlier, OrdinalBins | StandardizedNumber):
        return replace(earlier, decimal=label_decimal(target) or earlier.decimal)
    return earlier


def describe_target(target: Target) -> str:
    if isinstance(target, Classes | MultiLabel):
        return f"the labels {format_labels(target.labels)}"
    return target.summary([])


def target_to_json(target: Target) -> dict[str, Any]:
    name = next(name for name, kind in TARGET_TYPES.items() if isinstance(target, kind))
    optional = {field.name: field.default for field in fields(target)}
    return {"name": name, **{key: value for key, value in asdict(target).items() if value != optional[key]}}


def target_from_json(stored: Fields) -> Target:
    """Read what `target_to_json` wrote.

    Raises:
        UserError: For a field that is missing, of the wrong type or out of range.
    """
    name = stored.choice("name", tuple(TARGET_TYPES))
    if name in ("classes", "labels"):
        labels = stored.items("labels", str)
        if not 2 <= len(labels) <= MAX_LABELS:
            stored.refuse(f"it has {len(labels):,} labels instead of 2 to {MAX_LABELS:,}")
        if len({*labels}) < len(labels) or not all(label and label == label.strip() for label in labels):
            stored.refuse("its labels must be different texts without spaces around them")
        if name == "labels":
            return MultiLabel.from_json(stored, labels)
        values: list[Any] = stored.items("values", object, [])
        if values and [as_label(value) for value in values] != labels:
            stored.refuse("'values' must be the labels, in another type or spelling")
        return Classes(tuple(labels), tuple(values))
    if name == "answers":
        numbering = stored.choice("numbering", get_args(Numbering), "0")
        return Answers(stored.integer("most", 1, 10_000), cast(Numbering, numbering))
    decimal = stored.choice("decimal", ("", ",", "."), "")
    if name == "bins":
        low = stored.integer("low", -(2**53), 2**53)
        high, origin = stored.integer("high", low + 1, low + MAX_SCORE_RANGE), stored.number("origin", default=0.0)
        return OrdinalBins(low, high, origin, read_positive(stored, "step", 1.0), decimal)
    deviation = read_positive(stored, "deviation")
    return StandardizedNumber(stored.number("mean"), deviation, decimal)


def read_positive(stored: Fields, name: str, *default: float) -> float:
    """A stored number above 0."""
    number = stored.number(name, 0, math.inf, *default)
    if not number:
        stored.refuse(f"'{name}' must be more than 0")
    return number
