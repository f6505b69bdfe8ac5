"""The report of an experiment: report.html for a browser, results.md for a repository, results.json for programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from gpt1 import formatting
from gpt1.files.atomic import atomic_write_json, atomic_write_text
from gpt1.files.names import REPORT_FILE, RESULTS_FILE
from gpt1.intervals import estimate_interval
from gpt1.report.charts import to_svg
from gpt1.report.page import Cell, Page
from gpt1.version import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILE_SIZE = (640, 360)
"""CSS pixels of a chart in a file of its own."""
MARKDOWN_FILE = "results.md"


@dataclass(frozen=True)
class SeedScores:
    """A score for each seed."""

    values: tuple[float, ...]

    @classmethod
    def from_values(cls, values: Iterable[float]) -> SeedScores | None:
        """None if there are no values yet."""
        scores = tuple(values)
        return cls(scores) if scores else None

    @property
    def median(self) -> float:
        return median(self.values)

    def to_json(self) -> dict[str, Any]:
        return {"median": self.median, "min": min(self.values), "max": max(self.values), "values": list(self.values)}

    def to_cell(self, digits: int = 3, scale: float = 1.0) -> Cell:
        """Median and range: `0.871 [0.860–0.880]`; `scale` 100 shows percent."""
        numbers = (self.median, min(self.values), max(self.values))
        value, low, high = (f"{round(scale * v, digits) + 0.0:.{digits}f}".replace("-", "−") for v in numbers)
        dash = " – " if "−" in low else "–"
        return Cell(scale * self.median, value, f"[{low}{dash}{high}]" if len(self.values) > 1 else "")


def single_seed_intervals(
    groups: Iterable[SeedScores], metric: str, rows: int, scale: float = 1.0
) -> list[tuple[float, float] | None]:
    """The interval of each score of a single seed, from the number of test rows; several seeds have a band instead."""
    found = [estimate_interval(metric, one.median, rows) if len(one.values) == 1 else None for one in groups]
    return [(scale * interval[0], scale * interval[1]) if interval else None for interval in found]


def describe_spread(groups: Iterable[SeedScores]) -> str:
    """Describe the points of a chart: medians with bands, or the values of a single seed."""
    counts = sorted({len(group.values) for group in groups})
    if counts[-1:] > [1]:
        return "medians over seeds; bands from minimum to maximum" + (", where there are several" * (counts[0] == 1))
    return "one seed, so the spread over seeds is unknown"


class ExperimentReport:
    """Builds the HTML page and the Markdown file: everything is added to both."""

    def __init__(self, title: str, kicker: str, lead: str = "") -> None:
        self.page = Page(title, kicker=kicker, lead=lead)
        self.markdown_blocks = [f"# {title}", *([lead] if lead else [])]
        self.svgs: dict[str, str] = {}

    def heading(self, text: str) -> None:
        self.page.heading(text)
        self.markdown_blocks.append(f"## {text}")

    def paragraph(self, text: str) -> None:
        self.page.paragraph(text)
        self.markdown_blocks.append(text)

    def add_bullets(self, texts: Iterable[str]) -> None:
        texts = list(texts)
        for text in texts:
            self.page.paragraph(text)
        if texts:
            self.markdown_blocks.append("\n".join(f"- {text}" for text in texts))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> None:
        rows = [list(row) for row in rows]
        self.page.table(columns, rows, caption=caption)
        cells = [[markdown_cell(value) for value in row] for row in rows]
        lines = [columns, ["---"] * len(columns), *cells]
        self.markdown_blocks.append("\n".join("| " + " | ".join(line) + " |" for line in lines))

    def figure(self, name: str, figure: Figure, caption: str) -> None:
        """A chart: inside the page, and as `name`.svg beside the Markdown file."""
        self.page.svg(figure, caption)
        self.svgs[f"{name}.svg"] = to_svg(figure, caption, size=FILE_SIZE)
        self.markdown_blocks.append(f"![{caption}]({name}.svg)")

    def add_provenance(self, notes: Iterable[str], failed: Iterable[str], facts: Mapping[str, Any]) -> None:
        """Notes, failed runs, and a table of `facts` (model, settings, …)."""
        self.heading("How it was made")
        self.add_bullets([*notes, *(f"Not finished: {line}" for line in failed)])
        self.table(["made with", "value"], [(name, Cell(None, format_fact(value))) for name, value in facts.items()])

    def code(self, text: str, explanation: str) -> None:
        self.page.code(text, explanation)
        self.markdown_blocks += [explanation, f"```\n{text}\n```"]

    def write(self, folder: Path, results: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, svg in self.svgs.items():
            atomic_write_text(folder / name, svg + "\n", "replace")
        markdown = formatting.escape_controls("\n\n".join(self.markdown_blocks))
        atomic_write_text(folder / MARKDOWN_FILE, markdown + "\n", "replace")
        atomic_write_json(folder / RESULTS_FILE, {"version": __version__, **results})
        self.page.write(folder / REPORT_FILE)


def markdown_cell(value: Any) -> str:
    return str(value if isinstance(value, Cell) else Cell(value)).replace("|", "\\|").replace("\n", " ")


def format_fact(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return formatting.format_setting(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {format_fact(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(format_fact(item) for item in value)
    return str(value)
