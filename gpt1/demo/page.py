"""The demo's page and picture: its story with the curves."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from gpt1 import formatting
from gpt1.demo import story as told
from gpt1.demo.story import Story
from gpt1.report import charts
from gpt1.report.page import Cell, Page
from gpt1.report.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def write_page(out: Path, story: Story) -> Path:
    """Write report.html and curves.svg into `out`; returns the page."""
    best, scratch = (median(story.accuracy[method]) for method in (told.ALL, told.SCRATCH))
    page = Page(
        f"{told.percent(best)} with pre-training, {told.percent(scratch)} without",
        kicker=f"gpt1  ·  demo  ·  {out}",
        lead=told.verdict(story),
    )
    page.facts(
        {
            "documents": story.gathered["documents"],
            "of clean prose": Cell(story.gathered["bytes"], f"{story.gathered['bytes'] / 1e6:.1f} MB"),
            "tokens": Cell(story.corpus["tokens"], formatting.amount(story.corpus["tokens"])),
            "weights": Cell(story.pretraining["parameters"], formatting.amount(story.pretraining["parameters"])),
            "labelled rows": story.labelled["train"],
            "minutes": Cell(sum(story.seconds.values()), formatting.duration(sum(story.seconds.values()))),
        }
    )
    libraries = ", ".join(story.labelled["libraries"])
    page.heading(
        "Which library does a docstring come from?", f"One of {libraries}; their names and all code are masked."
    )
    page.table(*told.accuracy_table(story))
    with charts.style():
        figure, axes = charts.chart("perplexity", "updates")
        perplexity(axes, out, story)
        page.svg(figure, "Pre-training: held-out perplexity falls below what word frequencies alone give.")
        figure, axes = charts.chart("accuracy on validation rows", "share of the training, %")
        accuracy(axes, story)
        page.svg(figure, "Fine-tuning: the median of the seeds and the range between them.")
        (out / "curves.svg").write_text(picture(out, story), encoding="utf-8")
    page.heading("What the pre-trained model says")
    page.table(
        [f"after “{told.PROMPTS[0]}”", "probability"], [[t, Cell(p, told.percent(p))] for t, p in story.next_tokens]
    )
    page.texts([(told.PROMPTS[1], story.written)])
    page.heading("Where the text comes from", "Source files of the installed packages, parsed and never imported.")
    page.table(
        ["library", "kB of prose"],
        [[name, Cell(n, f"{n / 1e3:,.0f}")] for name, n in story.gathered["by library"].items()],
        folded="each library",
    )
    page.heading("The same with your own files")
    for command, explanation in told.commands(out):
        page.code(command, explanation)
    return page.write(out / "report.html")


def picture(out: Path, story: Story) -> str:
    """Both charts side by side, as one drawing."""
    figure, left = charts.chart("perplexity", "updates", width=2 * charts.WIDTH)
    left.remove()
    left, right = figure.subplots(1, 2)
    left.set(title="pre-training: perplexity", xlabel="updates")
    right.set(title="fine-tuning: accuracy", xlabel="share of the training, %")
    perplexity(left, out, story)
    accuracy(right, story)
    return charts.to_svg(figure, told.verdict(story))


def perplexity(axes: Axes, out: Path, story: Story) -> None:
    """Held-out perplexity over the updates, beside the unigram model's."""
    axes.plot(*Run.open(out / "pretrained").series("validation", "perplexity"), marker="o", markersize=4)
    charts.reference(axes, story.pretraining["unigram"]["perplexity"], "unigram model")
    axes.set_ylim(0)


def accuracy(axes: Axes, story: Story) -> None:
    """Median over the seeds after each epoch, the range between them shaded."""
    for method, runs in story.curves.items():
        epochs: list[tuple[float, ...]] = list(zip(*runs, strict=True))
        x: list[Any] = [100 * (i + 1) / len(epochs) for i in range(len(epochs))]
        (line,) = axes.plot(x, [median(epoch) for epoch in epochs], label=method.removesuffix(" weights"))
        axes.fill_between(
            x, list(map(min, epochs)), list(map(max, epochs)), color=line.get_color(), alpha=0.15, linewidth=0
        )
    charts.reference(axes, median(story.accuracy[told.MAJORITY]), "most frequent label")
    axes.set_ylim(0)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)  # below: nothing there to cover
