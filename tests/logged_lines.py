"""A progress for tests that keeps the lines it was given."""

from __future__ import annotations

from gpt1.progress import Progress


class LoggedLines(Progress):
    """`lines` has the logged lines; `words in progress` searches them."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, line: str) -> None:
        self.lines.append(line)

    def __contains__(self, words: str) -> bool:
        return any(words in line for line in self.lines)
