"""Charts of a run: loss, perplexity, metrics, scores and calibration."""

from __future__ import annotations

from statistics import pstdev
from typing import Any

from gpt1 import formatting
from gpt1.formatting import metric_name
from gpt1.intervals import estimate_interval, wilson_interval
from gpt1.report import charts
from gpt1.report.headline import HEADLINE_METRICS, sentence_start
from gpt1.report.page import Cell, Page, format_interval, format_score
from gpt1.report.run_reader import Prediction, ReliabilityBin, Run, as_dict, is_number

MAX_SCATTER_POINTS = 3000  # more make scrolling slow
MAX_LINE_MARKERS = 60
MAX_LABELED_EPOCHS, MAX_SPACED_EPOCHS = 4, 10  # with more, a value would overlap the bar of another epoch
MIN_BIN_ROWS = 10
SCORE_BINS = 20


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
    if len(rates[0]) > 1:  # a single value would give an empty panel
        figure, axes, strip = charts.new_chart_with_strip("loss", "learning rate", "steps")
        strip.plot(*charts.downsample(*rates), color=charts.COLORS["muted"], linewidth=1.3, label="learning rate")
        strip.set_yticks([0, max(rates[1])], ["0", formatting.format_setting(float(f"{max(rates[1]):.3g}"))])
        charts.format_count_axis(strip.xaxis)
    else:
        figure, axes = charts.new_chart("loss", "steps")
        charts.format_count_axis(axes.xaxis)
    if max(len(training[0]), len(validation[0])) == 1:
        axes.set_xlim(0, 1.1 * max(training[0] + validation[0]))
    if training[0]:
        dot = {"marker": "o", "markersize": 5} if len(training[0]) == 1 else {}  # a line of one point is invisible
        options: dict[str, Any] = {
            "color": charts.SERIES_COLORS[0],
            "linewidth": 1.2,
            "alpha": 0.85,
            "label": "training",
            **dot,
        }
        axes.plot(*charts.downsample(*training), **options)
    if validation[0]:
        _plot_validation(axes, validation, "validation loss", 4)
    _mark_unigram_loss(axes, run, training[1], validation[1])
    charts.add_legend(axes)
    finetune = run.stage == "finetune"
    what = "Task loss (L2, without the auxiliary language-model loss)" if finetune else "Loss"
    caption = f"{what} on training"
    if validation[0]:
        caption += " and validation"
    page.svg(figure, f"{caption} data.", data_table=_validation_table(run))


def _plot_validation(axes: Any, series: tuple[list[float], list[float]], name: str, digits: int) -> None:
    """A dashed line; few points have markers with tooltips."""
    color = charts.SERIES_COLORS[1]
    marker = charts.MARKERS[1] if len(series[0]) <= MAX_LINE_MARKERS else ""
    axes.plot(*series, color=color, linestyle=(0, (4, 1.5)), marker=marker, markersize=5, label="validation")
    if marker:
        tooltips = [f"step {x:,}: {name} {formatting.format_number(y, digits)}" for x, y in zip(*series, strict=True)]
        charts.plot_points(axes, *series, tooltips, color=color, marker=marker)


def _mark_unigram_loss(axes: Any, run: Run, training: list[float], validation: list[float]) -> None:
    unigram = as_dict(run.results.get("unigram")).get("loss")
    lowest = min([*training, *validation])
    if is_number(unigram) and lowest < unigram:
        above = unigram - lowest
        highest = max([unigram + 0.35 * above, *validation])  # crop the steep beginning
        axes.set_ylim(top=max(min(axes.get_ylim()[1], highest), unigram + 0.1 * above))
        charts.add_reference_line(axes, unigram, "unigram model")


def draw_perplexity(page: Page, run: Run) -> None:
    steps, values = run.series("validation", "perplexity")
    if len(steps) < 2:  # the table above has it
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
    _plot_validation(axes, (steps, values), "perplexity", 3)
    axes.annotate(
        formatting.format_number(values[-1]), (steps[-1], values[-1]), (0, 9), textcoords="offset points", ha="center"
    )
    if is_number(unigram):
        charts.add_reference_line(axes, unigram, "unigram model")
    charts.format_count_axis(axes.xaxis)
    page.svg(figure, "Perplexity on the validation set: lower is better.")


