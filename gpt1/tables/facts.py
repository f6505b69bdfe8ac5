"""What a labelled table is like and what is odd about it: any table, known data set or not. For `gpt1 inspect`."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from gpt1.formatting import count_noun
from gpt1.tables.table import Table

MAX_CLASS_LABELS = 50
"""A label column with more different values than this, all of them numbers, holds scores and not classes."""
PUNCTUATION_RUN = re.compile(r"[\W_]+")
ASCII_PUNCTUATION = bytes(code for code in range(128) if not chr(code).isalnum())


def normalize_text(text: str) -> str:
    """The letters and digits of `text`, lower-case: texts that agree in them count as the same. A text without any, as
    ":-)", stands for itself."""
    if text.isascii():  # the same, ten times as fast
        return text.lower().encode().translate(None, delete=ASCII_PUNCTUATION).decode() or text
    return PUNCTUATION_RUN.sub("", text.lower()) or text


def describe_table(
    table: Table,
    label: str | None = "label",
    texts: Sequence[str] | None = None,
    other_splits: Mapping[str, Table] | None = None,
) -> dict[str, Any]:
    """Facts about a table, ready for JSON.

    label: the column of labels, where there is one.
    texts: the columns that hold texts; None takes every column but the label that has a value that is no number.
    other_splits: more splits of the same data, to be searched for the same rows.

    rows, columns
    texts         column → least, median, 95 % and greatest length in characters, empty texts
    labels        label → rows, empty ones left out; or
    scores        least, mean and greatest of a label that is a number
    duplicates    rows whose texts repeat an earlier row's
    contradictions  of these, rows with another label than the earlier one
    also_in       name of the other split → rows of this one that it holds too
    odd           sentences about what should be looked at
    """
    label = label if label in table.columns else None
    if texts is None:
        texts = [name for name in table.columns if name != label and is_text_column(table, name)]
    rows = [tuple(stringify_cell(row.get(name)) for name in texts) for row in table.rows]
    labels = [None if label is None else stringify_cell(row.get(label)).strip() or None for row in table.rows]
    facts: dict[str, Any] = {
        "name": table.name,
        "rows": len(rows),
        "columns": list(table.columns),
        "texts": {name: lengths([row[i] for row in rows]) for i, name in enumerate(texts)},
        **label_facts([value for value in labels if value is not None]),
        **count_repeats(rows, labels),
    }
    facts["also_in"] = {}
    for name, other in (other_splits or {}).items():
        there = {normalized_key(tuple(stringify_cell(row.get(column)) for column in texts)) for row in other.rows}
        facts["also_in"][name] = sum(normalized_key(row) in there for row in rows)
    facts["odd"] = table_warnings(facts)
    return facts


def is_text_column(table: Table, name: str) -> bool:
    return any(not is_numeric(row.get(name)) for row in table.rows[:1000] if row.get(name) not in (None, ""))


def is_numeric(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def stringify_cell(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "\n".join(map(str, value))
    return "" if value is None or value != value else str(value)


def normalized_key(row: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(normalize_text, row))


def lengths(texts: Sequence[str]) -> dict[str, int]:
    """Quantiles of the lengths in characters, each the length of a text that is there."""
    ordered = sorted(map(len, texts)) or [0]
    found = {name: ordered[round(q * (len(ordered) - 1))] for name, q in QUANTILES.items()}
    return {**found, "empty": sum(not text.strip() for text in texts)}


QUANTILES = {"least": 0.0, "median": 0.5, "95 %": 0.95, "greatest": 1.0}


def label_facts(labels: Sequence[str]) -> dict[str, Any]:
    counts = Counter(labels)
    if len(counts) > MAX_CLASS_LABELS and all(map(is_numeric, counts)):
        return score_summary(labels)
    return {"labels": dict(counts.most_common())} if labels else {}


def score_summary(numbers: Sequence[Any]) -> dict[str, Any]:
    """`scores` of those that are finite numbers, where there are any."""
    finite = [float(number) for number in numbers if is_numeric(number) and math.isfinite(float(number))]
    if not finite:
        return {}
    return {"scores": {"least": min(finite), "mean": sum(finite) / len(finite), "greatest": max(finite)}}


def count_repeats(rows: Sequence[tuple[str, ...]], labels: Sequence[str | None]) -> dict[str, int]:
    first: dict[tuple[str, ...], str | None] = {}
    duplicates = contradictions = 0
    for row, label in zip(rows, labels, strict=True):
        if row in first:
            duplicates += 1
            contradictions += label != first[row]
        else:
            first[row] = label
    return {"duplicates": duplicates, "contradictions": contradictions}


def table_warnings(facts: Mapping[str, Any]) -> list[str]:
    found = []
    if facts["duplicates"]:
        found.append(f"{count_rows_have(facts['duplicates'])} the same texts as an earlier one.")
    if facts["contradictions"]:
        found.append(f"{count_rows_have(facts['contradictions'])} the same texts as an earlier one and another label.")
    for name, of_column in facts["texts"].items():
        if of_column["empty"]:
            found.append(f"{count_rows_have(of_column['empty'])} no text in '{name}'.")
    labels = facts.get("labels", {})
    if len(labels) == 1:
        found.append(f"all rows have the same label, '{next(iter(labels))}': there is nothing to learn from.")
    elif labels and min(labels.values()) * 20 < max(labels.values()):
        rare, often = min(labels, key=labels.__getitem__), max(labels, key=labels.__getitem__)
        rows = count_noun(labels[rare], "row")
        found.append(f"label '{rare}' has {rows}, '{often}' {labels[often]:,}: accuracy says little here.")
    for name, n in facts["also_in"].items():
        if n:
            found.append(
                f"{count_rows_have(n)} the same texts as one in {name}, but perhaps for case, spaces and signs."
            )
    return found


def count_rows_have(n: int) -> str:
    return "1 row has" if n == 1 else f"{n:,} rows have"
