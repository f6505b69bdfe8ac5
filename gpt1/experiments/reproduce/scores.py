"""Scores in the report of a reproduction: times 100, with one decimal, over the finished seeds."""

from __future__ import annotations

from typing import Any

from gpt1.experiments.experiment_report import SeedScores
from gpt1.experiments.reproduce import paper
from gpt1.experiments.reproduce.paper_tasks import PaperTask
from gpt1.experiments.reproduce.plan import ReproductionPlan
from gpt1.experiments.result_store import ResultStore
from gpt1.report.page import Cell

SCORE_NAMES = {"matthews": "Matthews", "f1": "F1", "pearson": "Pearson", "spearman": "Spearman"}


def overall_column(task: PaperTask) -> paper.PublishedResult:
    return paper.PublishedResult(task.name.data.name, task.name.title, task.metric)


def collect_task_scores(
    plan: ReproductionPlan, store: ResultStore, task: PaperTask, method: str, column: paper.PublishedResult
) -> SeedScores | None:
    """The scores of the finished seeds; None if there are none."""
    results = plan.finished_results(store, task, method).values()
    scores = (one["subsets"].get(column.subset, {}) if column.subset else one["metrics"] for one in results)
    return SeedScores.from_values(one[column.metric] for one in scores if column.metric in one)


def scores_cell(scores: SeedScores | None) -> Cell | None:
    """Median and range in points."""
    return scores.to_cell(1, 100) if scores else None


def points_cell(value: float, sign: str = "") -> Cell:
    """A number with one decimal, as in the paper; positive ones have a sign if `sign` is "+"."""
    return Cell(value, f"{round(value, 1) + 0.0:{sign}.1f}".replace("-", "−"))  # + 0.0: no −0.0


def optional_points_cell(value: float | None, sign: str = "") -> Cell | None:
    return None if value is None else points_cell(value, sign)


def difference_cell(ours: SeedScores | None, theirs: float | None) -> Cell | None:
    return points_cell(100 * ours.median - theirs, "+") if ours and theirs is not None else None


def percent_scores_json(scores: SeedScores | None) -> dict[str, Any] | None:
    return SeedScores(tuple(100 * value for value in scores.values)).to_json() if scores else None


def format_scores(scores: SeedScores) -> str:
    return str(scores.to_cell(1, 100))


def comparison_sentence(ours: SeedScores, theirs: float | None) -> str:
    return format_scores(ours) + (f", the paper {theirs:.1f}" if theirs is not None else "")