def draw_metric(page: Page, run: Run, name: str) -> None:
    """The main metric after each epoch with its interval, so that chance does not look like a trend."""
    epochs, values = run.series("validation", name, x="epoch")
    if not epochs:
        return
    figure, axes = charts.new_chart(metric_name(name), "epochs")
    axes.xaxis.set_major_locator(_locator(10, integer=True))
    axes.set_xlim(min(epochs) - 0.3, max(epochs) + 0.3)
    axes.yaxis.set_major_locator(_locator(5))
    axes.margins(y=0.2)
    color = charts.SERIES_COLORS[1]
    intervals = [point_interval(run, name, value) for value in values]
    known = any(intervals)
    if known:
        charts.plot_intervals(axes, epochs, intervals, color)
    elif name in HEADLINE_METRICS:
        axes.set_ylim(min(0, *values), 1)  # without intervals, the whole range shows how small a difference is
    axes.plot(epochs, values, color=color, label="validation")
    tooltips = [
        f"epoch {x:g}: {metric_name(name)} {format_score(y)}" + (f" {format_interval(interval)}" if interval else "")
        for x, y, interval in zip(epochs, values, intervals, strict=True)
    ]
    charts.plot_points(axes, epochs, values, tooltips, color=color)
    best = run.results.get("best_epoch")
    few = len(epochs) <= MAX_LABELED_EPOCHS  # the names of more would overlap on a phone
    for x, y, before, following in zip(epochs, values, [values[0], *values], [*values[1:], values[-1]], strict=False):
        if few or (len(epochs) <= MAX_SPACED_EPOCHS and x in (best, epochs[-1])):
            is_left = x > epochs[0] and (x == epochs[-1] or not few)  # the last one not beyond the right edge
            is_below = y < before if is_left else following > y  # beside the line
            place = -8 if is_left else 7, -13 if is_below else 5
            side = "right" if is_left else "left"
            axes.annotate(format_score(y), (x, y), place, textcoords="offset points", ha=side)
    if name in HEADLINE_METRICS:  # no ticks above 1, the maximum of a score
        low, high = axes.get_ylim()
        axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= min(high, 1)])
    if best in epochs:
        axes.plot([best], [values[epochs.index(best)]], "o", markersize=11, fillstyle="none", color=color)
    notes = ["circle: best epoch"] * (best in epochs) + ["bars: 95% confidence intervals"] * known
    page.svg(
        figure,
        f"{sentence_start(metric_name(name))} on validation rows after each epoch"
        + (f" ({'; '.join(notes)})." if notes else "."),
    )


def point_interval(run: Run, name: str, value: float) -> tuple[float, float] | None:
    """The interval of a metric at any epoch: from the number of rows, or as wide as that of the final value."""
    if interval := estimate_interval(name, value, run.n_measured_rows):
        return interval
    final, measured = run.interval(name), as_dict(as_dict(run.results.get("validation")).get("metrics")).get(name)
    if not final or not is_number(measured):
        return None
    low, high = value + final[0] - measured, value + final[1] - measured
    return (max(-1.0, low), min(1.0, high)) if name in HEADLINE_METRICS else (max(0.0, low), high)


def _locator(bins: int, integer: bool = False) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=bins, integer=integer, steps=[1, 2, 2.5, 5, 10])


def _validation_table(run: Run) -> tuple[list[str], list[list[Any]]] | None:
    """The validation metrics as a table."""
    lines = [line for line in run.metrics if line.get("split") == "validation"]
    names = [name for name in dict.fromkeys(key for line in lines for key in line) if name != "split"]
    if not lines:
        return None
    columns = [metric_name(name) for name in names]
    return columns, [[_metric_cell(name, line.get(name)) for name in names] for line in lines]


def _metric_cell(name: str, value: Any) -> Any:
    if not is_number(value) or isinstance(value, int):
        return value
    return Cell(value, formatting.format_setting(value) if name == "epoch" else formatting.format_number(value, 4))


def draw_scatter(page: Page, rows: list[Prediction], rows_name: str) -> None:
    """Predicted over true scores, for at most about MAX_SCATTER_POINTS evenly spaced rows, and how both spread."""
    every = 1 + len(rows) // MAX_SCATTER_POINTS
    figure, axes = charts.new_chart("predicted score", "true score")
    labels, predictions = [float(row.label) for row in rows], [float(row.prediction) for row in rows]
    low, high = min(*labels, *predictions), max(*labels, *predictions)
    axes.plot([low, high], [low, high], color=charts.COLORS["muted"], linewidth=1, linestyle=(0, (3, 3)))
    size = 18 if len(rows) <= 500 else 8
    shown = labels[::every], predictions[::every]
    axes.scatter(*shown, s=size, color=charts.SERIES_COLORS[0], alpha=0.45, linewidths=0)
    which = f"{len(shown[0]):,} {rows_name}" + (f", every {every}th of {len(rows):,}" if every > 1 else "")
    page.svg(figure, f"{which}; dashed line: the prediction equals the label.")
    if low == high:
        return
    figure, axes = charts.new_chart("rows", "score")
    edges = [low + (high - low) * i / SCORE_BINS for i in range(SCORE_BINS + 1)]
    axes.hist(labels, edges, color=charts.COLORS["muted"], alpha=0.3, label="true")
    axes.hist(predictions, edges, histtype="step", color=charts.SERIES_COLORS[0], linewidth=1.8, label="predicted")
    axes.yaxis.set_major_locator(_locator(5, integer=True))
    charts.add_legend(axes)
    spread = [formatting.format_number(pstdev(values)) for values in (predictions, labels)]
    page.svg(
        figure,
        f"Predictions have a standard deviation of {spread[0]}, the true scores of {spread[1]}: a narrow peak of "
        "predictions means that the texts hardly change the answer.",
    )


