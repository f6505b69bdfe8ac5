"""Labelled rows for measurements: read once, repeats out, drawn by a seed so that every label keeps its share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from gpt1.corpus.order import mixed
from gpt1.datasets import KnownTable
from gpt1.datasets.dataset import select
from gpt1.datasets.labelled import Labelled, examples_of, training_rows
from gpt1.tables.table import Table
from gpt1.tasks.examples import deduplicated, fit
from gpt1.tasks.kinds import Example, Kind
from gpt1.tasks.targets import Answers, Classes, Target, as_label

HELD_OUT = 0.2
"""Share of the rows that becomes the test table where the user has none."""


@dataclass(frozen=True)
class Rows:
    """A table and its rows as examples."""

    table: Table
    examples: list[Example]

    def __len__(self) -> int:
        return len(self.examples)

    def part(self, positions: Sequence[int], name: str) -> Rows:
        table, examples = self.table, [self.examples[i] for i in positions]
        if isinstance(table, KnownTable):  # whose rows know their subset
            return Rows(replace(select(table, positions), name=name), examples)
        return Rows(Table(name, table.columns, [table.rows[i] for i in positions]), examples)

    def sample(self, n: int, target: Target) -> Rows:
        """`n` rows, always the same ones, in their order; every label keeps its share."""
        positions = sorted(stratified(self.examples, target, -1)[:n])
        return self.part(positions, f"{self.table.name} ({n:,} rows of {len(self):,})")


@dataclass(frozen=True)
class Labels:
    """A task as measurements need it: rows to learn from, without repeats, and the fixed rows of the test."""

    kind: Kind
    columns: dict[str, str]
    score: bool
    target: Target
    main: str
    training: Rows
    test: Rows
    notes: list[str] = field(default_factory=list)

    @property
    def options(self) -> dict[str, Any]:
        """Keywords of `finetune`, for tables of these rows."""
        return {"kind": self.kind.name, "score": self.score, **self.columns}

    def draw(self, n: int, seed: int, name: str) -> Rows:
        return self.training.part(stratified(self.training.examples, self.target, seed)[:n], name)


def read_labels(
    train: str | Path | Table,
    test: str | Path | Table | None,
    kind_name: str | None,
    columns: dict[str, str],
    score: bool,
    data_dir: str | Path | None,
    test_rows: int = 0,
) -> Labels:
    """Training rows without repeats and without what the test has; the test rows, at most `test_rows` (0: all).

    Without `test`: the evaluation split of a known data set, or a fifth of the user's rows. UserError for what is wrong
    with a file, a column or a row.
    """
    source = training_rows(train, kind_name, columns, score, data_dir)
    name, target, known = source.rows.table.name, source.target, source.rows.data_set
    training = Rows(source.rows.table, source.examples)
    notes = list(source.rows.notes)

    if test is None and known:
        test = known.name
    if test is None:
        kept, repeated, leaked = deduplicated(training.examples)
        training = training.part(kept, name)
        order = stratified(training.examples, target, -1)
        held = sorted(order[: max(1, round(HELD_OUT * len(order)))])
        rest = sorted(set(order) - set(held))
        training, tested = training.part(rest, name), training.part(held, f"{name}, held out")
    else:
        there, examples = source.evaluation_rows(test, data_dir)
        tested = Rows(there.table, examples)
        kept, repeated, leaked = deduplicated(training.examples, tested.examples)
        training = training.part(kept, name)
        notes += there.notes
    if repeated or leaked:
        notes.append(f"{name}: {repeated:,} repeats and {leaked:,} rows of the test are left out")
    if 0 < test_rows < len(tested):
        tested = tested.sample(test_rows, target)
    main = source.main_metric(target)
    return Labels(source.kind, source.columns, source.score, target, main, training, tested, notes)


def read_rows(source: Labelled, kind: Kind, columns: Mapping[str, str], most: int = 0) -> Rows:
    """The rows of `source`, at most `most` of them (0: all), always the same ones."""
    rows, table, data = Rows(source.table, examples_of(source, kind, columns)), source.table, source.data_set
    if not 0 < most < len(rows):
        return rows
    return rows.sample(most, fit(kind, bool(data and data.score), rows.examples, table.where, table.name))


def stratified(examples: Sequence[Example], target: Target, seed: int) -> list[int]:
    """All positions in an order of which every beginning is a stratified sample: one row of each label first, then so
    that each label keeps its share. Longer samples of a seed hold its shorter ones."""
    generator = np.random.Generator(np.random.Philox(mixed(seed, 2**34)))
    groups: dict[Any, list[int]] = {}
    for i, example in enumerate(examples):
        key = as_label(example.label) if isinstance(target, Classes) else ""
        groups.setdefault(key, []).append(i)
    places: list[tuple[float, float, int]] = []
    for key in sorted(groups):
        own = generator.permutation(groups[key]).tolist()
        ties = generator.random(len(own))
        places += [
            ((rank + 0.5) / len(own) if rank else -1.0, tie, position)
            for rank, (position, tie) in enumerate(zip(own, ties, strict=True))
        ]
    return [position for _, _, position in sorted(places)]


def fewest(target: Target) -> int:
    """Labels without which there is nothing to learn from: one row of each label, or a few numbers."""
    return len(target.labels) if isinstance(target, Classes) else 2 if isinstance(target, Answers) else 4
