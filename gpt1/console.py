"""Terminal output: messages and progress on standard error, results on standard output.

In a pipe or a log there are no bars and no control characters, only a line now and then. NO_COLOR is respected.
"""

from __future__ import annotations

import atexit
import builtins
import io
import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import IO, TYPE_CHECKING, Any

from gpt1 import formatting
from gpt1.progress import Progress

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.text import Text

SECONDS_BETWEEN_LINES = 10.0  # without a terminal: a line after both this time and this share of the work,
SHARE_BETWEEN_LINES = 0.1
MAX_SECONDS_BETWEEN_LINES = 300.0  # or after this time in any case
SECONDS_BEFORE_ESTIMATE, MIN_ESTIMATED_SECONDS = 2.0, 60.0  # without a terminal: the first line, if it takes long
BAR_WIDTH = 24
COLUMNS_AFTER_TITLE = 70  # on a narrower terminal the title gets its own line
COLOR = "cyan"
NON_TTY_WIDTH = 10_000  # in files and pipes nothing is wrapped or truncated
SURPRISE_STYLES = ((0.05, "bold red"), (0.15, "yellow"))
"""The share of most surprising words of a text that get each style."""
HIDDEN_METRICS = {"step", "epoch", "split", "lr", "tokens", "seconds", "gradient_norm"}


def default_progress() -> Progress:
    """The default progress of the Python functions: a Console in IPython and notebooks, else none."""
    return Console() if hasattr(builtins, "__IPYTHON__") else Progress()


