"""Figure 2 as a page: what each transferred layer adds, and how zero-shot skill grows over pre-training."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gpt1.experiments.experiment_report import ExperimentReport, SeedScores
from gpt1.experiments.reproduce import paper
from gpt1.experiments.reproduce.plan import ReproductionPlan
from gpt1.experiments.reproduce.scores import (
    METRIC_NAMES,
    collect_task_scores,
    format_scores,
    overall_column,
    percent_scores_json,
    points_cell,
)
from gpt1.experiments.result_store import ResultStore
from gpt1.experiments.zeroshot.over_training import MODEL_NAMES
from gpt1.report import charts

if TYPE_CHECKING:
    from matplotlib.figure import Figure


CHART_HEIGHT = 300
ZeroShotCurves = dict[tuple[str, str], dict[int, dict[str, Any]]]
"""(task, model) → updates → a finished measurement."""


def add_figure2(
    report: ExperimentReport, plan: ReproductionPlan, store: ResultStore
) -> tuple[list[str], list[dict[str, Any]]]:
    """Whichever halves were asked for."""
    said: list[str] = []
    results: list[dict[str, Any]] = []
    for half, wanted in ((add_transfer_half, plan.tasks), (add_zeroshot_half, plan.zeroshot_runs)):
        if wanted:
            lines, found = half(report, plan, store)
            said += lines
            results += found
    return said, results


def add_transfer_half(
    report: ExperimentReport, plan: ReproductionPlan, store: ResultStore
) -> tuple[list[str], list[dict[str, Any]]]:
    layers = list(plan.methods)
    spreads = {
        task.name.title: [collect_task_scores(plan, store, task, method, overall_column(task)) for method in layers]
        for task in plan.tasks
    }
    report.heading("Transferred layers")
    report.figure(
        "figure2-left",
        draw_transfer(spreads),
        "Score against the number of pre-trained layers that fine-tuning starts from (the embeddings always are; the "
        "rest starts fresh, all are trained): medians over seeds, bands from the least to the greatest.",
    )
    report.table(
        ["layers", *(f"{task.name.title}, {METRIC_NAMES.get(task.metric, task.metric)}" for task in plan.tasks)],
        [[k, *(one[k].to_cell(1, 100) if one[k] else None for one in spreads.values())] for k in range(len(layers))],  # type: ignore[union-attr]
    )
    said = []
    for title, one in spreads.items():
        first, last = one[0], one[-1]
        if first and last:
            rises = 100 * (last.median - first.median)
            said.append(
                f"{title}: {format_scores(first)} with the embeddings alone, {format_scores(last)} with all {len(layers) - 1} layers "
                f"({rises:+.1f} points)".replace("(-", "(−")
            )
    report.add_bullets(said)
    report.paragraph("The paper: on RACE and MultiNLI every transferred layer helps, up to 9 points for all of them.")
    results = [
        {"half": "left", "task": task.name.text, "metric": task.metric}
        | {"layers": {str(k): percent_scores_json(spread) for k, spread in enumerate(spreads[task.name.title])}}
        for task in plan.tasks
    ]
    return said, results


def draw_transfer(spreads: dict[str, list[SeedScores | None]]) -> Figure:
    with charts.chart_style():
        figure, axes = charts.new_chart("score × 100", "pre-trained layers", height=CHART_HEIGHT)
        for colour, (title, one) in zip(charts.SERIES_COLORS, spreads.items(), strict=False):
            at = [(k, spread) for k, spread in enumerate(one) if spread]
            scores = [[100 * value for value in spread.values] for _, spread in at]
            tips = [f"{title}, {k} layers: {format_scores(spread)}" for k, spread in at]
            charts.band(axes, [k for k, _ in at], scores, tips, color=colour, label=title)
        charts.format_count_axis(axes.xaxis)
        charts.legend_below(axes)
    return figure


def add_zeroshot_half(
    report: ExperimentReport, plan: ReproductionPlan, store: ResultStore
) -> tuple[list[str], list[dict[str, Any]]]:
    curves: ZeroShotCurves = {}
    for shot in plan.zeroshot_runs:
        if cell := store.results.get(shot.job_key):
            curves.setdefault((shot.task, shot.checkpoint.model), {})[shot.checkpoint.step] = cell
    report.heading("Zero-shot behaviour")
    report.figure(
        "figure2-right",
        draw_zeroshot({name: of for name, of in curves.items() if paper.previous_best_score(name[0])}),
        "Tasks that the model was never trained on, by the paper's heuristics, over its pre-training. 0 is a random "
        "guess, 1 the best result that the paper names beside its own.",
    )
    report.table(*zeroshot_table(curves))
    report.add_bullets(
        f"{name}: {next(iter(of.values()))['how']}." for (name, model), of in curves.items() if model == "from"
    )
    scale = ", ".join(
        f"{name} {paper.previous_best_score(name)}"
        for name in dict.fromkeys(name for name, _ in curves)
        if paper.previous_best_score(name)
    )
    report.paragraph(
        f"What stands for 1: {scale or 'nothing here'}. The paper takes the best single model; for RACE that of its "
        "table is an ensemble. Winograd schemas have no such number in its tables: they are shown raw."
    )
    said = [growth_sentence(name, model, of) for (name, model), of in curves.items() if len(of) > 1]
    results = [
        {"half": "right", "task": name, "model": model, "metric": next(iter(of.values()))["metric"]}
        | {"guess": 100 * next(iter(of.values()))["guess"]}
        | {"steps": {str(k): {"score": 100 * cell["score"], "normalised": normalise_score(name, cell)}
                     for k, cell in sorted(of.items())}}
        for (name, model), of in curves.items()
    ]  # fmt: skip
    return said, results


def growth_sentence(name: str, model: str, of: dict[int, dict[str, Any]]) -> str:
    first, last = min(of), max(of)
    scores = [100 * of[step]["score"] for step in (first, last)]
    who = "" if model == "from" else f" ({MODEL_NAMES[model]})"
    return (
        f"zero-shot {name}{who}: {points_cell(scores[0]).text} after {first:,} updates, {points_cell(scores[1]).text} after "
        f"{last:,}; a guess has {100 * of[last]['guess']:.1f}"
    )


def normalise_score(name: str, cell: dict[str, Any]) -> float | None:
    """0 for a random guess, 1 for the best result before the paper."""
    best = paper.previous_best_score(name)
    if best is None:
        return None
    return float((cell["score"] - cell["guess"]) / (best / 100 - cell["guess"]))


def zeroshot_table(curves: ZeroShotCurves) -> tuple[list[str], list[list[Any]]]:
    """Raw scores × 100, the normalised ones small beside them."""
    steps = sorted({step for of in curves.values() for step in of})
    titles = [f"{name}{'' if model == 'from' else ', ' + MODEL_NAMES[model]}" for name, model in curves]
    lines: list[list[Any]] = []
    for step in steps:
        line: list[Any] = [step]
        for (name, _), of in curves.items():
            cell = of.get(step)
            share = normalise_score(name, cell) if cell else None
            note = "" if share is None else f"({share:.2f})".replace("-", "−")
            line.append(replace(points_cell(100 * cell["score"]), note=note) if cell else None)
        lines.append(line)
    guesses = [points_cell(100 * next(iter(of.values()))["guess"]) for of in curves.values()]
    rows = [next(iter(of.values()))["rows"] for of in curves.values()]
    return ["updates", *titles], [*lines, ["a random guess", *guesses], ["rows", *rows]]


def draw_zeroshot(curves: ZeroShotCurves) -> Figure:
    with charts.chart_style():
        figure, axes = charts.new_chart(
            "zero-shot, 0 a guess, 1 the best before", "updates of pre-training", height=CHART_HEIGHT
        )
        colours = dict(zip(dict.fromkeys(name for name, _ in curves), charts.SERIES_COLORS, strict=False))
        for (name, model), of in curves.items():
            steps = sorted(of)
            shares = [normalise_score(name, of[step]) or 0.0 for step in steps]
            label = name if model == "from" else f"{name}, {MODEL_NAMES[model]}"
            axes.plot(steps, shares, color=colours[name], label=label, linestyle="-" if model == "from" else "--")
            tips = [f"{label}, {step:,} updates: {100 * of[step]['score']:.1f}" for step in steps]
            charts.plot_points(axes, steps, shares, tips, color=colours[name])
        charts.add_reference_line(axes, 0.0, "a random guess")
        charts.format_count_axis(axes.xaxis)
        charts.legend_below(axes)
    return figure
