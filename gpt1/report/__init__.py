"""report.html of runs, and the building blocks of all HTML reports. Reads files only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gpt1.console import Console
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
    try:
        write_report(run)
    except Exception as error:  # the run is complete without its page, and says how to get it
        Console().log(
            f"warning: the page of {run} could not be written ({type(error).__name__}: {error}). The run is complete; "
            "with the same command and --resume the page is written again"
        )
