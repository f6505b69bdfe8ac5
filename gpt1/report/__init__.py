"""report.html of runs, and the building blocks of all HTML reports. Reads files only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gpt1.report.evaluation import check_report_path, write_evaluation_report
from gpt1.report.page import Cell, Mistake, Page
from gpt1.report.sections import write_report

__all__ = ["Cell", "Mistake", "Page", "check_report_path", "report_on_exit", "write_evaluation_report", "write_report"]


@contextmanager
def report_on_exit(run: Path) -> Iterator[None]:
    """Write the report of `run` on exit, also after an exception, which is raised again."""
    try:
        yield
    except BaseException:
        with suppress(Exception):
            if run.is_dir():  # do not create a deleted folder again
                write_report(run)
        raise
    write_report(run)
