"""From labelled rows (a file, a Table, the name of a known data set) to a task: examples to train and to choose by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpt1.config import FinetuneConfig
from gpt1.datasets import DataSet, names, parse
from gpt1.errors import UserError, did_you_mean
from gpt1.files.reading import is_url, missing
from gpt1.files.reading import kind_of as file_ending
from gpt1.formatting import counted
from gpt1.progress import Progress
from gpt1.tables.facts import said
from gpt1.tables.rows import ROW_KINDS
from gpt1.tables.table import Table, read_table
from gpt1.tasks.examples import (
    check_columns,
    contradictions,
    deduplicated,
    encoded_labels,
    fit,
    hold_out,
    read_examples,
)
from gpt1.tasks.kinds import KINDS, Example, Kind
from gpt1.tasks.targets import Target


@dataclass(frozen=True)
class Labelled:
    """Rows, and what a known data set says of them (None for the user's own tables)."""

    table: Table
    data_set: DataSet | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def columns(self) -> dict[str, str] | None:
        return dict(self.data_set.columns) if self.data_set else None

    def kind_and_columns(self, kind_name: str | None, columns: Mapping[str, str]) -> tuple[Kind, dict[str, str]]:
        """What was asked for; a known data set brings what was not."""
        kind = kind_of(kind_name or (self.data_set.kind if self.data_set else None))
        chosen = dict(columns or self.columns or {})
        return kind, {**chosen, "label": chosen.get("label", "label")}


@dataclass(frozen=True)
class TrainingRows:
    """Labelled rows to learn from, and the task that their columns and labels make."""

    rows: Labelled
    kind: Kind
    columns: dict[str, str]
    score: bool
    examples: list[Example]
    target: Target

    def evaluation_rows(
        self, source: str | Path | Table, data_dir: str | Path | None = None
    ) -> tuple[Labelled, list[Example]]:
        """Rows of the same task to choose or to test by; UserError for a label that the training rows do not have."""
        found = labelled_rows(source, "evaluation", data_dir)
        examples = examples_of(found, self.kind, self.columns)
        encoded_labels(self.target, examples, found.table.where)
        return found, examples

    def main_metric(self, target: Target) -> str:
        """The paper's metric of a known data set, where `target` has it; else the target's own."""
        first = self.rows.data_set.metrics[0] if self.rows.data_set else target.main
        return first if first in target.metrics else target.main


def training_rows(
    train: str | Path | Table,
    kind_name: str | None,
    columns: Mapping[str, str],
    score: bool,
    data_dir: str | Path | None,
    keep_duplicates: bool = False,
) -> TrainingRows:
    """Read and check all of `train`. A known data set brings its kind and columns."""
    source = labelled_rows(train, "train", data_dir, keep_duplicates)
    kind, columns = source.kind_and_columns(kind_name, columns)
    score = score or bool(source.data_set and source.data_set.score)
    examples = examples_of(source, kind, columns)
    target = fit(kind, score, examples, source.table.where, source.table.name)
    return TrainingRows(source, kind, columns, score, examples, target)


def labelled_rows(
    source: str | Path | Table, purpose: str, data_dir: str | Path | None = None, keep_duplicates: bool = False
) -> Labelled:
    """`purpose` is `train` or `evaluation`: which split a data set's bare name stands for."""
    if isinstance(source, Table):
        return Labelled(source)
    named = None if Path(source).is_file() else parse(str(source))  # a folder `rte` does not hide the data set
    if named is None:
        if not Path(source).exists() and not is_url(source):
            raise no_rows(str(source))
        return Labelled(read_table(source))
    if purpose == "train":
        table, notes = named.train_table(data_dir, keep_duplicates=keep_duplicates)
        return Labelled(table, named.data, notes)
    table = named.evaluation_table(data_dir)
    return Labelled(table, named.data, table.notes)


def no_rows(source: str) -> UserError:
    """The error for what is neither a file nor a known name, with the neighbour of either sort that was meant."""
    is_path = file_ending(source)[0] in ROW_KINDS or len(Path(source).parts) > 1
    problem = missing(source).problem if is_path else f"{source} does not exist.{did_you_mean(source, names())}"
    return UserError(problem, f"Name a table, or a known data set: {', '.join(names())} (NAME:SPLIT).")


@dataclass(frozen=True)
class Task:
    """What is to be learnt: the kind, its columns, the meaning of its labels, and the rows."""

    kind: Kind
    columns: dict[str, str]
    target: Target
    training: list[Example]
    validation: list[Example]
    main: str  # the metric by which the best epoch is chosen
    counts: dict[str, Any]


def read_task(
    train: str | Path | Table,
    valid: str | Path | Table | None,
    kind_name: str | None,
    columns: Mapping[str, str],
    score: bool,
    data_dir: str | Path | None,
    cfg: FinetuneConfig,
    progress: Progress,
) -> Task:
    """`training_rows`, deduplicated and split; every count is told."""
    source = training_rows(train, kind_name, columns, score, data_dir, keep_duplicates=not cfg.deduplicate)
    examples, target, name = source.examples, source.target, source.rows.table.name
    rows, told = len(examples), target.told([example.label for example in examples])

    empty = sum(not any(text.strip() for text in (*example.fields, *example.answers)) for example in examples)
    validation: list[Example] = []
    if valid is not None:
        held_out, validation = source.evaluation_rows(valid, data_dir)
    repeated = leaked = contradicting = 0
    if cfg.deduplicate:
        kept, repeated, leaked = deduplicated(examples, validation)
        contradicting = contradictions(examples, kept, target)
        examples = [examples[i] for i in kept]
    if not examples:
        problem = f"{name}: all of its rows also stand in {held_out.table.name}."
        raise UserError(problem, "Validate on other rows, or leave --valid out.")
    if repeated or leaked:  # the rows that are left may have fewer labels
        what = f"{name}, without the {repeated + leaked:,} rows that repeat another one"
        target = fit(source.kind, source.score, examples, lambda i: what, what)
    if valid is None and cfg.valid_fraction:
        training, held = hold_out(examples, target, cfg.valid_fraction, cfg.seed)
        examples, validation = [examples[i] for i in training], [examples[i] for i in held]

    for note in source.rows.notes:
        progress.say(note)
    other = f", {contradicting:,} of them with another label than the row that stays" if contradicting else ""
    progress.say(f"{name}: {rows:,} rows, {told}; {counted(repeated, 'duplicate')} left out{other}")
    if empty:
        progress.say(f"{said(empty)} no text")
    if leaked:
        progress.say(f"{counted(leaked, 'training row')} left out: also in {held_out.table.name}")
    if validation:
        whence = f"of {held_out.table.name}" if valid is not None else "held out (give --valid to use your own)"
        progress.say(f"validation: {len(validation):,} rows {whence}")
    else:
        why = "too few rows for --valid-fraction" if cfg.valid_fraction else "--valid-fraction is 0"
        progress.say(f"no validation ({why}): the last epoch is kept, whether or not it is the best")
    counts = {"rows": rows, "duplicates": repeated, "leaked": leaked}
    return Task(source.kind, source.columns, target, examples, validation, source.main_metric(target), counts)


def kind_of(name: str | None) -> Kind:
    if name is None:
        raise UserError("--kind is missing.", f"Kinds: {', '.join(KINDS)}. A guess comes from: gpt1 inspect TABLE")
    if name not in KINDS:
        problem = f"--kind {name}: there is no such kind.{did_you_mean(name, KINDS)}"
        raise UserError(problem, f"Kinds: {', '.join(KINDS)}.")
    return KINDS[name]


def examples_of(source: Labelled, kind: Kind, columns: Mapping[str, str]) -> list[Example]:
    if source.data_set and "label" not in source.table.columns:
        name = source.data_set.name
        raise UserError(f"{source.table.name} has no labels: they are not handed out.", f"See: gpt1 inspect {name}")
    check_columns(kind, columns, source.table.columns, source.table.name)
    return read_examples(source.table.rows, kind, columns, source.table.where)
