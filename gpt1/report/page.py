"""A self-contained HTML page: building blocks of all reports, result tables and the demo.

    page = Page("CoLA: Matthews 0.31 [0.24, 0.38]", kicker="table 4")
    page.heading("Comparison with the paper")
    page.table(["task", "paper", "ours, median [min–max]", "difference"], rows)
    page.write(Path("report.html"))

One file with inline CSS; its content security policy forbids scripts and external resources. All text is escaped and
never interpreted as HTML.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gpt1 import formatting
from gpt1.files.atomic import atomic_write_text
from gpt1.report.charts import NARROW, WIDE, to_svg

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure


MAX_LEVEL_LABELS, MAX_LEVEL_CHARACTERS = 3, 10
"""A confusion matrix with more or longer labels writes them vertically above its columns, which saves width."""


def format_interval(interval: tuple[float, float]) -> str:
    return f"[{format_score(interval[0])},\u00a0{format_score(interval[1])}]"


def format_score(value: float) -> str:
    """A score or correlation with three decimals; larger numbers with three digits."""
    return f"{value + 0.0:.3f}".replace("-", "−") if abs(value) < 1 else formatting.format_number(value)


@dataclass(frozen=True)
class Cell:
    """A table cell with formatting."""

    value: Any
    text: str = ""
    """Displayed text; empty: the formatted value."""
    note: str = ""
    """Small text after it: an interval, a share."""
    shade: float = 0.0
    """Opacity of the background, 0 to 1."""
    tone: Literal["good", "bad"] = "good"

    @property
    def display_text(self) -> str:
        return self.text or format_value(self.value)

    def __str__(self) -> str:
        return f"{self.display_text} {self.note}" if self.note else self.display_text

    @property
    def is_number(self) -> bool:
        return isinstance(self.value, (int, float)) and not isinstance(self.value, bool)


@dataclass(frozen=True)
class Mistake:
    """A wrongly predicted row: texts, label, prediction, probabilities."""

    fields: Mapping[str, Any]
    label: str
    prediction: str
    loss: str = ""
    """In words, such as `loss 4.61`."""
    probabilities: Sequence[tuple[str, float, bool]] = ()
    """(label, its probability, whether the row has it)."""


@dataclass
class Section:
    heading: str = ""
    note: str = ""
    blocks: list[dict[str, Any]] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        return re.sub(r"\W+", "-", self.heading.lower()).strip("-")


def format_value(value: Any) -> str:
    """A value as text for a table; missing values are a dash."""
    if value is None or value == "":
        return "–"
    if isinstance(value, (int, float)):
        return formatting.format_number(value)
    return str(value)


class Page:
    """A page: add blocks from top to bottom, then `write` it."""

    def __init__(self, title: str, *, kicker: str = "", lead: str = "", warning: str = "") -> None:
        """Start a page with the result as `title`, small text above it (`kicker`), a sentence (`lead`) and a warning
        below."""
        self.title = title
        self.kicker = kicker
        self.lead = lead
        self.warning = warning
        self.sections = [Section()]

    def heading(self, text: str, note: str = "") -> None:
        """Start a new section; `note` is a sentence about it."""
        self.sections.append(Section(text, note))

    def paragraph(self, text: str) -> None:
        self._add("paragraph", text=text)

    def facts(self, facts: Mapping[str, Any]) -> None:
        """Add a few values side by side, each below its name."""
        self._add("facts", facts=[(name, _to_cell(value)) for name, value in facts.items()])

    def table(
        self,
        columns: Sequence[str],
        rows: Iterable[Sequence[Any]],
        *,
        caption: str = "",
        prose: bool = False,
        summary: str = "",
    ) -> None:
        """Add a table.

        Args:
            columns: Names of the columns.
            rows: Values or `Cell`s.
            caption: Text above the table.
            prose: Whether the last column contains sentences (on phones it is below its row).
            summary: If set, the table is collapsed under this text.
        """
        self._add("table", **_table_block(columns, rows), caption=caption, prose=prose, folded=summary)

    def svg(
        self, figure: Figure, caption: str, *, data_table: tuple[Sequence[str], Iterable[Sequence[Any]]] | None = None
    ) -> None:
        """Add a chart with a collapsed `data_table` (columns, rows) below it.

        Consecutive charts share a line; a chart that is alone has another drawing for wide pages."""
        from markupsafe import Markup

        blocks = self.sections[-1].blocks
        if not blocks or blocks[-1]["kind"] != "figures":
            self._add("figures", figures=[])
        charts = [Markup(to_svg(figure, caption, size=size)) for size in (NARROW, WIDE)]  # safe: labels are escaped
        table = _table_block(*data_table) if data_table else None
        blocks[-1]["figures"].append({"narrow": charts[0], "wide": charts[1], "caption": caption, "numbers": table})

    def matrix(self, labels: Sequence[str], counts: Sequence[Sequence[int]]) -> None:
        """Add a confusion matrix: a row for each true label, a column for each predicted one."""
        rows = []
        for i, (label, line) in enumerate(zip(labels, counts, strict=True)):
            total = sum(line)
            cells = [
                Cell(n, shade=n / total if total else 0, tone="good" if i == j else "bad") for j, n in enumerate(line)
            ]
            rows.append(
                (label, [*cells, Cell(line[i] / total, f"{100 * line[i] / total:.0f} %") if total else Cell(None)])
            )
        tall = len(labels) > MAX_LEVEL_LABELS or max(map(len, labels)) > MAX_LEVEL_CHARACTERS
        self._add("matrix", labels=list(labels), rows=rows, tall=tall)

    def mistakes(self, mistakes: Sequence[Mistake]) -> None:
        """Add wrongly predicted rows."""
        self._add("mistakes", mistakes=mistakes)

    def texts(self, texts: Iterable[tuple[str, str]]) -> None:
        """Add generated texts, as (prompt, text); the prompt is in bold."""
        pairs = [(prompt, text.removeprefix(prompt)) for prompt, text in texts]
        self._add("texts", texts=pairs)

    def code(self, text: str, explanation: str = "") -> None:
        """Add a command or code, after its explanation."""
        self._add("code", text=text, explanation=explanation)

    def render(self) -> str:
        import jinja2

        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("gpt1.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )  # fmt: skip
        environment.filters |= {"prose": _render_inline_code, "flags": _keep_flags_whole}
        text = environment.get_template("page.html").render(page=self)
        return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", "\ufffd", text)  # not allowed in HTML

    def write(self, path: Path) -> Path:
        """Write the page atomically."""
        atomic_write_text(path, self.render(), "replace")  # a lone surrogate has no UTF-8 encoding
        return path

    def _add(self, kind: str, **values: Any) -> None:
        section = self.sections[-1]
        section.blocks.append({"kind": kind, "about": section.heading or self.title, **values})


def _to_cell(value: Any) -> Cell:
    return value if isinstance(value, Cell) else Cell(value)


def _table_block(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> dict[str, Any]:
    cells = [[_to_cell(value) for value in row] for row in rows]
    is_number = []
    for column in range(len(columns)):
        filled = [row[column].is_number for row in cells if row[column].value not in (None, "")]
        is_number.append(sum(filled) > len(filled) / 2)
    return {"columns": list(zip(columns, is_number, strict=True)), "rows": cells}


def _render_inline_code(text: str) -> Markup:
    """Escape `text`; text in backticks becomes <code>."""
    from markupsafe import Markup

    whole = str(_keep_flags_whole(text))  # of a Markup, Python 3.11 would escape <code> as well
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", whole))


def _keep_flags_whole(text: str) -> Markup:
    """Escape `text`; no line breaks within a flag."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"--[a-z][a-z0-9-]*", r'<span class="flag">\g<0></span>', str(escape(text))))