class Console(Progress):
    """A `Progress` that prints to `messages` (default: standard error); results go to `results` (standard output)."""

    def __init__(self, messages: IO[str] | None = None, results: IO[str] | None = None) -> None:
        self._messages = messages or sys.stderr
        self._results = results or sys.stdout
        for stream in (self._messages, self._results):  # a terminal that cannot encode λ shows \\u03bb
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        self._rich: dict[int, RichConsole] = {}
        self._work: _Bar | _Lines | None = None

    # Progress

    def log(self, line: str) -> None:
        self._print(self._messages, formatting.printable_line(line))

    def begin(self, title: str, total: int, done: int = 0, unit: str = "steps") -> None:
        self.end()
        title = formatting.printable_line(title)
        if self._messages.isatty() and not self._console(self._messages).is_dumb_terminal:
            self._work = _Bar(self._console(self._messages), title, total, done)
        else:
            self._work = _Lines(self._messages, title, total, done, unit)

    def advance(self, done: int, **values: float) -> None:
        if self._work:
            self._work.advance(done, values)

    def record(self, **values: float | int | str) -> None:
        """Validation metrics stay next to the bar until the next ones come."""
        if self._work and values.get("split") == "validation":
            self._work.validation_metrics = _visible_metrics(values)

    def end(self) -> None:
        work, self._work = self._work, None
        if work:
            work.end()

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()  # after an error or Ctrl-C the terminal must show its cursor again

    # Results

    def print_result(self, line: str) -> None:
        """Print one line of a result on standard output."""
        self._print(self._results, formatting.printable_line(line))

    def show_text(self, text: str) -> None:
        """Print text with its newlines and tabs on standard output."""
        self._print(self._results, formatting.escape_controls(text))

    def write(self, text: str) -> None:
        """Print a piece of text on standard output at once, without a newline after it."""
        self._results.write(formatting.escape_controls(text))
        self._results.flush()

    def show_surprise(self, words: Sequence[tuple[str, float]]) -> None:
        """Print the words of a text; in a terminal with color, the most surprising ones stand out."""
        from rich.text import Text

        ranked = sorted((bits for _, bits in words), reverse=True)
        limits = [ranked[int(share * len(ranked))] for share, _ in SURPRISE_STYLES] if ranked else []
        text = Text()
        for word, bits in words:
            styles = (style for limit, (_, style) in zip(limits, SURPRISE_STYLES, strict=True) if bits >= limit)
            text.append(formatting.escape_controls(word), next(styles, ""))
        self._console(self._results).print(text, soft_wrap=True)

    def print_table(self, columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> None:
        """Print a table on standard output; numbers are right-aligned, in the form of `formatting.format_number`."""
        from rich import box
        from rich.table import Table

        cells = [list(row) for row in rows]
        heading = _rich_text(formatting.printable_line(title)) if title else None
        table = Table(box=box.SIMPLE_HEAD, title=heading, title_justify="left", pad_edge=False)
        for i, name in enumerate(columns):
            filled = [row[i] for row in cells if row[i] not in (None, "")]
            numeric = bool(filled) and all(isinstance(value, (int, float)) for value in filled)
            justify: Any = "right" if numeric else "left"  # narrow terminals wrap words and drop none
            table.add_column(
                _rich_text(formatting.printable_line(name)), justify=justify, no_wrap=numeric, overflow="fold"
            )
        for row in cells:
            table.add_row(*(_rich_text(_format_cell(value)) for value in row))
        self._console(self._results).print(table)

    def print_probabilities(self, probabilities: Sequence[tuple[str, float]]) -> None:
        """Print tokens with their probabilities and a bar each on standard output."""
        from rich.bar import Bar
        from rich.cells import cell_len
        from rich.table import Table

        console = self._console(self._results)
        highest = max((p for _, p in probabilities), default=0.0) or 1.0
        longest = max((cell_len(_show_whitespace(token)) for token, _ in probabilities), default=0)
        # Tokens are never truncated for a bar.
        width = max(1, min(BAR_WIDTH, console.width - longest - len("  100.0%  ")))
        table = Table.grid(padding=(0, 2))
        for justify in ("left", "right", "left"):
            table.add_column(justify=justify, no_wrap=True)
        for token, p in probabilities:
            ascii_bar = "#" * round(width * p / highest)
            bar = ascii_bar if console.options.ascii_only else Bar(1.0, 0, p / highest, width=width, color=COLOR)
            table.add_row(_rich_text(_show_whitespace(token)), f"{100 * p:.1f}%", bar)
        console.print(table)

    # Streams

    def _console(self, stream: IO[str]) -> RichConsole:
        if id(stream) not in self._rich:
            from rich.console import Console as RichConsole

            width = None if stream.isatty() else NON_TTY_WIDTH
            self._rich[id(stream)] = RichConsole(file=stream, width=width, highlight=False, markup=False, emoji=False)
        return self._rich[id(stream)]

    def _print(self, stream: IO[str], text: str) -> None:
        if isinstance(self._work, _Bar) and stream.isatty():
            self._console(stream).print(_rich_text(text), soft_wrap=True)  # above the bar
        else:
            print(text, file=stream, flush=True)


def print_metrics(result: Mapping[str, Any]) -> None:
    """Print the result of `evaluate` as a table: metrics, 95% confidence intervals, baselines, each subset."""
    subsets, baselines = result.get("subsets", {}), [*result.get("baselines", {}).values()]
    number = formatting.format_number
    intervals = {
        name: f"[{number(low)}, {number(high)}]"
        for name, (low, high) in result.get("interval", {}).items()
        if low == low  # NaN: too few rows for an interval
    }
    rows = []
    for name, value in result["metrics"].items():
        average = f" ({result['f1_of']})" if name == "f1" and result.get("f1_of") else ""
        interval = [intervals.get(name, "")] if intervals else []
        others = [one["metrics"].get(name, "") for one in baselines]
        own = [part["metrics"][name] for part in subsets.values()]
        rows.append([formatting.metric_name(name) + average, value, *interval, *others, *own])
    unit = "window" if "perplexity" in result["metrics"] else "row"
    columns = ["", formatting.count_noun(result["rows"], unit), *(["95% confidence interval"] if intervals else [])]
    columns += [one["name"] for one in baselines]
    columns += [f"{name}, {formatting.count_noun(part['rows'], 'row')}" for name, part in subsets.items()]
    Console().print_table(columns, rows)


class _ProgressState:
    """State of both ways to show progress."""

    def __init__(self, total: int, done: int) -> None:
        self.total, self.start, self.done = total, done, done
        self.began = time.monotonic()
        self.values: dict[str, float] = {}
        self.validation_metrics: dict[str, float] = {}

    def update(self, done: int, values: Mapping[str, float]) -> None:
        self.done = done
        self.values |= _visible_metrics(values)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    @property
    def seconds_left(self) -> float:
        finished = self.done - self.start
        return self.seconds * (self.total - self.done) / finished if finished > 0 else math.nan

    @property
    def time_left(self) -> str:
        left = self.seconds_left
        return "" if math.isnan(left) else f"{formatting.format_duration(left)} left"

    @property
    def percent(self) -> int:
        return 100 * self.done // self.total if self.total else 100

    @property
    def metric_texts(self) -> list[str]:
        """The metrics in order of importance: loss, validation score, speed."""
        texts = [formatting.format_metric(name, value) for name, value in self.values.items()]
        scores = [name for name in self.validation_metrics if name not in ("loss", "lm_loss", "bits_per_byte")]
        for name in (scores or list(self.validation_metrics))[:1]:
            texts.insert(1, f"validation {formatting.format_metric(name, self.validation_metrics[name])}")
        return texts


class _Bar(_ProgressState):
    """A live line: title, bar, percent, position, time left (at the end: time taken), metrics."""

    def __init__(self, console: RichConsole, title: str, total: int, done: int) -> None:
        from rich.live import Live

        super().__init__(total, done)
        self.console, self.title, self.ended = console, title, False
        if console.width < len(title) + COLUMNS_AFTER_TITLE:
            console.print(_rich_text(title), soft_wrap=True)
            self.title = ""
        self.live = Live(console=console, get_renderable=self._line, refresh_per_second=4)
        self.live.start()
        atexit.register(self.live.stop)  # the cursor comes back however the process ends

    def advance(self, done: int, values: Mapping[str, float]) -> None:
        self.update(done, values)  # a thread draws it four times a second

    def end(self) -> None:
        self.ended = True
        self.live.stop()
        atexit.unregister(self.live.stop)

    def _line(self) -> Text:
        """One line of the terminal's width: first the last metrics are dropped, then the bar gets shorter."""
        from rich.cells import cell_len
        from rich.text import Text

        position = f"{self.percent:3}%  {self.done:,}/{self.total:,}"
        clock = formatting.format_duration(self.seconds) if self.ended else self.time_left
        left, right = [self.title] * bool(self.title), [position, *[clock] * bool(clock), *self.metric_texts]
        room = self.console.width - 1

        def free_columns() -> int:
            return room - cell_len("  ".join([*left, "", *right]))

        while len(right) > 2 and free_columns() < BAR_WIDTH // 2:
            right.pop()
        width = max(0, min(BAR_WIDTH, free_columns()))
        full, half = divmod(int(2 * width * self.done / self.total) if self.total else 2 * width, 2)
        solid, halved = ("#", "") if self.console.options.ascii_only else ("━", "╸" * half)
        bar = Text(solid * full + halved, style=COLOR)
        bar.append(("-" if solid == "#" else "━") * (width - full - len(halved)), style="bright_black")
        if self.console.no_color:  # without color the rest of the bar would look the same
            bar.truncate(full + len(halved))
            bar.pad_right(width - len(bar))
        return Text("  ").join([Text(part) for part in left] + [bar] + [Text(part) for part in right])


class _Lines(_ProgressState):
    """Progress without a terminal: a line now and then."""

    def __init__(self, stream: IO[str], title: str, total: int, done: int, unit: str) -> None:
        super().__init__(total, done)
        self.stream, self.unit = stream, unit
        self.last_line_at, self.last_line_done, self.estimated = self.began, done, False
        whole = formatting.count_noun(total, unit.removesuffix("s")) if unit.endswith("s") else f"{total:,} {unit}"
        self._line(f"{title}: {done:,}/{total:,} {unit}" if done else f"{title}: {whole}")

    def advance(self, done: int, values: Mapping[str, float]) -> None:
        self.update(done, values)
        waited = time.monotonic() - self.last_line_at
        advanced = self.done - self.last_line_done >= SHARE_BETWEEN_LINES * self.total
        if done == self.total:  # `end` prints it, with the time taken
            return
        if not self.estimated and self.seconds >= SECONDS_BEFORE_ESTIMATE:
            self.estimated = True
            if self.seconds_left >= MIN_ESTIMATED_SECONDS:
                estimate = formatting.format_estimate(self.seconds_left)
                self._line(f"  {done:,}/{self.total:,} {self.unit}: {estimate} on this machine")
        if (advanced and waited >= SECONDS_BETWEEN_LINES) or waited >= MAX_SECONDS_BETWEEN_LINES:
            self.last_line_at, self.last_line_done = time.monotonic(), done
            self._line(self._position(self.time_left))

    def end(self) -> None:
        self._line(self._position(formatting.format_duration(self.seconds)))

    def _position(self, clock: str) -> str:
        parts = [f"{self.percent}%", f"{self.done:,}/{self.total:,} {self.unit}", clock, *self.metric_texts]
        return "  " + "  ".join(part for part in parts if part)

    def _line(self, text: str) -> None:
        print(text, file=self.stream, flush=True)


def _visible_metrics(values: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that are worth showing next to a bar."""
    return {
        name: value if isinstance(value, int) else float(value)
        for name, value in values.items()
        if name not in HIDDEN_METRICS and isinstance(value, Real) and not isinstance(value, bool)
    }


def _rich_text(line: str) -> Text:
    from rich.text import Text

    return Text(line)


def _format_cell(value: Any) -> str:
    if value is None:
        return "–"
    return formatting.format_number(value) if isinstance(value, (int, float)) else formatting.printable_line(str(value))


def _show_whitespace(token: str) -> str:
    """A token with visible outer spaces and newlines."""
    text = formatting.printable_line(token)
    inner = text.strip(" ")
    before = len(text) - len(text.lstrip(" "))
    return "␣" * before + inner + "␣" * (len(text) - before - len(inner)) if inner else "␣" * len(text)
