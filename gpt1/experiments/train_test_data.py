"""Training and test rows of an experiment: duplicates removed, samples for each seed that can be learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gpt1 import formatting
from gpt1.datasets import DataSet
from gpt1.datasets.labeled import TaskRequest, training_rows
from gpt1.errors import GPT1Error, UserError
from gpt1.tables.table import Table
from gpt1.tasks.duplicates import deduplicate
from gpt1.tasks.examples import stratified_order, target_from_examples
from gpt1.tasks.kinds import Example, Kind
from gpt1.tasks.labels import as_label, as_number, format_labels, label_sort_key
from gpt1.tasks.multilabel import MultiLabel
from gpt1.tasks.targets import Answers, Classes, Target

TEST_FRACTION = 0.2
"""Share of the rows that is split off for the test if there are no test rows."""


class UnlearnableSample(GPT1Error):
    """A sample from which the task cannot be learned, although it can be from other rows of the table."""


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

    def with_read_labels(self, target: Target, label: str) -> ExampleSet:
        """The rows with their labels as they were read if that depends on all rows: a sample can look different.

        Labels of multiple choice become indices from 0 (whether labels count from 1 shows only if the last answer is
        among them), and several labels in a text become lists (their separator may not occur in a sample).
        """
        read: list[Any]
        if isinstance(target, Answers) and target.numbering != "0":
            read = [example.label for example in self.examples]
        elif isinstance(target, MultiLabel) and target.separator:
            read = [target.split(example.label) for example in self.examples]
        else:
            return self
        rows = [{**row, label: value} for row, value in zip(self.table.rows, read, strict=True)]
        examples = [replace(example, label=value) for example, value in zip(self.examples, read, strict=True)]
        return ExampleSet(replace(self.table, rows=rows), examples)


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
        """`n` rows, which can be learned if there are `n` such rows; a larger set contains the smaller ones."""
        order = stratified_order(self.training.examples, self.target, seed)
        return self.training.subset(learnable_first(order, self.training.examples, self.target)[:n], name)

    def check_learnable(self, sample: ExampleSet) -> None:
        """UnlearnableSample if the rows of a sample have too few labels to learn from, or to score the test rows."""
        examples = [example for example in sample.examples if example.has_text]
        if not examples:
            raise UnlearnableSample("no row of the sample has a text.")
        try:
            target = target_from_examples(self.kind, self.score, examples, lambda _: "the sample", "the sample")
        except UserError as error:
            raise UnlearnableSample(error.problem) from None
        if isinstance(target, MultiLabel):
            tested = {label for example in self.test.examples for label in target.split(example.label)}
            if missing := sorted(tested.difference(target.labels), key=label_sort_key):
                raise UnlearnableSample(
                    f"no row of the sample has labels of the test rows: {format_labels(missing, 8)}."
                )


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
        if not kept:
            problem = f"{name}: all rows are also test rows, in {evaluation.table.name}."
            raise UserError(problem, "Use test rows of your own: --test FILE.")
        training = training.subset(kept, name)
        notes += evaluation.notes
    if repeated or leaked:
        notes.append(
            f"{name}: {formatting.count_noun(repeated, 'duplicate')} and "
            f"{formatting.count_noun(leaked, 'row')} of the test rows removed"
        )
    if 0 < test_rows < len(tested):
        tested = tested.sample(test_rows, target)
    training, tested = (rows.with_read_labels(target, source.columns["label"]) for rows in (training, tested))
    main = source.main_metric(target)
    return TrainTestData(source.kind, source.columns, source.score, target, main, training, tested, notes)


def split_test(rows: ExampleSet, target: Target, name: str) -> tuple[ExampleSet, ExampleSet, str]:
    """(training rows, test rows, a note): about a fifth of the rows for the test; every label keeps a training row."""
    order = stratified_order(rows.examples, target, -1)  # begins with a row of each label
    fewest = min_labels(target)
    n_train = max(len(order) - max(1, round(TEST_FRACTION * len(order))), fewest)
    order = learnable_first(order, rows.examples, target, n_train)
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


def learnable_first(order: list[int], examples: Sequence[Example], target: Target, n: int = 0) -> list[int]:
    """The positions `order`, first those that a sample needs: a row of each of several labels, or different numbers.

    The order does not change if its first `n` rows (by default the smallest sample) have them. That of classes begins
    with a row of each.
    """
    if isinstance(target, Classes | Answers):
        return order
    needed: list[int] = []
    seen: set[str | float] = set()
    enough = len(target.labels) if isinstance(target, MultiLabel) else 2
    for position in order:
        label = examples[position].label
        own = set(target.split(label)) if isinstance(target, MultiLabel) else {as_number(label)}
        if not own <= seen:
            needed.append(position)
            seen |= own
        if len(seen) == enough:
            break
    first = set(needed)
    if first <= set(order[: max(n or min_labels(target), len(needed))]):
        return order
    return needed + [position for position in order if position not in first]


def min_labels(target: Target) -> int:
    """The fewest labels to train on: one row of each label, 2 questions, or 4 numbers."""
    return len(target.labels) if isinstance(target, Classes) else 2 if isinstance(target, Answers) else 4
