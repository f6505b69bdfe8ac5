"""Rows of a table as examples of a task: which column is which field, what the label means, what is left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from gpt1.corpus.order import derive_seed
from gpt1.errors import UserError
from gpt1.tables.table import missing_column_error
from gpt1.tasks.kinds import Example, Kind
from gpt1.tasks.targets import Classes, Target

TableRow = Mapping[str, Any]
RowLocator = Callable[[int], str]
T = TypeVar("T")


def check_columns(kind: Kind, columns: Mapping[str, str], present: Sequence[str], name: str) -> None:
    """Every column that the kind needs is named and is there, and no other is named; UserError says which are."""
    for role in columns:
        if role not in (*kind.columns, "label"):
            takes = ", ".join(f"--{r.replace('_', '-')}" for r in (*kind.columns, "label"))
            raise UserError(f"--kind {kind.name} has no --{role.replace('_', '-')}.", f"It takes {takes}.")
    for role in kind.columns:
        flag = "--" + role.replace("_", "-")
        if role not in columns:
            if role in kind.optional:
                continue
            needed = " ".join(f"--{r.replace('_', '-')} COLUMN" for r in kind.columns if r not in kind.optional)
            raise UserError(f"--kind {kind.name} needs {flag}.", f"It takes: {needed} --label COLUMN")
    for role, column in columns.items():
        for part in choice_columns(column) if role == "choices" else [column]:
            if part not in present:
                raise missing_column_error(name, part, present, "--" + role.replace("_", "-"))
    texts = {role: column for role, column in columns.items() if role != "label"}
    for role, column in texts.items():
        if columns.get("label") in (choice_columns(column) if role == "choices" else [column]):
            raise UserError(
                f"--label {columns['label']} is a column of --{role.replace('_', '-')} too: there is nothing to learn.",
                "Name the column that holds the label.",
            )


def choice_columns(choices: str) -> list[str]:
    """The columns that `--choices C1, C2, …` names."""
    return [part.strip() for part in choices.split(",") if part.strip()] or [choices]


def read_examples(
    rows: Sequence[TableRow], kind: Kind, columns: Mapping[str, str], where: RowLocator, labelled: bool = True
) -> list[Example]:
    """One example a row; `columns` maps roles (text, premise, …, label) to column names. Labels stay as they stand,
    except in multiple choice, where they become the 0-based number of the right answer."""
    return [read_example(row, kind, columns, where(i), labelled) for i, row in enumerate(rows)]


def read_example(row: TableRow, kind: Kind, columns: Mapping[str, str], where: str, labelled: bool) -> Example:
    roles = [role for role in kind.columns if role != "choices"]
    fields = tuple(parse_at(where, parse_text, row[columns[role]]) if role in columns else "" for role in roles)
    label = row.get(columns["label"]) if labelled else None
    if not kind.multiple_choice:
        return Example(fields, label=label)
    answers, names = read_answers(row, columns["choices"], where)
    if labelled:
        label = answer_index(label, answers, names, where)
    return Example(fields, tuple(answers), label)


def read_answers(row: TableRow, choices: str, where: str) -> tuple[list[str], list[str]]:
    """(answers, their columns' names) from several columns, the last of which may be empty, or from one that holds a
    list."""
    names = choice_columns(choices)
    if len(names) > 1:
        answers = [parse_at(where, parse_text, row[name]) for name in names]
        while answers and not answers[-1].strip():  # a question with fewer answers leaves its last cells empty
            answers.pop()
        names = names[: len(answers)]
    else:
        cell = row[names[0]]
        if not isinstance(cell, list | tuple | np.ndarray):
            raise UserError(
                f"{where}: column '{choices}' holds no list of answers but {str(cell)[:40]!r}.",
                "Name the answers' columns: --choices C1,C2,… or keep a list in the column (.jsonl, .parquet).",
            )
        answers, names = [parse_at(where, parse_text, answer) for answer in cell], []
    if len(answers) < 2:
        raise UserError(
            f"{where}: {len(answers)} answer{'s' * (not answers)} to choose from.",
            "A choice needs two answers at least.",
        )
    return answers, names


def answer_index(label: Any, answers: Sequence[str], names: Sequence[str], where: str) -> int:
    """The answer that `label` means: a column's name, else an answer's exact text, else a 0-based number. Where two
    readings give two different answers, the row is refused: a guess would teach the wrong one."""
    if isinstance(label, str) and label in names:
        return names.index(label)
    text = parse_at(where, parse_text, label).strip()
    readings = {i for i, answer in enumerate(answers) if isinstance(label, str) and answer.strip() == text}
    number = parse_integer(text)
    if number is not None and 0 <= number < len(answers):
        readings.add(number)
    if len(readings) == 1:
        return readings.pop()
    if readings:
        raise UserError(
            f"{where}: label '{text}' could mean the answers number {' and '.join(map(str, sorted(readings)))}.",
            "Name the answer's column, or rename the answers so that one reading is left.",
        )
    raise UserError(
        f"{where}: label '{text}' is none of the {len(answers)} answers.",
        f"It has to be {'a column (' + ', '.join(names) + '), ' if names else ''}an answer's text, "
        f"or a number from 0 to {len(answers) - 1}.",
    )


def parse_integer(text: str) -> int | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return int(number) if number.is_integer() else None


def parse_text(cell: Any) -> str:
    """A cell as a text; nothing (None, NaN) is an empty one. UserError for what was never meant to be one."""
    if isinstance(cell, list | tuple | dict | np.ndarray):
        raise UserError(
            f"{str(cell)[:40]!r} stands where a text or a number belongs.", "Name another column, or mend the row."
        )
    return "" if cell is None or (isinstance(cell, float) and cell != cell) else str(cell)


def target_from_examples(kind: Kind, score: bool, examples: Sequence[Example], where: RowLocator, name: str) -> Target:
    """The target that the training labels span; a label that breaks its rule is named with its row, labels that teach
    nothing with the table's `name`."""
    if score and not kind.score_target:
        raise UserError(f"--score goes with --kind similarity, not {kind.name}.", "For a number use --kind regression.")
    target = kind.score_target if score and kind.score_target else kind.target
    for i, example in enumerate(examples):
        parse_at(where(i), target.parse, example.label)
    # Of a choice every answer is a label, also the one that is never right here.
    labels = [len(example.answers) - 1 if kind.multiple_choice else example.label for example in examples]
    spanned: Callable[[Any], Target] = target.from_labels
    return parse_at(name, spanned, labels)


def encode_labels(target: Target, examples: Sequence[Example], where: RowLocator) -> Tensor:  # → [examples, …]
    """The labels as the target's numbers; one that the target does not know is named with its row."""
    return torch.stack([parse_at(where(i), target.encode, example.label) for i, example in enumerate(examples)])


def parse_at(where: str, parse: Callable[[Any], T], cell: Any) -> T:
    """`parse(cell)`, its errors beginning with where the cell stands."""
    try:
        return parse(cell)
    except UserError as error:
        raise UserError(f"{where}: {error.problem}", error.fix) from None


def deduplicate(examples: Sequence[Example], held_out: Sequence[Example] = ()) -> tuple[list[int], int, int]:
    """(positions that stay, repeats left out, rows left out because they also stand `held_out`): same texts count,
    whatever their label."""
    taken = {content_key(example) for example in held_out}
    seen: set[tuple[Any, ...]] = set()
    kept, repeated, leaked = [], 0, 0
    for i, example in enumerate(examples):
        key = content_key(example)
        if key in taken:
            leaked += 1
        elif key in seen:
            repeated += 1
        else:
            seen.add(key)
            kept.append(i)
    return kept, repeated, leaked


def contradictions(examples: Sequence[Example], kept: Sequence[int], target: Target) -> int:
    """How many examples repeat a kept one with another label."""
    stays = {content_key(examples[i]): target.parse(examples[i].label) for i in kept}
    both = [(stays.get(content_key(example)), target.parse(example.label)) for example in examples]
    return sum(staying is not None and staying != label for staying, label in both)


def content_key(example: Example) -> tuple[Any, ...]:
    return (*example.fields, example.answers)


def hold_out(examples: Sequence[Example], target: Target, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """(training positions, validation positions), stratified by label where there are labels, drawn by the seed."""
    generator = np.random.Generator(np.random.Philox(derive_seed(seed, 2**33)))
    groups: dict[Any, list[int]] = {}
    for i, example in enumerate(examples):
        key = int(target.encode(example.label)) if isinstance(target, Classes) else 0
        groups.setdefault(key, []).append(i)
    train: list[int] = []
    valid: list[int] = []
    owed = 0.0  # fractions of a row that small groups could not give yet
    for key in sorted(groups):
        order = generator.permutation(groups[key]).tolist()
        owed += fraction * len(order)
        take = min(int(owed + 1e-9), len(order) - 1)
        owed -= take
        valid += order[:take]
        train += order[take:]
    return sorted(train), sorted(valid)
