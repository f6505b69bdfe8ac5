"""The paper's numbers (Radford et al. 2018, section 5). All are 100 × the metric."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedResult:
    """A column of one of the paper's tables.

    Args:
        task: name of the data set in gpt1.
        title: of the column.
        metric: name of the metric.
        gpt1: the paper's own result; None if it has none.
        previous_best: the best result that the paper compares with; None if it has none.
        subset: part of the evaluation split; empty for all of it.
    """

    task: str
    title: str
    metric: str
    gpt1: float | None = None
    previous_best: float | None = None
    subset: str = ""


TABLES: dict[str, tuple[PublishedResult, ...]] = {
    "table2": (
        PublishedResult("mnli", "MNLI m", "accuracy", 82.1, 80.6, "m"),
        PublishedResult("mnli", "MNLI mm", "accuracy", 81.4, 80.1, "mm"),
        PublishedResult("snli", "SNLI", "accuracy", 89.9, 89.3),
        PublishedResult("scitail", "SciTail", "accuracy", 88.3, 83.3),
        PublishedResult("qnli", "QNLI", "accuracy", 88.1, 82.3),
        PublishedResult("rte", "RTE", "accuracy", 56.0, 61.7),
    ),
    "table3": (
        PublishedResult("storycloze", "Story Cloze", "accuracy", 86.5, 77.6),
        PublishedResult("race", "RACE m", "accuracy", 62.9, 60.2, "middle"),
        PublishedResult("race", "RACE h", "accuracy", 57.4, 50.3, "high"),
        PublishedResult("race", "RACE", "accuracy", 59.0, 53.3),
    ),
    "table4": (
        PublishedResult("cola", "CoLA", "matthews", 45.4, 35.0),
        PublishedResult("sst2", "SST-2", "accuracy", 91.3, 93.2),
        PublishedResult("mrpc", "MRPC", "f1", 82.3, 86.0),
        PublishedResult("stsb", "STS-B", "pearson", 82.0, 81.0),
        PublishedResult("qqp", "QQP", "f1", 70.3, 66.1),
    ),
}
TITLES = {
    "table2": "natural language inference",
    "table3": "question answering and commonsense reasoning",
    "table4": "similarity and classification",
    "table5": "ablations",
    "figure2": "transferred layers, and zero-shot behavior",
}
GLUE_SCORE, PREVIOUS_GLUE_SCORE = 72.8, 68.9

ABLATION_COLUMNS = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")
ABLATIONS: dict[str, tuple[float, ...]] = {  # table 5: method → score of each of ABLATION_COLUMNS
    "full": (45.4, 91.3, 82.3, 82.0, 70.3, 81.8, 88.1, 56.0),
    "scratch": (18.9, 84.0, 79.4, 30.9, 65.5, 75.7, 71.2, 53.8),
    "no-aux": (47.9, 92.0, 84.9, 83.2, 69.8, 81.1, 86.9, 54.4),
    "lstm": (30.3, 90.5, 83.2, 71.8, 68.1, 73.7, 81.1, 54.6),
}

TRANSFER_TASKS = ("race", "mnli")
"""Figure 2, left."""
ZERO_SHOT_TASKS = ("cola", "sst2", "race", "winograd")
"""Figure 2, right."""


def all_columns() -> list[PublishedResult]:
    return [column for table in TABLES.values() for column in table]


def full_split_column(task: str) -> PublishedResult | None:
    """The column of a task's whole evaluation split, if the paper has one."""
    return next((column for column in all_columns() if column.task == task and not column.subset), None)


def ablation_score(method: str, task: str) -> float | None:
    """A number of table 5."""
    row = ABLATIONS.get(method)
    return row[ABLATION_COLUMNS.index(task)] if row and task in ABLATION_COLUMNS else None


def previous_best_score(task: str) -> float | None:
    """The best result before the paper, in points: 1 on the axis of figure 2, right."""
    column = full_split_column(task)
    return column.previous_best if column else None
