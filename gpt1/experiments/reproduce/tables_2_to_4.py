"""Tables 2 to 4 as a page: a line for each of the paper's numbers, with ours beside it."""

from __future__ import annotations

from typing import Any

from gpt1.experiments.experiment_report import ExperimentReport, SeedScores
from gpt1.experiments.reproduce import paper
from gpt1.experiments.reproduce.paper_tasks import PaperTask, TaskName
from gpt1.experiments.reproduce.plan import ReproductionPlan
from gpt1.experiments.reproduce.scores import (
    METRIC_NAMES,
    collect_task_scores,
    comparison_sentence,
    difference_cell,
    optional_points_cell,
    percent_scores_json,
    points_cell,
)
from gpt1.experiments.result_store import ResultStore
from gpt1.report import Cell
from gpt1.tasks.metrics import glue_score


def add_tables(
    report: ExperimentReport, plan: ReproductionPlan, store: ResultStore
) -> tuple[list[str], list[dict[str, Any]]]:
    """A line for each of the paper's numbers; a task of another table, or of none, has its own."""
    lines: list[tuple[int, list[Any]]] = []
    said, results = [], []
    for task in plan.tasks:
        for column in columns_for_task(task.name):
            if column.subset and column.subset not in task.subsets:
                continue
            spreads = {method: collect_task_scores(plan, store, task, method, column) for method in plan.methods}
            ours, guess = next(iter(spreads.values())), 100 * task.baseline_score(column.metric, column.subset)
            cells = [spread.to_cell(1, 100) if spread else None for spread in spreads.values()]
            place, line = start_row(task.name, column)
            lines.append((place, [*line, *cells, difference_cell(ours, column.gpt1), points_cell(guess)]))
            results.append(
                {"task": task.name.text, "subset": column.subset, "metric": column.metric}
                | {"before": column.previous_best, "paper": column.gpt1, "guess": guess}
                | {"ours": {method: percent_scores_json(spread) for method, spread in spreads.items()}}
            )
            if ours:
                said.append(f"{line[0]}: {comparison_sentence(ours, column.gpt1)}")
    for one in plan.skipped_tasks:
        for column in columns_for_task(one.name):
            place, line = start_row(one.name, column)
            lines.append((place, [*line, Cell(None, one.reason), *[None] * (len(plan.methods) + 1)]))
    if plan.request.what == "table4":
        lines.append((LAST_POSITION, glue_row(plan, store)))
    titles = ["ours"] if list(plan.methods) == ["full"] else [f"ours, {m.title}" for m in plan.methods.values()]
    report.heading("Beside the paper")
    report.table(["task", "metric", "before", "GPT-1", *titles, "difference", "guess"], sort_rows(lines))
    report.paragraph(
        f"`before` is the best result that the paper names beside its own; `difference` is {titles[0]}, less GPT-1's; "
        "`guess` is what a constant answer (the commonest training label) or a random choice scores."
    )
    if plan.request.what in ("table2", "table4"):
        report.paragraph(
            "The paper's figures on GLUE are of test sets whose labels are not handed out; ours are of the split named "
            "below."
        )
    return said, results


LAST_POSITION = len(paper.all_columns())


def start_row(name: TaskName, column: paper.PublishedResult) -> tuple[int, list[Any]]:
    """(its place among the paper's columns, the first cells of its line)."""
    columns = paper.all_columns()
    title = name.title.replace(paper_title(name), column.title, 1)
    metric = METRIC_NAMES.get(column.metric, column.metric)
    place = columns.index(column) if column in columns else LAST_POSITION
    return place, [title, metric, optional_points_cell(column.previous_best), optional_points_cell(column.gpt1)]


def sort_rows(lines: list[tuple[int, list[Any]]]) -> list[list[Any]]:
    return [line for _, line in sorted(lines, key=lambda one: one[0])]


def columns_for_task(name: TaskName) -> list[paper.PublishedResult]:
    """The paper's columns of a task; one without numbers for a task that it does not have."""
    found = [column for column in paper.all_columns() if column.task == name.data.name]
    return found or [paper.PublishedResult(name.data.name, name.data.title, name.data.metrics[0])]


def paper_title(name: TaskName) -> str:
    """What `name.title` begins with."""
    column = paper.full_split_column(name.data.name)
    return column.title if column else name.data.title


GLUE_METRICS = {
    "cola": ("matthews",), "sst2": ("accuracy",), "mrpc": ("f1", "accuracy"), "stsb": ("pearson", "spearman"),
    "qqp": ("f1", "accuracy"), "mnli": ("m", "mm"), "qnli": ("accuracy",), "rte": ("accuracy",),
}  # fmt: skip
"""What counts in the GLUE score; of MNLI the accuracies of its two halves."""


def glue_row(plan: ReproductionPlan, store: ResultStore) -> list[Any]:
    """The line of the GLUE score. The leaderboard counts WNLI too, on which everybody has the majority's 65.1."""
    line: list[Any] = ["GLUE", "score", points_cell(paper.PREVIOUS_GLUE_SCORE), points_cell(paper.GLUE_SCORE)]
    tasks = {task.name.data.name: task for task in plan.tasks}
    missing = [name for name in GLUE_METRICS if name not in tasks]
    if not missing and not tasks["mnli"].subsets.keys() >= set(GLUE_METRICS["mnli"]):
        missing = ["the other half of mnli"]
    if missing:
        return [*line, Cell(None, f"needs {', '.join(missing)} too"), *[None] * (len(plan.methods) + 1)]
    by_method = []
    for method in plan.methods:
        whole = [seed_glue_score(plan, store, tasks, method, seed) for seed in range(plan.request.seeds)]
        by_method.append(SeedScores.from_values(score for score in whole if score is not None))
    cells = [spread.to_cell(1, 100) if spread else None for spread in by_method]
    return [*line, *cells, difference_cell(by_method[0], paper.GLUE_SCORE), None]


def seed_glue_score(
    plan: ReproductionPlan, store: ResultStore, tasks: dict[str, PaperTask], method: str, seed: int
) -> float | None:
    """The score of one seed, where all its runs are finished and MNLI's halves are told apart (of TF-IDF they are
    not)."""
    scores: dict[str, list[float]] = {}
    for name, metrics in GLUE_METRICS.items():
        cell = store.results.get(plan.job_key(tasks[name], method, seed))
        if cell is None or (name == "mnli" and not cell["subsets"]):
            return None
        if name == "mnli":
            scores[name] = [cell["subsets"][half]["accuracy"] for half in metrics]
        else:
            scores[name] = [cell["metrics"][metric] for metric in metrics]
    return glue_score(scores)
