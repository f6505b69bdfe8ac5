"""The tasks of a reproduction and their rows, the same for every method and seed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gpt1.datasets import DataSet, KnownTable, MissingSplit, data_set_names, require_data_set
from gpt1.datasets.dataset import DataSetSplit
from gpt1.datasets.labeled import LabeledTable, examples_from_table
from gpt1.errors import UserError, did_you_mean
from gpt1.experiments.reproduce import paper
from gpt1.experiments.result_store import rows_fingerprint
from gpt1.experiments.train_test_data import ExampleSet, limit_rows
from gpt1.inference.evaluate import subset_rows
from gpt1.tasks import metrics
from gpt1.tasks.duplicates import deduplicate
from gpt1.tasks.examples import encode_labels, target_from_examples
from gpt1.tasks.kinds import Example
from gpt1.tasks.labels import as_label
from gpt1.tasks.targets import Answers, Classes, Target


@dataclass(frozen=True)
class TaskName:
    """A task of --tasks: `rte` (official splits) or `snli:dev>test` (trained on dev, tested on test)."""

    text: str
    data: DataSet
    train: DataSetSplit
    test: DataSetSplit
    title: str

    @classmethod
    def parse(cls, text: str) -> TaskName:
        """UserError for an unknown data set, an unknown split, or the same split twice."""
        before, _, splits = text.partition(":")
        data = parse_task_name(before).data
        title = paper_title(data)
        if not splits:
            return cls(data.name, data, DataSetSplit(data, data.train_split), DataSetSplit(data), title)
        train, arrow, test = (part.strip() for part in splits.partition(">"))
        if not (train and arrow and test):
            raise UserError(
                f"--tasks {text} does not name two splits.",
                f'Use {data.name} for its official splits, or "{data.name}:dev>test" to train on dev and test on test. '
                "The quotation marks protect > from the shell.",
            )
        train_split, test_split = (require_data_set(f"{before}:{part}") for part in (train, test))
        if (train_split.split or data.train_split) == (test_split.split or data.evaluation_split) and (
            None in (train_split.subset, test_split.subset) or train_split.subset == test_split.subset
        ):
            raise UserError(f"--tasks {text} would be tested on its training rows.", "Use two different splits.")
        title += f" (trained on {train}, tested on {test})"
        return cls(f"{data.name}:{train}>{test}", data, train_split, test_split, title)


def paper_title(data: DataSet) -> str:
    """The title that the paper gives to a data set, else its own."""
    column = paper.full_split_column(data.name)
    return column.title if column else data.title


def parse_task_name(name: str) -> DataSetSplit:
    try:
        return require_data_set(name)
    except UserError:
        raise UserError(
            f"--tasks {name}: unknown task.{did_you_mean(name, data_set_names())}",
            f"Tasks: {', '.join(data_set_names())}.",
        ) from None


@dataclass(frozen=True)
class SkippedTask:
    """A task that cannot be measured, and why."""

    name: TaskName
    reason: str

    def __str__(self) -> str:
        return f"{self.name.title} skipped: {self.reason}"


@dataclass(frozen=True)
class PaperTask:
    """A task with its training and test rows."""

    name: TaskName
    training: ExampleSet
    test: ExampleSet
    total_rows: tuple[int, int]
    """Training and test rows before --rows and --test-rows."""
    notes: list[str]

    @property
    def metric(self) -> str:
        return self.name.data.metrics[0]

    @property
    def finetune_options(self) -> dict[str, Any]:
        """Keyword arguments of `finetune` for these rows."""
        return {"kind": self.name.data.kind_name, "score": self.name.data.score, **self.name.data.columns}

    @cached_property
    def target(self) -> Target:
        data, table = self.name.data, self.training.table
        return target_from_examples(data.kind, data.score, self.training.examples, table.locate_row, table.name)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The rows that a result depends on."""
        return {
            "train": len(self.training),
            "test": len(self.test),
            "sha256": rows_fingerprint(
                [{"train": len(self.training)}, *self.training.table.rows, *self.test.table.rows]
            ),
        }

    @property
    def subsets(self) -> dict[str, list[int]]:
        """Subset → positions of its test rows."""
        return subset_rows(self.test.table)

    def describe_train_rows(self) -> str:
        return format_row_count(len(self.training), self.total_rows[0])

    def describe_test_rows(self) -> str:
        return format_row_count(len(self.test), self.total_rows[1])

    def baseline_score(self, metric: str, subset: str = "") -> float:
        """`metric` of the most frequent training label or of a random answer; 0 for regression."""
        rows = self.subsets[subset] if subset in self.subsets else range(len(self.test))
        if isinstance(self.target, Answers):
            return float(np.mean([1 / len(self.test.examples[i].answers) for i in rows]))
        if not isinstance(self.target, Classes):
            return 0.0
        labels = [as_label(example.label) for example in self.training.examples]
        most_frequent = max(self.target.labels, key=labels.count)
        gold = [as_label(self.test.examples[i].label) for i in rows]
        return float(metrics.class_scores(gold, [most_frequent] * len(gold), self.target.labels)[metric])

    def text_sizes(self, context: int) -> tuple[int, int]:
        """Characters of the training and test texts, truncated to the context (about four characters per token)."""
        sequences = self.name.data.kind.sequences
        training, test = (
            sequences * sum(sequence_chars(example, 4 * context) for example in rows.examples)
            for rows in (self.training, self.test)
        )
        return training, test


