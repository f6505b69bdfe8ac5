"""Charts for reports: matplotlib figures as inline SVG that follows light and dark mode.

    with chart_style():
        figure, axes = new_chart("accuracy", "epochs")
        axes.plot(...)
        page.svg(figure, "Caption.")

Figures are drawn in the colors of light mode; `to_svg` writes each as `var(--name, #hex)`, so that the page can
override it and a separate SVG file has colors too. Color never distinguishes alone: each series has a marker or a line
style of its own, and every chart has a title and a description in words.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle, product
from statistics import median
from typing import TYPE_CHECKING, Any

from gpt1 import formatting

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

COLORS = {  # name in templates/page.css → value in light mode; the values must be distinct
    "ink": "#22262a",
    "muted": "#666b72",
    "rule": "#dedcd5",
    "c1": "#2563a8",
    "c2": "#ad4c16",
    "c3": "#2b8467",
    "c4": "#86549f",
    "c5": "#8f7a1b",
}
SERIES_COLORS = [COLORS[name] for name in ("c1", "c2", "c3", "c4", "c5")]
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
MARKERS = ["o", "s", "^", "D", "v"]
LINE_STYLES = ["-", "--", ":", "-."]
HOLLOW = {"markerfacecolor": "none", "markeredgewidth": 1.4}
SVG_CLASSES = ("band", "interval")  # names that the groups of these artists keep in the SVG
NARROW = (370, 260)
"""CSS pixels: two fit side by side on a desktop, one on a phone."""
WIDE = (816, 330)
"""Size of a chart that has a whole line of a desktop page."""


@contextmanager
def chart_style(ids: str = "") -> Iterator[None]:
    """matplotlib settings of all charts; the ids within an SVG are hashes of `ids` and what they name."""
    import matplotlib
    from cycler import cycler

    ink, muted, rule = COLORS["ink"], COLORS["muted"], COLORS["rule"]
    settings: Any = {
        "font.size": 12, "axes.labelsize": 12, "axes.titlesize": 12, "legend.fontsize": 12, "xtick.labelsize": 12,
        "ytick.labelsize": 12,
        "text.color": ink, "axes.labelcolor": muted, "axes.titlecolor": muted, "axes.titlelocation": "left",
        "xtick.color": rule, "ytick.color": rule, "xtick.labelcolor": muted, "ytick.labelcolor": muted,
        "axes.edgecolor": rule, "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False,
        "axes.grid": True, "axes.grid.axis": "y", "axes.axisbelow": True, "grid.color": rule, "grid.linewidth": 0.8,
        "ytick.major.size": 0, "axes.prop_cycle": cycler(color=SERIES_COLORS), "lines.linewidth": 1.8,
        "lines.solid_capstyle": "round", "legend.frameon": False, "legend.handlelength": 1.2,
        "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none",
        "text.parse_math": False,  # "$5" in a label is not TeX
        "svg.fonttype": "none", "svg.hashsalt": f"gpt1 {ids}", "path.simplify_threshold": 0.3,
        "axes.unicode_minus": True,
    }  # fmt: skip
    with matplotlib.rc_context(settings):
        yield


def new_chart(y_title: str, x_title: str) -> tuple[Figure, Axes]:
    """Create a chart with titles of its axes; `to_svg` sets its size."""
    figure = _new_figure()
    axes = figure.add_subplot()
    axes.set_title(y_title)
    axes.set_xlabel(x_title)
    return figure, axes


def new_chart_with_strip(y_title: str, strip_title: str, x_title: str) -> tuple[Figure, Axes, Axes]:
    """As `new_chart`, with a lower second panel below that shares the x axis."""
    figure = _new_figure()
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.set_title(y_title)
    upper.spines.bottom.set_visible(False)
    upper.tick_params(axis="x", length=0)
    lower.set_title(strip_title)
    lower.set_xlabel(x_title)
    return figure, upper, lower


def new_chart_pair(left_title: str, right_title: str, x_titles: tuple[str, str]) -> tuple[Figure, Axes, Axes]:
    """Create two charts side by side in one figure."""
    figure = _new_figure()
    left, right = figure.subplots(1, 2)
    left.set(title=left_title, xlabel=x_titles[0])
    right.set(title=right_title, xlabel=x_titles[1])
    return figure, left, right


def _new_figure() -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(NARROW[0] / 72, NARROW[1] / 72), layout="constrained")


def series_styles() -> Iterator[dict[str, Any]]:
    """Options of `axes.plot` for series after series. They differ for 20 series: after five colors and markers come
    other line styles, with hollow markers for those whose gaps a marker would cover in the legend."""
    for line, (color, marker) in cycle(product(LINE_STYLES, zip(SERIES_COLORS, MARKERS, strict=True))):
        yield {"color": color, "marker": marker, "linestyle": line} | (HOLLOW if line in ("--", "-.") else {})


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
    """Add a legend below the chart, where it cannot cover a curve; `to_svg` chooses how many names share a line."""
    if axes.get_legend_handles_labels()[0]:
        _place_legend(axes.figure, *axes.get_legend_handles_labels(), NARROW[0])


def _place_legend(figure: Any, handles: Sequence[Any], names: Sequence[str], width: float) -> None:
    """A legend with as many names side by side as fit."""
    columns = max(1, min(len(names), int(width / (7.5 * max(map(len, names)) + 34))))
    figure.legend(
        handles, names, loc="outside lower left", ncols=columns, borderaxespad=0.2, borderpad=0.2, columnspacing=1.2
    )


def format_count_axis(axis: Axis) -> None:
    """Use few ticks and thousands separators."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=5, integer=True, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def plot_points(axes: Axes, x: Sequence[float], y: Sequence[float], tooltips: Sequence[str], **options: Any) -> None:
    """Plot a dot per value, with a tooltip."""
    for x_, y_, text in zip(x, y, tooltips, strict=True):
        (dot,) = axes.plot([x_], [y_], **{"marker": "o", "markersize": 5, "markeredgewidth": 0, **options})
        add_tooltip(dot, text)


