"""Statistics of a labeled table and warnings about it, for `gpt1 inspect`."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from gpt1.formatting import count_noun
from gpt1.tables.cells import cell_number, cell_to_show, is_date, is_empty, is_numeric
from gpt1.tables.table import Table

MAX_CLASS_LABELS = 50
"""A label column with more distinct values, all of them numbers, is a score and not a class."""
MAX_GROUPS_NAMED = 5
"""Maximum number of groups of similar labels that a warning names."""
PUNCTUATION_RUN = re.compile(r"[\W_]+")
ASCII_PUNCTUATION = bytes(code for code in range(128) if not chr(code).isalnum())


def normalize_text(text: str) -> str:
    """The letters and digits of `text`, lower-cased, for comparing texts; `text` itself if it has none, as ":-)"."""
    if text.isascii():  # same result, ten times as fast
        return text.lower().encode().translate(None, delete=ASCII_PUNCTUATION).decode() or text
    return PUNCTUATION_RUN.sub("", text.lower()) or text


def describe_table(
    table: Table,
    label: str | None = "label",
    texts: Sequence[str] | None = None,
    read_label: Callable[[Any], str] = cell_to_show,
) -> dict[str, Any]:
    """Statistics of a table as JSON values.

    Args:
        label: The label column, if there is one.
        texts: The text columns. Default: every column except the label that contains a non-numeric value.
        read_label: A cell of the label column as text. Cells with equal texts have one label.

    Returns:
        rows, columns: Counts and names.
        texts: By column: `min`, `median`, `p95` (95th percentile) and `max` of the lengths in characters, and the
            number of `empty` texts.
        labels: Rows by label, without empty labels; or scores: `min`, `mean` and `max` of numeric labels.
        duplicates: Rows with the same texts as an earlier row; not those without text.
        duplicate_rows: Rows that are the same as an earlier row in every column.
        contradictions: Duplicates with another label than the earlier row.
        warnings: Sentences.
    """
    label = label if label in table.columns else None
    if texts is None:
        texts = [name for name in table.columns if name != label and is_text_column(table, name)]
    rows = [tuple(cell_to_show(row.get(name)) for name in texts) for row in table.rows]
    labels = [None if label is None else read_label(row.get(label)).strip() or None for row in table.rows]
    facts: dict[str, Any] = {
        "name": table.name,
        "rows": len(rows),
        "columns": list(table.columns),
        "texts": {name: length_statistics([row[i] for row in rows]) for i, name in enumerate(texts)},
        **label_facts([value for value in labels if value is not None]),
        **count_repeats(rows, labels),
    }
    whole = [tuple(cell_to_show(row.get(name)) for name in table.columns) for row in table.rows]
    facts["duplicate_rows"] = len(whole) - len(set(whole))
    return {**facts, "warnings": table_warnings(facts)}


def is_text_column(table: Table, name: str) -> bool:
    return any(not is_numeric(row.get(name)) for row in table.rows[:1000] if not is_empty(row.get(name)))


def length_statistics(texts: Sequence[str]) -> dict[str, int]:
    """Quantiles of the lengths in characters (without interpolation) and the number of empty texts."""
    ordered = sorted(map(len, texts)) or [0]
    quantiles = {name: ordered[round(q * (len(ordered) - 1))] for name, q in QUANTILES.items()}
    return {**quantiles, "empty": sum(not text.strip() for text in texts)}


QUANTILES = {"min": 0.0, "median": 0.5, "p95": 0.95, "max": 1.0}


def label_facts(labels: Sequence[str]) -> dict[str, Any]:
    counts = Counter(labels)
    if len(counts) > MAX_CLASS_LABELS and all(map(is_numeric, counts)):
        return score_summary(labels)
    return {"labels": dict(counts.most_common())} if labels else {}


def score_summary(numbers: Sequence[Any]) -> dict[str, Any]:
    """`scores` of the finite numbers, if there are any."""
    values = [value for number in numbers if (value := cell_number(number)) is not None]
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return {}
    return {"scores": {"min": min(finite), "mean": sum(finite) / len(finite), "max": max(finite)}}


def count_repeats(rows: Sequence[tuple[str, ...]], labels: Sequence[str | None]) -> dict[str, int]:
    first: dict[tuple[str, ...], str | None] = {}
    duplicates = contradictions = 0
    for row, label in zip(rows, labels, strict=True):
        if not any(text.strip() for text in row):  # rows without text are left out, not repeated
            continue
        if row in first:
            duplicates += 1
            contradictions += label != first[row]
        else:
            first[row] = label
    return {"duplicates": duplicates, "contradictions": contradictions}


def table_warnings(facts: Mapping[str, Any]) -> list[str]:
    warnings = []
    if facts["duplicates"]:
        warnings.append(f"{format_rows_have(facts['duplicates'])} the same text as an earlier row.")
    if facts["contradictions"]:
        warnings.append(
            f"{format_rows_have(facts['contradictions'])} the same text as an earlier row but a different label."
        )
    for name, column in facts["texts"].items():
        if column["empty"]:
            warnings.append(f"{format_rows_have(column['empty'])} no text in '{name}'.")
    labels = facts.get("labels", {})
    if len(labels) == 1:
        warnings.append(f"all rows have the same label, '{next(iter(labels))}': there is nothing to learn.")
    elif labels and min(labels.values()) * 20 < max(labels.values()):
        rare, often = min(labels, key=labels.__getitem__), max(labels, key=labels.__getitem__)
        rows = count_noun(labels[rare], "row")
        warnings.append(f"label '{rare}' has {rows}, '{often}' {labels[often]:,}: accuracy is not a useful metric.")
    return warnings


def folded_label(name: str) -> Any:
    return cell_number(name) or normalize_text(name.casefold())  # -1 and 1 are two labels


def label_warnings(labels: Mapping[str, int]) -> list[str]:
    """Warnings about labels (rows by label) that are probably one label, or an identifier instead of a label."""
    warnings = []
    rows, single = sum(labels.values()), sum(n == 1 for n in labels.values())
    if len(labels) > 2 and (2 * single >= rows or 3 * len(labels) > rows >= 20):
        alone = f", {single:,} of them with a single row, from which the model cannot learn" if single else ""
        warnings.append(
            f"{len(labels):,} labels in {rows:,} rows{alone}. Is the label column an identifier, a date or a number?"
        )
    elif len(labels) > 2 and all(map(is_date, labels)):
        warnings.append(f"the {len(labels):,} labels are dates. Is it the right column?")
    if groups := similar_labels(labels):
        more = f"; {len(groups) - MAX_GROUPS_NAMED:,} more" * (len(groups) > MAX_GROUPS_NAMED)
        warnings.append(f"some labels differ only in spelling: {'; '.join(groups[:MAX_GROUPS_NAMED])}{more}.")
    return warnings


def similar_labels(labels: Iterable[str]) -> list[str]:
    """Each group of labels that probably mean the same, and how they differ."""
    differences: dict[str, Callable[[str], Any]] = {
        "the same number": lambda name: cell_number(name) or name,
        "Unicode form": lambda name: unicodedata.normalize("NFC", name),
        "case, spaces or punctuation": folded_label,
    }
    described: list[str] = []
    reported: set[str] = set()
    for difference, key in differences.items():
        groups: dict[Any, list[str]] = {}
        for name in labels:
            groups.setdefault(key(name), []).append(name)
        for group in groups.values():
            if len(group) > 1 and not reported.issuperset(group):
                reported.update(group)
                described.append(f"{' and '.join(map(repr, group))} ({difference})")
    return described


def format_rows_have(n: int) -> str:
    return "1 row has" if n == 1 else f"{n:,} rows have"
