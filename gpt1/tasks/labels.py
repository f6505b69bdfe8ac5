"""Cells of a table as labels and numbers, and labels in messages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gpt1.errors import UserError


def as_label(value: Any) -> str:
    """A cell as a label: stripped text; 1.0 and 1 are the same label."""
    if value is None or (isinstance(value, float) and math.isnan(value)) or str(value).strip() == "":
        raise UserError("the label is empty.", "Add a label, or remove the row.")
    if isinstance(value, list | tuple | dict):
        raise UserError(f"{str(value)[:40]!r} is not a label.", "Use another column as --label.")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def as_number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"'{value}' is not a finite number.", "Fix or remove the row.")
    return number


def label_sort_key(label: str) -> tuple[int, float, str]:
    """Sort key: numbers by value, then other labels alphabetically; "nan" is not a number here."""
    try:
        number = float(label)
    except ValueError:
        number = math.nan
    return (1, 0.0, label) if math.isnan(number) else (0, number, label)


def format_labels(labels: Sequence[str], limit: int = 10) -> str:
    text = ", ".join(labels[:limit])
    return text if len(labels) <= limit else f"{text} … ({len(labels)} in total)"
