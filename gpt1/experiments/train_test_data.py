"""Training and test rows of an experiment: duplicates removed, stratified samples for each seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gpt1 import formatting
from gpt1.datasets import DataSet
from gpt1.datasets.labeled import TaskRequest, training_rows
from gpt1.errors import UserError
from gpt1.tables.table import Table
from gpt1.tasks.examples import deduplicate, stratified_order, target_from_examples
from gpt1.tasks.kinds import Example, Kind
from gpt1.tasks.labels import as_label, format_labels
from gpt1.tasks.targets import Answers, Classes, Target

TEST_FRACTION = 0.2
"""Share of the rows that is split off for the test if there are no test rows."""


@dataclass(frozen=True)
class ExampleSet:
    """A table and its rows as examples."""

    table: Table
    examples: list[Example]

    def __len__(self) -> int:
        return len(self.examples)

    def subset(self, positions: Sequence[int], name: str) -> ExampleSet:
        return ExampleSet(replace(self.table.select(positions), name=name), [self.examples[i] for i in positions])

    def sample(self, n: int, target: Target) -> ExampleSet:
        """`n` rows, stratified by label, always the same ones, in their order."""
        positions = sorted(stratified_order(self.examples, target, -1)[:n])
        return self.subset(positions, f"{self.table.name} ({n:,} rows of {len(self):,})")


@dataclass(frozen=True)
class TrainTestData:
    """A task, its training rows without duplicates, and its fixed test rows."""

    kind: Kind
    columns: dict[str, str]
    score: bool
    target: Target
    main_metric: str
    training: ExampleSet
    test: ExampleSet
    notes: list[str] = field(default_factory=list)

    @property
    def finetune_options(self) -> dict[str, Any]:
        """Keyword arguments of `finetune` for these rows."""
        return {"kind": self.kind.name, "score": self.score, **self.columns}

    def draw_train_set(self, n: int, seed: int, name: str) -> ExampleSet:
        return self.training.subset(stratified_order(self.training.examples, self.target, seed)[:n], name)


def read_train_test(
    train: str | Path | Table,
    test: str | Path | Table | None,
    kind_name: str | None,
    columns: dict[str, str],
    score: bool,
    data_dir: str | Path | None,
    test_rows: int = 0,
) -> TrainTestData:
    """Read the test rows, at most `test_rows` (0: all), and the training rows without duplicates and test rows.

    Without `test`, the test rows are the evaluation split of a data set, or a fifth of the user's rows.

    Raises:
        UserError: a file, a column or a row is invalid.
    """
    source = training_rows(TaskRequest(train, None, kind_name, columns, score, data_dir))
    name, target, known = source.rows.table.name, source.target, source.rows.data_set
    training = ExampleSet(source.rows.table, source.examples)
    notes = list(source.rows.notes)

    if test is None and known:
        test = known.name
    if test is None:
        kept, repeated, leaked = deduplicate(source.kind, training.examples)
        training = training.subset(kept, name)
        training, tested, note = split_test(training, target, name)
        notes += [note] if note else []
    else:
        evaluation, examples = source.evaluation_rows(test, data_dir)
        tested = ExampleSet(evaluation.table, examples)
        kept, repeated, leaked = deduplicate(source.kind, training.examples, tested.examples)
        training = training.subset(kept, name)
        notes += evaluation.notes
    if repeated or leaked:
        notes.append(
            f"{name}: {formatting.count_noun(repeated, 'duplicate')} and "
            f"{formatting.count_noun(leaked, 'row')} of the test rows removed"
        )
    if 0 < test_rows < len(tested):
        tested = tested.sample(test_rows, target)
    main = source.main_metric(target)
    return TrainTestData(source.kind, source.columns, source.score, target, main, training, tested, notes)


def split_test(rows: ExampleSet, target: Target, name: str) -> tuple[ExampleSet, ExampleSet, str]:
    """(training rows, test rows, a note): about a fifth of the rows for the test; every label keeps a training row."""
    order = stratified_order(rows.examples, target, -1)  # begins with a row of each label
    fewest = min_labels(target)
    n_train = max(len(order) - max(1, round(TEST_FRACTION * len(order))), fewest)
    if n_train >= len(order):
        raise UserError(
            f"{name}: {formatting.count_noun(len(order), 'row')} for {fewest} labels leave none for a test.",
            "Use more rows, or test rows of your own: --test FILE.",
        )
    tested = rows.subset(sorted(order[n_train:]), f"{name}, held-out rows")
    note = ""
    if isinstance(target, Classes):
        in_test = {as_label(example.label) for example in tested.examples}
        if untested := [label for label in target.labels if label not in in_test]:
            note = f"too few rows to test, used in training only: {formatting.count_noun(len(untested), 'label')} "
            note = f"{name}: {note}({format_labels(untested, 8)})"
    return rows.subset(sorted(order[:n_train]), name), tested, note


def limit_rows(rows: ExampleSet, kind: Kind, data: DataSet | None, max_rows: int) -> ExampleSet:
    """A stratified sample of at most `max_rows` rows (0: all), always the same ones."""
    if not 0 < max_rows < len(rows):
        return rows
    target = target_from_examples(
        kind, bool(data and data.score), rows.examples, rows.table.locate_row, rows.table.name
    )
    return rows.sample(max_rows, target)


def min_labels(target: Target) -> int:
    """The fewest labels to train on: one row of each label, 2 questions, or 4 numbers."""
    return len(target.labels) if isinstance(target, Classes) else 2 if isinstance(target, Answers) else 4
