"""Rows that are the same input: duplicates, and rows that are also in the validation file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gpt1.tasks.kinds import Example, Kind
from gpt1.tasks.multilabel import MultiLabel
from gpt1.tasks.targets import Target


def deduplicate(
    kind: Kind, examples: Sequence[Example], validation: Sequence[Example] = ()
) -> tuple[list[int], int, int]:
    """Remove duplicate rows and rows that are also in the validation file. Inputs are compared, not labels.

    Returns:
        (positions that remain, number of duplicates, number of rows also in `validation`).
    """
    reserved = {content_key(kind, example) for example in validation}
    seen: set[tuple[Any, ...]] = set()
    kept, duplicates, leaked = [], 0, 0
    for i, example in enumerate(examples):
        key = content_key(kind, example)
        if key in reserved:
            leaked += 1
        elif key in seen:
            duplicates += 1
        else:
            seen.add(key)
            kept.append(i)
    return kept, duplicates, leaked


def contradictions(kind: Kind, examples: Sequence[Example], kept: Sequence[int], target: Target) -> int:
    """Number of examples with the texts of a kept one and another label."""
    read: Callable[[Any], Any] = target.sort_labels if isinstance(target, MultiLabel) else target.parse
    kept_labels = {content_key(kind, examples[i]): read(examples[i].label) for i in kept}
    pairs = [(kept_labels.get(content_key(kind, example)), read(example.label)) for example in examples]
    return sum(kept_label is not None and kept_label != label for kept_label, label in pairs)


def content_key(kind: Kind, example: Example) -> tuple[Any, ...]:
    """Equal for examples that are the same input: the model sees the pairs of `similarity` in both orders."""
    fields = sorted(example.fields) if kind.is_symmetric else example.fields
    return (*fields, example.answers)
