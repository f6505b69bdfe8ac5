"""Which task a table is made for, from the names and the cells of its columns. A guess, and shown as one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gpt1.config import flag
from gpt1.formatting import shell_join
from gpt1.tables.facts import is_number
from gpt1.tables.table import Table
from gpt1.tasks.kinds import KINDS

LABELS = (
    *("label", "labels", "gold_label", "gold", "target", "class", "category", "sentiment", "topic", "score"),
    *("similarity", "rating", "stars", "answer", "correct", "right", "y", "prediction"),
)
"""Names of label columns, the likeliest first."""
NLI = {"entailment", "neutral", "contradiction", "not_entailment", "entails"}
ANSWERS = re.compile(r"(choice|option|answer|end|ending|alternative|quiz)s?[_ ]?\(?([0-9]|[a-h])\)?", re.IGNORECASE)
MOST_CLASSES = 20
"""More whole numbers than these in a label column are a score, not classes."""
ROWS_LOOKED_AT = 2000


@dataclass(frozen=True)
class Guess:
    """The kind, its columns by role, and whether the label is a number."""

    kind: str
    columns: dict[str, str]
    score: bool = False

    @property
    def flags(self) -> str:
        """As `gpt1 finetune` takes them."""
        words = ["--kind", self.kind, *["--score"] * self.score]
        for role, column in self.columns.items():
            words += [flag(role), column]
        return shell_join(words)


def guess(table: Table) -> Guess:
    """The task that the table looks made for; without `label` where no column looks like one."""
    rows = table.rows[:ROWS_LOOKED_AT]
    cells = {name: [row[name] for row in rows if row.get(name) not in (None, "")] for name in table.columns}
    label = label_column(cells, len(rows))
    rest = [name for name in table.columns if name != label]
    texts = sorted((name for name in rest if words(cells[name]) > 1.5), key=lambda name: -words(cells[name]))
    texts = texts or [name for name in rest if cells[name] and not is_number(cells[name][0])][:1]
    found = choice(cells, rest, texts, label) or pair(cells, texts, label) or single(cells, texts, label)
    columns = {role: found.columns[role] for role in (*KINDS[found.kind].columns,) if role in found.columns}
    return Guess(found.kind, {**columns, **({"label": label} if label else {})}, found.score)


def label_column(cells: dict[str, list[Any]], rows: int) -> str | None:
    lowered = {name.lower().strip(): name for name in cells}
    if named := next((lowered[name] for name in LABELS if name in lowered and not listed(cells[lowered[name]])), None):
        return named
    few = [
        name
        for name, values in cells.items()
        if values and not listed(values) and words(values) <= 1.5 and len(set(map(str, values))) * 3 <= max(rows, 6)
    ]
    return few[-1] if few else None


def choice(cells: dict[str, list[Any]], rest: Sequence[str], texts: Sequence[str], label: str | None) -> Guess | None:
    lists = [name for name in rest if listed(cells[name])]
    answers = lists[:1] or [name for name in rest if ANSWERS.fullmatch(name)]
    if not lists and len(answers) < 2:
        answers = named_by(cells.get(label or "", []), rest)
    if not lists and len(answers) < 2:
        return None
    others = [name for name in texts if name not in answers]
    columns = {"choices": ",".join(answers)}
    question = next((name for name in others if "question" in name.lower()), None)
    if question and len(others) > 1:
        columns["question"] = question
        others.remove(question)
    return Guess("choice", {**columns, **({"context": others[0]} if others else {})})


def named_by(values: Sequence[Any], rest: Sequence[str]) -> list[str]:
    """The columns that a label column names, with those that differ from one of them in the last sign only."""
    named = {str(value).strip() for value in values}
    if not named <= {*rest}:
        return []
    return [name for name in rest if name in named or any(alike(name, one) for one in named)]


def pair(cells: dict[str, list[Any]], texts: Sequence[str], label: str | None) -> Guess | None:
    by_name = {name.lower(): name for name in texts}
    values = {str(value).strip().lower() for value in cells.get(label or "", [])}
    if "hypothesis" in by_name and len(texts) > 1:
        premise = by_name.get("premise") or next(name for name in texts if name != by_name["hypothesis"])
        return Guess("entailment", {"premise": premise, "hypothesis": by_name["hypothesis"]})
    two = sorted(texts[:2]) if len(texts) > 1 and alike(*sorted(texts[:2])) else []
    if not two:
        return None
    if values and values <= NLI:
        return Guess("entailment", {"premise": two[0], "hypothesis": two[1]})
    return Guess("similarity", {"text_a": two[0], "text_b": two[1]}, score=scored(cells.get(label or "", [])))


def single(cells: dict[str, list[Any]], texts: Sequence[str], label: str | None) -> Guess:
    kind = "regression" if scored(cells.get(label or "", [])) else "classification"
    return Guess(kind, {"text": texts[0]} if texts else {})


def alike(first: str, second: str) -> bool:
    """Whether two names differ in their last sign only: sentence1 and sentence2, text_a and text_b, a and b."""
    return first[:-1].lower() == second[:-1].lower() and first != second


def scored(values: Sequence[Any]) -> bool:
    """Whether a label column holds numbers that measure something, not classes."""
    if not values or not all(map(is_number, values)):
        return False
    numbers = {float(value) for value in values}
    return len(numbers) > MOST_CLASSES or any(not number.is_integer() for number in numbers)


def listed(values: Sequence[Any]) -> bool:
    return bool(values) and all(map(is_list, values))


def is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def words(values: Sequence[Any]) -> float:
    """Words of a cell, on average; none in numbers and lists."""
    if not values or listed(values) or all(map(is_number, values)):
        return 0.0
    return sum(len(str(value).split()) for value in values) / len(values)
