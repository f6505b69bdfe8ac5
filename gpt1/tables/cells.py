"""Cells of every type as text and as numbers: the one place where a value that is not text becomes text.

text        itself; bytes (BINARY columns of Parquet) are read as UTF-8
None, NaN   an empty text, as are the missing values of pandas (NaT, NA)
numbers     as Python and pandas write them: 1, 1.0, True; decimals without an exponent
dates       ISO 8601: 2024-01-31, 2024-01-31 12:00:00
the rest    refused: lists, objects, durations, bytes that are not UTF-8
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import date, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np

from gpt1.errors import UserError

MISSING_TYPES = ("NaTType", "NAType")
"""Types of missing values in pandas, which is not imported here; comparing NA gives NA."""
DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")
AMBIGUOUS_COMMA = re.compile(r"[+-]?[1-9][0-9]{0,2},[0-9]{3}")
AMBIGUOUS_POINT = re.compile(r"[+-]?[1-9][0-9]{0,2}\.[0-9]{3}")
"""Either a decimal separator or one of thousands. A point is a decimal point unless the column has decimal commas."""
THOUSANDS_POINT = re.compile(r"[+-]?[0-9]{1,3}((\.[0-9]{3})+,[0-9]+|(\.[0-9]{3}){2,})")
THOUSANDS_COMMA = re.compile(r"[+-]?[0-9]{1,3}((,[0-9]{3})+\.[0-9]+|(,[0-9]{3}){2,})")
DECIMAL_POINT = re.compile(r"[+-]?[0-9]+\.[0-9]+")
QUOTED = re.compile(r"""'[^'\\]*'|"[^"\\]*\"""")
QUOTED_LIST = re.compile(rf"\[\s*({QUOTED.pattern})(\s*,\s*({QUOTED.pattern}))*\s*\]")
"""A list of texts as Python shows it; backslashes are not supported."""
DATE = re.compile(r"\d{4}-\d{2}-\d{2}|\d{1,2}[./]\d{1,2}[./]\d{2,4}")


def plain_value(cell: Any) -> Any:
    """A NumPy scalar as a Python value; a float32 as the shortest decimal that means it (0.1, not 0.10000000149)."""
    if not isinstance(cell, np.generic) or isinstance(cell, np.timedelta64):
        return cell
    if isinstance(cell, np.datetime64):
        return None if np.isnat(cell) else str(cell).replace("T", " ")
    if isinstance(cell, np.floating) and cell.itemsize < 8:
        return float(str(cell))
    return cell.item()


def is_missing(cell: Any) -> bool:
    """Whether a cell holds no value: None, NaN, NaT, NA. An empty text is not missing."""
    if cell is None or type(cell).__name__ in MISSING_TYPES:
        return True
    return cell.is_nan() if isinstance(cell, Decimal) else isinstance(cell, float | np.floating) and bool(cell != cell)


def is_empty(cell: Any) -> bool:
    """Whether a cell is missing, a text of spaces or an empty list."""
    blank = not cell.strip() if isinstance(cell, str | bytes) else isinstance(cell, list | tuple) and not cell
    return is_missing(cell) or blank


def cell_text(cell: Any) -> str:
    """A cell as text; missing values are empty texts.

    Raises:
        UserError: For a value without one unambiguous text form.
    """
    if isinstance(cell, str):
        return str(cell)
    cell = plain_value(cell)
    if is_missing(cell):
        return ""
    if isinstance(cell, bytes | bytearray | memoryview):
        return decode_bytes(bytes(cell))
    if isinstance(cell, Decimal):
        return format(cell, "f")
    if isinstance(cell, str | int | float | date | time | UUID):  # a bool is an int, a datetime is a date
        return str(cell)
    raise UserError(
        f"{str(cell)[:40]!r} ({type(cell).__name__}) is not a text or a number.",
        "Choose another column, or fix the row.",
    )


def decode_bytes(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"these bytes are not UTF-8 text: byte {error.start + 1:,} is 0x{data[error.start]:02X}.",
            "Choose another column, or store texts in it (Parquet type STRING).",
        ) from None


