"""The page of a reproduction: the paper's numbers, ours with their spread over seeds, and the difference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpt1 import formatting
from gpt1.experiments.cells import Kept, shape_of
from gpt1.experiments.document import Document, shown
from gpt1.experiments.reproduce import figure2, paper, table5
from gpt1.experiments.reproduce import tables as paper_tables
from gpt1.experiments.reproduce.plan import Plan
from gpt1.experiments.reproduce.scores import NAMES, points
from gpt1.report.run import is_number, mapping
from gpt1.runs import folder as runs


def write(plan: Plan, kept: Kept, failed: Sequence[str]) -> list[str]:
    """report.html, results.md and results.json from the finished cells; returns what to say."""
    document = Document(
        f"{'Figure 2' if plan.asked.what == 'figure2' else 'Table ' + plan.asked.what[-1]} beside the paper: "
        f"{paper.ABOUT[plan.asked.what]}",
        f"reproduce {plan.asked.what}",
        "All scores are 100 × the metric" + ("; ours are medians over seeds [least–greatest]." if plan.tasks else "."),
    )
    parts = {"table5": table5.parts, "figure2": figure2.parts}
    said, results = parts.get(plan.asked.what, paper_tables.parts)(document, plan, kept)
    rows_of(document, plan, kept)
    left_out = [f"{one.name.title}: left out: {one.why}." for one in plan.left_out]
    notes = [*plan.said, *left_out, *(note for task in plan.tasks for note in task.notes)]
    document.how_it_was_made(notes, failed, made_with(plan))
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
                formatting.duration(sum(cell.get("seconds", 0.0) for cell in cells)),
            ]
        )  # fmt: skip
    document.heading("Rows")
    document.table(
        ["task", "metric", "guess", "trained on (split)", "tested on (split)", "texts cut", "seeds", "training time"],
        lines,
    )
    if any(task.of[0] > len(task.training) or task.of[1] > len(task.test) for task in plan.tasks):
        document.paragraph("Where only some rows are taken they were drawn once: the same for every method and seed.")


def made_with(plan: Plan) -> dict[str, Any]:
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
    return f"{shown(shape_of(about['config']))}; weights SHA-256 {about['weights'][:16]}…"


def pretraining(run: str | Path) -> dict[str, Any]:
    """What a run folder says of its pre-training; nothing where it has no results."""
    results = runs.read_results(Path(run))
    told = {"updates": results.get("steps"), "tokens seen": results.get("tokens_seen")}
    perplexity = mapping(results.get("validation")).get("perplexity")
    return {name: value for name, value in told.items() if is_number(value) and value} | (
        {"held-out perplexity": formatting.number(perplexity)} if is_number(perplexity) else {}
    )
