"""Which task a table is made for, from the names and the cells of its columns. A guess, and shown as one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gpt1.config import flag_name
from gpt1.formatting import shell_join
from gpt1.tables.facts import is_numeric
from gpt1.tables.table import Table
from gpt1.tasks.kinds import KINDS

LABEL_COLUMN_NAMES = (
    *("label", "labels", "gold_label", "gold", "target", "class", "category", "sentiment", "topic", "score"),
    *("similarity", "rating", "stars", "answer", "correct", "right", "y", "prediction"),
)
"""Names of label columns, the likeliest first."""
NLI_LABELS = {"entailment", "neutral", "contradiction", "not_entailment", "entails"}
ANSWER_COLUMN_PATTERN = re.compile(
    r"(choice|option|answer|end|ending|alternative|quiz)s?[_ ]?\(?([0-9]|[a-h])\)?", re.IGNORECASE
)
MAX_CLASSES = 20
"""More whole numbers than these in a label column are a score, not classes."""
SAMPLE_ROWS = 2000


@dataclass(frozen=True)
class TaskGuess:
    """The kind, its columns by role, and whether the label is a number."""

    kind: str
    columns: dict[str, str]
    score: bool = False

    @property
    def flags(self) -> str:
        """As `gpt1 finetune` takes them."""
        words = ["--kind", self.kind, *["--score"] * self.score]
        for role, column in self.columns.items():
            words += [flag_name(role), column]
        return shell_join(words)


def guess_task(table: Table) -> TaskGuess:
    """The task that the table looks made for; without `label` where no column looks like one."""
    rows = table.rows[:SAMPLE_ROWS]
    cells = {name: [row[name] for row in rows if row.get(name) not in (None, "")] for name in table.columns}
    label = find_label_column(cells, len(rows))
    rest = [name for name in table.columns if name != label]
    texts = sorted(
        (name for name in rest if mean_word_count(cells[name]) > 1.5), key=lambda name: -mean_word_count(cells[name])
    )
    texts = texts or [name for name in rest if cells[name] and not is_numeric(cells[name][0])][:1]
    found = (
        guess_choice(cells, rest, texts, label)
        or guess_pair(cells, texts, label)
        or guess_single_text(cells, texts, label)
    )
    columns = {role: found.columns[role] for role in (*KINDS[found.kind].columns,) if role in found.columns}
    return TaskGuess(found.kind, {**columns, **({"label": label} if label else {})}, found.score)


def find_label_column(cells: dict[str, list[Any]], rows: int) -> str | None:
    lowered = {name.lower().strip(): name for name in cells}
    if named := next(
        (lowered[name] for name in LABEL_COLUMN_NAMES if name in lowered and not is_list_column(cells[lowered[name]])),
        None,
    ):
        return named
    few = [
        name
        for name, values in cells.items()
        if values
        and not is_list_column(values)
        and mean_word_count(values) <= 1.5
        and len(set(map(str, values))) * 3 <= max(rows, 6)
    ]
    return few[-1] if few else None


def guess_choice(
    cells: dict[str, list[Any]], candidates: Sequence[str], texts: Sequence[str], label: str | None
) -> TaskGuess | None:
    lists = [name for name in candidates if is_list_column(cells[name])]
    answers = lists[:1] or [name for name in candidates if ANSWER_COLUMN_PATTERN.fullmatch(name)]
    if not lists and len(answers) < 2:
        answers = columns_in_label(cells.get(label or "", []), candidates)
    if not lists and len(answers) < 2:
        return None
    others = [name for name in texts if name not in answers]
    columns = {"choices": ",".join(answers)}
    question = next((name for name in others if "question" in name.lower()), None)
    if question and len(others) > 1:
        columns["question"] = question
        others.remove(question)
    return TaskGuess("choice", {**columns, **({"context": others[0]} if others else {})})


def columns_in_label(values: Sequence[Any], rest: Sequence[str]) -> list[str]:
    """The columns that a label column names, with those that differ from one of them in the last sign only."""
    named = {str(value).strip() for value in values}
    if not named <= {*rest}:
        return []
    return [name for name in rest if name in named or any(differ_in_last_character(name, one) for one in named)]


def guess_pair(cells: dict[str, list[Any]], texts: Sequence[str], label: str | None) -> TaskGuess | None:
    by_name = {name.lower(): name for name in texts}
    values = {str(value).strip().lower() for value in cells.get(label or "", [])}
    if "hypothesis" in by_name and len(texts) > 1:
        premise = by_name.get("premise") or next(name for name in texts if name != by_name["hypothesis"])
        return TaskGuess("entailment", {"premise": premise, "hypothesis": by_name["hypothesis"]})
    two = sorted(texts[:2]) if len(texts) > 1 and differ_in_last_character(*sorted(texts[:2])) else []
    if not two:
        return None
    if values and values <= NLI_LABELS:
        return TaskGuess("entailment", {"premise": two[0], "hypothesis": two[1]})
    return TaskGuess(
        "similarity", {"text_a": two[0], "text_b": two[1]}, score=is_score_column(cells.get(label or "", []))
    )


def guess_single_text(cells: dict[str, list[Any]], texts: Sequence[str], label: str | None) -> TaskGuess:
    kind = "regression" if is_score_column(cells.get(label or "", [])) else "classification"
    return TaskGuess(kind, {"text": texts[0]} if texts else {})


def differ_in_last_character(first: str, second: str) -> bool:
    """Whether two names differ in their last sign only: sentence1 and sentence2, text_a and text_b, a and b."""
    return first[:-1].lower() == second[:-1].lower() and first != second


def is_score_column(values: Sequence[Any]) -> bool:
    """Whether a label column holds numbers that measure something, not classes."""
    if not values or not all(map(is_numeric, values)):
        return False
    numbers = {float(value) for value in values}
    return len(numbers) > MAX_CLASSES or any(not number.is_integer() for number in numbers)


def is_list_column(values: Sequence[Any]) -> bool:
    return bool(values) and all(map(is_list, values))


def is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def mean_word_count(values: Sequence[Any]) -> float:
    """Words of a cell, on average; none in numbers and lists."""
    if not values or is_list_column(values) or all(map(is_numeric, values)):
        return 0.0
    return sum(len(str(value).split()) for value in values) / len(values)
