"""Weights of the examples in the task loss: of each row, and of each class."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gpt1.errors import UserError, did_you_mean
from gpt1.files.foreign import parse_json
from gpt1.formatting import float_or_nan
from gpt1.tables.cells import cell_number, resolve_thousands
from gpt1.tables.table import Table, missing_column_error
from gpt1.tasks.kinds import Example
from gpt1.tasks.targets import Classes, Target

BALANCED = "balanced"
CLASS_WEIGHT_FIX = "Use --class-weight balanced, or a weight for each label: --class-weight yes=3,no=1"


def add_row_weights(examples: Sequence[Example], table: Table, column: str | None) -> list[Example]:
    """The examples with the weights in a column of their table; UserError for what is not a number of at least 0."""
    if column is None:
        return list(examples)
    if column not in table.columns:
        raise missing_column_error(table.name, {column: "--weight"}, table.columns, table.delimiter)
    weighted, weights = [], resolve_thousands([row[column] for row in table.rows])
    for i, (example, row) in enumerate(zip(examples, table.rows, strict=True)):
        weight = cell_number(weights[i])
        if weight is None or not 0 <= weight < math.inf:
            problem = f"{table.locate_row(i)}: the weight {str(row[column])[:40]!r} is not a number of at least 0."
            raise UserError(problem, "Fix or remove the row.")
        weighted.append(replace(example, weight=weight))
    return weighted


def parse_class_weights(text: str) -> dict[str, float]:
    """`label=weight,…`, or a JSON object, as a dict; UserError for anything else."""
    found: dict[str, Any] = {}
    if text.startswith("{"):
        found = parse_json(text, "--class-weight", fix=CLASS_WEIGHT_FIX)
    else:
        for part in text.split(","):
            label, equals, weight = part.rpartition("=")
            if not equals or label.strip() in found:
                raise UserError(f"--class-weight {text} is not a list of label=weight.", CLASS_WEIGHT_FIX)
            found[label.strip()] = weight
    weights: dict[str, float] = {}
    for label, value in found.items():
        if not label.strip():
            raise UserError(f"--class-weight {text} has a weight without a label.", CLASS_WEIGHT_FIX)
        weights[label] = float_or_nan(value)
        if not 0 < weights[label] < math.inf:
            raise UserError(f"--class-weight: the weight {value!r} of '{label}' is not above 0.", CLASS_WEIGHT_FIX)
    return weights


def require_classes(target: Target) -> Classes:
    if not isinstance(target, Classes):
        raise UserError("--class-weight needs labels that are classes.", "Omit it.")
    return target


def class_weights(examples: Sequence[Example], target: Classes, setting: str) -> dict[str, float]:
    """The weight of each label.

    `balanced` is rows / (labels · rows of the label), counted in row weights, as in scikit-learn (King and Zeng 2001).
    """
    if setting == BALANCED:
        totals = Counter[str]()
        for example in examples:
            totals[target.canonical_label(example.label)] += example.weight  # type: ignore[assignment]
        return {label: totals.total() / (len(totals) * total) if total else 0.0 for label, total in totals.items()}
    given: dict[str, float] = {}
    for name, weight in parse_class_weights(setting).items():
        label = target.canonical_label(name)  # 1.0 and true are the labels 1 and True, as in the rows
        if label in given:
            raise UserError(f"--class-weight names the label '{label}' twice.", CLASS_WEIGHT_FIX)
        given[label] = weight
        if label not in target.labels:
            problem = f"--class-weight names the label '{label}', which no row has.{did_you_mean(label, target.labels)}"
            raise UserError(problem, f"Labels: {', '.join(target.labels)}.")
    return {label: given.get(label, 1.0) for label in target.labels}


def example_weights(examples: Sequence[Example], target: Target, class_weight: str) -> Tensor | None:
    """Weight of each training example in the task loss, with a mean of 1: row weight times class weight.

    Returns:
        [examples], or None if all are equal.

    Raises:
        UserError: If all weights are 0, or the class weights do not fit the labels.
    """
    weights = torch.tensor([example.weight for example in examples], dtype=torch.float64)
    if class_weight:
        classes = require_classes(target)
        by_label = class_weights(examples, classes, class_weight)
        labels = [classes.canonical_label(example.label) for example in examples]
        weights = weights * torch.tensor([by_label[label] for label in labels])
    if not weights.any():
        raise UserError("all rows have the weight 0: there is nothing to learn.", "Check the column of --weight.")
    return None if weights.min() == weights.max() else (weights / weights.mean()).float()


def with_weights(examples: Sequence[Example], weights: Tensor | None) -> list[Example]:
    """The examples with the weights [examples] of the task loss (see `example_weights`), for the baselines."""
    if weights is None:
        return list(examples)
    return [replace(example, weight=weight) for example, weight in zip(examples, weights.tolist(), strict=True)]
