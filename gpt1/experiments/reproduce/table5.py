"""Table 5 in the report: ablations, ours and the paper's."""

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
    scores_cell,
)
from gpt1.experiments.result_store import ResultStore
from gpt1.report.page import Cell

ScoreRow = list[float | None]
"""A score for each task, in points; None if there is none (yet)."""


@dataclass(frozen=True)
class AblationTables:
    """Our table and the paper's, by method."""

    plan: ReproductionPlan
    scores: dict[str, list[SeedScores | None]]

    @cached_property
    def our_scores(self) -> dict[str, ScoreRow]:
        return {m: [100 * scores.median if scores else None for scores in row] for m, row in self.scores.items()}

    @cached_property
    def published_scores(self) -> dict[str, ScoreRow]:
        """The rows of the methods that the paper has."""
        tasks = [task.name.data.name for task in self.plan.tasks]
        return {m: [paper.ablation_score(m, name) for name in tasks] for m in self.our_scores if m in paper.ABLATIONS}

    @cached_property
    def common_tasks(self) -> list[int]:
        """The tasks that averages cover: finished with every method that applies to all, and in the paper's table."""
        for_all = [
            m for m in self.our_scores if all(m in self.plan.applicable_methods(task) for task in self.plan.tasks)
        ]
        rows = [*(self.our_scores[m] for m in for_all), *self.published_scores.values()]
        return [i for i in range(len(self.plan.tasks)) if None not in [row[i] for row in rows]]

    def column_titles(self) -> list[str]:
        average = [f"average of {len(self.common_tasks)}"] if self.common_tasks else []
        return ["method", *average, *(task.name.title for task in self.plan.tasks)]

    def table_row(
        self, method: str, row: ScoreRow, cells: Sequence[Cell | None] | None = None, sign: str = ""
    ) -> list[Any]:
        """The method, the average of `row`, and its scores (or `cells` instead of them)."""
        average = [optional_points_cell(self.average(row), sign)] if self.common_tasks else []
        scores = [optional_points_cell(score, sign) for score in row] if cells is None else cells
        return [self.plan.methods[method].title, *average, *scores]

    def average(self, row: ScoreRow) -> float | None:
        """The mean over the common tasks; None if `row` lacks one."""
        values = [value for i in self.common_tasks if (value := row[i]) is not None]
        return mean(values) if values and len(values) == len(self.common_tasks) else None


def add_table5(
    report: ExperimentReport, plan: ReproductionPlan, store: ResultStore
) -> tuple[list[str], list[dict[str, Any]]]:
    """Add our table, the paper's, the difference, and the effect of each part. Returns (sentences, results)."""
    scores = {
        m: [collect_task_scores(plan, store, task, m, overall_column(task)) for task in plan.tasks]
        for m in plan.methods
    }
    tables = AblationTables(plan, scores)
    columns = tables.column_titles()
    report.heading("Ours")
    lines = [tables.table_row(m, row, [*map(scores_cell, scores[m])]) for m, row in tables.our_scores.items()]
    if needs_lstm_run(plan.request.methods, plan.request.lstm):
        lines.append([ABLATION_METHODS["lstm"].title, Cell(None, "needs --lstm RUN"), *[None] * (len(columns) - 2)])
    baselines: ScoreRow = [100 * task.baseline_score(task.metric) for task in plan.tasks]
    average = [optional_points_cell(tables.average(baselines))] if tables.common_tasks else []
    lines.append(["baseline", *average, *map(optional_points_cell, baselines)])
    report.table(columns, lines)
    report.heading("The paper's")
    report.table(columns, [tables.table_row(m, row) for m, row in tables.published_scores.items()])
    report.heading("Difference: ours minus the paper's")
    report.table(
        columns,
        [
            tables.table_row(m, subtract_rows(tables.our_scores[m], row), sign="+")
            for m, row in tables.published_scores.items()
        ],
    )
    if "full" in plan.methods and len(plan.methods) > 1:
        report.heading("What each part is worth")
        report.paragraph("The change from `full`, with the paper's change in brackets.")
        report.table(columns, [change_row(tables, m) for m in plan.methods if m != "full"])
    sentences = [
        f"{task.name.title}: "
        + ", ".join(f"{plan.methods[m].title} {format_scores(one)}" for m, row in scores.items() if (one := row[i]))
        for i, task in enumerate(plan.tasks)
    ]
    results = [
        {"task": task.name.text, "metric": task.metric, "guess": 100 * task.baseline_score(task.metric)}
        | {"ours": {m: percent_scores_json(row[i]) for m, row in scores.items()}}
        | {"paper": {m: row[i] for m, row in tables.published_scores.items()}}
        for i, task in enumerate(plan.tasks)
    ]
    return sentences, results


def change_row(tables: AblationTables, method: str) -> list[Any]:
    """The change from `full`, with the paper's change as a note."""
    row = tables.table_row(method, subtract_rows(tables.our_scores[method], tables.our_scores["full"]), sign="+")
    if method not in tables.published_scores:
        return row
    theirs = tables.table_row(
        method, subtract_rows(tables.published_scores[method], tables.published_scores["full"]), sign="+"
    )
    return [row[0], *(add_published_note(a, b) for a, b in zip(row[1:], theirs[1:], strict=True))]


def add_published_note(ours: Cell | None, theirs: Cell | None) -> Cell | None:
    return replace(ours, note=f"({theirs.text})") if ours and theirs else ours


def subtract_rows(a: ScoreRow, b: ScoreRow) -> ScoreRow:
    return [None if x is None or y is None else x - y for x, y in zip(a, b, strict=True)]
