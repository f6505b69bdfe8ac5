"""From labeled rows (a file, a Table, the name of a known data set) to training and validation examples of a task."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from gpt1.config import FinetuneConfig
from gpt1.datasets import DataSet, data_set_names, parse_data_set
from gpt1.errors import UserError, did_you_mean
from gpt1.files.reading import is_url, not_found_error
from gpt1.formatting import count_noun
from gpt1.progress import Progress
from gpt1.tables.cells import cell_number, cell_to_show, is_empty
from gpt1.tables.facts import label_warnings
from gpt1.tables.table import Table, read_table
from gpt1.tasks.duplicates import contradictions, deduplicate
from gpt1.tasks.examples import (
    check_columns,
    encode_labels,
    find_numbering,
    numbering_notes,
    read_examples,
    resolve_number_labels,
    split_validation,
    target_from_examples,
    with_labels_as_in_training,
)
from gpt1.tasks.kinds import KINDS, Example, Kind
from gpt1.tasks.targets import Classes, Numbering, Target, check_earlier_target, label_decimal, target_to_json
from gpt1.tasks.weights import add_row_weights, example_weights


@dataclass(frozen=True)
class TaskRequest:
    """The rows to train on, the task and its columns, as the user specified them."""

    train: Any  # table file, `Table` or name of a known data set
    valid: Any  # the same; None: split off from `train`
    kind: str | None  # None, like {} for the columns: those of the known data set
    columns: Mapping[str, str]
    score: bool = False
    data_dir: str | Path | None = None
    weight: str | None = None  # column with the weight of each row
    unlabeled: str | None = None  # rows without a label: `refuse` or `drop`; None: refuse without offering drop

    @classmethod
    def from_command(cls, command: Mapping[str, Any]) -> TaskRequest:
        """The request of a run, from the command in its config.yaml."""
        given = {name: command[name] for name in ("train", "valid", "kind", "columns", "score", "data_dir")}
        return cls(**given, weight=command.get("weight"), unlabeled=command.get("unlabeled", "refuse"))


@dataclass(frozen=True)
class LabeledTable:
    """Rows, and the known data set that they are from (None for the user's own tables)."""

    table: Table
    data_set: DataSet | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def columns(self) -> dict[str, str] | None:
        return dict(self.data_set.columns) if self.data_set else None

    def with_labels(
        self, kind: Kind, label: str, unlabeled: str | None, numbers: bool, decimal: str = ""
    ) -> LabeledTable:
        """These rows without those that have no label, if `unlabeled` is `drop`; otherwise a UserError for them.

        For several labels per text no label is a valid answer. With `numbers`, labels that could be two numbers become
        the one that the column implies, or else `decimal`, the decimal separator of the training labels.
        """
        if numbers:
            table = resolve_number_labels(self.table, label, decimal)
            return replace(self, table=table).with_labels(kind, label, unlabeled, False)
        if unlabeled not in (None, "refuse", "drop"):
            raise UserError(f"--unlabeled {unlabeled} is not a valid choice.", "Choices: refuse, drop.")
        rows, table = self.table.rows, self.table
        missing = [i for i, row in enumerate(rows) if is_empty(row.get(label))] if label in table.columns else []
        if not missing or kind.several_labels or self.data_set:
            return self
        if unlabeled != "drop":
            others = f" (also in {count_noun(len(missing) - 1, 'other row')})" if len(missing) > 1 else ""
            fix = "" if unlabeled is None else ", or skip these rows with --unlabeled drop"
            problem = f"{table.locate_row(missing[0])}: the label is empty{others}."
            raise UserError(problem, f"Add {'labels' if others else 'a label'}{fix or ', or remove the rows'}.")
        if not (labeled := sorted({*range(len(rows))} - {*missing})):
            raise UserError(f"{table.name}: no row has a label.", "Choose another column with --label.")
        note = f"{count_noun(len(missing), 'row')} without a label skipped"
        return replace(self, table=table.select(labeled), notes=[*self.notes, note])

    def kind_and_columns(self, kind_name: str | None, columns: Mapping[str, str]) -> tuple[Kind, dict[str, str]]:
        """The given kind and columns, with the known data set's as defaults."""
        kind = resolve_kind(kind_name or (self.data_set.kind_name if self.data_set else None))
        chosen = dict(columns or self.columns or {})
        return kind, {**chosen, "label": chosen.get("label", "label")}


@dataclass(frozen=True)
class TrainingRows:
    """Labeled training rows and their task."""

    rows: LabeledTable
    kind: Kind
    columns: dict[str, str]
    score: bool
    examples: list[Example]
    target: Target
    numbering: Numbering
    unlabeled: str | None = None  # as in `TaskRequest`

    def evaluation_rows(
        self, source: str | Path | Table, data_dir: str | Path | None = None
    ) -> tuple[LabeledTable, list[Example]]:
        """Validation or test rows of the same task; UserError for a label that is not in the training rows."""
        rows = load_labeled_table(source, "evaluation", data_dir)
        check_has_rows(rows.table)
        numbers, decimal = self.kind.predicts_number(self.score), label_decimal(self.target)
        rows = rows.with_labels(self.kind, self.columns["label"], self.unlabeled, numbers, decimal)
        examples = examples_from_table(rows, self.kind, self.columns, self.numbering)
        examples = with_labels_as_in_training(self.target, examples)
        encode_labels(self.target, examples, rows.table.locate_row)
        return rows, examples

    def main_metric(self, target: Target, chosen: str = "auto") -> str:
        """`chosen`; if that is `auto`, the paper's metric of a known data set if `target` has it, else the target's
        primary metric. UserError if `target` does not have the chosen metric."""
        if chosen != "auto":
            if chosen not in target.metrics:
                problem = f"--metric {chosen} does not apply to --kind {self.kind.name} with these labels."
                raise UserError(problem, f"Use {', '.join(target.metrics)}.")
            return chosen
        first = self.rows.data_set.metrics[0] if self.rows.data_set else target.primary_metric
        return first if first in target.metrics else target.primary_metric


def training_rows(request: TaskRequest, keep_duplicates: bool = False, earlier: Target | None = None) -> TrainingRows:
    """Read and check all training rows. A known data set defines defaults for the kind and columns."""
    source = load_labeled_table(request.train, "train", request.data_dir, keep_duplicates)
    check_has_rows(source.table)
    kind, columns = source.kind_and_columns(request.kind, request.columns)
    score = request.score or bool(source.data_set and source.data_set.score)
    numbers, decimal = kind.predicts_number(score), label_decimal(earlier)
    source = source.with_labels(kind, columns["label"], request.unlabeled, numbers, decimal)
    numbering = find_numbering(source.table.rows, kind, columns) if "choices" in columns else "0"
    examples = examples_from_table(source, kind, columns, numbering)
    examples = add_row_weights(examples, source.table, request.weight)
    if kind.multiple_choice:
        source.notes.extend(numbering_notes(numbering, examples))
    if numbers:
        check_label_numbers(source.table, columns["label"], kind)
    target = target_from_examples(kind, score, examples, source.table.locate_row, source.table.name, numbering)
    return TrainingRows(source, kind, columns, score, examples, target, numbering, request.unlabeled)


def check_has_rows(table: Table) -> None:
    """UserError for a table without rows; files without rows are refused when they are read."""
    if not table.rows:
        raise UserError(f"{table.name} has no rows.", "Use a table with labeled rows.")


def check_label_numbers(table: Table, label: str, kind: Kind) -> None:
    """UserError if most cells of the label column are words: the column is wrong, not a row."""
    cells = [row.get(label) for row in table.rows]
    words = [
        i for i, cell in enumerate(cells) if cell_number(cell) is None and any(map(str.isalpha, cell_to_show(cell)))
    ]
    if 2 * len(words) > len(cells):
        word = cell_to_show(cells[words[0]])[:40]
        raise UserError(
            f"{table.locate_row(words[0])}: '{word}' is not a finite number. Column '{label}' contains words.",
            "Use another column as --label, or omit --score." if kind.score_target else WORDS_FIX,
        )


WORDS_FIX = "Use --kind classification, or another column as --label."


def load_labeled_table(
    source: str | Path | Table, purpose: str, data_dir: str | Path | None = None, keep_duplicates: bool = False
) -> LabeledTable:
    """Read labeled rows. `purpose`, `train` or `evaluation`, is the split of a data set's name without a split."""
    if isinstance(source, Table):
        return LabeledTable(source)
    if not str(source).strip():
        raise UserError("the table's name is empty.", "Use a table, or the name of a known data set.")
    named = None if Path(source).is_file() else parse_data_set(str(source))  # a data set's name wins over a folder's
    if named is None:
        if not Path(source).exists() and not is_url(source):
            raise unknown_table_error(str(source))
        return LabeledTable(read_table(source))
    if purpose == "train":
        table, notes = named.train_table(data_dir, keep_duplicates=keep_duplicates)
        return LabeledTable(table, named.data, notes)
    table = named.evaluation_table(data_dir)
    return LabeledTable(table, named.data, table.notes)


def unknown_table_error(source: str) -> UserError:
    """The error for a name that is neither a file nor a known data set, with the closest file or data set."""
    fix = f"Use a table, or a known data set: {', '.join(data_set_names())} (NAME:SPLIT)."
    if source.isalpha():
        fix += f"\nTo predict this single word as a text, add a space: '{source} '"
    return UserError(not_found_error(source, data_set_names()).problem, fix)


@dataclass(frozen=True)
class TaskData:
    """A task with its training and validation examples."""

    kind: Kind
    columns: dict[str, str]
    target: Target
    training: list[Example]
    validation: list[Example]
    primary_metric: str  # selects the best epoch
    counts: dict[str, Any]
    weights: Tensor | None = None  # [training], in the task loss; None: all 1

    def fingerprint(self) -> str:
        """SHA-256 over the rows and their labels, in order."""
        examples = [*self.training, *self.validation]
        rows = [[*e.fields, *e.answers, str(e.label), *[e.weight] * (e.weight != 1)] for e in examples]
        target = {name: value for name, value in target_to_json(self.target).items() if name != "decimal"}
        return hashlib.sha256(json.dumps([rows, target]).encode()).hexdigest()  # labels are numbers by their decimal


def load_task_data(
    request: TaskRequest, cfg: FinetuneConfig, progress: Progress, earlier: Target | None = None
) -> TaskData:
    """Read the rows, remove duplicates, split off validation rows if none are given, and log all counts.

    `earlier` is the target of the model, if its output layer is kept.
    """
    source = training_rows(request, not cfg.deduplicate, earlier)
    valid, validation = read_validation_rows(source, request)
    clean = clean_rows(source, valid, validation, cfg)
    training, target = clean.examples, clean.target
    if earlier is not None:
        target = check_earlier_target(earlier, target)
    if valid is None and cfg.valid_fraction:
        train_indices, valid_indices = split_validation(training, target, cfg.valid_fraction, cfg.seed)
        training, validation = [training[i] for i in train_indices], [training[i] for i in valid_indices]
    log_training_rows(source, clean, valid, progress)
    log_validation_rows(len(validation), valid, cfg, progress)
    metric, weights = source.main_metric(target, cfg.metric), example_weights(training, target, cfg.class_weight)
    return TaskData(source.kind, source.columns, target, training, validation, metric, clean.counts(), weights)


def read_validation_rows(source: TrainingRows, request: TaskRequest) -> tuple[Table | None, list[Example]]:
    """(table, examples with a text) of the validation rows; (None, []) if none are given."""
    if request.valid is None:
        return None, []
    rows, examples = source.evaluation_rows(request.valid, request.data_dir)
    if not (with_text := [example for example in examples if example.has_text]):
        raise UserError(f"{rows.table.name}: no row has a text.", "Use other validation rows, or omit --valid.")
    return rows.table, with_text


@dataclass(frozen=True)
class CleanRows:
    """The training rows without empty and repeated ones, and how many of them were removed."""

    examples: list[Example]
    target: Target  # of these rows: it may have fewer labels than all rows
    rows: int  # before cleaning
    empty: int  # without text
    duplicates: int
    leaked: int  # also in the validation rows
    contradicting: int  # repeated, with a different label

    def counts(self) -> dict[str, int]:
        return {"rows": self.rows, "duplicates": self.duplicates, "leaked": self.leaked, "empty": self.empty}


def clean_rows(
    source: TrainingRows, valid: Table | None, validation: Sequence[Example], cfg: FinetuneConfig
) -> CleanRows:
    """Remove rows without text and, with `cfg.deduplicate`, repeated rows and those that are also in `valid`.

    Raises:
        UserError: If no row remains, or none with the label of a validation row.
    """
    name, rows = source.rows.table.name, len(source.examples)
    examples = [example for example in source.examples if example.has_text]
    if not examples:
        raise UserError(f"{name}: no row has a text.", "Choose another column.")
    empty, duplicates, leaked, contradicting = rows - len(examples), 0, 0, 0
    if cfg.deduplicate:
        kept, duplicates, leaked = deduplicate(source.kind, examples, validation)
        contradicting = contradictions(source.kind, examples, kept, source.target)
        examples = [examples[i] for i in kept]
    if valid is not None and not examples:
        problem = f"{name}: all rows are also in {valid.name}."
        raise UserError(problem, "Use other validation rows, or omit --valid.")
    target = source.target
    if len(examples) < rows:
        target = target_from_remaining(source, examples, duplicates + leaked, empty)
        if valid is not None:
            check_labels_remain(target, validation, valid, name)
    return CleanRows(examples, target, rows, empty, duplicates, leaked, contradicting)


def target_from_remaining(source: TrainingRows, examples: Sequence[Example], repeated: int, empty: int) -> Target:
    """The target of the rows that remain, which may have fewer labels. Its errors say what was removed."""
    removed = [count_noun(repeated, "repeated row")] * bool(repeated)
    removed += [count_noun(empty, "row") + " without text"] * bool(empty)
    remaining = f"{source.rows.table.name}, without {' and '.join(removed)}"
    how = source.numbering, label_decimal(source.target)
    return target_from_examples(source.kind, source.score, examples, lambda i: remaining, remaining, *how)


def log_training_rows(source: TrainingRows, clean: CleanRows, valid: Table | None, progress: Progress) -> None:
    """Log how many rows there were, which labels they had, and what was removed."""
    labels = [example.label for example in source.examples]
    for note in source.rows.notes:
        progress.log(note)
    other = f", {clean.contradicting:,} of them with a different label" if clean.contradicting else ""
    progress.log(
        f"{source.rows.table.name}: {count_noun(clean.rows, 'row')}, {source.target.summary(labels)}; "
        f"{count_noun(clean.duplicates, 'duplicate')} removed{other}"
    )
    if clean.empty:
        progress.log(f"{count_noun(clean.empty, 'row')} without text skipped")
    if isinstance(clean.target, Classes):
        for warning in label_warnings(Counter(clean.target.parse(label) for label in labels)):
            progress.log(f"warning: {warning}")
    if valid is not None and clean.leaked:
        progress.log(f"{count_noun(clean.leaked, 'training row')} removed: also in {valid.name}")


def log_validation_rows(rows: int, valid: Table | None, cfg: FinetuneConfig, progress: Progress) -> None:
    """Log where the validation rows are from, or why there are none."""
    if rows:
        split_off = "split off from the training rows (use --valid for your own)"
        origin = f"from {valid.name}" if valid is not None else split_off
        progress.log(f"validation: {count_noun(rows, 'row')} {origin}")
        return
    reason = "too few rows for --valid-fraction" if cfg.valid_fraction else "--valid-fraction is 0"
    progress.log(f"no validation ({reason}): the last epoch is kept, which may not be the best")


def check_labels_remain(target: Target, validation: Sequence[Example], valid: Table, name: str) -> None:
    """UserError if a validation row has a label that training lost with the rows that both tables have."""
    try:
        encode_labels(target, validation, valid.locate_row)
    except UserError as error:
        raise UserError(
            f"{error.problem} All rows of {name} with this label are also in {valid.name}, so they were removed from "
            "training.",
            f"Remove them from {valid.name}, omit --valid, or keep duplicates in training with --no-deduplicate.",
        ) from None


def resolve_kind(name: str | None) -> Kind:
    if name is None:
        raise UserError("--kind is missing.", f"Kinds: {', '.join(KINDS)}. For a suggestion run: gpt1 inspect TABLE")
    if name not in KINDS:
        problem = f"--kind {name} does not exist.{did_you_mean(name, KINDS)}"
        raise UserError(problem, f"Kinds: {', '.join(KINDS)}.")
    return KINDS[name]


def examples_from_table(
    source: LabeledTable, kind: Kind, columns: Mapping[str, str], numbering: Numbering = "0"
) -> list[Example]:
    if source.data_set and "label" not in source.table.columns:
        name = source.data_set.name
        raise UserError(f"{source.table.name} has no public labels.", f"See: gpt1 inspect {name}")
    table = source.table
    check_columns(kind, columns, table.columns, table.name, delimiter=table.delimiter)
    return read_examples(table.rows, kind, columns, table.locate_row, numbering=numbering)
