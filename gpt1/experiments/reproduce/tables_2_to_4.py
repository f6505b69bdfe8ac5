"""Tables 2 to 4 in the report: a row for each of the paper's numbers, next to ours."""

from __future__ import annotations

from typing import Any

from gpt1.experiments.experiment_report import ExperimentReport, SeedScores
from gpt1.experiments.methods import BASELINES
from gpt1.experiments.reproduce import paper
from gpt1.experiments.reproduce.paper_tasks import TaskName, paper_title
from gpt1.experiments.reproduce.plan import ReproductionPlan
from gpt1.experiments.reproduce.scores import (
    SCORE_NAMES,
    collect_task_scores,
    comparison_sentence,
    difference_cell,
    optional_points_cell,
    percent_scores_json,
    points_cell,
    scores_cell,
)
from gpt1.experiments.result_store import ResultStore
from gpt1.report.page import Cell
from gpt1.tasks.metrics import glue_score


def add_tables(
    report: ExperimentReport, plan: ReproductionPlan, store: ResultStore
) -> tuple[list[str], list[dict[str, Any]]]:
    """Add a row for each of the paper's numbers, and for tasks that it does not have. Returns (sentences, results)."""
    rows: list[tuple[int, list[Any]]] = []
    sentences, results = [], []
    for task in plan.tasks:
        for column in columns_for_task(task.name):
            if column.subset and column.subset not in task.subsets:
                continue
            scores = {method: collect_task_scores(plan, store, task, method, column) for method in plan.methods}
            ours, baseline = next(iter(scores.values())), 100 * task.baseline_score(column.metric, column.subset)
            position, row = start_row(task.name, column)
            cells = [*map(scores_cell, scores.values()), difference_cell(ours, column.gpt1), points_cell(baseline)]
            rows.append((position, [*row, *cells]))
            results.append(
                {"task": task.name.text, "subset": column.subset, "metric": column.metric}
                | {"before": column.previous_best, "paper": column.gpt1, "guess": baseline}
                | {"ours": {method: percent_scores_json(one) for method, one in scores.items()}}
            )
            if ours:
                sentences.append(f"{row[0]}: {comparison_sentence(ours, column.gpt1)}")
    for skipped in plan.skipped_tasks:
        for column in columns_for_task(skipped.name):
            position, row = start_row(skipped.name, column)
            rows.append((position, [*row, Cell(None, skipped.reason), *[None] * (len(plan.methods) + 1)]))
    if plan.request.what == "table4":
        rows.append((LAST_POSITION, glue_row(plan, store)))
    titles = [m.title if name in BASELINES else f"ours, {m.title}" for name, m in plan.methods.items()]
    titles = ["ours" if title == "ours, full" else title for title in titles]
    report.heading("Comparison with the paper")
    rows.sort(key=lambda one: one[0])
    report.table(["task", "metric", "before", "GPT-1", *titles, "difference", "baseline"], [row for _, row in rows])
    report.paragraph(
        f"`before` is the best result that the paper compares with; `difference` is {titles[0]}, minus GPT-1's; "
        "`baseline` is the score of the most frequent training label or of a random answer."
    )
    if plan.request.what in ("table2", "table4"):
        report.paragraph(
            "The paper's GLUE results are on test sets whose labels are not public; ours are on the split named below."
        )
    return sentences, results


LAST_POSITION = len(paper.all_columns())


def start_row(name: TaskName, column: paper.PublishedResult) -> tuple[int, list[Any]]:
    """(its position among the paper's columns, the first cells of its row)."""
    columns = paper.all_columns()
    title = name.title.replace(paper_title(name.data), column.title, 1)
    metric = SCORE_NAMES.get(column.metric, column.metric)
    position = columns.index(column) if column in columns else LAST_POSITION
    return position, [title, metric, optional_points_cell(column.previous_best), optional_points_cell(column.gpt1)]


def columns_for_task(name: TaskName) -> list[paper.PublishedResult]:
    """The paper's columns of a task; a column without numbers if it does not have the task."""
    found = [column for column in paper.all_columns() if column.task == name.data.name]
    return found or [paper.PublishedResult(name.data.name, name.data.title, name.data.metrics[0])]


GLUE_METRICS = {
    "cola": ("matthews",), "sst2": ("accuracy",), "mrpc": ("f1", "accuracy"), "stsb": ("pearson", "spearman"),
    "qqp": ("f1", "accuracy"), "mnli": ("m", "mm"), "qnli": ("accuracy",), "rte": ("accuracy",),
}  # fmt: skip
"""The metrics in the GLUE score; for MNLI the subsets whose accuracies count."""


def glue_row(plan: ReproductionPlan, store: ResultStore) -> list[Any]:
    """The row of the GLUE score, without WNLI, on which every entry has the majority class's 65.1."""
    row: list[Any] = ["GLUE", "score", points_cell(paper.PREVIOUS_GLUE_SCORE), points_cell(paper.GLUE_SCORE)]
    tasks = {task.name.data.name: task for task in plan.tasks}
    missing = [name for name in GLUE_METRICS if name not in tasks]
    if not missing and not tasks["mnli"].subsets.keys() >= set(GLUE_METRICS["mnli"]):
        missing = ["the other half of mnli"]
    if missing:
        return [*row, Cell(None, f"needs {', '.join(missing)} too"), *[None] * (len(plan.methods) + 1)]
    by_method = []
    for method in plan.methods:
        finished = {name: plan.finished_results(store, tasks[name], method) for name in GLUE_METRICS}
        by_seed = [
            {name: results.get(seed) for name, results in finished.items()} for seed in range(plan.request.seeds)
        ]
        by_method.append(
            SeedScores.from_values(score for one in by_seed if (score := seed_glue_score(one)) is not None)
        )
    return [*row, *map(scores_cell, by_method), difference_cell(by_method[0], paper.GLUE_SCORE), None]


def seed_glue_score(results: dict[str, dict[str, Any] | None]) -> float | None:
    """The GLUE score of one seed; None if a run is missing (single texts have no overlap)."""
    scores: dict[str, list[float]] = {}
    for name, metrics in GLUE_METRICS.items():
        result = results[name]
        if result is None or (name == "mnli" and not result["subsets"]):
            return None
        if name == "mnli":
            scores[name] = [result["subsets"][half]["accuracy"] for half in metrics]
        else:
            scores[name] = [result["metrics"][metric] for metric in metrics]
    return glue_score(scores)
