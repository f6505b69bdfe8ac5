"""Figure 2 in the report: the effect of each transferred layer, and zero-shot scores over pre-training."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gpt1.experiments.experiment_report import ExperimentReport, SeedScores, describe_spread, single_seed_intervals
from gpt1.experiments.reproduce import paper
from gpt1.experiments.reproduce.plan import ReproductionPlan
from gpt1.experiments.reproduce.scores import (
    SCORE_NAMES,
    collect_task_scores,
    format_scores,
    overall_column,
    percent_scores_json,
    points_cell,
    scores_cell,
)
from gpt1.experiments.result_store import ResultStore
from gpt1.experiments.zeroshot.over_training import MODEL_NAMES
from gpt1.formatting import count_noun
from gpt1.report import charts
from gpt1.report.page import Cell
from gpt1.report.run_reader import as_dict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ZeroShotCurve = dict[int, dict[str, Any]]
"""Pre-training steps → result."""
ZeroShotCurves = dict[tuple[str, str], ZeroShotCurve]
"""(task, model) → curve."""


def add_figure2(
    report: ExperimentReport, plan: ReproductionPlan, store: ResultStore
) -> tuple[list[str], list[dict[str, Any]]]:
    """Add the requested halves. Returns (sentences for the terminal, results for results.json)."""
    sentences: list[str] = []
    results: list[dict[str, Any]] = []
    for add_half, runs in ((add_transfer_half, plan.tasks), (add_zeroshot_half, plan.zeroshot_runs)):
        if runs:
            half_sentences, half_results = add_half(report, plan, store)
            sentences += half_sentences
            results += half_results
    return sentences, results


def add_transfer_half(
    report: ExperimentReport, plan: ReproductionPlan, store: ResultStore
) -> tuple[list[str], list[dict[str, Any]]]:
    by_task = {
        task.name.title: [
            collect_task_scores(plan, store, task, method, overall_column(task)) for method in plan.methods
        ]
        for task in plan.tasks
    }
    n_layers = len(plan.methods) - 1
    intervals = {
        task.name.title: single_seed_intervals(filter(None, by_task[task.name.title]), task.metric, len(task.test), 100)
        for task in plan.tasks
    }
    bars = "; bars: 95% intervals from the number of test rows" * any(map(any, intervals.values()))
    report.heading("Transferred layers")
    report.figure(
        "figure2-left",
        draw_transfer(by_task, intervals),
        "Score against the number of pre-trained layers that fine-tuning starts from (the embeddings are always "
        "pre-trained; the other layers start from random weights; all weights are trained): "
        f"{describe_spread(one for scores in by_task.values() for one in scores if one)}{bars}.",
    )
    report.table(
        ["layers", *(f"{task.name.title}, {SCORE_NAMES.get(task.metric, task.metric)}" for task in plan.tasks)],
        [[k, *(scores_cell(scores[k]) for scores in by_task.values())] for k in range(n_layers + 1)],
    )
    sentences = []
    for title, scores in by_task.items():
        first, last = scores[0], scores[-1]
        if first and last:
            gain = f"{100 * (last.median - first.median):+.1f}".replace("-", "−")
            sentences.append(
                f"{title}: {format_scores(first)} with the embeddings alone, {format_scores(last)} with all {n_layers} "
                f"layers ({gain} points)"
            )
    report.add_bullets(sentences)
    report.paragraph("In the paper every transferred layer helps on RACE and MultiNLI, up to 9 points in total.")
    results = [
        {"half": "left", "task": task.name.text, "metric": task.metric}
        | {"layers": {str(k): percent_scores_json(scores) for k, scores in enumerate(by_task[task.name.title])}}
        for task in plan.tasks
    ]
    return sentences, results


def draw_transfer(
    by_task: dict[str, list[SeedScores | None]], intervals: dict[str, list[tuple[float, float] | None]]
) -> Figure:
    with charts.chart_style():
        figure, axes = charts.new_chart("score × 100", "pre-trained layers")
        for style, (title, by_layers) in zip(charts.series_styles(), by_task.items(), strict=False):
            finished = {k: scores for k, scores in enumerate(by_layers) if scores}
            values = [[100 * value for value in scores.values] for scores in finished.values()]
            tooltips = [f"{title}, {k} layers: {format_scores(scores)}" for k, scores in finished.items()]
            charts.plot_band(
                axes, list(finished), values, tooltips, style=style, label=title, intervals=intervals[title]
            )
        charts.format_count_axis(axes.xaxis)
        charts.add_legend(axes)
    return figure


def add_zeroshot_half(
    report: ExperimentReport, plan: ReproductionPlan, store: ResultStore
) -> tuple[list[str], list[dict[str, Any]]]:
    curves: ZeroShotCurves = {}
    for run in plan.zeroshot_runs:
        if result := store.results.get(run.job_key):
            curves.setdefault((run.task, run.checkpoint.model), {})[run.checkpoint.step] = result
    report.heading("Zero-shot behavior")
    report.figure(
        "figure2-right",
        draw_zeroshot({key: curve for key, curve in curves.items() if paper.previous_best_score(key[0])}),
        "Zero-shot scores over pre-training, by the paper's heuristics, between a random guess (0) and the best result "
        "before the paper (1); bars: 95% intervals from the number of rows.",
    )
    report.table(*zeroshot_table(curves))
    report.add_bullets(
        f"{task}: {first_result(curve)['how']}." for (task, model), curve in curves.items() if model == "from"
    )
    best = {task: paper.previous_best_score(task) for task, _ in curves}
    scale = ", ".join(f"{task} {score}" for task, score in best.items() if score)
    report.paragraph(
        f"Best results before the paper: {scale or 'none for these tasks'}. The paper takes the best single model; for "
        "RACE the result in its table is an ensemble. Its tables have no result on Winograd schemas, so their scores "
        "are raw."
    )
    sentences = [growth_sentence(task, model, curve) for (task, model), curve in curves.items() if len(curve) > 1]
    results = [
        {"half": "right", "task": task, "model": model, "metric": first_result(curve)["metric"]}
        | {"guess": 100 * first_result(curve)["guess"]}
        | {"steps": {str(k): {"score": 100 * one["score"], "normalised": normalize_score(task, one)}
                     for k, one in sorted(curve.items())}}
        for (task, model), curve in curves.items()
    ]  # fmt: skip
    return sentences, results


def first_result(curve: ZeroShotCurve) -> dict[str, Any]:
    """The first result of the curve; metric, rows and random guess are the same in all of them."""
    return next(iter(curve.values()))


def growth_sentence(task: str, model: str, curve: ZeroShotCurve) -> str:
    first, last = min(curve), max(curve)
    before, after = (points_cell(100 * curve[step]["score"]).text for step in (first, last))
    return (
        f"zero-shot {task}{'' if model == 'from' else f' ({MODEL_NAMES[model]})'}: "
        f"{before} after {count_noun(first, 'step')}, {after} after {last:,}; "
        f"random guess {100 * curve[last]['guess']:.1f}"
    )


def normalize_score(task: str, result: dict[str, Any]) -> float | None:
    """Scaled so that a random guess is 0 and the best result before the paper is 1 (figure 2, right)."""
    best = paper.previous_best_score(task)
    if best is None:
        return None
    return float((result["score"] - result["guess"]) / (best / 100 - result["guess"]))


def normalized_interval(task: str, result: dict[str, Any]) -> tuple[float, float] | None:
    """The 95% interval of a score from the number of rows, on the scale of `normalize_score`."""
    ends = as_dict(result.get("interval")).get(result["metric"])
    low, high = (normalize_score(task, {**result, "score": end}) for end in ends) if ends else (None, None)
    return None if low is None or high is None else (low, high)


def zeroshot_table(curves: ZeroShotCurves) -> tuple[list[str], list[list[Any]]]:
    """Raw scores × 100, with the normalized ones as notes."""
    titles = [f"{task}{'' if model == 'from' else ', ' + MODEL_NAMES[model]}" for task, model in curves]
    rows: list[list[Any]] = []
    for step in sorted({step for curve in curves.values() for step in curve}):
        cells = [zeroshot_cell(task, curve.get(step)) for (task, _), curve in curves.items()]
        rows.append([step, *cells])
    guesses = [points_cell(100 * first_result(curve)["guess"]) for curve in curves.values()]
    n_rows = [first_result(curve)["rows"] for curve in curves.values()]
    return ["steps", *titles], [*rows, ["random guess", *guesses], ["rows", *n_rows]]


def zeroshot_cell(task: str, result: dict[str, Any] | None) -> Cell | None:
    if result is None:
        return None
    share = normalize_score(task, result)
    note = "" if share is None else f"({share:.2f})".replace("-", "−")
    return replace(points_cell(100 * result["score"]), note=note)


def draw_zeroshot(curves: ZeroShotCurves) -> Figure:
    with charts.chart_style():
        figure, axes = charts.new_chart("normalized zero-shot score", "pre-training steps")
        styles = zip(charts.SERIES_COLORS, charts.MARKERS, strict=True)
        style = dict(zip(dict.fromkeys(task for task, _ in curves), styles, strict=False))
        for (task, model), curve in curves.items():
            steps = sorted(curve)
            shares = [normalize_score(task, curve[step]) or 0.0 for step in steps]
            label = task if model == "from" else f"{task}, {MODEL_NAMES[model]}"
            color, marker = style[task]
            look: dict[str, Any] = {"color": color, "marker": marker, "markersize": 5}
            if model != "from":  # hollow
                look |= {"linestyle": "--", **charts.HOLLOW}
            axes.plot(steps, shares, label=label, **look)
            tooltips = [f"{label}, {count_noun(step, 'step')}: {100 * curve[step]['score']:.1f}" for step in steps]
            charts.plot_points(axes, steps, shares, tooltips, **look)
            charts.plot_intervals(axes, steps, [normalized_interval(task, curve[step]) for step in steps], color)
        charts.add_reference_line(axes, 0.0, "random guess")
        charts.format_count_axis(axes.xaxis)
        charts.add_legend(axes)
    return figure
