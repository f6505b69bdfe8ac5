"""The page of an evaluation: the metrics of a run on test rows, confusion matrix, calibration and worst mistakes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gpt1 import formatting
from gpt1.config import flag_name
from gpt1.errors import UserError
from gpt1.files.atomic import ensure_writable
from gpt1.files.names import PREDICTIONS
from gpt1.report.headline import headline
from gpt1.report.page import Page
from gpt1.report.run_reader import Run, as_dict
from gpt1.report.sections import add_advice, add_data, add_mistakes, add_predictions, add_results, add_section

GENERATOR, HEAD_BYTES = b'name="generator" content="gpt1"', 1000


def check_report_path(path: Path, overwrite: bool = False) -> None:
    """UserError unless a page can be written to `path`. Another kind of file is likely a mistake, such as the table."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--report {path}: the report is a page.", "Name a file that ends in .html.")
    if path.is_dir():
        raise UserError(f"--report {path} is a folder.", "Name a file that ends in .html.")
    if path.exists() and not overwrite:
        raise UserError(f"--report {path} exists.", "Choose another name, or replace it with --overwrite.")
    if path.exists() and not is_gpt1_page(path):
        problem = f"--overwrite replaces only what gpt1 wrote, and {path} is another page."
        raise UserError(problem, "Choose another name, or delete the file.")
    ensure_writable(path.parent)


def is_gpt1_page(path: Path) -> bool:
    """Whether gpt1 wrote a page; yes for an empty file."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    return not head or GENERATOR in head


def predict_command(
    run: str | Path, test: str | Path, data_dir: str | Path | None, columns: Mapping[str, str | None], verify: bool
) -> str:
    """The command that writes the predictions of the rows of an evaluation with these options."""
    given = {"data_dir": data_dir, **columns, "label": None}
    flags = [word for name, value in given.items() if value for word in (flag_name(name), value)]
    unverified = [] if verify else ["--no-verify"]
    return formatting.shell_join(["gpt1", "predict", run, test, *flags, *unverified, "--out", PREDICTIONS])


def write_evaluation_report(
    path: Path,
    *,
    run: str | Path,
    test: str,
    kind: str,
    columns: Mapping[str, str],
    labels: Iterable[str],
    main: str,
    found: Mapping[str, Any],
    records: Iterable[dict[str, Any]],
    command: str,
) -> Path:
    """Write the page of an evaluation.

    Args:
        path: The page.
        run: Name of the run or model.
        test: Name of the test rows.
        kind: Kind of task.
        columns: The column of each role.
        labels: The classes; none for scores and multiple choice.
        main: The main metric.
        found: The result of `evaluate`, with the bins of the calibration.
        records: A record for each row, as in predictions.jsonl.
        command: The command that predicts the rows; empty for rows that are not in a file.
    """
    validation = {name: found.get(name) for name in ("metrics", "interval", "f1_of", "rows", "subsets")}
    facts = {name: found[name] for name in ("rows", "cut", "read_in_windows") if name in found}
    if unseen := as_dict(found.get("unseen")):
        names = [f"{formatting.escape_controls(str(label))} ({rows:,})" for label, rows in unseen.items()]
        facts["labels that were not in training, counted as wrong"] = ", ".join(names)
    results = {
        **{name: found[name] for name in ("calibration", "baselines", "warning", "advice") if name in found},
        **{"stage": "finetune", "kind": kind, "labels": list(labels), "main": main, "validation": validation},
        "data": facts,
    }
    contents = Run(Path(run), f"rows of {formatting.escape_controls(test)}", results=results, columns=dict(columns))
    contents.predictions = [contents.parse_prediction(record) for record in records]
    page = Page(
        headline(contents), kicker="  ·  ".join(["gpt1", "evaluation", kind, contents.name]), warning=contents.warning
    )
    for section in (add_results, add_predictions, add_mistakes, add_data):
        add_section(section, page, contents)
    if command or found.get("advice"):
        page.heading("Next steps")
    add_advice(page, contents)
    if command:
        page.code(command, "Every row:")
    return page.write(path)
