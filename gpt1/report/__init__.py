"""The page that every run leaves behind, and the blocks that other pages are built from. Reads files, knows no verb."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gpt1.report.page import Cell, Mistake, Page
from gpt1.report.sections import write_report

__all__ = ["Cell", "Mistake", "Page", "report_on_exit", "write_report"]


@contextmanager
def report_on_exit(run: Path) -> Iterator[None]:
    """Leave the page of `run` behind however the work in here ends; an error of the work is what the caller sees."""
    try:
        yield
    except BaseException:
        with suppress(Exception):
            if run.is_dir():  # a folder that was deleted stays away
                write_report(run)
        raise
    write_report(run)
