"""Scores as a reproduction shows them: times 100, with one decimal, over the seeds that are finished."""

from __future__ import annotations

from typing import Any

from gpt1.experiments.experiment_report import SeedScores
from gpt1.experiments.reproduce import paper
from gpt1.experiments.reproduce.paper_tasks import PaperTask
from gpt1.experiments.reproduce.plan import ReproductionPlan
from gpt1.experiments.result_store import ResultStore
from gpt1.report import Cell

METRIC_NAMES = {"matthews": "Matthews", "f1": "F1", "pearson": "Pearson", "spearman": "Spearman"}


def overall_column(task: PaperTask) -> paper.PublishedResult:
    return paper.PublishedResult(task.name.data.name, task.name.title, task.metric)


def collect_task_scores(
    plan: ReproductionPlan, store: ResultStore, task: PaperTask, method: str, column: paper.PublishedResult
) -> SeedScores | None:
    """The scores of the finished seeds."""
    found = []
    for seed in range(plan.request.seeds):
        if cell := store.results.get(plan.job_key(task, method, seed)):
            scores = cell["subsets"].get(column.subset, {}) if column.subset else cell["metrics"]
            if column.metric in scores:
                found.append(scores[column.metric])
    return SeedScores.from_values(found)


def points_cell(value: float) -> Cell:
    """A number as the paper writes them."""
    return Cell(value, f"{round(value, 1) + 0.0:.1f}".replace("-", "−"))  # + 0.0: no −0.0


def optional_points_cell(value: float | None) -> Cell | None:
    return None if value is None else points_cell(value)


def signed_cell(value: float | None) -> Cell | None:
    """A difference."""
    return None if value is None else Cell(value, f"{round(value, 1) + 0.0:+.1f}".replace("-", "−"))


def difference_cell(ours: SeedScores | None, theirs: float | None) -> Cell | None:
    return signed_cell(100 * ours.median - theirs) if ours and theirs is not None else None


def percent_scores_json(spread: SeedScores | None) -> dict[str, Any] | None:
    return SeedScores(tuple(100 * value for value in spread.values)).to_json() if spread else None


def format_scores(spread: SeedScores) -> str:
    return str(spread.to_cell(1, 100))


def comparison_sentence(ours: SeedScores, theirs: float | None) -> str:
    return format_scores(ours) + (f", the paper {theirs:.1f}" if theirs is not None else "")
