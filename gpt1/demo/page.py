"""The demo's report.html and curves.svg."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from gpt1 import formatting
from gpt1.demo.results import (
    ALL,
    MAJORITY,
    PROMPTS,
    SCRATCH,
    DemoResults,
    accuracy_rows,
    follow_up_commands,
    format_percent,
    pretraining_verdict,
    starter_verdict,
)
from gpt1.files.atomic import atomic_write_text
from gpt1.files.names import REPORT_FILE
from gpt1.report import charts
from gpt1.report.page import Cell, Page
from gpt1.report.run_reader import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def write_demo_page(out: Path, results: DemoResults) -> Path:
    """Write report.html and curves.svg into `out`; returns the page."""
    pretrained, scratch = (median(results.accuracy[method]) for method in (ALL, SCRATCH))
    page = Page(
        f"{format_percent(pretrained)} with pre-training, {format_percent(scratch)} without",
        kicker=f"gpt1  ·  demo  ·  {out}",
        lead=f"{pretraining_verdict(results)} {starter_verdict(results)}",
    )
    page.facts(
        {
            "documents": results.gathered["documents"],
            "of prose": Cell(results.gathered["bytes"], f"{results.gathered['bytes'] / 1e6:.1f} MB"),
            "tokens": Cell(results.corpus["tokens"], formatting.format_large_count(results.corpus["tokens"])),
            "parameters": Cell(
                results.pretraining["parameters"], formatting.format_large_count(results.pretraining["parameters"])
            ),
            "labeled rows": results.labeled["train"],
            "minutes": Cell(sum(results.seconds.values()), formatting.format_duration(sum(results.seconds.values()))),
        }
    )
    libraries = ", ".join(results.labeled["libraries"])
    page.heading(
        "Which library does a docstring come from?", f"One of {libraries}; their names and all code are masked."
    )
    seeds = len(results.accuracy[ALL])
    page.table(
        [
            f"{results.labeled['test']} test rows",
            "accuracy, median" if seeds > 1 else "accuracy",
            f"[min – max] of {seeds} seeds" if seeds > 1 else "one seed",
        ],
        accuracy_rows(results),
    )
    with charts.chart_style():
        figure, axes = charts.new_chart("perplexity", "steps")
        plot_perplexity(axes, out, results)
        page.svg(figure, "Pre-training: validation perplexity, beside the unigram model (token frequencies alone).")
        figure, axes = charts.new_chart("accuracy on validation rows", "training completed, %")
        plot_accuracy(axes, results)
        page.svg(figure, f"Fine-tuning: {'median and range over the seeds' if seeds > 1 else 'one seed'}.")
        atomic_write_text(out / "curves.svg", draw_side_by_side(out, results))
    page.heading("Predictions of the pre-trained model")
    page.table(
        [f"after “{PROMPTS[0]}”", "probability"], [[t, Cell(p, format_percent(p))] for t, p in results.next_tokens]
    )
    page.texts([(PROMPTS[1], results.written)])
    page.heading(
        "Where the text comes from", "Docstrings in the source files of installed packages, parsed and never imported."
    )
    page.table(
        ["library", "kB of prose"],
        [[name, Cell(n, f"{n / 1e3:,.0f}")] for name, n in results.gathered["by library"].items()],
        summary="libraries",
    )
    page.heading("The same with your own files")
    for command, explanation in follow_up_commands(out):
        page.code(command, explanation)
    return page.write(out / REPORT_FILE)


def draw_side_by_side(out: Path, results: DemoResults) -> str:
    """Both charts side by side, as one SVG."""
    figure, left, right = charts.new_chart_pair(
        "pre-training: perplexity", "fine-tuning: accuracy", ("steps", "training completed, %")
    )
    plot_perplexity(left, out, results)
    plot_accuracy(right, results)
    return charts.to_svg(figure, pretraining_verdict(results), size=charts.WIDE)


def plot_perplexity(axes: Axes, out: Path, results: DemoResults) -> None:
    """Validation perplexity over the steps, beside the unigram model's."""
    series = Run.open(out / "pretrained").series("validation", "perplexity")
    axes.plot(*series, marker="o", markersize=4, label="validation")
    charts.add_reference_line(axes, results.pretraining["unigram"]["perplexity"], "unigram model")
    axes.set_ylim(0)


def plot_accuracy(axes: Axes, results: DemoResults) -> None:
    """Median over the seeds after each epoch, with their range shaded."""
    for style, (method, runs) in zip(charts.series_styles(), results.curves.items(), strict=False):
        epochs: list[tuple[float, ...]] = list(zip(*runs, strict=True))
        x = [100 * (i + 1) / len(epochs) for i in range(len(epochs))]
        name = method.removesuffix(" weights")
        tooltips = [
            f"{name}, {done:.0f} %: {format_percent(median(epoch))}" for done, epoch in zip(x, epochs, strict=True)
        ]
        charts.plot_band(axes, x, epochs, tooltips, style=style, label=name)
    charts.add_reference_line(axes, median(results.accuracy[MAJORITY]), "most frequent label")
    axes.set_ylim(0)
    charts.add_legend(axes)
