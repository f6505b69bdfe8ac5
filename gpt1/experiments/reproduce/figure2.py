"""Figure 2 as a page: what each transferred layer adds, and how zero-shot skill grows over pre-training."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gpt1.experiments.cells import Kept
from gpt1.experiments.document import Document, Spread
from gpt1.experiments.reproduce import paper
from gpt1.experiments.reproduce.plan import Plan
from gpt1.experiments.reproduce.scores import NAMES, hundred, points, shown, spread_of, whole_of
from gpt1.experiments.zeroshot.steps import MODELS
from gpt1.report import charts

if TYPE_CHECKING:
    from matplotlib.figure import Figure


HEIGHT = 300
Curves = dict[tuple[str, str], dict[int, dict[str, Any]]]
"""(task, model) → updates → a finished measurement."""


def parts(document: Document, plan: Plan, kept: Kept) -> tuple[list[str], list[dict[str, Any]]]:
    """Whichever halves were asked for."""
    said: list[str] = []
    results: list[dict[str, Any]] = []
    for half, wanted in ((left, plan.tasks), (right, plan.shots)):
        if wanted:
            lines, found = half(document, plan, kept)
            said += lines
            results += found
    return said, results


def left(document: Document, plan: Plan, kept: Kept) -> tuple[list[str], list[dict[str, Any]]]:
    layers = list(plan.methods)
    spreads = {
        task.name.title: [spread_of(plan, kept, task, method, whole_of(task)) for method in layers]
        for task in plan.tasks
    }
    document.heading("Transferred layers")
    document.figure(
        "figure2-left",
        drawn_left(spreads),
        "Score against the number of pre-trained layers that fine-tuning starts from (the embeddings always are; the "
        "rest starts fresh, all are trained): medians over seeds, bands from the least to the greatest.",
    )
    document.table(
        ["layers", *(f"{task.name.title}, {NAMES.get(task.metric, task.metric)}" for task in plan.tasks)],
        [[k, *(one[k].cell(1, 100) if one[k] else None for one in spreads.values())] for k in range(len(layers))],  # type: ignore[union-attr]
    )
    said = []
    for title, one in spreads.items():
        first, last = one[0], one[-1]
        if first and last:
            rises = 100 * (last.median - first.median)
            said.append(
                f"{title}: {shown(first)} with the embeddings alone, {shown(last)} with all {len(layers) - 1} layers "
                f"({rises:+.1f} points)".replace("(-", "(−")
            )
    document.points(said)
    document.paragraph("The paper: on RACE and MultiNLI every transferred layer helps, up to 9 points for all of them.")
    results = [
        {"half": "left", "task": task.name.text, "metric": task.metric}
        | {"layers": {str(k): hundred(spread) for k, spread in enumerate(spreads[task.name.title])}}
        for task in plan.tasks
    ]
    return said, results


def drawn_left(spreads: dict[str, list[Spread | None]]) -> Figure:
    with charts.style():
        figure, axes = charts.chart("score × 100", "pre-trained layers", height=HEIGHT)
        for colour, (title, one) in zip(charts.SERIES, spreads.items(), strict=False):
            at = [(k, spread) for k, spread in enumerate(one) if spread]
            scores = [[100 * value for value in spread.values] for _, spread in at]
            tips = [f"{title}, {k} layers: {shown(spread)}" for k, spread in at]
            charts.band(axes, [k for k, _ in at], scores, tips, color=colour, label=title)
        charts.counts(axes.xaxis)
        charts.legend_below(axes)
    return figure


def right(document: Document, plan: Plan, kept: Kept) -> tuple[list[str], list[dict[str, Any]]]:
    curves: Curves = {}
    for shot in plan.shots:
        if cell := kept.cells.get(shot.key):
            curves.setdefault((shot.task, shot.point.model), {})[shot.point.step] = cell
    document.heading("Zero-shot behaviour")
    document.figure(
        "figure2-right",
        drawn_right({name: of for name, of in curves.items() if paper.best_before(name[0])}),
        "Tasks that the model was never trained on, by the paper's heuristics, over its pre-training. 0 is a random "
        "guess, 1 the best result that the paper names beside its own.",
    )
    document.table(*scores_table(curves))
    document.points(
        f"{name}: {next(iter(of.values()))['how']}." for (name, model), of in curves.items() if model == "from"
    )
    scale = ", ".join(
        f"{name} {paper.best_before(name)}"
        for name in dict.fromkeys(name for name, _ in curves)
        if paper.best_before(name)
    )
    document.paragraph(
        f"What stands for 1: {scale or 'nothing here'}. The paper takes the best single model; for RACE that of its "
        "table is an ensemble. Winograd schemas have no such number in its tables: they are shown raw."
    )
    said = [grown(name, model, of) for (name, model), of in curves.items() if len(of) > 1]
    results = [
        {"half": "right", "task": name, "model": model, "metric": next(iter(of.values()))["metric"]}
        | {"guess": 100 * next(iter(of.values()))["guess"]}
        | {"steps": {str(k): {"score": 100 * cell["score"], "normalised": normalised(name, cell)}
                     for k, cell in sorted(of.items())}}
        for (name, model), of in curves.items()
    ]  # fmt: skip
    return said, results


def grown(name: str, model: str, of: dict[int, dict[str, Any]]) -> str:
    first, last = min(of), max(of)
    scores = [100 * of[step]["score"] for step in (first, last)]
    who = "" if model == "from" else f" ({MODELS[model]})"
    return (
        f"zero-shot {name}{who}: {points(scores[0]).text} after {first:,} updates, {points(scores[1]).text} after "
        f"{last:,}; a guess has {100 * of[last]['guess']:.1f}"
    )


def normalised(name: str, cell: dict[str, Any]) -> float | None:
    """0 for a random guess, 1 for the best result before the paper."""
    best = paper.best_before(name)
    if best is None:
        return None
    return float((cell["score"] - cell["guess"]) / (best / 100 - cell["guess"]))


def scores_table(curves: Curves) -> tuple[list[str], list[list[Any]]]:
    """Raw scores × 100, the normalised ones small beside them."""
    steps = sorted({step for of in curves.values() for step in of})
    titles = [f"{name}{'' if model == 'from' else ', ' + MODELS[model]}" for name, model in curves]
    lines: list[list[Any]] = []
    for step in steps:
        line: list[Any] = [step]
        for (name, _), of in curves.items():
            cell = of.get(step)
            share = normalised(name, cell) if cell else None
            note = "" if share is None else f"({share:.2f})".replace("-", "−")
            line.append(replace(points(100 * cell["score"]), note=note) if cell else None)
        lines.append(line)
    guesses = [points(100 * next(iter(of.values()))["guess"]) for of in curves.values()]
    rows = [next(iter(of.values()))["rows"] for of in curves.values()]
    return ["updates", *titles], [*lines, ["a random guess", *guesses], ["rows", *rows]]


def drawn_right(curves: Curves) -> Figure:
    with charts.style():
        figure, axes = charts.chart("zero-shot, 0 a guess, 1 the best before", "updates of pre-training", height=HEIGHT)
        colours = dict(zip(dict.fromkeys(name for name, _ in curves), charts.SERIES, strict=False))
        for (name, model), of in curves.items():
            steps = sorted(of)
            shares = [normalised(name, of[step]) or 0.0 for step in steps]
            label = name if model == "from" else f"{name}, {MODELS[model]}"
            axes.plot(steps, shares, color=colours[name], label=label, linestyle="-" if model == "from" else "--")
            tips = [f"{label}, {step:,} updates: {100 * of[step]['score']:.1f}" for step in steps]
            charts.points(axes, steps, shares, tips, color=colours[name])
        charts.reference(axes, 0.0, "a random guess")
        charts.counts(axes.xaxis)
        charts.legend_below(axes)
    return figure
