"""The page of a reproduction: the paper's numbers, ours with their spread over seeds, and the difference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpt1 import formatting
from gpt1.experiments.experiment_report import ExperimentReport, format_fact
from gpt1.experiments.reproduce import figure2, paper, table5
from gpt1.experiments.reproduce import tables_2_to_4 as paper_tables
from gpt1.experiments.reproduce.plan import ReproductionPlan
from gpt1.experiments.reproduce.scores import METRIC_NAMES, points_cell
from gpt1.experiments.result_store import ResultStore, model_shape
from gpt1.report.run_reader import as_dict, is_number
from gpt1.runs import folder as runs


def write_reproduction_report(plan: ReproductionPlan, store: ResultStore, failed: Sequence[str]) -> list[str]:
    """report.html, results.md and results.json from the finished cells; returns what to say."""
    document = ExperimentReport(
        f"{'Figure 2' if plan.request.what == 'figure2' else 'Table ' + plan.request.what[-1]} beside the paper: "
        f"{paper.TITLES[plan.request.what]}",
        f"reproduce {plan.request.what}",
        "All scores are 100 × the metric" + ("; ours are medians over seeds [least–greatest]." if plan.tasks else "."),
    )
    parts = {"table5": table5.add_table5, "figure2": figure2.add_figure2}
    said, results = parts.get(plan.request.what, paper_tables.add_tables)(document, plan, store)
    add_rows_table(document, plan, store)
    left_out = [f"{one.name.title}: left out: {one.reason}." for one in plan.skipped_tasks]
    notes = [*plan.notes, *left_out, *(note for task in plan.tasks for note in task.notes)]
    document.how_it_was_made(notes, failed, reproduction_facts(plan))
    document.code(plan.request.command_line(), "The command; it goes on where it was stopped:")
    document.write(
        store.folder,
        {
            "what": plan.request.what,
            "about": store.about,
            "command": plan.request.command_line(),
            "results": results,
            "left_out": {one.name.text: one.reason for one in plan.skipped_tasks},
            "failed": list(failed),
        },
    )
    return said


def add_rows_table(report: ExperimentReport, plan: ReproductionPlan, store: ResultStore) -> None:
    """Which rows, how many of them, how much of the texts did not fit, how many seeds are finished."""
    if not plan.tasks:
        return
    lines = []
    for task in plan.tasks:
        cells = [
            cell
            for method in plan.methods
            for seed in range(plan.request.seeds)
            if (cell := store.results.get(plan.job_key(task, method, seed)))
        ]
        finished = [
            sum(plan.job_key(task, m, s) in store.results for s in range(plan.request.seeds)) for m in plan.methods
        ]
        least, most = min(finished), max(finished)
        cut = next((cell["cut"] for cell in cells if "cut" in cell), None)
        guess = points_cell(100 * task.baseline_score(task.metric))
        lines.append(
            [
                task.name.title, METRIC_NAMES.get(task.metric, task.metric), guess,
                f"{task.describe_train_rows()} ({task.name.train.split})", f"{task.describe_test_rows()} ({task.name.test.split})",
                None if cut is None else f"{100 * cut:.1f} %",
                f"{least} of {plan.request.seeds}" if least == most else f"{least} to {most} of {plan.request.seeds}",
                formatting.format_duration(sum(cell.get("seconds", 0.0) for cell in cells)),
            ]
        )  # fmt: skip
    report.heading("Rows")
    report.table(
        ["task", "metric", "guess", "trained on (split)", "tested on (split)", "texts cut", "seeds", "training time"],
        lines,
    )
    if any(task.total_rows[0] > len(task.training) or task.total_rows[1] > len(task.test) for task in plan.tasks):
        report.paragraph("Where only some rows are taken they were drawn once: the same for every method and seed.")


def reproduction_facts(plan: ReproductionPlan) -> dict[str, Any]:
    facts = {
        "model": f"{plan.request.from_}: {describe_model(plan.models['from'])}",
        "its pre-training": pretraining_facts(plan.request.from_),
    }
    if plan.request.lstm:
        facts |= {
            "LSTM": f"{plan.request.lstm}: {describe_model(plan.models['lstm'])}",
            "the LSTM's pre-training": pretraining_facts(plan.request.lstm),
        }
    facts = {name: value for name, value in facts.items() if value}
    if not plan.tasks:  # nothing was fine-tuned
        return facts
    return {
        **facts,
        "seeds": plan.request.seeds,
        "updates": "all training rows are learnt from; the last epoch counts, none is chosen",
        "settings": plan.request.settings or "the defaults of gpt1 finetune",
    }


def describe_model(about: dict[str, Any]) -> str:
    """Its shape, and by what its weights are known."""
    return f"{format_fact(model_shape(about['config']))}; weights SHA-256 {about['weights'][:16]}…"


def pretraining_facts(run: str | Path) -> dict[str, Any]:
    """What a run folder says of its pre-training; nothing where it has no results."""
    results = runs.read_results(Path(run))
    told = {"updates": results.get("steps"), "tokens seen": results.get("tokens_seen")}
    perplexity = as_dict(results.get("validation")).get("perplexity")
    return {name: value for name, value in told.items() if is_number(value) and value} | (
        {"held-out perplexity": formatting.format_number(perplexity)} if is_number(perplexity) else {}
    )