def plot_intervals(axes: Axes, x: Sequence[float], intervals: Sequence[tuple[float, float] | None], color: str) -> None:
    """Plot a bar with ends from low to high at each x that has an interval."""
    for x_, interval in zip(x, intervals, strict=True):
        if interval is None:
            continue
        (bar,) = axes.plot([x_, x_], interval, color=color, linewidth=1.2, marker="_", markersize=7, alpha=0.75)
        bar.set_gid("interval")


def plot_band(
    axes: Axes,
    x: Sequence[float],
    values: Sequence[Sequence[float]],
    tooltips: Sequence[str],
    *,
    style: Mapping[str, Any],
    label: str,
    intervals: Sequence[tuple[float, float] | None] = (),
) -> None:
    """Plot the median of the `values` at each x as a line, with its interval if known, and shade from min to max where
    there are several. `style` is one of `series_styles`."""
    color, medians = style["color"], [median(group) for group in values]
    if any(len(group) > 1 for group in values):
        shaded = axes.fill_between(
            x, list(map(min, values)), list(map(max, values)), color=color, alpha=0.13, linewidth=0
        )
        shaded.set_gid("band")
    axes.plot(x, medians, label=label, **{"markersize": 5, "markeredgewidth": 0, **style})
    plot_points(axes, x, medians, tooltips, **style)
    plot_intervals(axes, x, intervals or [None] * len(medians), color)


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


def to_svg(figure: Figure, title: str = "", *, size: tuple[float, float] = NARROW) -> str:
    """Render `figure` as an <svg> element without fonts, ids and metadata, with colors as CSS variables.

    Args:
        figure: The chart.
        title: What it shows, for readers who do not see it; `describe` adds its values in words.
        size: Width and height in CSS pixels.
    """
    buffer = io.StringIO()
    figure.set_size_inches(size[0] / 72, size[1] / 72)
    with chart_style(ids=f"{title}, {size}"):
        for legend in list(figure.legends):
            _place_legend(figure, legend.legend_handles, [text.get_text() for text in legend.get_texts()], size[0])
            legend.remove()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = ElementTree.fromstring(re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", "\ufffd", buffer.getvalue()))
    _clean_svg(svg)
    svg.attrib = {"xmlns": SVG, "viewBox": svg.attrib["viewBox"], "role": "img"}
    for place, (tag, content) in enumerate((("title", title), ("desc", describe(figure)))):
        element = ElementTree.Element(tag)
        element.text = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", "\ufffd", content)
        svg.insert(place, element)
    text = ElementTree.tostring(svg, encoding="unicode")
    for name, value in COLORS.items():
        text = text.replace(value, f"var(--{name}, {value})")
    return text


def describe(figure: Figure) -> str:
    """The named lines of a chart in words: where each begins and ends."""
    sentences = []
    for axes in figure.axes:
        for line in axes.get_lines():
            data: Any = line.get_xydata()
            name, points = str(line.get_label()), data.tolist()
            if name.startswith("_") or not points:
                continue
            ends = [f"{formatting.format_number(y)} at {x:.4g}" for x, y in (points[0], points[-1])]
            what = ", then ".join(dict.fromkeys(ends))
            sentences.append(f"{axes.get_title(loc='left')}, {name}: {what} ({axes.get_xlabel()}).")
    return " ".join(sentences)


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
        elif gid in SVG_CLASSES:
            attributes["class"] = gid
    if f"{{{XLINK}}}href" in attributes:
        attributes["href"] = attributes.pop(f"{{{XLINK}}}href")
    if "d" in attributes:
        attributes["d"] = re.sub(r"\d+\.\d+", lambda n: f"{float(n[0]):.2f}", " ".join(attributes["d"].split()))
    if "style" in attributes:  # the page sets the font
        attributes["style"] = re.sub(r"font-family:[^;]*;? ?", "", attributes["style"])
