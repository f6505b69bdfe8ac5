"""Cells of a table as labels and numbers, and labels in messages."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, TypeAlias

from gpt1.errors import UserError, did_you_mean
from gpt1.tables.cells import AMBIGUOUS_COMMA, cell_number, cell_text, cell_to_show, is_empty, is_missing, plain_value

LabelValue: TypeAlias = str | int | float | bool


def as_label(value: Any) -> str:
    """A cell as a label, the same in every format: stripped text; 1 and 1.0 are one label, true and True as well.

    Other texts that are the same number (007 and 7, 1.5 and 1.50) are different labels.
    """
    if is_empty(value) and not isinstance(value, list | tuple):
        raise UserError("the label is empty.", "Add a label, or remove the row.")
    original = label_value(value)
    if isinstance(original, float) and original.is_integer():
        return str(int(original))
    text = str(original)
    if text.casefold() in ("true", "false"):
        return text.capitalize()
    if INTEGRAL.fullmatch(text):
        text = text.partition(".")[0]
    return "0" if text == "-0" else text


INTEGRAL = re.compile(r"-?(0|[1-9][0-9]*)\.0+")


def label_value(value: Any) -> LabelValue:
    """A cell as predictions return it: numbers and booleans keep their type, the rest is stripped text."""
    value = plain_value(value)
    if isinstance(value, bool | int | float):
        return value
    try:
        return cell_text(value).strip()
    except UserError as error:
        raise UserError(
            f"{str(value)[:40]!r} is not a label: {error.problem}", "Use another column as --label."
        ) from None


def original_values(labels: Sequence[str], cells: Sequence[Any]) -> list[LabelValue]:
    """The value to return for each label, in the type of the cells and, if it is unique, their spelling."""
    spellings: dict[str, set[LabelValue]] = {}
    types = set()
    for cell in cells:
        value = label_value(cell)
        types.add(type(value))
        spellings.setdefault(as_label(value), set()).add(value)
    if types == {str}:
        return [next(iter(spellings[label])) if len(spellings[label]) == 1 else label for label in labels]
    if types == {bool}:
        return [label == "True" for label in labels]
    if types <= {int, float} and all(math.isfinite(float(label)) for label in labels):
        whole = all(INTEGER.fullmatch(label) for label in labels) and int in types
        return [int(label) if whole else float(label) for label in labels]
    return list(labels)


INTEGER = re.compile(r"-?[0-9]+")


def as_number(value: Any) -> float:
    """A cell as a finite number. `3,5` is 3.5; `3_5` and booleans are not numbers; `1,234` is ambiguous."""
    number = None if isinstance(plain_value(value), bool) else cell_number(value)
    if number is not None and math.isfinite(number):
        return number
    text = str(value) if is_missing(value) else cell_to_show(value).strip()[:40]
    if AMBIGUOUS_COMMA.fullmatch(text):
        point, digits = text.replace(",", "."), text.replace(",", "")
        raise UserError(f"'{text}' can be {point} or {digits}.", "Write numbers with a decimal point.")
    raise UserError(f"'{text}' is not a finite number.", "Fix or remove the row.")


def label_sort_key(label: str) -> tuple[int, float, str]:
    """Sort key: numbers by value, then other labels alphabetically; "nan" is not a number here, nor is 3_5."""
    number = cell_number(label)
    return (1, 0.0, label) if number is None or math.isnan(number) else (0, number, label)


def unknown_label_error(label: str, labels: Sequence[str]) -> UserError:
    return UserError(f"unknown label '{label}'.{did_you_mean(label, labels)}", f"Labels: {format_labels(labels)}.")


def format_labels(labels: Sequence[str], limit: int = 10) -> str:
    text = ", ".join(labels[:limit])
    return text if len(labels) <= limit else f"{text} … ({len(labels):,} in total)"
