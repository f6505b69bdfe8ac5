"""The rows of a reproduction: what is trained on and what is tested, the same for every method and seed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gpt1.datasets import DataSet, MissingSplit, known, names
from gpt1.datasets.dataset import Named
from gpt1.datasets.labelled import Labelled
from gpt1.errors import UserError, did_you_mean
from gpt1.experiments.cells import digest
from gpt1.experiments.reproduce import paper
from gpt1.experiments.samples import Rows, read_rows
from gpt1.inference.evaluate import parts_of
from gpt1.tasks import metrics
from gpt1.tasks.examples import deduplicated, encoded_labels, fit
from gpt1.tasks.kinds import Example
from gpt1.tasks.targets import Answers, Classes, Target, as_label


@dataclass(frozen=True)
class Name:
    """A task as it is asked for: `rte` (its official splits), or `snli:dev>test` (trained on one, tested on the
    other)."""

    text: str
    data: DataSet
    train: Named
    test: Named
    title: str

    @classmethod
    def parse(cls, text: str) -> Name:
        """UserError for what is no known data set, for a split that it does not have, or one that would test itself."""
        before, _, splits = text.partition(":")
        data = task_named(before).data
        column = paper.whole(data.name)
        title = column.title if column else data.title
        if not splits:
            return cls(data.name, data, Named(data, data.train_split), Named(data), title)
        train, arrow, test = (part.strip() for part in splits.partition(">"))
        if arrow and train == test:
            raise UserError(f"--tasks {text}: it would be tested on what it learns.", "Name two different splits.")
        if not (train and arrow and test):
            raise UserError(
                f"--tasks {text}: this names no two splits.",
                f"Write {data.name} for its official splits, or {data.name}:dev>test to train on one and test on the "
                "other (in quotation marks: a shell reads > as its own).",
            )
        title += f" (trained on {train}, tested on {test})"
        return cls(f"{data.name}:{train}>{test}", data, known(f"{before}:{train}"), known(f"{before}:{test}"), title)


def task_named(name: str) -> Named:
    try:
        return known(name)
    except UserError:
        raise UserError(
            f"--tasks {name}: there is no such task.{did_you_mean(name, names())}", f"Tasks: {', '.join(names())}."
        ) from None


@dataclass(frozen=True)
class LeftOut:
    """A task that cannot be measured here, and why, in words."""

    name: Name
    why: str


@dataclass(frozen=True)
class PaperTask:
    """A task with its rows."""

    name: Name
    training: Rows
    test: Rows
    of: tuple[int, int]
    """Rows of training and test before --rows and --test-rows."""
    notes: list[str]

    @property
    def metric(self) -> str:
        return self.name.data.metrics[0]

    @property
    def options(self) -> dict[str, Any]:
        """Keywords of `finetune`, for tables of these rows."""
        return {"kind": self.name.data.kind, "score": self.name.data.score, **self.name.data.columns}

    @cached_property
    def target(self) -> Target:
        data, table = self.name.data, self.training.table
        return fit(data.record, data.score, self.training.examples, table.where, table.name)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What a result on this task depends on."""
        return {
            "train": len(self.training),
            "test": len(self.test),
            "sha256": digest([{"train": len(self.training)}, *self.training.table.rows, *self.test.table.rows]),
        }

    @property
    def subsets(self) -> dict[str, list[int]]:
        """Positions of the test rows of each subset."""
        return parts_of(self.test.table)

    def trained_on(self) -> str:
        return told(len(self.training), self.of[0])

    def tested_on(self) -> str:
        return told(len(self.test), self.of[1])

    def guess(self, metric: str, subset: str = "") -> float:
        """`metric` without a look at the text: of the commonest training label, of a random answer; 0 for a number."""
        rows = self.subsets[subset] if subset in self.subsets else range(len(self.test))
        if isinstance(self.target, Answers):
            return float(np.mean([1 / len(self.test.examples[i].answers) for i in rows]))
        if not isinstance(self.target, Classes):
            return 0.0
        labels = [as_label(example.label) for example in self.training.examples]
        commonest = max(self.target.labels, key=labels.count)
        gold = [as_label(self.test.examples[i].label) for i in rows]
        return float(metrics.class_scores(gold, [commonest] * len(gold), self.target.labels)[metric])

    def sizes(self, context: int) -> tuple[int, int]:
        """Characters of training and test that go through a model, a token counting as four of them."""
        sequences = self.name.data.record.sequences
        return (
            sequences * sum(length(example, 4 * context) for example in self.training.examples),
            sequences * sum(length(example, 4 * context) for example in self.test.examples),
        )


