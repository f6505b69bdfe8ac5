"""Labels of the rows that `gpt1 evaluate` reads: the column that holds them, and those that were not in training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from gpt1 import formatting
from gpt1.datasets.labeled import LabeledTable, examples_from_table
from gpt1.errors import UserError, did_you_mean
from gpt1.formatting import escape_controls, shell_quote
from gpt1.inference.predictor import TaskPredictor
from gpt1.progress import Progress
from gpt1.tables.cells import cell_to_show, is_empty
from gpt1.tables.facts import format_rows_have
from gpt1.tables.table import Table
from gpt1.tasks.examples import RowLocator, encode_labels, label_columns, parse_at, with_labels_as_in_training
from gpt1.tasks.kinds import Example
from gpt1.tasks.labels import format_labels
from gpt1.tasks.multilabel import MultiLabel
from gpt1.tasks.targets import Answers, Classes, Target

MAX_UNSEEN_NAMED = 8


def check_has_labels(model: TaskPredictor, table: Table, label: str, run: str | Path, test: str | Path | Table) -> None:
    """UserError for a table without a label column; it suggests `predict`, which needs none."""
    if not all(name in table.columns for name in label_columns(model.kind, label)):
        source = {"standard input": "-"}.get(table.name, table.name) if isinstance(test, Table) else test
        command = formatting.shell_join(["gpt1", "predict", run, source])
        command = "load(run).predict(rows)" if table.unit == "position" else command
        raise UserError(
            f"{table.name} has no labels: no column '{label}'. Columns: {', '.join(table.columns)}."
            + did_you_mean(label, table.columns),
            f"Name the column with the labels: --label COLUMN. To predict rows without labels: {command}",
        )


def read_test_examples(model: TaskPredictor, table: Table, columns: Mapping[str, str]) -> list[Example]:
    """The examples of a table; UserError for a missing column, no rows or an invalid row."""
    numbering = model.target.numbering if isinstance(model.target, Answers) else "0"
    examples = examples_from_table(LabeledTable(table), model.kind, columns, numbering)
    if not examples:
        raise UserError(f"{table.name} has no rows.", "Use a table with labeled rows.")
    return with_labels_as_in_training(model.target, examples)


def check_labels_match(model: TaskPredictor, table: Table, column: str) -> None:
    """UserError if none of the labels of a column was in training, with the column that probably has them."""
    target = model.target
    if not isinstance(target, Classes | MultiLabel) or column not in table.columns:
        return
    cells = [cell_to_show(row[column]) for row in table.rows if not is_empty(row.get(column))]
    if known_share(target, table, column) or (isinstance(target, MultiLabel) and not cells):  # no row has a label
        return
    found, trained = format_labels([*dict.fromkeys(cells)], 3), model.task["columns"].get("label", "label")
    shares = {name: known_share(target, table, name) for name in table.columns}
    best = max(shares, key=lambda name: (shares[name], name == trained))
    raise UserError(
        f"{table.name}: no label in column '{column}' ({found}) was in training. The model was trained on the labels "
        f"of column '{trained}': {format_labels(target.labels)}.",
        f"Did you mean --label {shell_quote(best)}?" if shares[best] >= 0.5 else "Choose another column with --label.",
    )


def known_share(target: Classes | MultiLabel, table: Table, column: str) -> float:
    """The share of the cells of a column that have a label of the target; empty cells do not."""
    known, cells = 0, [row.get(column) for row in table.rows]
    for cell in target.read_labels(cells) if isinstance(target, MultiLabel) else cells:
        with suppress(UserError):  # a cell that cannot be a label
            if isinstance(target, MultiLabel):
                known += any(label in target.labels for label in target.split(cell))
            else:
                known += target.index_of(cell) is not None
    return known / max(1, len(table))


def log_unseen_labels(unseen: Sequence[Sequence[str]], progress: Progress) -> Counter[str]:
    """Log the labels of each row that were not in training, and return the number of rows with each of them."""
    unknown = Counter(label for row in unseen for label in row)
    if unknown:
        names = ", ".join(f"{escape_controls(label)} ({n:,})" for label, n in unknown.most_common(MAX_UNSEEN_NAMED))
        more = f" and {len(unknown) - MAX_UNSEEN_NAMED} others" if len(unknown) > MAX_UNSEEN_NAMED else ""
        progress.log(
            f"{format_rows_have(sum(map(bool, unseen)))} a label that was not in training; "
            f"counted as wrong: {names}{more}"
        )
    return unknown


def encode_known_labels(
    target: Target, examples: Sequence[Example], where: RowLocator, refuse: bool
) -> tuple[Tensor, list[list[str]]]:
    """(targets, the labels of each row that were not in training). The target of such a class is −1; of several labels
    the known ones are encoded.

    Raises:
        UserError: For an empty or invalid label; for a label that was not in training, if `refuse` is set.
    """
    if refuse or not isinstance(target, Classes | MultiLabel):
        return encode_labels(target, examples, where), []
    if isinstance(target, MultiLabel):
        rows = [parse_at(where(i), target.split, example.label) for i, example in enumerate(examples)]
        unseen = [[label for label in row if label not in target.labels] for row in rows]
        known = [[label for label in row if label in target.labels] for row in rows]
        return torch.stack([target.encode(row) for row in known]), unseen
    labels = [parse_at(where(i), target.parse, example.label) for i, example in enumerate(examples)]
    indices = [target.index_of(example.label) for example in examples]
    unseen = [[label] if index is None else [] for label, index in zip(labels, indices, strict=True)]
    return torch.tensor([-1 if index is None else index for index in indices]), unseen
