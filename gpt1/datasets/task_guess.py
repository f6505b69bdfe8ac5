"""Guess the task of a table from the names and cells of its columns."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpt1.config import flag_name
from gpt1.datasets.labeled import TaskRequest
from gpt1.files.reading import is_url
from gpt1.formatting import shell_join
from gpt1.progress import Progress
from gpt1.tables.cells import cell_list, cell_number, cell_to_show, is_date, is_empty, is_numeric, resolve_thousands
from gpt1.tables.table import Table, missing_column_error, read_blocks, read_table
from gpt1.tasks.examples import choice_columns, input_columns
from gpt1.tasks.kinds import KINDS
from gpt1.tasks.multilabel import find_separator

LABEL_COLUMN_NAMES = (
    *("label", "labels", "gold_label", "gold", "target", "class", "category", "sentiment", "topic", "score"),
    *("similarity", "rating", "stars", "answer", "correct", "right", "y", "prediction"),
)
"""Names of label columns, most likely first."""
SEVERAL_LABELS_NAMES = LABEL_COLUMN_NAMES[: LABEL_COLUMN_NAMES.index("score")]
"""Those of a column of lists that are labels; lists under the other names may be the answers of multiple choice."""
ENTAILMENT_LABELS = {"entailment", "neutral", "contradiction", "not_entailment", "entails"}
ANSWER_COLUMN_PATTERN = re.compile(
    r"(choice|option|answer|end|ending|alternative|quiz)s?[_ ]?\(?([0-9]|[a-h])\)?", re.IGNORECASE
)
PROBABILITY = "probability_"
MAX_CLASSES = 20
"""A label column with more distinct integers is a score, not classes."""
ZEROS = {"0", "0.0", "false"}
INDICATORS = ZEROS | {"1", "1.0", "true"}
"""Cells of a column that says whether a row has a label."""
SAMPLE_ROWS = 2000
MIN_TEXT_WORDS = 4
"""A column with fewer words per cell is not counted as another text: names, places."""
RELATION = re.compile("same|differ|duplicat|match|paraphras|equivalen|identical|similar|related|entail|contradict")
OTHER_RELATIONS = {"other", "none", "neutral", "unknown", "yes", "no", "true", "false", "0", "1"}
"""Labels that can say how two texts relate, next to one that does."""
MIN_SEVERAL, MIN_RECURRING, MAX_LABEL_WORDS = 0.02, 0.8, 3
"""For several labels per cell: share of cells with more than one, share of labels that recur, mean words of a label."""


@dataclass(frozen=True)
class TaskGuess:
    """A kind of task, its columns by role, and whether the label is a score."""

    kind: str
    columns: dict[str, str]
    score: bool = False
    unused: tuple[str, ...] = ()
    """Other columns of texts."""

    @property
    def unused_note(self) -> str:
        """The other texts, and how to use them."""
        note = f"text columns that are not used: {', '.join(self.unused)}."
        if "text" not in self.columns:
            return note
        text, other = self.columns["text"], self.unused[0]
        note += f" To use them as well: {shell_join(['--text', ','.join([*self.unused, text])])}"
        if self.kind == "multilabel":
            return note
        pair = shell_join(["--kind", "entailment", "--premise", other, "--hypothesis", text])
        return f"{note}. If the label says how two texts relate: {pair}"

    @property
    def flags(self) -> str:
        """The flags of `gpt1 finetune`."""
        words = ["--kind", self.kind, *["--score"] * self.score]
        for role, column in self.columns.items():
            words += [flag_name(role), column]
        return shell_join(words)


def complete_task(task: TaskRequest, progress: Progress) -> TaskRequest:
    """Complete a request that names only the label, with the kind and columns of the table's most likely task.

    Raises:
        UserError: If a named column is missing, or the table has no label column.
    """
    train = task.train
    if not isinstance(train, Table):
        if not Path(train).is_file() and not is_url(train):
            return task  # a known data set has a kind; a missing file is an error elsewhere
        train = next(read_blocks(train, name=str(train)))
        if find_missing_columns(task, train) and train.unit != "row":  # in .jsonl a later row may have them
            train = read_table(task.train)
    check_named_columns(task, train)
    label = task.columns.get("label")
    if label is None or (label not in train.columns and task.kind not in (None, "multilabel")):
        return task
    guess = guess_task(train, label)
    if task.kind in KINDS and guess.columns.keys() == {*KINDS[task.kind].columns, "label"}:
        guess = replace(guess, kind=task.kind, score=task.score)  # it has the same columns
    if task.kind not in (None, guess.kind) or not guess.columns.keys() >= task.columns.keys():
        return task  # columns of another kind are named
    if task.kind and task.columns.keys() == guess.columns.keys():
        return task  # nothing is left to guess
    found = replace(guess, columns={**guess.columns, **task.columns})
    progress.log(f"task, guessed from {train.name}: {found.flags}")
    if guess.unused and not input_columns(task.columns):
        progress.log(guess.unused_note)
    return replace(task, kind=found.kind, columns=found.columns, score=task.score or found.score)


def find_missing_columns(task: TaskRequest, table: Table) -> dict[str, str]:
    """Column that is named and not in the table -> its flag."""
    missing: dict[str, str] = {}
    present = {*table.columns}
    for role, column in {"label": "label", **task.columns}.items():
        parts = choice_columns(column)
        if column in present or not present & {*parts}:
            parts = [column]
        missing |= {part: flag_name(role) for part in parts if part not in present}
    return missing


def check_named_columns(task: TaskRequest, table: Table) -> None:
    """UserError for columns that the table does not have; it suggests those that look like them."""
    if missing := find_missing_columns(task, table):
        likely = {flag_name(role): column for role, column in guess_task(table).columns.items()}
        raise missing_column_error(table.name, missing, table.columns, table.delimiter, likely)


def guess_task(table: Table, label: str | None = None) -> TaskGuess:
    """The most likely task of the table; without `label` if it is not given and no column looks like one.

    `label` can be several 0/1 columns: `L1,L2,…`.
    """
    rows = table.rows[:SAMPLE_ROWS]
    names = [name for name in table.columns if name == label or not is_predicted(name, table.columns)]
    cells = {name: [row[name] for row in rows if not is_empty(row.get(name))] for name in names}
    several = choice_columns(label) if label and label not in cells else []
    if label is None:
        label = find_label_column(cells, len(rows))
        several = indicator_columns(cells, label)
    rest = [name for name in names if name != label]
    texts = sorted(
        (name for name in rest if mean_word_count(cells[name]) > 1.5 and not label_separator(cells[name])),
        key=lambda name: -mean_word_count(cells[name]),
    )
    texts = texts or [name for name in rest if cells[name] and not is_numeric(cells[name][0])][:1]
    guess = (
        guess_several_labels(cells, texts, label)
        or guess_choice(cells, rest, texts, label)
        or guess_pair(cells, texts, label)
        or guess_single_text(cells, texts, label)
    )
    if several and "text" in guess.columns:
        guess, label = replace(guess, kind="multilabel", score=False), ",".join(several)
    columns = {role: guess.columns[role] for role in (*KINDS[guess.kind].columns,) if role in guess.columns}
    columns |= {"label": label} if label else {}
    used = [part for column in columns.values() for part in (column, *choice_columns(column))]
    others = [name for name in names if name in long_texts(cells, texts) and name not in used]
    return TaskGuess(guess.kind, columns, guess.score, tuple(others))


def is_predicted(name: str, columns: Sequence[str]) -> bool:
    """Whether `gpt1 predict` wrote this column: a prediction next to probabilities is not a label."""
    return (name == "prediction" and any(other.startswith(PROBABILITY) for other in columns)) or (
        name.startswith(PROBABILITY) and "prediction" in columns
    )


def find_label_column(cells: dict[str, list[Any]], rows: int) -> str | None:
    lowered = {name.lower().strip(): name for name in cells}
    if named := next(
        (lowered[name] for name in LABEL_COLUMN_NAMES if name in lowered and not is_list_column(cells[lowered[name]])),
        None,
    ):
        return named
    candidates = [
        name
        for name, values in cells.items()
        if label_separator(values) or (values and not is_list_column(values) and looks_like_label(values, rows))
    ]
    if candidates:
        return candidates[-1]
    return next((lowered[name] for name in SEVERAL_LABELS_NAMES if name in lowered), None)


def indicator_columns(cells: dict[str, list[Any]], label: str | None) -> list[str]:
    """The 0/1 columns, if `label` is one of several and its name does not say that it is the label."""
    if label is None or label.lower().strip() in LABEL_COLUMN_NAMES:
        return []
    shown = {name: {cell_to_show(value).strip().lower() for value in values} for name, values in cells.items()}
    found = [name for name, values in shown.items() if values <= INDICATORS and values & ZEROS and "," not in name]
    return found if label in found and len(found) > 1 else []


def looks_like_label(values: Sequence[Any], rows: int) -> bool:
    few = len(set(map(cell_to_show, values))) * 3 <= max(rows, 6)
    return few and mean_word_count(values) <= 1.5 and not all(map(is_date, values))


def guess_several_labels(cells: dict[str, list[Any]], texts: Sequence[str], label: str | None) -> TaskGuess | None:
    values = cells.get(label or "", [])
    if not texts or not (is_list_column(values) or label_separator(values)):
        return None
    return TaskGuess("multilabel", {"text": texts[0]})


def label_separator(values: Sequence[Any]) -> str:
    """What separates the labels of a cell, if cells have several of a few labels that recur; else empty."""
    cells = [value for value in values if isinstance(value, str)]
    separator = find_separator(cells)
    if not separator or len(cells) < len(values):
        return ""
    rows = [[part.strip() for part in cell.split(separator) if part.strip()] for cell in cells]
    counts = Counter(label for row in rows for label in row)
    recurring = sum(n for n in counts.values() if n > 1)
    found = (
        2 * len(counts) <= len(set(cells))
        and recurring >= MIN_RECURRING * counts.total()
        and sum(len(row) > 1 for row in rows) >= MIN_SEVERAL * len(rows)
        and sum(len(label.split()) for label in counts) <= MAX_LABEL_WORDS * len(counts)
        and not all(map(is_numeric, counts))
    )
    return separator if found else ""


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
    """Columns that are values of the label column, and those that differ from one only in the last character."""
    labels = {cell_to_show(value).strip() for value in values}
    if not labels <= {*rest}:
        return []
    return [name for name in rest if name in labels or any(differ_in_last_character(name, label) for label in labels)]


def guess_pair(cells: dict[str, list[Any]], texts: Sequence[str], label: str | None) -> TaskGuess | None:
    by_name = {name.lower(): name for name in texts}
    values = {cell_to_show(value).strip().lower() for value in cells.get(label or "", [])}
    if "hypothesis" in by_name and len(texts) > 1:
        premise = by_name.get("premise") or next(name for name in texts if name != by_name["hypothesis"])
        return TaskGuess("entailment", {"premise": premise, "hypothesis": by_name["hypothesis"]})
    pair = sorted(texts[:2]) if len(texts) > 1 and differ_in_last_character(*sorted(texts[:2])) else []
    is_nli = bool(values) and values <= ENTAILMENT_LABELS
    if not pair:
        pair = [name for name in cells if name in long_texts(cells, texts)]
        if len(pair) != 2 or not (is_nli or is_relation(label or "", values)):
            return None
        is_nli = not all(map(is_numeric, values))
    if is_nli:
        return TaskGuess("entailment", {"premise": pair[0], "hypothesis": pair[1]})
    return TaskGuess(
        "similarity", {"text_a": pair[0], "text_b": pair[1]}, score=is_score_column(cells.get(label or "", []))
    )


def long_texts(cells: dict[str, list[Any]], texts: Sequence[str]) -> list[str]:
    return [name for name in texts if mean_word_count(cells[name]) >= MIN_TEXT_WORDS]


def is_relation(label: str, values: Collection[str]) -> bool:
    """Whether a label column says how two texts relate, by its name or by its labels (in lower case)."""
    named = [value for value in values if RELATION.search(value)]
    return bool(RELATION.search(label.lower()) or (named and {*values} <= {*named} | OTHER_RELATIONS))


def guess_single_text(cells: dict[str, list[Any]], texts: Sequence[str], label: str | None) -> TaskGuess:
    kind = "regression" if is_score_column(cells.get(label or "", [])) else "classification"
    return TaskGuess(kind, {"text": texts[0]} if texts else {})


def differ_in_last_character(first: str, second: str) -> bool:
    """Whether two names differ only in the last character: sentence1 and sentence2, text_a and text_b, a and b."""
    return first[:-1].lower() == second[:-1].lower() and first != second


def is_score_column(values: Sequence[Any]) -> bool:
    """Whether a label column contains measurements instead of classes."""
    values = resolve_thousands(values)
    if not values or not all(map(is_numeric, values)):
        return False
    numbers = {cell_number(value) or 0.0 for value in values}
    return len(numbers) > MAX_CLASSES or any(not number.is_integer() for number in numbers)


def is_list_column(values: Sequence[Any]) -> bool:
    return bool(values) and all(map(is_list, values))


def is_list(value: Any) -> bool:
    return cell_list(value) is not None


def mean_word_count(values: Sequence[Any]) -> float:
    """Mean number of words per cell; 0 for numbers and lists."""
    if not values or is_list_column(values) or all(map(is_numeric, values)):
        return 0.0
    return sum(len(cell_to_show(value).split()) for value in values) / len(values)
