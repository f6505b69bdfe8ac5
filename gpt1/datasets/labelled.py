"""From labelled rows (a file, a Table, the name of a known data set) to a task: examples to train and to choose by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpt1.config import FinetuneConfig
from gpt1.datasets import DataSet, data_set_names, parse_data_set
from gpt1.errors import UserError, did_you_mean
from gpt1.files.reading import file_format as file_ending
from gpt1.files.reading import is_url, not_found_error
from gpt1.formatting import count_noun
from gpt1.progress import Progress
from gpt1.tables.facts import count_rows_have
from gpt1.tables.rows import TABLE_FORMATS
from gpt1.tables.table import Table, read_table
from gpt1.tasks.examples import (
    check_columns,
    contradictions,
    deduplicate,
    encode_labels,
    read_examples,
    split_validation,
    target_from_examples,
)
from gpt1.tasks.kinds import KINDS, Example, Kind
from gpt1.tasks.targets import Target


@dataclass(frozen=True)
class LabelledTable:
    """Rows, and what a known data set says of them (None for the user's own tables)."""

    table: Table
    data_set: DataSet | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def columns(self) -> dict[str, str] | None:
        return dict(self.data_set.columns) if self.data_set else None

    def kind_and_columns(self, kind_name: str | None, columns: Mapping[str, str]) -> tuple[Kind, dict[str, str]]:
        """What was asked for; a known data set brings what was not."""
        kind = resolve_kind(kind_name or (self.data_set.kind_name if self.data_set else None))
        chosen = dict(columns or self.columns or {})
        return kind, {**chosen, "label": chosen.get("label", "label")}


@dataclass(frozen=True)
class TrainingRows:
    """Labelled rows to learn from, and the task that their columns and labels make."""

    rows: LabelledTable
    kind: Kind
    columns: dict[str, str]
    score: bool
    examples: list[Example]
    target: Target

    def evaluation_rows(
        self, source: str | Path | Table, data_dir: str | Path | None = None
    ) -> tuple[LabelledTable, list[Example]]:
        """Rows of the same task to choose or to test by; UserError for a label that the training rows do not have."""
        found = load_labelled_table(source, "evaluation", data_dir)
        examples = examples_from_table(found, self.kind, self.columns)
        encode_labels(self.target, examples, found.table.locate_row)
        return found, examples

    def main_metric(self, target: Target) -> str:
        """The paper's metric of a known data set, where `target` has it; else the target's own."""
        first = self.rows.data_set.metrics[0] if self.rows.data_set else target.primary_metric
        return first if first in target.metrics else target.primary_metric


def training_rows(
    train: str | Path | Table,
    kind_name: str | None,
    columns: Mapping[str, str],
    score: bool,
    data_dir: str | Path | None,
    keep_duplicates: bool = False,
) -> TrainingRows:
    """Read and check all of `train`. A known data set brings its kind and columns."""
    source = load_labelled_table(train, "train", data_dir, keep_duplicates)
    kind, columns = source.kind_and_columns(kind_name, columns)
    score = score or bool(source.data_set and source.data_set.score)
    examples = examples_from_table(source, kind, columns)
    target = target_from_examples(kind, score, examples, source.table.locate_row, source.table.name)
    return TrainingRows(source, kind, columns, score, examples, target)


def load_labelled_table(
    source: str | Path | Table, purpose: str, data_dir: str | Path | None = None, keep_duplicates: bool = False
) -> LabelledTable:
    """`purpose` is `train` or `evaluation`: which split a data set's bare name stands for."""
    if isinstance(source, Table):
        return LabelledTable(source)
    named = None if Path(source).is_file() else parse_data_set(str(source))  # a folder `rte` does not hide the data set
    if named is None:
        if not Path(source).exists() and not is_url(source):
            raise unknown_table_error(str(source))
        return LabelledTable(read_table(source))
    if purpose == "train":
        table, notes = named.train_table(data_dir, keep_duplicates=keep_duplicates)
        return LabelledTable(table, named.data, notes)
    table = named.evaluation_table(data_dir)
    return LabelledTable(table, named.data, table.notes)


def unknown_table_error(source: str) -> UserError:
    """The error for what is neither a file nor a known name, with the neighbour of either sort that was meant."""
    is_path = file_ending(source)[0] in TABLE_FORMATS or len(Path(source).parts) > 1
    problem = (
        not_found_error(source).problem
        if is_path
        else f"{source} does not exist.{did_you_mean(source, data_set_names())}"
    )
    return UserError(problem, f"Name a table, or a known data set: {', '.join(data_set_names())} (NAME:SPLIT).")


@dataclass(frozen=True)
class TaskData:
    """What is to be learnt: the kind, its columns, the meaning of its labels, and the rows."""

    kind: Kind
    columns: dict[str, str]
    target: Target
    training: list[Example]
    validation: list[Example]
    primary_metric: str  # the metric by which the best epoch is chosen
    counts: dict[str, Any]


def load_task_data(
    train: str | Path | Table,
    valid: str | Path | Table | None,
    kind_name: str | None,
    columns: Mapping[str, str],
    score: bool,
    data_dir: str | Path | None,
    cfg: FinetuneConfig,
    progress: Progress,
) -> TaskData:
    """`training_rows`, deduplicated and split; every count is told."""
    source = training_rows(train, kind_name, columns, score, data_dir, keep_duplicates=not cfg.deduplicate)
    examples, target, name = source.examples, source.target, source.rows.table.name
    rows, told = len(examples), target.summary([example.label for example in examples])

    empty = sum(not any(text.strip() for text in (*example.fields, *example.answers)) for example in examples)
    validation: list[Example] = []
    if valid is not None:
        held_out, validation = source.evaluation_rows(valid, data_dir)
    repeated = leaked = contradicting = 0
    if cfg.deduplicate:
        kept, repeated, leaked = deduplicate(examples, validation)
        contradicting = contradictions(examples, kept, target)
        examples = [examples[i] for i in kept]
    if not examples:
        problem = f"{name}: all of its rows also stand in {held_out.table.name}."
        raise UserError(problem, "Validate on other rows, or leave --valid out.")
    if repeated or leaked:  # the rows that are left may have fewer labels
        what = f"{name}, without the {repeated + leaked:,} rows that repeat another one"
        target = target_from_examples(source.kind, source.score, examples, lambda i: what, what)
    if valid is None and cfg.valid_fraction:
        training, held = split_validation(examples, target, cfg.valid_fraction, cfg.seed)
        examples, validation = [examples[i] for i in training], [examples[i] for i in held]

    for note in source.rows.notes:
        progress.log(note)
    other = f", {contradicting:,} of them with another label than the row that stays" if contradicting else ""
    progress.log(f"{name}: {rows:,} rows, {told}; {count_noun(repeated, 'duplicate')} left out{other}")
    if empty:
        progress.log(f"{count_rows_have(empty)} no text")
    if leaked:
        progress.log(f"{count_noun(leaked, 'training row')} left out: also in {held_out.table.name}")
    if validation:
        whence = f"of {held_out.table.name}" if valid is not None else "held out (give --valid to use your own)"
        progress.log(f"validation: {len(validation):,} rows {whence}")
    else:
        why = "too few rows for --valid-fraction" if cfg.valid_fraction else "--valid-fraction is 0"
        progress.log(f"no validation ({why}): the last epoch is kept, whether or not it is the best")
    counts = {"rows": rows, "duplicates": repeated, "leaked": leaked}
    return TaskData(source.kind, source.columns, target, examples, validation, source.main_metric(target), counts)


def resolve_kind(name: str | None) -> Kind:
    if name is None:
        raise UserError("--kind is missing.", f"Kinds: {', '.join(KINDS)}. A guess comes from: gpt1 inspect TABLE")
    if name not in KINDS:
        problem = f"--kind {name}: there is no such kind.{did_you_mean(name, KINDS)}"
        raise UserError(problem, f"Kinds: {', '.join(KINDS)}.")
    return KINDS[name]


def examples_from_table(source: LabelledTable, kind: Kind, columns: Mapping[str, str]) -> list[Example]:
    if source.data_set and "label" not in source.table.columns:
        name = source.data_set.name
        raise UserError(f"{source.table.name} has no labels: they are not handed out.", f"See: gpt1 inspect {name}")
    check_columns(kind, columns, source.table.columns, source.table.name)
    return read_examples(source.table.rows, kind, columns, source.table.locate_row)
