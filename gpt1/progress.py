"""How the verbs tell what they do: one small interface that a terminal, a log file or a page can show."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from gpt1.errors import UserError
from gpt1.files.atomic import atomic_file
from gpt1.files.foreign import parse_json, read_bounded

MAX_METRICS_BYTES = 2**28
"""Largest metrics.jsonl: a million updates take 200 MB."""


class Progress(Protocol):
    """What a verb says while it works. Every method returns at once and never raises for what it is given."""

    def log(self, line: str) -> None:
        """A line for a person."""

    def begin(self, title: str, total: int, done: int = 0, unit: str = "updates") -> None:
        """A piece of work of `total` units starts, `done` of them already behind it."""

    def advance(self, done: int, **values: float) -> None:
        """`done` units are behind; `values` (loss, tokens_per_s) stand beside the bar."""

    def record(self, **values: float | int | str) -> None:
        """A measurement to keep: one line of metrics.jsonl."""

    def end(self) -> None:
        """The piece of work is over."""


class NullProgress:
    """Says nothing; what Python callers get unless they ask for more."""

    def log(self, line: str) -> None: ...

    def begin(self, title: str, total: int, done: int = 0, unit: str = "updates") -> None: ...

    def advance(self, done: int, **values: float) -> None: ...

    def record(self, **values: float | int | str) -> None: ...

    def end(self) -> None: ...


class MetricsFile(NullProgress):
    """Keeps every measurement as a line of JSON."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def record(self, **values: float | int | str) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def truncate_after(self, step: int) -> None:
        """Drop the lines of updates that a resumed run does again, so that no update is told twice."""
        if not self.path.exists():
            return
        kept = []
        for line in read_bounded(self.path, MAX_METRICS_BYTES).decode("utf-8", "replace").splitlines():
            try:
                if parse_json(line, self.path, allow_nan=True).get("step", 0) <= step:
                    kept.append(line)
            except (UserError, AttributeError, TypeError):  # the line that a killed process was writing
                continue
        with atomic_file(self.path) as file:  # a kill or a full disk in here must not take the lines that are there
            file.write("".join(line + "\n" for line in kept).encode())


class MultiProgress:
    """Passes everything on to several."""

    def __init__(self, targets: Sequence[Progress]) -> None:
        self.targets = targets

    def log(self, line: str) -> None:
        for part in self.targets:
            part.log(line)

    def begin(self, title: str, total: int, done: int = 0, unit: str = "updates") -> None:
        for part in self.targets:
            part.begin(title, total, done, unit)

    def advance(self, done: int, **values: float) -> None:
        for part in self.targets:
            part.advance(done, **values)

    def record(self, **values: float | int | str) -> None:
        for part in self.targets:
            part.record(**values)

    def end(self) -> None:
        for part in self.targets:
            part.end()
