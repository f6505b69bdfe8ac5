"""The report of a reproduction: the paper's numbers, ours with their range over seeds, and the difference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpt1 import formatting
from gpt1.experiments.experiment_report import ExperimentReport, format_fact
from gpt1.experiments.reproduce import figure2, paper, table5
from gpt1.experiments.reproduce import tables_2_to_4 as paper_tables
from gpt1.experiments.reproduce.plan import ReproductionPlan
from gpt1.experiments.reproduce.scores import SCORE_NAMES, points_cell
from gpt1.experiments.result_store import ResultStore, config_dimensions
from gpt1.report.run_reader import as_dict, is_number
from gpt1.runs import folder as runs


def write_reproduction_report(plan: ReproductionPlan, store: ResultStore, failed: Sequence[str]) -> list[str]:
    """Write report.html, results.md and results.json from the finished runs; returns the lines to print."""
    what = plan.request.what
    ours = "medians over seeds [min–max]" if plan.request.seeds > 1 else "of one seed, so the spread is unknown"
    report = ExperimentReport(
        f"{'Figure 2' if what == 'figure2' else 'Table ' + what[-1]} compared with the paper: {paper.TITLES[what]}",
        f"reproduce {what}",
        "All scores are 100 × the metric" + (f"; ours are {ours}." if plan.tasks else "."),
    )
    add_results = {"table5": table5.add_table5, "figure2": figure2.add_figure2}.get(what, paper_tables.add_tables)
    sentences, results = add_results(report, plan, store)
    add_rows_table(report, plan, store)
    notes = [*plan.notes, *(f"{task}." for task in plan.skipped_tasks), *(n for task in plan.tasks for n in task.notes)]
    report.add_provenance(notes, failed, reproduction_facts(plan))
    report.code(plan.request.command_line(), "The command; run it again to resume:")
    content = {
        "what": what,
        "about": store.about,
        "command": plan.request.command_line(),
        "results": results,
        "left_out": {task.name.text: task.reason for task in plan.skipped_tasks},
        "failed": list(failed),
    }
    report.write(store.folder, content)
    return sentences


def add_rows_table(report: ExperimentReport, plan: ReproductionPlan, store: ResultStore) -> None:
    """The rows of each task, the share of truncated texts, the finished seeds and the training time."""
    if not plan.tasks:
        return
    lines = []
    for task in plan.tasks:
        by_method = [
            list(plan.finished_results(store, task, method).values()) for method in plan.applicable_methods(task)
        ]
        fewest, most = min(map(len, by_method), default=0), max(map(len, by_method), default=0)
        results = [result for found in by_method for result in found]
        truncated = next((result["cut"] for result in results if "cut" in result), None)
        lines.append(
            [
                task.name.title, SCORE_NAMES.get(task.metric, task.metric),
                points_cell(100 * task.baseline_score(task.metric)),
                f"{task.describe_train_rows()} ({task.name.train.split})",
                f"{task.describe_test_rows()} ({task.name.test.split})",
                None if truncated is None else f"{100 * truncated:.1f} %",
                f"{fewest if fewest == most else f'{fewest} to {most}'} of {plan.request.seeds}",
                formatting.format_duration(sum(result.get("seconds", 0.0) for result in results)),
            ]
        )  # fmt: skip
    report.heading("Rows")
    titles = ["task", "metric", "baseline", "trained on (split)", "tested on (split)", "texts truncated", "seeds"]
    report.table([*titles, "training time"], lines)
    if any(task.total_rows[0] > len(task.training) or task.total_rows[1] > len(task.test) for task in plan.tasks):
        report.paragraph("Samples of rows are drawn once and are the same for every method and seed.")


def reproduction_facts(plan: ReproductionPlan) -> dict[str, Any]:
    """How the numbers were made, for the report."""
    facts = {
        "model": f"{plan.request.from_}: {format_model_facts(plan.models['from'])}",
        "its pre-training": pretraining_facts(plan.request.from_),
    }
    if plan.request.lstm:
        facts["LSTM"] = f"{plan.request.lstm}: {format_model_facts(plan.models['lstm'])}"
        facts["the LSTM's pre-training"] = pretraining_facts(plan.request.lstm)
    facts = {name: value for name, value in facts.items() if value}
    if not plan.tasks:  # nothing was fine-tuned
        return facts
    return {
        **facts,
        "seeds": plan.request.seeds,
        "training": "all training rows are used for training and the last epoch counts",
        "settings": plan.request.settings or "the defaults of gpt1 finetune",
    }


def format_model_facts(facts: dict[str, Any]) -> str:
    """A model's shape, and the hash of its weights."""
    return f"{format_fact(config_dimensions(facts['config']))}; weights SHA-256 {facts['weights'][:16]}…"


def pretraining_facts(run: str | Path) -> dict[str, Any]:
    """The pre-training results of a run folder; empty if it has none."""
    results = runs.read_results(Path(run))
    facts = {"steps": results.get("steps"), "tokens seen": results.get("tokens_seen")}
    perplexity = as_dict(results.get("validation")).get("perplexity")
    return {name: value for name, value in facts.items() if is_number(value) and value} | (
        {"validation perplexity": formatting.format_number(perplexity)} if is_number(perplexity) else {}
    )