def cell_list(cell: Any) -> list[Any] | None:
    """A cell that is a list, also one in .csv: as JSON, as `gpt1 predict` writes it, or as pandas writes Python's."""
    if isinstance(cell, list | tuple | np.ndarray):
        return list(cell)
    text = cell.strip() if isinstance(cell, str) else ""
    if not (text.startswith("[") and text.endswith("]")):
        return None
    with suppress(ValueError, RecursionError):
        found = json.loads(text)
        return found if all(isinstance(item, str | int | float) for item in found) else None
    return [ast.literal_eval(item) for item in QUOTED.findall(text)] if QUOTED_LIST.fullmatch(text) else None


def cell_to_show(cell: Any) -> str:
    """A cell of any type as text for statistics and messages: lists joined by line breaks, the rest as Python does."""
    if isinstance(cell, list | tuple):
        return "\n".join(map(cell_to_show, cell))
    try:
        return cell_text(cell)
    except UserError:
        return str(cell)


def cell_number(cell: Any) -> float | None:
    """A cell as a number, or None: `3_5` is not one, `3,5` is 3.5, `1.234,5` is 1234.5, and `1,234` could be two."""
    cell = plain_value(cell)
    if isinstance(cell, str | bytes):
        text = cell_to_show(cell).strip()
        if "_" in text or AMBIGUOUS_COMMA.fullmatch(text):
            return None
        if THOUSANDS_COMMA.fullmatch(text):
            cell = text.replace(",", "")
        elif THOUSANDS_POINT.fullmatch(text):
            cell = text.replace(".", "").replace(",", ".")
        else:
            cell = text.replace(",", ".") if DECIMAL_COMMA.fullmatch(text) else text
    elif not isinstance(cell, int | float | Decimal):
        return None
    try:
        return float(cell)
    except (ValueError, OverflowError):
        return None


def decimal_separators(cells: Sequence[Any]) -> set[str]:
    """The decimal separators that a column of texts certainly has: `,` in 3,5 and 1.234,5, `.` in 3.5 and 1,234.5."""
    found = set()
    for cell in cells:
        text = cell.strip() if isinstance(cell, str) else ""
        if THOUSANDS_POINT.fullmatch(text) or (DECIMAL_COMMA.fullmatch(text) and not AMBIGUOUS_COMMA.fullmatch(text)):
            found.add(",")
        if THOUSANDS_COMMA.fullmatch(text) or (DECIMAL_POINT.fullmatch(text) and not AMBIGUOUS_POINT.fullmatch(text)):
            found.add(".")
    return found


def decimal_separator(cells: Sequence[Any]) -> str:
    """The decimal separator of a column, `,` or `.`; empty if its texts do not show which, or show both."""
    found = decimal_separators(cells)
    return found.pop() if len(found) == 1 else ""


def resolve_thousands(cells: Sequence[Any], decimal: str = "") -> list[Any]:
    """The cells of a column; those that could be two numbers become the one that the other cells imply.

    In a column with 3,5 or 1.234,5, 1.234 is 1234 and 1,234 is 1.234; in one with 3.5, 1,234 is 1234.

    Args:
        decimal: Decimal separator of other rows of the column, which counts if these do not show theirs.
    """
    separators = decimal_separators(cells) or {decimal}
    if separators not in ({","}, {"."}):
        return list(cells)
    (decimal,) = separators
    thousands = {",": ".", ".": ","}[decimal]

    def resolve(cell: Any) -> Any:
        text = cell.strip() if isinstance(cell, str) else ""
        if AMBIGUOUS_COMMA.fullmatch(text) or AMBIGUOUS_POINT.fullmatch(text):
            return float(text.replace(thousands, "").replace(decimal, "."))
        return cell

    return list(map(resolve, cells))


def is_numeric(cell: Any) -> bool:
    return cell_number(cell) is not None


def is_date(cell: Any) -> bool:
    """Whether a cell is a date, perhaps with a time."""
    return isinstance(cell, date) or (isinstance(cell, str) and bool(DATE.match(cell)) and len(cell.split()) <= 2)
