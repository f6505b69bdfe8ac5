"""Table 5 as a page: the same tasks with a part taken away, ours and the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import mean
from typing import Any

from gpt1.experiments.cells import Kept
from gpt1.experiments.document import Document, Spread
from gpt1.experiments.methods import METHODS, lstm_is_missing
from gpt1.experiments.reproduce import paper
from gpt1.experiments.reproduce.plan import Plan
from gpt1.experiments.reproduce.scores import hundred, known, shown, signed, spread_of, whole_of
from gpt1.report import Cell

Row = list[float | None]
"""A number for each task, in points; None where there is none (yet)."""


@dataclass(frozen=True)
class Ablations:
    """Both tables, by method."""

    plan: Plan
    spreads: dict[str, list[Spread | None]]

    @cached_property
    def ours(self) -> dict[str, Row]:
        return {m: [100 * one.median if one else None for one in row] for m, row in self.spreads.items()}

    @cached_property
    def theirs(self) -> dict[str, Row]:
        """Of the methods that the paper has."""
        tasks = [task.name.data.name for task in self.plan.tasks]
        return {m: [paper.ablation(m, name) for name in tasks] for m in self.ours if m in paper.ABLATIONS}

    @cached_property
    def shared(self) -> list[int]:
        """The tasks that averages are of: finished by every method here, and in the paper's table."""
        both = [*self.ours.values(), *self.theirs.values()]
        return [i for i in range(len(self.plan.tasks)) if None not in [row[i] for row in both]]

    def columns(self) -> list[str]:
        average = [f"average of {len(self.shared)}"] if self.shared else []
        return ["", *average, *(task.name.title for task in self.plan.tasks)]

    def line(self, method: str, row: Row, cells: Sequence[Cell | None] | None = None, show: Any = known) -> list[Any]:
        """A line of a table: the method, the average of `row`, its numbers (or `cells` for them)."""
        average = [show(self.average(row))] if self.shared else []
        return [self.plan.methods[method].title, *average, *(cells if cells is not None else map(show, row))]

    def average(self, row: Row) -> float | None:
        return mean(value for i in self.shared if (value := row[i]) is not None) if self.shared else None


def parts(document: Document, plan: Plan, kept: Kept) -> tuple[list[str], list[dict[str, Any]]]:
    """Ours, the paper's, the difference, and what each part is worth."""
    spreads = {m: [spread_of(plan, kept, task, m, whole_of(task)) for task in plan.tasks] for m in plan.methods}
    both = Ablations(plan, spreads)
    columns = both.columns()
    document.heading("Ours")
    cells = {m: [one.cell(1, 100) if one else None for one in row] for m, row in spreads.items()}
    lines = [both.line(m, row, cells[m]) for m, row in both.ours.items()]
    if lstm_is_missing(plan.asked.methods, plan.asked.lstm):
        lines.append([METHODS["lstm"].title, Cell(None, "give --lstm RUN"), *[None] * (len(columns) - 2)])
    guesses: Row = [100 * task.guess(task.metric) for task in plan.tasks]
    lines.append(["a guess", *([known(both.average(guesses))] if both.shared else []), *map(known, guesses)])
    document.table(columns, lines)
    document.heading("The paper's")
    document.table(columns, [both.line(m, row) for m, row in both.theirs.items()])
    document.heading("Ours less the paper's")
    document.table(columns, [both.line(m, less(both.ours[m], row), show=signed) for m, row in both.theirs.items()])
    if "full" in plan.methods and len(plan.methods) > 1:
        document.heading("What each part is worth")
        document.paragraph("The change against `full`; the paper's in brackets.")
        document.table(columns, [changed(both, m) for m in plan.methods if m != "full"])
    said = [
        f"{task.name.title}: "
        + ", ".join(f"{plan.methods[m].title} {shown(one)}" for m, row in spreads.items() if (one := row[i]))
        for i, task in enumerate(plan.tasks)
    ]
    results = [
        {"task": task.name.text, "metric": task.metric, "guess": 100 * task.guess(task.metric)}
        | {"ours": {m: hundred(row[i]) for m, row in spreads.items()}}
        | {"paper": {m: row[i] for m, row in both.theirs.items()}}
        for i, task in enumerate(plan.tasks)
    ]
    return said, results


def changed(both: Ablations, method: str) -> list[Any]:
    """A method's line less that of `full`, the paper's change small beside it."""
    line = both.line(method, less(both.ours[method], both.ours["full"]), show=signed)
    if method not in both.theirs:
        return line
    theirs = both.line(method, less(both.theirs[method], both.theirs["full"]), show=signed)
    return [line[0], *(beside(a, b) for a, b in zip(line[1:], theirs[1:], strict=True))]


def beside(ours: Cell | None, theirs: Cell | None) -> Cell | None:
    return replace(ours, note=f"({theirs.text})") if ours and theirs else ours


def less(a: Row, b: Row) -> Row:
    return [None if x is None or y is None else x - y for x, y in zip(a, b, strict=True)]
