"""Scores as a reproduction shows them: times 100, with one decimal, over the seeds that are finished."""

from __future__ import annotations

from typing import Any

from gpt1.experiments.cells import Kept
from gpt1.experiments.document import Spread
from gpt1.experiments.reproduce import paper
from gpt1.experiments.reproduce.plan import Plan
from gpt1.experiments.reproduce.tasks import PaperTask
from gpt1.report import Cell

NAMES = {"matthews": "Matthews", "f1": "F1", "pearson": "Pearson", "spearman": "Spearman"}


def whole_of(task: PaperTask) -> paper.Published:
    return paper.Published(task.name.data.name, task.name.title, task.metric)


def spread_of(plan: Plan, kept: Kept, task: PaperTask, method: str, column: paper.Published) -> Spread | None:
    """The scores of the finished seeds."""
    found = []
    for seed in range(plan.asked.seeds):
        if cell := kept.cells.get(plan.key(task, method, seed)):
            scores = cell["subsets"].get(column.subset, {}) if column.subset else cell["metrics"]
            if column.metric in scores:
                found.append(scores[column.metric])
    return Spread.of(found)


def points(value: float) -> Cell:
    """A number as the paper writes them."""
    return Cell(value, f"{round(value, 1) + 0.0:.1f}".replace("-", "−"))  # + 0.0: no −0.0


def known(value: float | None) -> Cell | None:
    return None if value is None else points(value)


def signed(value: float | None) -> Cell | None:
    """A difference."""
    return None if value is None else Cell(value, f"{round(value, 1) + 0.0:+.1f}".replace("-", "−"))


def difference(ours: Spread | None, theirs: float | None) -> Cell | None:
    return signed(100 * ours.median - theirs) if ours and theirs is not None else None


def hundred(spread: Spread | None) -> dict[str, Any] | None:
    return Spread(tuple(100 * value for value in spread.values)).json() if spread else None


def shown(spread: Spread) -> str:
    return str(spread.cell(1, 100))


def sentence(ours: Spread, theirs: float | None) -> str:
    return shown(ours) + (f", the paper {theirs:.1f}" if theirs is not None else "")
