"""Table 5 as a page: the same tasks with a part taken away, ours and the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import mean
from typing import Any

from gpt1.experiments.experiment_report import ExperimentReport, SeedScores
from gpt1.experiments.methods import ABLATION_METHODS, needs_lstm_run
from gpt1.experiments.reproduce import paper
from gpt1.experiments.reproduce.plan import ReproductionPlan
from gpt1.experiments.reproduce.scores import (
    collect_task_scores,
    format_scores,
    optional_points_cell,
    overall_column,
    percent_scores_json,
    signed_cell,
)
from gpt1.experiments.result_store import ResultStore
from gpt1.report import Cell

ScoreRow = list[float | None]
"""A number for each task, in points; None where there is none (yet)."""


@dataclass(frozen=True)
class AblationTables:
    """Both tables, by method."""

    plan: ReproductionPlan
    spreads: dict[str, list[SeedScores | None]]

    @cached_property
    def ours(self) -> dict[str, ScoreRow]:
        return {m: [100 * one.median if one else None for one in row] for m, row in self.spreads.items()}

    @cached_property
    def published(self) -> dict[str, ScoreRow]:
        """Of the methods that the paper has."""
        tasks = [task.name.data.name for task in self.plan.tasks]
        return {m: [paper.ablation_score(m, name) for name in tasks] for m in self.ours if m in paper.ABLATIONS}

    @cached_property
    def common_tasks(self) -> list[int]:
        """The tasks that averages are of: finished by every method here, and in the paper's table."""
        both = [*self.ours.values(), *self.published.values()]
        return [i for i in range(len(self.plan.tasks)) if None not in [row[i] for row in both]]

    def column_titles(self) -> list[str]:
        average = [f"average of {len(self.common_tasks)}"] if self.common_tasks else []
        return ["", *average, *(task.name.title for task in self.plan.tasks)]

    def table_row(
        self,
        method: str,
        row: ScoreRow,
        cells: Sequence[Cell | None] | None = None,
        to_cell: Any = optional_points_cell,
    ) -> list[Any]:
        """A line of a table: the method, the average of `row`, its numbers (or `cells` for them)."""
        average = [to_cell(self.average(row))] if self.common_tasks else []
        return [self.plan.methods[method].title, *average, *(cells if cells is not None else map(to_cell, row))]

    def average(self, row: ScoreRow) -> float | None:
        return mean(value for i in self.common_tasks if (value := row[i]) is not None) if self.common_tasks else None


def add_table5(
    report: ExperimentReport, plan: ReproductionPlan, store: ResultStore
) -> tuple[list[str], list[dict[str, Any]]]:
    """Ours, the paper's, the difference, and what each part is worth."""
    spreads = {
        m: [collect_task_scores(plan, store, task, m, overall_column(task)) for task in plan.tasks]
        for m in plan.methods
    }
    both = AblationTables(plan, spreads)
    columns = both.column_titles()
    report.heading("Ours")
    cells = {m: [one.to_cell(1, 100) if one else None for one in row] for m, row in spreads.items()}
    lines = [both.table_row(m, row, cells[m]) for m, row in both.ours.items()]
    if needs_lstm_run(plan.request.methods, plan.request.lstm):
        lines.append([ABLATION_METHODS["lstm"].title, Cell(None, "give --lstm RUN"), *[None] * (len(columns) - 2)])
    guesses: ScoreRow = [100 * task.baseline_score(task.metric) for task in plan.tasks]
    lines.append(
        [
            "a guess",
            *([optional_points_cell(both.average(guesses))] if both.common_tasks else []),
            *map(optional_points_cell, guesses),
        ]
    )
    report.table(columns, lines)
    report.heading("The paper's")
    report.table(columns, [both.table_row(m, row) for m, row in both.published.items()])
    report.heading("Ours less the paper's")
    report.table(
        columns,
        [both.table_row(m, subtract_rows(both.ours[m], row), to_cell=signed_cell) for m, row in both.published.items()],
    )
    if "full" in plan.methods and len(plan.methods) > 1:
        report.heading("What each part is worth")
        report.paragraph("The change against `full`; the paper's in brackets.")
        report.table(columns, [change_row(both, m) for m in plan.methods if m != "full"])
    said = [
        f"{task.name.title}: "
        + ", ".join(f"{plan.methods[m].title} {format_scores(one)}" for m, row in spreads.items() if (one := row[i]))
        for i, task in enumerate(plan.tasks)
    ]
    results = [
        {"task": task.name.text, "metric": task.metric, "guess": 100 * task.baseline_score(task.metric)}
        | {"ours": {m: percent_scores_json(row[i]) for m, row in spreads.items()}}
        | {"paper": {m: row[i] for m, row in both.published.items()}}
        for i, task in enumerate(plan.tasks)
    ]
    return said, results


def change_row(both: AblationTables, method: str) -> list[Any]:
    """A method's line less that of `full`, the paper's change small beside it."""
    line = both.table_row(method, subtract_rows(both.ours[method], both.ours["full"]), to_cell=signed_cell)
    if method not in both.published:
        return line
    theirs = both.table_row(method, subtract_rows(both.published[method], both.published["full"]), to_cell=signed_cell)
    return [line[0], *(with_published_note(a, b) for a, b in zip(line[1:], theirs[1:], strict=True))]


def with_published_note(ours: Cell | None, theirs: Cell | None) -> Cell | None:
    return replace(ours, note=f"({theirs.text})") if ours and theirs else ours


def subtract_rows(a: ScoreRow, b: ScoreRow) -> ScoreRow:
    return [None if x is None or y is None else x - y for x, y in zip(a, b, strict=True)]
