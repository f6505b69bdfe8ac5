"""Charts for reports: matplotlib figures as inline SVG that follows light and dark mode.

    with chart_style():
        figure, axes = new_chart("accuracy", "epochs")
        axes.plot(...)
        page.svg(figure, "Caption.")

Figures are drawn in the colors of light mode; `to_svg` writes each as `var(--name, #hex)`, so that the page can
override it and a separate SVG file has colors too.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

COLORS = {  # name in templates/page.css → value in light mode; the values must be distinct
    "ink": "#22262a",
    "muted": "#6a6f76",
    "rule": "#dedcd5",
    "c1": "#2563a8",
    "c2": "#c0571c",
    "c3": "#2b8467",
    "c4": "#86549f",
    "c5": "#8f7a1b",
}
SERIES_COLORS = [COLORS[name] for name in ("c1", "c2", "c3", "c4", "c5")]
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
WIDTH, HEIGHT = 400, 270  # CSS pixels: two fit side by side on a desktop, one on a phone


@contextmanager
def chart_style() -> Iterator[None]:
    """matplotlib settings of all charts."""
    import matplotlib
    from cycler import cycler

    ink, muted, rule = COLORS["ink"], COLORS["muted"], COLORS["rule"]
    settings: Any = {
        "font.size": 11, "axes.labelsize": 11, "axes.titlesize": 11, "legend.fontsize": 11,
        "text.color": ink, "axes.labelcolor": muted, "axes.titlecolor": muted, "axes.titlelocation": "left",
        "xtick.color": rule, "ytick.color": rule, "xtick.labelcolor": muted, "ytick.labelcolor": muted,
        "axes.edgecolor": rule, "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False,
        "axes.grid": True, "axes.grid.axis": "y", "axes.axisbelow": True, "grid.color": rule, "grid.linewidth": 0.8,
        "ytick.major.size": 0, "axes.prop_cycle": cycler(color=SERIES_COLORS), "lines.linewidth": 1.8,
        "lines.solid_capstyle": "round", "legend.frameon": False, "legend.handlelength": 1.2,
        "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none",
        "text.parse_math": False,  # "$5" in a label is not TeX
        "svg.fonttype": "none", "svg.hashsalt": "gpt1", "axes.unicode_minus": True, "path.simplify_threshold": 0.3,
    }  # fmt: skip
    with matplotlib.rc_context(settings):
        yield


def new_chart(y_title: str, x_title: str, *, width: float = WIDTH, height: float = HEIGHT) -> tuple[Figure, Axes]:
    """Create a chart with titles of its axes; sizes in CSS pixels."""
    figure = _new_figure(width, height)
    axes = figure.add_subplot()
    axes.set_title(y_title)
    axes.set_xlabel(x_title)
    return figure, axes


def new_chart_with_strip(y_title: str, strip_title: str, x_title: str) -> tuple[Figure, Axes, Axes]:
    """As `new_chart`, with a lower second panel below that shares the x axis."""
    figure = _new_figure(WIDTH, HEIGHT)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.set_title(y_title)
    upper.spines.bottom.set_visible(False)
    upper.tick_params(axis="x", length=0)
    lower.set_title(strip_title)
    lower.set_xlabel(x_title)
    return figure, upper, lower


def _new_figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width / 72, height / 72), layout="constrained")


def add_tooltip(artist: Artist, text: str) -> None:
    """Show `text` when the pointer is on `artist` (an SVG <title>, no script)."""
    artist.set_gid(f"tip:{text}")


def add_reference_line(axes: Axes, y: float, name: str) -> None:
    """Draw a dashed horizontal line; its name is above or below, where there is room."""
    axes.axhline(y, color=COLORS["muted"], linewidth=1, linestyle=(0, (3, 3)))
    is_low = axes.transAxes.inverted().transform(axes.transData.transform((0, y)))[1] < 0.3
    label = axes.annotate(
        name, (1, y), (0, 4 if is_low else -13), xycoords=("axes fraction", "data"), textcoords="offset points",
        ha="right", color=COLORS["muted"],
    )  # fmt: skip
    label.set_in_layout(False)


def add_legend(axes: Axes) -> None:
    """Add a legend next to the title, where it cannot cover a curve."""
    columns = len(axes.get_legend_handles_labels()[0])
    axes.legend(
        loc="lower right", bbox_to_anchor=(1, 1), ncols=columns, borderaxespad=0, borderpad=0.2, columnspacing=1.2
    )


def legend_below(axes: Axes) -> None:
    """Add a legend below the chart, with room for many lines."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.2), ncols=2, borderaxespad=0)


