"""The demo's page and picture: its story with the curves."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from gpt1 import formatting
from gpt1.demo import results as told
from gpt1.demo.results import DemoResults
from gpt1.report import charts
from gpt1.report.page import Cell, Page
from gpt1.report.run_reader import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def write_page(out: Path, story: DemoResults) -> Path:
    """Write report.html and curves.svg into `out`; returns the page."""
    best, scratch = (median(story.accuracy[method]) for method in (told.ALL, told.SCRATCH))
    page = Page(
        f"{told.format_percent(best)} with pre-training, {told.format_percent(scratch)} without",
        kicker=f"gpt1  ·  demo  ·  {out}",
        lead=told.pretraining_verdict(story),
    )
    page.facts(
        {
            "documents": story.gathered["documents"],
            "of clean prose": Cell(story.gathered["bytes"], f"{story.gathered['bytes'] / 1e6:.1f} MB"),
            "tokens": Cell(story.corpus["tokens"], formatting.format_large_count(story.corpus["tokens"])),
            "weights": Cell(
                story.pretraining["parameters"], formatting.format_large_count(story.pretraining["parameters"])
            ),
            "labelled rows": story.labelled["train"],
            "minutes": Cell(sum(story.seconds.values()), formatting.format_duration(sum(story.seconds.values()))),
        }
    )
    libraries = ", ".join(story.labelled["libraries"])
    page.heading(
        "Which library does a docstring come from?", f"One of {libraries}; their names and all code are masked."
    )
    seeds = len(story.accuracy[told.ALL])
    page.table(
        [
            f"{story.labelled['test']} test rows",
            "accuracy, median",
            f"[min – max] of {formatting.count_noun(seeds, 'seed')}",
        ],
        told.accuracy_rows(story),
    )
    with charts.chart_style():
        figure, axes = charts.new_chart("perplexity", "updates")
        plot_perplexity(axes, out, story)
        page.svg(figure, "Pre-training: held-out perplexity falls below what word frequencies alone give.")
        figure, axes = charts.new_chart("accuracy on validation rows", "share of the training, %")
        plot_accuracy(axes, story)
        page.svg(figure, "Fine-tuning: the median of the seeds and the range between them.")
        (out / "curves.svg").write_text(draw_side_by_side(out, story), encoding="utf-8")
    page.heading("What the pre-trained model says")
    page.table(
        [f"after “{told.PROMPTS[0]}”", "probability"],
        [[t, Cell(p, told.format_percent(p))] for t, p in story.next_tokens],
    )
    page.texts([(told.PROMPTS[1], story.written)])
    page.heading("Where the text comes from", "Source files of the installed packages, parsed and never imported.")
    page.table(
        ["library", "kB of prose"],
        [[name, Cell(n, f"{n / 1e3:,.0f}")] for name, n in story.gathered["by library"].items()],
        summary="each library",
    )
    page.heading("The same with your own files")
    for command, explanation in told.follow_up_commands(out):
        page.code(command, explanation)
    return page.write(out / "report.html")


def draw_side_by_side(out: Path, story: DemoResults) -> str:
    """Both charts side by side, as one drawing."""
    figure, left = charts.new_chart("perplexity", "updates", width=2 * charts.WIDTH)
    left.remove()
    left, right = figure.subplots(1, 2)
    left.set(title="pre-training: perplexity", xlabel="updates")
    right.set(title="fine-tuning: accuracy", xlabel="share of the training, %")
    plot_perplexity(left, out, story)
    plot_accuracy(right, story)
    return charts.to_svg(figure, told.pretraining_verdict(story))


def plot_perplexity(axes: Axes, out: Path, story: DemoResults) -> None:
    """Held-out perplexity over the updates, beside the unigram model's."""
    axes.plot(*Run.open(out / "pretrained").series("validation", "perplexity"), marker="o", markersize=4)
    charts.add_reference_line(axes, story.pretraining["unigram"]["perplexity"], "unigram model")
    axes.set_ylim(0)


def plot_accuracy(axes: Axes, story: DemoResults) -> None:
    """Median over the seeds after each epoch, the range between them shaded."""
    for method, runs in story.curves.items():
        epochs: list[tuple[float, ...]] = list(zip(*runs, strict=True))
        x: list[Any] = [100 * (i + 1) / len(epochs) for i in range(len(epochs))]
        (line,) = axes.plot(x, [median(epoch) for epoch in epochs], label=method.removesuffix(" weights"))
        axes.fill_between(
            x, list(map(min, epochs)), list(map(max, epochs)), color=line.get_color(), alpha=0.15, linewidth=0
        )
    charts.add_reference_line(axes, median(story.accuracy[told.MAJORITY]), "most frequent label")
    axes.set_ylim(0)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)  # below: nothing there to cover
