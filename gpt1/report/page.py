"""A page that needs nothing but a browser: building blocks for every report, result table and demo.

    page = Page("CoLA: Matthews 0.31 [0.24, 0.38]", kicker="table 4")
    page.heading("Beside the paper")
    page.table(["task", "paper", "ours, median [min–max]", "difference"], rows)
    page.write(Path("report.html"))

One file: the style is inside, nothing is loaded, nothing is scripted (the page's own content policy forbids both), and
whatever is passed in is text: it is escaped, never read as HTML.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gpt1 import formatting
from gpt1.files.atomic import atomic_file
from gpt1.report.charts import to_svg

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Cell:
    """A cell that says more than its value."""

    value: Any
    text: str = ""
    """What is shown; empty: the value, as a measurement."""
    note: str = ""
    """Small, behind the text: an interval, a share."""
    shade: float = 0.0
    """Strength of the background, 0 to 1."""
    tone: Literal["good", "bad"] = "good"

    @property
    def shown(self) -> str:
        return self.text or shown(self.value)

    def __str__(self) -> str:
        return f"{self.shown} {self.note}" if self.note else self.shown

    @property
    def is_number(self) -> bool:
        return isinstance(self.value, (int, float)) and not isinstance(self.value, bool)


@dataclass(frozen=True)
class Mistake:
    """A row that was predicted wrongly, with all that a reader needs to judge it."""

    fields: Mapping[str, Any]
    label: str
    prediction: str
    loss: str = ""
    """In words, as `loss 4.61`; how wrong the model was."""
    probabilities: Sequence[tuple[str, float]] = ()


@dataclass
class Section:
    heading: str = ""
    note: str = ""
    blocks: list[dict[str, Any]] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        return re.sub(r"\W+", "-", self.heading.lower()).strip("-")


def shown(value: Any) -> str:
    """Any value as a table shows it: numbers as measurements, nothing as a dash."""
    if value is None or value == "":
        return "–"
    if isinstance(value, (int, float)):
        return formatting.number(value)
    return str(value)


class Page:
    """A page in the making: blocks are added from top to bottom, then it is written."""

    def __init__(self, title: str, *, kicker: str = "", lead: str = "") -> None:
        """`title` is the result in words, `kicker` stands small above it, `lead` is a sentence below it."""
        self.title = title
        self.kicker = kicker
        self.lead = lead
        self.sections = [Section()]

    def heading(self, text: str, note: str = "") -> None:
        """A new section; `note` says in a sentence what is to be seen there."""
        self.sections.append(Section(text, note))

    def paragraph(self, text: str) -> None:
        self._add("paragraph", text=text)

    def facts(self, facts: Mapping[str, Any]) -> None:
        """A few figures side by side, each under its name."""
        self._add("facts", facts=[(name, as_cell(value)) for name, value in facts.items()])

    def table(
        self,
        columns: Sequence[str],
        rows: Iterable[Sequence[Any]],
        *,
        caption: str = "",
        prose: bool = False,
        folded: str = "",
    ) -> None:
        """Rows of values or `Cell`s.

        prose: the last column holds sentences (on a phone it moves below its row). folded: what opens the table.
        """
        self._add("table", **_table(columns, rows), caption=caption, prose=prose, folded=folded)

    def svg(
        self,
        figure: Figure | str,
        caption: str,
        *,
        numbers: tuple[Sequence[str], Iterable[Sequence[Any]]] | None = None,
    ) -> None:
        """A drawing with its caption; `numbers` (columns, rows) can be unfolded below it. Neighbours share a line."""
        from markupsafe import Markup

        blocks = self.sections[-1].blocks
        if not blocks or blocks[-1]["kind"] != "figures":
            self._add("figures", figures=[])
        drawing = Markup(to_svg(figure, caption))  # drawn by us; its labels were escaped when it was written
        table = _table(*numbers) if numbers else None
        blocks[-1]["figures"].append({"svg": drawing, "caption": caption, "numbers": table})

    def matrix(self, labels: Sequence[str], counts: Sequence[Sequence[int]]) -> None:
        """A confusion matrix: a row for each true label, a column for each predicted one."""
        rows = []
        for i, (label, line) in enumerate(zip(labels, counts, strict=True)):
            total = sum(line)
            cells = [
                Cell(n, shade=n / total if total else 0, tone="good" if i == j else "bad") for j, n in enumerate(line)
            ]
            rows.append(
                (label, [*cells, Cell(line[i] / total, f"{100 * line[i] / total:.0f} %") if total else Cell(None)])
            )
        self._add("matrix", labels=list(labels), rows=rows)

    def mistakes(self, mistakes: Sequence[Mistake]) -> None:
        """Each row with its text, what was right, what was predicted."""
        self._add("mistakes", mistakes=mistakes)

    def texts(self, texts: Iterable[tuple[str, str]]) -> None:
        """(prompt, what the model wrote): the prompt is set off from its continuation."""
        pairs = [(prompt, text.removeprefix(prompt)) for prompt, text in texts]
        self._add("texts", texts=pairs)

    def code(self, text: str, explanation: str = "") -> None:
        """A command or a few lines of code, after what they are for."""
        self._add("code", text=text, explanation=explanation)

    def html(self) -> str:
        import jinja2

        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("gpt1"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )  # fmt: skip
        environment.filters["prose"] = _prose
        text = environment.get_template("page.html").render(page=self)
        return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", "\ufffd", text)  # no document may hold these

    def write(self, path: Path) -> Path:
        """Write the page in one move: a reader never meets half of it."""
        page = self.html().encode("utf-8", "replace")  # half a surrogate pair has no UTF-8
        with atomic_file(path) as file:
            file.write(page)
        return path

    def _add(self, kind: str, **values: Any) -> None:
        self.sections[-1].blocks.append({"kind": kind, **values})


def as_cell(value: Any) -> Cell:
    """`value`, which may be a cell already."""
    return value if isinstance(value, Cell) else Cell(value)


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> dict[str, Any]:
    cells = [[as_cell(value) for value in row] for row in rows]
    is_number = []
    for column in range(len(columns)):
        filled = [row[column].is_number for row in cells if row[column].value not in (None, "")]
        is_number.append(sum(filled) > len(filled) / 2)
    return {"columns": list(zip(columns, is_number, strict=True)), "rows": cells}


def _prose(text: str) -> Markup:
    """Escaped, with `this` set as code."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))