def draw_reliability(page: Page, before: list[ReliabilityBin], after: list[ReliabilityBin], unit: str = "row") -> None:
    """Reliability diagram: accuracy over confidence with intervals, before and after calibration; rows (or another
    `unit`) of each bin."""
    figure, axes = charts.new_chart("accuracy", "predicted probability")
    axes.plot([0, 1], [0, 1], color=charts.COLORS["muted"], linewidth=1, linestyle=(0, (3, 3)))
    sets = [("before", before, 1), ("after", after, 0)] if before and after != before else [("", after or before, 0)]
    span = [edge for b in [*before, *after] for edge in (b.low, b.high)]
    limits = (max(0.0, min(span)) - 0.03, min(1.0, max(span)) + 0.03)
    for name, all_bins, number in sets:
        bins = merge_bins(all_bins)
        x, y = [b.confidence for b in bins], [b.accuracy for b in bins]
        intervals = [wilson_interval(b.accuracy, b.rows) for b in bins]
        tooltips = [
            f"{name + ': ' if name else ''}{formatting.count_noun(b.rows, unit)}, confidence {b.confidence:.2f}, "
            f"accuracy {b.accuracy:.2f} {format_interval(interval)}"
            for b, interval in zip(bins, intervals, strict=True)
        ]
        color, marker = charts.SERIES_COLORS[number], charts.MARKERS[number]
        charts.plot_intervals(axes, x, intervals, color)
        charts.plot_points(axes, x, y, tooltips, color=color, marker=marker, markersize=7)
        if name:
            axes.plot([], [], color=color, marker=marker, linestyle="", label=f"{name} calibration")
    charts.add_legend(axes)
    axes.set(xlim=limits, ylim=(-0.03, 1.03))
    columns = ["calibration", f"{unit}s", "confidence", "accuracy", "95% interval"]
    table = [
        [name or "–", b.rows, b.confidence, b.accuracy, format_interval(wilson_interval(b.accuracy, b.rows))]
        for name, bins, _ in sets
        for b in bins
    ]
    page.svg(
        figure,
        "Accuracy by predicted probability" + (", before and after calibration" if len(sets) > 1 else "")
        + f"; bars: 95% intervals; dashed line: perfect calibration. Neighboring bins with fewer than {MIN_BIN_ROWS} "
        f"{unit}s are merged.",
        data_table=(columns, table),
    )  # fmt: skip
    _draw_bin_rows(page, sets[-1][1], limits, unit)


def _draw_bin_rows(page: Page, bins: list[ReliabilityBin], limits: tuple[float, float], unit: str) -> None:
    figure, axes = charts.new_chart(f"{unit}s", "predicted probability")
    for b in bins:
        width = max(b.high - b.low, 0.01)
        (bar,) = axes.bar([b.low], [b.rows], 0.92 * width, align="edge", color=charts.SERIES_COLORS[0])
        charts.add_tooltip(bar, f"{formatting.count_noun(b.rows, unit)} with confidence {b.low:.2f} to {b.high:.2f}")
        axes.annotate(f"{b.rows:,}", (b.low + width / 2, b.rows), (0, 3), textcoords="offset points", ha="center",
                      fontsize=10)  # fmt: skip
    axes.set_xlim(*limits)
    axes.margins(y=0.12)
    axes.yaxis.set_major_locator(_locator(5, integer=True))
    page.svg(figure, f"{unit.capitalize()}s by predicted probability, {sum(b.rows for b in bins):,} in all.")


def merge_bins(bins: list[ReliabilityBin]) -> list[ReliabilityBin]:
    """Neighboring bins joined until each has MIN_BIN_ROWS rows: the accuracy of two rows says nothing."""
    merged: list[ReliabilityBin] = []
    for one in sorted(bins, key=lambda b: b.confidence):
        if merged and merged[-1].rows < MIN_BIN_ROWS:
            merged[-1] = merged[-1] + one
        else:
            merged.append(one)
    if len(merged) > 1 and merged[-1].rows < MIN_BIN_ROWS:
        merged[-2:] = [merged[-2] + merged[-1]]
    return merged