def format_count_axis(axis: Axis) -> None:
    """Use few ticks and thousands separators."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=5, integer=True, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def plot_points(axes: Axes, x: Sequence[float], y: Sequence[float], tooltips: Sequence[str], **options: Any) -> None:
    """Plot a dot per value, with a tooltip."""
    for x_, y_, text in zip(x, y, tooltips, strict=True):
        (dot,) = axes.plot([x_], [y_], "o", markersize=5, markeredgewidth=0, **options)
        add_tooltip(dot, text)


def band(
    axes: Axes,
    x: Sequence[float],
    values: Sequence[Sequence[float]],
    tooltips: Sequence[str],
    *,
    color: str,
    label: str,
) -> None:
    """Plot the median of the `values` at each x as a line, and shade from min to max."""
    lows, medians, highs = ([f(group) for group in values] for f in (min, median, max))
    axes.fill_between(x, lows, highs, color=color, alpha=0.13, linewidth=0)
    axes.plot(x, medians, color=color, label=label)
    plot_points(axes, x, medians, tooltips, color=color)


def downsample(x: Sequence[float], y: Sequence[float], max_points: int = 400) -> tuple[list[float], list[float]]:
    """Average consecutive points to at most `max_points`: the report does not grow with the length of a run."""
    import numpy as np

    if len(x) <= max_points:
        return list(x), list(y)
    chunks = np.array_split(np.arange(len(x)), max_points)
    return (
        [float(np.mean([x[i] for i in chunk])) for chunk in chunks],
        [float(np.mean([y[i] for i in chunk])) for chunk in chunks],
    )


def to_svg(figure: Figure | str, label: str = "") -> str:
    """Render `figure` as an <svg> element without fonts, ids and metadata, with colors as CSS variables."""
    if isinstance(figure, str):
        return figure[figure.index("<svg") :]
    buffer = io.StringIO()
    with chart_style():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = ElementTree.fromstring(re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", "\ufffd", buffer.getvalue()))
    _clean_svg(svg)
    svg.attrib = {"xmlns": SVG, "viewBox": svg.attrib["viewBox"], "role": "img", "aria-label": label}
    text = ElementTree.tostring(svg, encoding="unicode")
    for name, value in COLORS.items():
        text = text.replace(value, f"var(--{name}, {value})")
    return text


def _clean_svg(parent: ElementTree.Element) -> None:
    """Remove what a page does not need, in place; tooltips become <title>."""
    parent.tag = parent.tag.removeprefix(f"{{{SVG}}}")
    parent.text = parent.text if parent.tag == "text" else None
    for child in list(parent):
        child.tail = None
        _clean_svg(child)
        if child.tag in ("metadata", "style") or (child.tag in ("g", "defs") and not len(child)):
            parent.remove(child)
    attributes = parent.attrib
    if parent.tag == "g":  # figure_1, axes_1, … would repeat within a page
        gid = attributes.pop("id", "")
        if gid.startswith("tip:"):
            title = ElementTree.Element("title")
            title.text = gid.removeprefix("tip:")
            parent.insert(0, title)
    if f"{{{XLINK}}}href" in attributes:
        attributes["href"] = attributes.pop(f"{{{XLINK}}}href")
    if "d" in attributes:
        attributes["d"] = re.sub(r"\d+\.\d+", lambda n: f"{float(n[0]):.2f}", " ".join(attributes["d"].split()))
    if "style" in attributes:  # the page sets the font
        attributes["style"] = re.sub(r"font-family:[^;]*;? ?", "", attributes["style"])