def format_row_count(rows: int, total: int) -> str:
    return f"{rows:,} of {total:,}" if rows < total else f"{rows:,}"


def sequence_chars(example: Example, max_chars: int) -> int:
    """Characters of an example's sequences, each truncated to `max_chars`."""
    fields = sum(map(len, example.fields))
    return sum(min(max_chars, fields + len(answer)) for answer in example.answers or ("",))


def read_tasks(
    names: Sequence[TaskName],
    data_dir: str | Path | None,
    rows: Mapping[str, int],
    test_rows: Mapping[str, int],
    keep_duplicates: bool,
) -> tuple[list[PaperTask], list[SkippedTask]]:
    """(tasks with their rows, tasks whose files are missing).

    Args:
        names: tasks to read.
        data_dir: folder with the files of the data sets.
        rows, test_rows: task → maximum number of rows, `""` for all other tasks.
        keep_duplicates: keep duplicate training rows, and those that are also test rows.

    Raises:
        UserError: the folder does not exist, a file is damaged, or the rows cannot be trained on or scored.
    """
    tasks = [
        read_paper_task(name, data_dir, row_limit(name, rows), row_limit(name, test_rows), keep_duplicates)
        for name in names
    ]
    found = [task for task in tasks if isinstance(task, PaperTask)]
    return found, [task for task in tasks if isinstance(task, SkippedTask)]


def check_row_limits(flag: str, limits: Mapping[str, int], names: Sequence[str]) -> None:
    """UserError for a limit of a task that is not requested."""
    for name in limits:
        if name and name not in names:
            raise UserError(
                f"{flag} {name}={limits[name]}: this task is not requested.{did_you_mean(name, names)}",
                f"Requested tasks: {', '.join(dict.fromkeys(names))}.",
            )


def row_limit(name: TaskName, limits: Mapping[str, int]) -> int:
    """The limit of a task; 0 for none."""
    return limits.get(name.text, limits.get(name.data.name, limits.get("", 0)))


def read_paper_task(
    name: TaskName, data_dir: str | Path | None, rows: int, test_rows: int, keep_duplicates: bool
) -> PaperTask | SkippedTask:
    place = data_dir or os.environ.get("GPT1_DATA") or "the hub"
    training = test = None
    with suppress(MissingSplit):
        test = name.test.evaluation_table(data_dir)
    with suppress(MissingSplit):
        training, notes = name.train.train_table(data_dir, keep_duplicates=keep_duplicates, tested=test)
    if training is None:
        return SkippedTask(name, f"no training split in {place}" if test else f"none of its files are in {place}")
    if test is None or "label" not in test.columns:
        what = "split" if test is None else "labels in the split"
        return SkippedTask(name, f"no {what} '{name.test.split or name.data.evaluation_split}' to test on in {place}")
    name = replace(name, test=replace(name.test, split=test.split))
    train_set, test_set = draw_rows(name.data, training, rows), draw_rows(name.data, test, test_rows)
    if not keep_duplicates and (repeated := deduplicate(name.data.kind, train_set.examples)[1]):
        count = f"{repeated:,} of {len(train_set):,}"
        notes.append(f"{training.name}: {count} training rows are duplicates; fine-tuning uses each text once.")
    task = PaperTask(name, train_set, test_set, (len(training), len(test)), [*notes, *test.notes])
    encode_labels(task.target, test_set.examples, test_set.table.locate_row)  # raises if --rows leaves a label out
    return task


def draw_rows(data: DataSet, table: KnownTable, max_rows: int) -> ExampleSet:
    examples = examples_from_table(LabeledTable(table, data), data.kind, data.columns)
    return limit_rows(ExampleSet(table, examples), data.kind, data, max_rows)
