"""Progress of long operations: one small interface for the terminal, metrics.jsonl and trackers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpt1.errors import UserError
from gpt1.files.atomic import atomic_write_text
from gpt1.files.foreign import parse_json, read_bounded

MAX_METRICS_BYTES = 2**28
"""Largest metrics.jsonl: a million steps take 200 MB."""


class Progress:
    """Receiver of progress. This one shows nothing; it is the default in Python.

    Every method returns at once and accepts any value without an error.
    """

    def log(self, line: str) -> None:
        """Print a line."""

    def begin(self, title: str, total: int, done: int = 0, unit: str = "steps") -> None:
        """Start an operation of `total` units, of which `done` are already done."""

    def advance(self, done: int, **values: float) -> None:
        """`done` units are done; `values` (loss, tokens_per_s) are shown next to the bar."""

    def record(self, **values: float | int | str) -> None:
        """Log metrics: one line of metrics.jsonl."""

    def end(self) -> None:
        """End the operation."""


class MetricsFile(Progress):
    """Appends every record to metrics.jsonl, one line of JSON each."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def record(self, **values: float | int | str) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def records(self) -> list[dict[str, Any]]:
        """The records of the file."""
        return [record for _, record in self._lines()]

    def truncate_after(self, step: int) -> None:
        """Remove the lines of steps after `step`: a resumed run logs them again."""
        if not self.path.exists():
            return
        lines = [line for line, record in self._lines() if record.get("step", 0) <= step]
        # A kill or a full disk must not lose the existing lines.
        atomic_write_text(self.path, "".join(line + "\n" for line in lines))

    def _lines(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each line and its record, without the line that a killed process was writing."""
        content = read_bounded(self.path, MAX_METRICS_BYTES) if self.path.exists() else b""
        for line in content.decode("utf-8", "replace").splitlines():
            with suppress(UserError, TypeError):
                record = parse_json(line, self.path, allow_nan=True)
                if isinstance(record, dict) and isinstance(record.get("step", 0), int):
                    yield line, record


class MultiProgress(Progress):
    """Forwards everything to several receivers."""

    def __init__(self, targets: Sequence[Progress]) -> None:
        self.targets = targets

    def log(self, line: str) -> None:
        for target in self.targets:
            target.log(line)

    def begin(self, title: str, total: int, done: int = 0, unit: str = "steps") -> None:
        for target in self.targets:
            target.begin(title, total, done, unit)

    def advance(self, done: int, **values: float) -> None:
        for target in self.targets:
            target.advance(done, **values)

    def record(self, **values: float | int | str) -> None:
        for target in self.targets:
            target.record(**values)

    def end(self) -> None:
        for target in self.targets:
            target.end()
