"""Table rows as examples of a task: columns and fields, meaning of labels, duplicates, validation split."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from gpt1.config import flag_name
from gpt1.corpus.order import derive_seed
from gpt1.errors import UserError
from gpt1.tables.cells import cell_list, cell_number, cell_text, decimal_separator, resolve_thousands
from gpt1.tables.table import Table, missing_column_error
from gpt1.tasks.kinds import Example, Kind
from gpt1.tasks.labels import as_label
from gpt1.tasks.multilabel import MultiLabel
from gpt1.tasks.targets import Answers, Classes, Numbering, OrdinalBins, StandardizedNumber, Target

TableRow = Mapping[str, Any]
RowLocator = Callable[[int], str]
T = TypeVar("T")


def check_columns(
    kind: Kind, columns: Mapping[str, str], present: Sequence[str], name: str, chosen: bool = True, delimiter: str = ""
) -> None:
    """Check that `columns` names every column that `kind` needs and that the table has them.

    Args:
        kind: The kind of task.
        columns: Role (text, premise, ..., label) -> column name.
        present: Columns of the table.
        name: Name of the table, for errors.
        chosen: Whether the caller chooses the columns. Otherwise they are those of a model.
        delimiter: Delimiter of its file, for errors.

    Raises:
        UserError: For a missing or surplus role, a column that the table does not have, a label column that is also
            an input, or a column that is used twice.
    """
    for role in columns:
        if role not in (*kind.columns, "label"):
            takes = ", ".join(map(flag_name, (*kind.columns, "label")))
            raise UserError(f"{kind.name} does not accept {flag_name(role)}.", f"Use {takes}.")
    for role in kind.columns:
        if role not in columns and role not in kind.optional:
            needed = " ".join(f"{flag_name(r)} COLUMN" for r in kind.columns if r not in kind.optional)
            raise UserError(f"{kind.name} needs {flag_name(role)}.", f"Use: {needed} --label COLUMN")
    missing = {
        part: flag_name(role) if chosen else ""
        for role, column in columns.items()
        for part in role_columns(kind, role, column, present)
        if part not in present
    }
    if missing:
        raise missing_column_error(name, missing, present, delimiter)
    check_used_once(columns, present)
    for role, column in input_columns(columns).items():
        if {*label_columns(kind, columns.get("label", ""))} & {*column_names(role, column, present)}:
            raise UserError(
                f"--label {columns['label']} is also the input column of {flag_name(role)}.",
                "Pass the column with the labels as --label.",
            )


def check_used_once(columns: Mapping[str, str], present: Sequence[str]) -> None:
    """UserError for a column that is two inputs, such as both texts of a pair."""
    flags: dict[str, str] = {}
    for role, column in input_columns(columns).items():
        for name in column_names(role, column, present):
            if name in flags:
                both = " and ".join(dict.fromkeys((flags[name], flag_name(role))))
                raise UserError(f"column '{name}' is used twice, in {both}.", "Use a different column for each text.")
            flags[name] = flag_name(role)


def input_columns(columns: Mapping[str, str]) -> dict[str, str]:
    """The columns by role, without that of the label."""
    return {role: column for role, column in columns.items() if role != "label"}


def required_columns(kind: Kind, columns: Mapping[str, str]) -> list[str]:
    """The columns whose text may not be missing: all but those of answers and optional roles."""
    return [column for role, column in columns.items() if role not in ("label", "choices", *kind.optional)]


def role_columns(kind: Kind, role: str, column: str, present: Container[str]) -> list[str]:
    """As `column_names`; several for labels with a column each."""
    return label_columns(kind, column) if role == "label" else column_names(role, column, present)


def label_columns(kind: Kind, label: str) -> list[str]:
    """The column of `--label`; for several labels also `--label L1,L2,…`, one 0/1 column for each label."""
    return choice_columns(label) if kind.several_labels else [label]


def read_label_columns(row: TableRow, names: Sequence[str], where: str) -> list[str]:
    """The labels of a row with a 0/1 column for each label."""
    found = []
    for name in names:
        value = parse_at(f"{where}, column '{name}'", cell_text, row[name]).strip().lower()
        if value not in TRUE_CELLS + FALSE_CELLS:
            problem = f"{where}: column '{name}' has {str(row[name])[:40]!r} instead of 0 or 1."
            raise UserError(problem, "Use 0 or 1, true or false, in a column for each label.")
        found += [name] if value in TRUE_CELLS else []
    return found


TRUE_CELLS, FALSE_CELLS = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no", "")


def column_names(role: str, column: str, present: Container[str]) -> list[str]:
    """The columns that a role names: one, the answers of `--choices C1,C2,…`, or texts to join, `--text title,body`."""
    if role == "label" or (role != "choices" and column in present):
        return [column]
    return choice_columns(column)


def choice_columns(choices: str) -> list[str]:
    """Column names of a list such as `C1,C2,…`."""
    return [part.strip() for part in choices.split(",") if part.strip()] or [choices]


def read_examples(
    rows: Sequence[TableRow],
    kind: Kind,
    columns: Mapping[str, str],
    where: RowLocator,
    labeled: bool = True,
    numbering: Numbering = "0",
) -> list[Example]:
    """Read table rows as examples.

    Args:
        rows: Rows by column name.
        kind: The kind of task.
        columns: Role (text, premise, ..., label) -> column name.
        where: Row number (from 0) -> its place in the file, for errors.
        labeled: False for rows without labels.
        numbering: How labels of multiple choice count the answers (see `find_numbering`).

    Returns:
        One example per row. Labels are unchanged, except in multiple choice: the index (from 0) of the right answer.

    Raises:
        UserError: For a cell or label that cannot be read, naming the row.
    """
    return [read_example(row, kind, columns, where(i), labeled, numbering) for i, row in enumerate(rows)]


def resolve_number_labels(table: Table, label: str, decimal: str) -> Table:
    """The table with the labels that could be two numbers as those that the column implies; see `resolve_thousands`."""
    if label not in table.columns:
        return table
    labels = resolve_thousands([row.get(label) for row in table.rows], decimal)
    return replace(table, rows=[{**row, label: value} for row, value in zip(table.rows, labels, strict=True)])


def read_example(
    row: TableRow, kind: Kind, columns: Mapping[str, str], where: str, labeled: bool, numbering: Numbering
) -> Example:
    roles = [role for role in kind.columns if role != "choices"]
    fields = tuple(column_text(row, columns[role], where) if role in columns else "" for role in roles)
    names = label_columns(kind, columns["label"]) if labeled else []
    label = read_label_columns(row, names, where) if len(names) > 1 else row.get(columns["label"]) if labeled else None
    if not kind.multiple_choice:
        return Example(fields, label=label)
    answers, names = read_answers(row, columns["choices"], where)
    if labeled:
        label = answer_index(label, answers, names, where, numbering)
    return Example(fields, tuple(answers), label)


def column_text(row: TableRow, column: str, where: str) -> str:
    """The text of a column, or of several with a line break between them (`title,body`); empty ones are left out."""
    if column in row:
        return parse_at(f"{where}, column '{column}'", cell_text, row[column])
    parts = (parse_at(f"{where}, column '{name}'", cell_text, row[name]) for name in choice_columns(column))
    return "\n".join(part for part in parts if part.strip())


def read_answers(row: TableRow, choices: str, where: str) -> tuple[list[str], list[str]]:
    """(answers, names of their columns), from several columns or from a list in one column."""
    names = choice_columns(choices)
    if len(names) > 1:
        answers = [column_text(row, name, where) for name in names]
        while answers and not answers[-1].strip():  # in a question with fewer answers the last cells are empty
            answers.pop()
        names = names[: len(answers)]
    else:
        found = cell_list(row[names[0]])
        if found is None:
            raise UserError(
                f"{where}: column '{choices}' must contain a list of answers, not {str(row[names[0]])[:40]!r}.",
                """Use --choices C1,C2,… for one column per answer, or a list in one column; in .csv: ["yes", "no"].""",
            )
        answers, names = [parse_at(f"{where}, column '{choices}'", cell_text, answer) for answer in found], []
    if len(answers) < 2:
        raise UserError(
            f"{where}: only {len(answers)} answer{'s' * (not answers)} to choose from.",
            "Multiple choice needs at least two answers.",
        )
    return answers, names


def find_numbering(rows: Sequence[TableRow], kind: Kind, columns: Mapping[str, str]) -> Numbering:
    """How the labels of multiple choice count the answers: from 0, from 1 or as letters from A.

    They count from 1 if no label is 0 and one is the number of answers. Labels that are the name of a column or the
    text of an answer say nothing about it.
    """
    if not kind.multiple_choice:
        return "0"
    labels = []
    for row in rows:
        try:
            answers, names = read_answers(row, columns["choices"], "")
            label = cell_text(row.get(columns["label"])).strip()
        except UserError:  # `read_examples` reports it
            continue
        if label not in names and label not in (answer.strip() for answer in answers):
            labels.append((label, len(answers)))
    if labels and all(letter_index(label) is not None for label, _ in labels):
        return "A"
    numbers = [(parse_integer(label), answers) for label, answers in labels]
    many = len(numbers) >= MIN_ROWS_OF_COUNTING
    from_one = many and all(number for number, _ in numbers) and any(number == answers for number, answers in numbers)
    return "1" if from_one else "0"


MIN_ROWS_OF_COUNTING = 3
"""In fewer rows, a number that is too large is an error rather than a way of counting."""


def numbering_notes(numbering: Numbering, examples: Sequence[Example]) -> list[str]:
    """Messages about how the labels of these examples count the answers; none if they count from 0."""
    if numbering == "A":
        return ["the labels are letters: A is the first answer"]
    if numbering == "1":
        return ["the labels count the answers from 1 (no label is 0, and one equals the number of answers)"]
    if len(examples) >= MIN_ROWS_OF_FIRST_ANSWER and all(example.label for example in examples):
        return ["warning: the first answer is never the right one. Numeric labels count the answers from 0"]
    return []


MIN_ROWS_OF_FIRST_ANSWER = 20
"""In this many rows every answer is right at least once, unless the labels are read wrongly."""


def letter_index(text: str) -> int | None:
    """A or a → 0, B → 1, …"""
    return ord(text.upper()) - ord("A") if len(text) == 1 and text.isascii() and text.isalpha() else None


def answer_index(
    label: Any, answers: Sequence[str], names: Sequence[str], where: str, numbering: Numbering = "0"
) -> int:
    """Index of the answer that `label` means: a column name, else the text of an answer or its number.

    Raises:
        UserError: If it means no answer or could mean several. Guessing would train on wrong labels.
    """
    if isinstance(label, str) and label in names:
        return names.index(label)
    text = parse_at(where, cell_text, label).strip()
    readings = {i for i, answer in enumerate(answers) if isinstance(label, str | bytes) and answer.strip() == text}
    number = letter_index(text) if numbering == "A" else parse_integer(text)
    if number is not None and 0 <= (index := number - (numbering == "1")) < len(answers):
        readings.add(index)
    if len(readings) == 1:
        return readings.pop()
    if readings:
        raise UserError(
            f"{where}: label '{text}' is ambiguous: it could be answer {' or '.join(map(str, sorted(readings)))}.",
            "Use the column name of the answer as the label.",
        )
    last = chr(ord("A") + len(answers) - 1) if numbering == "A" else len(answers) - (numbering == "0")
    raise UserError(
        f"{where}: label '{text}' matches none of the {len(answers)} answers.",
        f"Use {'a column name (' + ', '.join(names) + '), ' if names else ''}the text of an answer, "
        f"or {'a letter' if numbering == 'A' else 'an index'} from {numbering} to {last}.",
    )


def parse_integer(text: str) -> int | None:
    number = cell_number(text)
    return int(number) if number is not None and number.is_integer() else None


def target_from_examples(
    kind: Kind,
    score: bool,
    examples: Sequence[Example],
    where: RowLocator,
    name: str,
    numbering: Numbering = "0",
    decimal: str = "",
) -> Target:
    """Build the target (set of labels, range of scores, ...) from the labels of the training rows.

    Args:
        kind: The kind of task.
        score: Whether the label is a score (--score).
        examples: The training examples.
        where: Row number (from 0) -> its place in the file, for errors.
        name: Name of the table, for errors.
        numbering: As for `read_examples`.
        decimal: Decimal separator of the label column, if these examples are only some of its rows.

    Raises:
        UserError: For an invalid label, naming the row; for labels that cannot be learned, e.g. all the same.
    """
    if score and not kind.score_target:
        raise UserError(
            f"--score requires --kind similarity, not {kind.name}.", "To predict a number, use --kind regression."
        )
    target = kind.score_target if score and kind.score_target else kind.target
    for i, example in enumerate(examples):
        parse_at(where(i), target.parse, example.label)
    # In multiple choice every answer is a label, even one that is never right in these rows.
    labels = [len(example.answers) - 1 if kind.multiple_choice else example.label for example in examples]
    from_labels: Callable[[Any], Target] = target.from_labels
    found = parse_at(name, from_labels, labels)
    if isinstance(found, OrdinalBins | StandardizedNumber):
        return replace(found, decimal=decimal or decimal_separator(labels))
    return replace(found, numbering=numbering) if isinstance(found, Answers) else found


def with_labels_as_in_training(target: Target, examples: Sequence[Example]) -> list[Example]:
    """Examples of other rows, whose labels may be separated by another character (`MultiLabel.read_labels`)."""
    if not isinstance(target, MultiLabel):
        return list(examples)
    labels = target.read_labels([example.label for example in examples])
    return [replace(example, label=label) for example, label in zip(examples, labels, strict=True)]


def encode_labels(target: Target, examples: Sequence[Example], where: RowLocator) -> Tensor:  # → [examples, …]
    """Encode the labels with the target. A UserError for an unknown label names its row."""
    return torch.stack([parse_at(where(i), target.encode, example.label) for i, example in enumerate(examples)])


def parse_at(where: str, parse: Callable[[Any], T], cell: Any) -> T:
    """`parse(cell)`; an error starts with `where`."""
    try:
        return parse(cell)
    except UserError as error:
        raise UserError(f"{where}: {error.problem}", error.fix) from None


def split_validation(
    examples: Sequence[Example], target: Target, fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    """Split off a random validation set, stratified by label if the target has classes.

    Returns:
        (positions of the training rows, positions of the validation rows).
    """
    generator = np.random.Generator(np.random.Philox(derive_seed(seed, 2**33)))
    groups: dict[Any, list[int]] = {}
    for i, example in enumerate(examples):
        key = int(target.encode(example.label)) if isinstance(target, Classes) else 0
        groups.setdefault(key, []).append(i)
    train: list[int] = []
    valid: list[int] = []
    owed = 0.0  # fractions of rows carried over from small labels to the next ones
    for key in sorted(groups):
        order = generator.permutation(groups[key]).tolist()
        owed += fraction * len(order)
        take = min(int(owed + 1e-9), len(order) - 1)
        owed -= take
        valid += order[:take]
        train += order[take:]
    return sorted(train), sorted(valid)


def stratified_order(examples: Sequence[Example], target: Target, seed: int) -> list[int]:
    """All positions, in an order whose first n are a stratified sample for every n: one row of each label, then rows
    in proportion to the labels. A larger sample contains the smaller ones of the same seed."""
    generator = np.random.Generator(np.random.Philox(derive_seed(seed, 2**34)))
    groups: dict[Any, list[int]] = {}
    for i, example in enumerate(examples):
        key = as_label(example.label) if isinstance(target, Classes) else ""
        groups.setdefault(key, []).append(i)
    ranked: list[tuple[float, float, int]] = []
    for key in sorted(groups):
        members = generator.permutation(groups[key]).tolist()
        ties = generator.random(len(members))
        ranked += [
            ((rank + 0.5) / len(members) if rank else -1.0, tie, position)
            for rank, (position, tie) in enumerate(zip(members, ties, strict=True))
        ]
    return [position for _, _, position in sorted(ranked)]
