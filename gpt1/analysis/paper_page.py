"""The page of a reproduction: the paper's numbers, ours with their spread over seeds, and the difference."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt1 import runs, wording
from gpt1.analysis import paper
from gpt1.analysis.cells import Kept, shape_of
from gpt1.analysis.document import Document, Spread, settings_table
from gpt1.analysis.document import shown as shown_value
from gpt1.analysis.paper_tasks import Name, PaperTask
from gpt1.metrics import glue_score
from gpt1.report import Cell

if TYPE_CHECKING:
    from gpt1.analysis.reproduce import Plan

NAMES = {"matthews": "Matthews", "f1": "F1", "pearson": "Pearson", "spearman": "Spearman"}


def write(plan: Plan, kept: Kept, failed: Sequence[str]) -> list[str]:
    """report.html, results.md and results.json from the finished cells; returns what to say."""
    from gpt1.analysis import figure2, table5

    document = Document(
        f"{'Figure 2' if plan.asked.what == 'figure2' else 'Table ' + plan.asked.what[-1]} beside the paper: "
        f"{paper.ABOUT[plan.asked.what]}",
        f"reproduce {plan.asked.what}",
        "All scores are 100 × the metric" + ("; ours are medians over seeds [least–greatest]." if plan.tasks else "."),
    )
    parts = {"table5": table5.parts, "figure2": figure2.parts}
    said, results = parts.get(plan.asked.what, table)(document, plan, kept)
    rows_of(document, plan, kept)
    document.heading("How it was made")
    document.points(
        [
            *plan.said,
            *(f"{one.name.title}: left out: {one.why}." for one in plan.left_out),
            *(note for task in plan.tasks for note in task.notes),
            *(f"Not finished: {line}" for line in failed),
        ]
    )
    settings_table(document, made_with(plan, kept))
    document.code(plan.asked.command(), "The command; it goes on where it was stopped:")
    document.write(
        kept.folder,
        {
            "what": plan.asked.what,
            "about": kept.about,
            "command": plan.asked.command(),
            "results": results,
            "left_out": {one.name.text: one.why for one in plan.left_out},
            "failed": list(failed),
        },
    )
    return said


# --- tables 2 to 4 ---------------------------------------------------------------------------------------------------


def table(document: Document, plan: Plan, kept: Kept) -> tuple[list[str], list[dict[str, Any]]]:
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
    if missing := [name for name in GLUE_SCORES if name not in tasks]:
        return [*line, Cell(None, f"needs {', '.join(missing)} too"), *[None] * (len(plan.methods) + 1)]
    by_method = []
    for method in plan.methods:
        whole = [glue_of(plan, kept, tasks, method, seed) for seed in range(plan.asked.seeds)]
        by_method.append(Spread.of(score for score in whole if score is not None))
    cells = [spread.cell(1, 100) if spread else None for spread in by_method]
    return [*line, *cells, difference(by_method[0], paper.GLUE), None]


def glue_of(plan: Plan, kept: Kept, tasks: dict[str, PaperTask], method: str, seed: int) -> float | None:
    """The score of one seed, where all its runs are finished."""
    scores: dict[str, list[float]] = {}
    for name, metrics in GLUE_SCORES.items():
        cell = kept.cells.get(plan.key(tasks[name], method, seed))
        if cell is None:
            return None
        if name == "mnli":
            scores[name] = [cell["subsets"][half]["accuracy"] for half in metrics]
        else:
            scores[name] = [cell["metrics"][metric] for metric in metrics]
    return glue_score(scores)


# --- what all have ---------------------------------------------------------------------------------------------------


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


def rows_of(document: Document, plan: Plan, kept: Kept) -> None:
    """Which rows, how many of them, how much of the texts did not fit, how many seeds are finished."""
    if not plan.tasks:
        return
    lines = []
    for task in plan.tasks:
        cells = [
            cell
            for method in plan.methods
            for seed in range(plan.asked.seeds)
            if (cell := kept.cells.get(plan.key(task, method, seed)))
        ]
        finished = [sum(plan.key(task, m, s) in kept.cells for s in range(plan.asked.seeds)) for m in plan.methods]
        least, most = min(finished), max(finished)
        cut = next((cell["cut"] for cell in cells if "cut" in cell), None)
        guess = points(100 * task.guess(task.metric))
        lines.append(
            [
                task.name.title, NAMES.get(task.metric, task.metric), guess,
                f"{task.trained_on()} ({task.name.train.split})", f"{task.tested_on()} ({task.name.test.split})",
                None if cut is None else f"{100 * cut:.1f} %",
                f"{least} of {plan.asked.seeds}" if least == most else f"{least} to {most} of {plan.asked.seeds}",
                wording.duration(sum(cell.get("seconds", 0.0) for cell in cells)),
            ]
        )  # fmt: skip
    document.heading("Rows")
    document.table(
        ["task", "metric", "guess", "trained on (split)", "tested on (split)", "texts cut", "seeds", "training time"],
        lines,
    )
    if any(task.of[0] > len(task.training) or task.of[1] > len(task.test) for task in plan.tasks):
        document.paragraph("Where only some rows are taken they were drawn once: the same for every method and seed.")


def made_with(plan: Plan, kept: Kept) -> dict[str, Any]:
    facts = {
        "model": f"{plan.asked.from_}: {told_model(plan.models['from'])}",
        "its pre-training": pretraining(plan.asked.from_),
    }
    if plan.asked.lstm:
        facts |= {
            "LSTM": f"{plan.asked.lstm}: {told_model(plan.models['lstm'])}",
            "the LSTM's pre-training": pretraining(plan.asked.lstm),
        }
    facts = {name: value for name, value in facts.items() if value}
    if not plan.tasks:  # nothing was fine-tuned
        return facts
    return {
        **facts,
        "seeds": plan.asked.seeds,
        "updates": "all training rows are learnt from; the last epoch counts, none is chosen",
        "settings": plan.asked.settings or "the defaults of gpt1 finetune",
    }


def told_model(about: dict[str, Any]) -> str:
    """Its shape, and by what its weights are known."""
    return f"{shown_value(shape_of(about['config']))}; weights SHA-256 {about['weights'][:16]}…"


def pretraining(run: str | Path) -> dict[str, Any]:
    """What a run folder tells of its pre-training."""
    path = Path(run) / runs.RESULTS
    if not path.exists():
        return {}
    results = json.loads(path.read_text(encoding="utf-8"))
    told = {"updates": results.get("steps"), "tokens seen": results.get("tokens_seen")}
    perplexity = results.get("validation", {}).get("perplexity")
    return {name: value for name, value in told.items() if value} | (
        {"held-out perplexity": wording.number(perplexity)} if perplexity else {}
    )


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
    cell = spread.cell(1, 100)
    return " ".join(part for part in (cell.text, cell.note) if part)


def sentence(ours: Spread, theirs: float | None) -> str:
    return shown(ours) + (f", the paper {theirs:.1f}" if theirs is not None else "")
