"""One result, three readers: report.html for a browser, results.md for a repository, results.json for programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from gpt1 import formatting
from gpt1.files.atomic import atomic_file
from gpt1.report import Cell, Page
from gpt1.report.charts import to_svg
from gpt1.report.page import as_cell
from gpt1.runs.folder import write_json
from gpt1.version import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HTML, MARKDOWN, JSON = "report.html", "results.md", "results.json"


@dataclass(frozen=True)
class Spread:
    """A number over seeds."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        """None where there is no value yet."""
        found = tuple(values)
        return cls(found) if found else None

    @property
    def median(self) -> float:
        return median(self.values)

    def json(self) -> dict[str, Any]:
        return {"median": self.median, "min": min(self.values), "max": max(self.values), "values": list(self.values)}

    def cell(self, digits: int = 3, scale: float = 1.0) -> Cell:
        """`0.871 [0.860–0.880]`; `scale` 100 shows per cent."""
        ends = (self.median, min(self.values), max(self.values))
        value, low, high = (f"{round(scale * v, digits) + 0.0:.{digits}f}".replace("-", "−") for v in ends)
        dash = " – " if "−" in low else "–"
        return Cell(scale * self.median, value, f"[{low}{dash}{high}]" if len(self.values) > 1 else "")


class Document:
    """The page and the Markdown in the making: what is added goes to both."""

    def __init__(self, title: str, kicker: str, lead: str = "") -> None:
        self.page = Page(title, kicker=kicker, lead=lead)
        self.lines = [f"# {title}", *([lead] if lead else [])]
        self.drawings: dict[str, str] = {}

    def heading(self, text: str) -> None:
        self.page.heading(text)
        self.lines.append(f"## {text}")

    def paragraph(self, text: str) -> None:
        self.page.paragraph(text)
        self.lines.append(text)

    def points(self, texts: Iterable[str]) -> None:
        texts = list(texts)
        for text in texts:
            self.page.paragraph(text)
        if texts:
            self.lines.append("\n".join(f"- {text}" for text in texts))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> None:
        rows = [list(row) for row in rows]
        self.page.table(columns, rows, caption=caption)
        cells = [[plain(value) for value in row] for row in rows]
        lines = [columns, ["---"] * len(columns), *cells]
        self.lines.append("\n".join("| " + " | ".join(line) + " |" for line in lines))

    def figure(self, name: str, figure: Figure, caption: str) -> None:
        """A drawing in the page; beside the Markdown it lies as `name`.svg."""
        self.page.svg(figure, caption)
        self.drawings[f"{name}.svg"] = to_svg(figure, caption)
        self.lines.append(f"![{caption}]({name}.svg)")

    def how_it_was_made(self, notes: Iterable[str], failed: Iterable[str], facts: Mapping[str, Any]) -> None:
        """What a person should know, what is not finished, and what it was made with, one line each."""
        self.heading("How it was made")
        self.points([*notes, *(f"Not finished: {line}" for line in failed)])
        self.table(["made with", ""], [(name, Cell(None, shown(value))) for name, value in facts.items()])

    def code(self, text: str, explanation: str) -> None:
        self.page.code(text, explanation)
        self.lines += [explanation, f"```\n{text}\n```"]

    def write(self, folder: Path, results: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, svg in self.drawings.items():
            write_text(folder / name, svg + "\n")
        write_text(folder / MARKDOWN, formatting.printable("\n\n".join(self.lines)) + "\n")
        write_json(folder / JSON, {"version": __version__, **results})
        self.page.write(folder / HTML)


def plain(value: Any) -> str:
    """A cell of a Markdown table."""
    return str(as_cell(value)).replace("|", "\\|").replace("\n", " ")


def write_text(path: Path, text: str) -> None:
    with atomic_file(path) as file:
        file.write(text.encode("utf-8", "replace"))


def shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return formatting.plain(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {shown(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(shown(one) for one in value)
    return str(value)
