"""The runs of a server: their results and their report pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from starlette.responses import Response

from gpt1.errors import GPT1Error
from gpt1.files.foreign import read_bounded
from gpt1.files.names import REPORT_FILE, RUN_CONFIG_FILE
from gpt1.runs.folder import read_results, read_run_config
from gpt1.serving.errors import ApiError
from gpt1.serving.models import ServedModels

MAX_REPORT_BYTES = 64 * 2**20
REPORT_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
"""A report is one file with its own styles. It runs no script, and the sandbox keeps it away from the page."""


def run_list(models: ServedModels) -> list[dict[str, Any]]:
    """Name, stage and results of each served run; a model folder has no results."""
    return [{"id": name, **run_facts(served.folder)} for name, served in models.models.items()]


def run_facts(folder: Path) -> dict[str, Any]:
    if not (folder / RUN_CONFIG_FILE).exists():
        return {"stage": None, "results": {}, "report": False}
    try:
        stage, results = read_run_config(folder).get("stage"), read_results(folder)
    except GPT1Error as error:
        return {"stage": None, "results": {}, "report": False, "problem": error.problem}
    return {"stage": stage, "results": results, "report": (folder / REPORT_FILE).exists()}


def run_report(models: ServedModels, name: str) -> Response:
    """The report page of a run. Raises ApiError (404) if there is none."""
    served = models.models.get(name)
    path = served.folder / REPORT_FILE if served else None
    if path is None or not path.exists():
        raise ApiError(404, f"there is no report of '{name[:80]}'.", "not_found")
    headers = {"Content-Security-Policy": REPORT_POLICY}
    return Response(read_bounded(path, MAX_REPORT_BYTES), media_type="text/html; charset=utf-8", headers=headers)