def told(rows: int, of: int) -> str:
    return f"{rows:,} of {of:,}" if rows < of else f"{rows:,}"


def length(example: Example, most: int) -> int:
    """Characters of an example's sequences, each cut at `most`."""
    fields = sum(map(len, example.fields))
    return sum(min(most, fields + len(answer)) for answer in example.answers or ("",))


def read_tasks(
    wanted: Sequence[Name],
    data_dir: str | Path | None,
    rows: Mapping[str, int],
    test_rows: Mapping[str, int],
    keep_duplicates: bool,
) -> tuple[list[PaperTask], list[LeftOut]]:
    """(tasks with their rows, tasks whose files are missing). UserError for a folder that is not there, for broken
    files, and for rows that cannot be learnt from or tested; rows and test_rows: at most so many, by task's name, `""`
    for all others."""
    found: list[PaperTask] = []
    left_out: list[LeftOut] = []
    for name in wanted:
        task = read_task(name, data_dir, most_of(name, rows), most_of(name, test_rows), keep_duplicates)
        if isinstance(task, LeftOut):
            left_out.append(task)
        else:
            found.append(task)
    return found, left_out


def check_limits(flag: str, limits: Mapping[str, int], names: Sequence[str]) -> None:
    """UserError for a limit of a task that nobody asked for."""
    for name in limits:
        if name and name not in names:
            raise UserError(
                f"{flag} {name}={limits[name]}: that task is not asked for.{did_you_mean(name, names)}",
                f"Asked for are: {', '.join(dict.fromkeys(names))}.",
            )


def most_of(name: Name, limits: Mapping[str, int]) -> int:
    """The limit of a task; 0 for none."""
    return limits.get(name.text, limits.get(name.data.name, limits.get("", 0)))


def read_task(
    name: Name, data_dir: str | Path | None, rows: int, test_rows: int, keep_duplicates: bool
) -> PaperTask | LeftOut:
    where = data_dir or os.environ.get("GPT1_DATA") or "the hub"
    training = test = None
    with suppress(MissingSplit):
        test = name.test.evaluation_table(data_dir)
    with suppress(MissingSplit):
        training, notes = name.train.train_table(data_dir, keep_duplicates=keep_duplicates)
    if training is None:
        return LeftOut(name, f"no training split in {where}" if test else f"none of its files are in {where}")
    if test is None or "label" not in test.columns:
        what = "split" if test is None else "labels in the split"
        return LeftOut(name, f"no {what} '{name.test.split or name.data.evaluation_split}' to test on in {where}")
    name = replace(name, test=replace(name.test, split=test.split))
    data = name.data
    sources = ((Labelled(training, data), rows), (Labelled(test, data), test_rows))
    drawn = [read_rows(source, data.record, data.columns, most) for source, most in sources]
    if not keep_duplicates and (repeated := deduplicated(drawn[0].examples)[1]):
        again = f"{repeated:,} of {len(drawn[0]):,} training rows repeat another one"
        notes.append(f"{training.name}: {again}: a network learns from each text once.")
    task = PaperTask(name, drawn[0], drawn[1], (len(training), len(test)), [*notes, *test.notes])
    encoded_labels(task.target, task.test.examples, task.test.table.where)  # few rows may lack a label of the test
    return task
