"""Tables 2 to 4 as a page: a line for each of the paper's numbers, with ours beside it."""

from __future__ import annotations

from typing import Any

from gpt1.experiments.cells import Kept
from gpt1.experiments.document import Document, Spread
from gpt1.experiments.reproduce import paper
from gpt1.experiments.reproduce.plan import Plan
from gpt1.experiments.reproduce.scores import NAMES, difference, hundred, known, points, sentence, spread_of
from gpt1.experiments.reproduce.tasks import Name, PaperTask
from gpt1.report import Cell
from gpt1.tasks.metrics import glue_score


def parts(document: Document, plan: Plan, kept: Kept) -> tuple[list[str], list[dict[str, Any]]]:
    """A line for each of the paper's numbers; a task of another table, or of none, has its own."""
    lines: list[tuple[int, list[Any]]] = []
    said, results = [], []
    for task in plan.tasks:
        for column in columns_of(task.name):
            if column.subset and column.subset not in task.subsets:
                continue
            spreads = {method: spread_of(plan, kept, task, method, column) for method in plan.methods}
            ours, guess = next(iter(spreads.values())), 100 * task.guess(column.metric, column.subset)
            cells = [spread.cell(1, 100) if spread else None for spread in spreads.values()]
            place, line = begun(task.name, column)
            lines.append((place, [*line, *cells, difference(ours, column.gpt1), points(guess)]))
            results.append(
                {"task": task.name.text, "subset": column.subset, "metric": column.metric}
                | {"before": column.before, "paper": column.gpt1, "guess": guess}
                | {"ours": {method: hundred(spread) for method, spread in spreads.items()}}
            )
            if ours:
                said.append(f"{line[0]}: {sentence(ours, column.gpt1)}")
    for one in plan.left_out:
        for column in columns_of(one.name):
            place, line = begun(one.name, column)
            lines.append((place, [*line, Cell(None, one.why), *[None] * (len(plan.methods) + 1)]))
    if plan.asked.what == "table4":
        lines.append((LAST, glue(plan, kept)))
    titles = ["ours"] if list(plan.methods) == ["full"] else [f"ours, {m.title}" for m in plan.methods.values()]
    document.heading("Beside the paper")
    document.table(["task", "metric", "before", "GPT-1", *titles, "difference", "guess"], in_order(lines))
    document.paragraph(
        f"`before` is the best result that the paper names beside its own; `difference` is {titles[0]}, less GPT-1's; "
        "`guess` is what a constant answer (the commonest training label) or a random choice scores."
    )
    if plan.asked.what in ("table2", "table4"):
        document.paragraph(
            "The paper's figures on GLUE are of test sets whose labels are not handed out; ours are of the split named "
            "below."
        )
    return said, results


LAST = len(paper.columns())


def begun(name: Name, column: paper.Published) -> tuple[int, list[Any]]:
    """(its place among the paper's columns, the first cells of its line)."""
    columns = paper.columns()
    title = name.title.replace(paper_title(name), column.title, 1)
    metric = NAMES.get(column.metric, column.metric)
    place = columns.index(column) if column in columns else LAST
    return place, [title, metric, known(column.before), known(column.gpt1)]


def in_order(lines: list[tuple[int, list[Any]]]) -> list[list[Any]]:
    return [line for _, line in sorted(lines, key=lambda one: one[0])]


def columns_of(name: Name) -> list[paper.Published]:
    """The paper's columns of a task; one without numbers for a task that it does not have."""
    found = [column for column in paper.columns() if column.task == name.data.name]
    return found or [paper.Published(name.data.name, name.data.title, name.data.metrics[0])]


def paper_title(name: Name) -> str:
    """What `name.title` begins with."""
    column = paper.whole(name.data.name)
    return column.title if column else name.data.title


GLUE_SCORES = {
    "cola": ("matthews",), "sst2": ("accuracy",), "mrpc": ("f1", "accuracy"), "stsb": ("pearson", "spearman"),
    "qqp": ("f1", "accuracy"), "mnli": ("m", "mm"), "qnli": ("accuracy",), "rte": ("accuracy",),
}  # fmt: skip
"""What counts in the GLUE score; of MNLI the accuracies of its two halves."""


def glue(plan: Plan, kept: Kept) -> list[Any]:
    """The line of the GLUE score. The leaderboard counts WNLI too, on which everybody has the majority's 65.1."""
    line: list[Any] = ["GLUE", "score", points(paper.GLUE_BEFORE), points(paper.GLUE)]
    tasks = {task.name.data.name: task for task in plan.tasks}
    missing = [name for name in GLUE_SCORES if name not in tasks]
    if not missing and not tasks["mnli"].subsets.keys() >= set(GLUE_SCORES["mnli"]):
        missing = ["the other half of mnli"]
    if missing:
        return [*line, Cell(None, f"needs {', '.join(missing)} too"), *[None] * (len(plan.methods) + 1)]
    by_method = []
    for method in plan.methods:
        whole = [glue_of(plan, kept, tasks, method, seed) for seed in range(plan.asked.seeds)]
        by_method.append(Spread.of(score for score in whole if score is not None))
    cells = [spread.cell(1, 100) if spread else None for spread in by_method]
    return [*line, *cells, difference(by_method[0], paper.GLUE), None]


def glue_of(plan: Plan, kept: Kept, tasks: dict[str, PaperTask], method: str, seed: int) -> float | None:
    """The score of one seed, where all its runs are finished and MNLI's halves are told apart (of TF-IDF they are
    not)."""
    scores: dict[str, list[float]] = {}
    for name, metrics in GLUE_SCORES.items():
        cell = kept.cells.get(plan.key(tasks[name], method, seed))
        if cell is None or (name == "mnli" and not cell["subsets"]):
            return None
        if name == "mnli":
            scores[name] = [cell["subsets"][half]["accuracy"] for half in metrics]
        else:
            scores[name] = [cell["metrics"][metric] for metric in metrics]
    return glue_score(scores)
