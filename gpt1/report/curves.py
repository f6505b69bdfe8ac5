"""Charts of a run: loss, perplexity, metrics, scores and calibration."""

from __future__ import annotations

from typing import Any

from gpt1 import formatting
from gpt1.report import charts
from gpt1.report.page import Cell, Page
from gpt1.report.run_reader import Prediction, ReliabilityBin, Run, as_dict, is_number

MAX_SCATTER_POINTS = 3000  # more make scrolling slow
MAX_LINE_MARKERS = 60


def draw_loss(page: Page, run: Run) -> None:
    """Training and validation loss over steps, with the learning rate below."""
    rates, training, validation = (
        run.series("train", "lr"),
        run.series("train", "loss"),
        run.series("validation", "loss"),
    )
    task = run.series("train", "task_loss")  # L2, the part of L3 that is comparable with the validation loss
    training = task if task[0] else training
    if not training[0] and not validation[0]:
        return
    if rates[0]:
        figure, axes, strip = charts.new_chart_with_strip("loss", "learning rate", "steps")
        strip.plot(*charts.downsample(*rates), color=charts.COLORS["muted"], linewidth=1.3)
        strip.set_yticks([0, max(rates[1])], ["0", formatting.format_setting(float(f"{max(rates[1]):.3g}"))])
        charts.format_count_axis(strip.xaxis)
    else:
        figure, axes = charts.new_chart("loss", "steps")
        charts.format_count_axis(axes.xaxis)
    if max(len(training[0]), len(validation[0])) == 1:  # a line of one point is invisible
        axes.plot(*training, "o", color=charts.SERIES_COLORS[0])
        axes.set_xlim(0, 1.1 * max(training[0] + validation[0]))
    if training[0]:
        axes.plot(
            *charts.downsample(*training), color=charts.SERIES_COLORS[0], linewidth=1.2, alpha=0.85, label="training"
        )
    if validation[0]:
        axes.plot(*validation, color=charts.SERIES_COLORS[1], label="validation")
    if len(validation[0]) <= MAX_LINE_MARKERS:
        tooltips = [
            f"step {x:,}: validation loss {formatting.format_number(y, 4)}" for x, y in zip(*validation, strict=True)
        ]
        charts.plot_points(axes, *validation, tooltips, color=charts.SERIES_COLORS[1])
    unigram = as_dict(run.results.get("unigram")).get("loss")
    lowest = min([*training[1], *validation[1]])
    if is_number(unigram) and lowest < unigram:
        above = unigram - lowest
        highest = max([unigram + 0.35 * above, *validation[1]])  # crop the steep beginning
        axes.set_ylim(top=max(min(axes.get_ylim()[1], highest), unigram + 0.1 * above))
        charts.add_reference_line(axes, unigram, "unigram model")
    charts.add_legend(axes)
    finetune = run.stage == "finetune"
    what = "Task loss (L2, without the auxiliary language-model loss)" if finetune else "Loss"
    caption = f"{what} on training"
    if validation[0]:
        caption += " and validation"
    page.svg(figure, f"{caption} data.", data_table=_validation_table(run))


def draw_perplexity(page: Page, run: Run) -> None:
    steps, values = run.series("validation", "perplexity")
    if not steps:
        return
    unigram = as_dict(run.results.get("unigram")).get("perplexity")
    shown = [*values, unigram] if is_number(unigram) else values
    if max(shown) > 4 * min(shown):
        figure, axes = charts.new_chart("perplexity, logarithmic", "steps")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:,.0f}")
        axes.yaxis.set_minor_formatter(lambda y, _: f"{y:,.0f}" if f"{y:e}"[0] in "25" else "")
    else:
        figure, axes = charts.new_chart("perplexity", "steps")
        axes.yaxis.set_major_locator(_locator(5))
    axes.plot(steps, values, color=charts.SERIES_COLORS[1])
    if len(steps) <= MAX_LINE_MARKERS:
        tooltips = [f"step {x:,}: perplexity {formatting.format_number(y)}" for x, y in zip(steps, values, strict=True)]
        charts.plot_points(axes, steps, values, tooltips, color=charts.SERIES_COLORS[1])
    axes.annotate(
        formatting.format_number(values[-1]), (steps[-1], values[-1]), (0, 9), textcoords="offset points", ha="center"
    )
    if is_number(unigram):
        charts.add_reference_line(axes, unigram, "unigram model")
    charts.format_count_axis(axes.xaxis)
    page.svg(figure, "Perplexity on the validation set: lower is better.")


def draw_metric(page: Page, run: Run, name: str) -> None:
    epochs, values = run.series("validation", name, x="epoch")
    if not epochs:
        return
    figure, axes = charts.new_chart(name, "epochs")
    axes.xaxis.set_major_locator(_locator(10, integer=True))
    axes.set_xlim(min(epochs) - 0.3, max(epochs) + 0.3)
    axes.yaxis.set_major_locator(_locator(5))
    axes.margins(y=0.2)
    axes.plot(epochs, values, color=charts.SERIES_COLORS[1])
    if name != "loss":  # no ticks above 1, the maximum of a score
        low, high = axes.get_ylim()
        axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= min(high, 1)])
    tooltips = [f"epoch {x:g}: {name} {formatting.format_number(y)}" for x, y in zip(epochs, values, strict=True)]
    charts.plot_points(axes, epochs, values, tooltips, color=charts.SERIES_COLORS[1])
    for x, y in zip(epochs, values, strict=True) if len(epochs) <= 10 else []:
        axes.annotate(formatting.format_number(y), (x, y), (0, 9), textcoords="offset points", ha="center")
    best = run.results.get("best_epoch")
    if best in epochs:
        axes.plot(
            [best], [values[epochs.index(best)]], "o", markersize=11, fillstyle="none", color=charts.SERIES_COLORS[1]
        )
    page.svg(
        figure,
        f"{name.capitalize()} on validation rows after each epoch"
        + (" (circle: best epoch)." if best in epochs else "."),
    )


def _locator(bins: int, integer: bool = False) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=bins, integer=integer)


def _validation_table(run: Run) -> tuple[list[str], list[list[Any]]] | None:
    """The validation metrics as a table."""
    lines = [line for line in run.metrics if line.get("split") == "validation"]
    names = [name for name in dict.fromkeys(key for line in lines for key in line) if name != "split"]
    if not lines:
        return None
    columns = [name.replace("_", " ") for name in names]
    return columns, [[_metric_cell(name, line.get(name)) for name in names] for line in lines]


def _metric_cell(name: str, value: Any) -> Any:
    if not is_number(value) or isinstance(value, int):
        return value
    return Cell(value, formatting.format_setting(value) if name == "epoch" else formatting.format_number(value, 4))


def draw_scatter(page: Page, rows: list[Prediction]) -> None:
    """Predicted over true scores, for at most about MAX_SCATTER_POINTS evenly spaced rows."""
    every = 1 + len(rows) // MAX_SCATTER_POINTS
    all_rows, rows = rows, rows[::every]
    figure, axes = charts.new_chart("predicted score", "true score")
    labels, predictions = [row.label for row in rows], [row.prediction for row in rows]
    low, high = min(*labels, *predictions), max(*labels, *predictions)
    axes.plot([low, high], [low, high], color=charts.COLORS["muted"], linewidth=1, linestyle=(0, (3, 3)))
    size = 18 if len(rows) <= 500 else 8
    axes.scatter(labels, predictions, s=size, color=charts.SERIES_COLORS[0], alpha=0.45, linewidths=0)
    which = f"{len(rows):,} validation rows" + (f", every {every}th of {len(all_rows):,}" if every > 1 else "")
    page.svg(figure, f"{which}; dashed line: the prediction equals the label.")


def draw_reliability(page: Page, before: list[ReliabilityBin], after: list[ReliabilityBin]) -> None:
    """Reliability diagram: accuracy over confidence, before and after calibration."""
    figure, axes = charts.new_chart("accuracy", "confidence")
    axes.plot([0, 1], [0, 1], color=charts.COLORS["muted"], linewidth=1, linestyle=(0, (3, 3)))
    for bins, name, color in (
        (before, "before", charts.SERIES_COLORS[1]),
        (after, "after", charts.SERIES_COLORS[0]),
    ):
        if not bins:
            continue
        x, y = [b.confidence for b in bins], [b.accuracy for b in bins]
        axes.plot(x, y, color=color, linewidth=1.2, label=name)
        tooltips = [f"{name}: {b.rows:,} rows, confidence {b.confidence:.2f}, accuracy {b.accuracy:.2f}" for b in bins]
        charts.plot_points(axes, x, y, tooltips, color=color)
    charts.add_legend(axes)
    axes.set(xlim=(min(0.5, *(b.confidence for b in [*before, *after])), 1.01), ylim=(0, 1.03))
    columns = ["calibration", "rows", "confidence", "accuracy"]
    table = [
        [name, b.rows, b.confidence, b.accuracy] for name, bins in (("before", before), ("after", after)) for b in bins
    ]
    page.svg(
        figure,
        "Accuracy by predicted probability, before and after calibration; dashed line: perfect calibration.",
        data_table=(columns, table),
    )
