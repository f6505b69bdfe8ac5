"""Trackers: receivers of progress that log metrics to other tools. TensorBoard's is in tensorboard.py.

`--track mlflow` and `--track wandb` add one. Its run is named in `tracking.json` of the run folder, so that a resumed
run continues the same one.
"""

from __future__ import annotations

import logging
import math
import os
import time
import uuid
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from gpt1.errors import UserError
from gpt1.files.atomic import atomic_write_json
from gpt1.files.foreign import read_json_object
from gpt1.progress import Progress
from gpt1.runs import folder as runs

TRACKING_FILE = "tracking.json"
PROJECT = "gpt1"
"""Name of the experiment or project, unless the tracker's own variable names another."""
# The trackers' own usage reports stay off unless the user turns them on; an unreachable server times out soon.
MLFLOW_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
WANDB_DEFAULTS = {"WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false"}
MLFLOW_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


class Tracker(Progress):
    """Logs each recorded number as `split/name`. An error gives one warning, and training continues.

    Args:
        place: Where the metrics go, for the warning.
        warn: Receives the warning.
    """

    title: ClassVar[str] = "metrics"
    errors: ClassVar[tuple[type[Exception], ...]] = (Exception,)  # third-party packages raise any kind of error
    known: frozenset[tuple[int, str]] = frozenset()
    """(step, split) of the records that the tracker has: a resumed run repeats some."""

    def __init__(self, place: str | Path, warn: Callable[[str], None]) -> None:
        self.place, self.warn = place, warn
        self._failed = False

    def record(self, **values: float | int | str) -> None:
        step, split = int(values.get("step", 0)), str(values.get("split", "train"))
        if self._failed or (step, split) in self.known:
            return
        numbers = {
            f"{split}/{name}": float(value)
            for name, value in values.items()
            if name not in ("step", "split") and not isinstance(value, str) and math.isfinite(value)
        }
        try:
            self.write(step, numbers)
        except self.errors as error:
            self._fail(error)
            self.end()

    def close(self, status: str) -> None:
        """The run is `finished`, `stopped` or `failed`."""
        self.end()
        try:
            self.finish(status)
        except self.errors as error:
            self._fail(error)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Log the numbers of a step."""
        raise NotImplementedError

    def finish(self, status: str) -> None:
        """Log how the run ended."""

    def _fail(self, error: Exception) -> None:
        if not self._failed:
            self._failed = True
            self.warn(f"warning: logging of {self.title} stopped: {self.place} cannot be written ({reason(error)})")


class MLflow(Tracker):
    """A run of MLflow, in the store that MLFLOW_TRACKING_URI names (by default ./mlflow.db)."""

    title, packages = "MLflow metrics", ("mlflow", "sqlalchemy", "alembic")

    def __init__(self, run: Path, known_id: str | None, settings: Mapping[str, Any], warn: Callable[[str], None]):
        set_defaults(MLFLOW_DEFAULTS)
        import mlflow
        from mlflow.entities import Param

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        super().__init__(mlflow.get_tracking_uri(), warn)
        self.client = mlflow.MlflowClient()
        if known_id:
            self.client.update_run(known_id, status="RUNNING")
            self.id = known_id
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self.client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self.client.create_experiment(name)
        self.id = self.client.create_run(experiment, run_name=run.name).info.run_id
        self.client.log_batch(self.id, params=[Param(key, str(value)) for key, value in settings.items()])

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self.client.log_batch(self.id, [Metric(tag, value, now, step) for tag, value in numbers.items()])

    def finish(self, status: str) -> None:
        self.client.set_terminated(self.id, MLFLOW_STATUS[status])


class WeightsAndBiases(Tracker):
    """A run of Weights & Biases in the run folder; WANDB_MODE=online also sends it."""

    title, packages = "W&B metrics", ("wandb",)

    def __init__(self, run: Path, known_id: str | None, settings: Mapping[str, Any], warn: Callable[[str], None]):
        set_defaults(WANDB_DEFAULTS)
        import wandb

        super().__init__(run / "wandb", warn)
        self.id = known_id or uuid.uuid4().hex[:12]
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=self.id,
            name=run.name,
            dir=str(run),
            config=dict(settings),
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
        )

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        self.run.log(dict(numbers), step=step)

    def finish(self, status: str) -> None:
        self.run.finish(exit_code=0 if status == "finished" else 1)


TRACKERS: dict[str, type[MLflow | WeightsAndBiases]] = {"mlflow": MLflow, "wandb": WeightsAndBiases}


def check_tracker(name: str) -> None:
    """Raise UserError unless the packages of a tracker are installed."""
    packages = TRACKERS[name].packages if name in TRACKERS else ()
    if missing := [package for package in packages if find_spec(package) is None]:
        problem = (
            f"--track {name} needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed."
        )
        raise UserError(problem, "Install it with: pip install 'gpt1[track]'")


def start_tracker(name: str, run: Path, records: list[dict[str, Any]], warn: Callable[[str], None]) -> Tracker:
    """The tracker of a run: the one that it had before, or a new one with the `records` so far.

    Raises:
        UserError: It cannot be reached, or does not have the run that is to be continued.
    """
    path = run / TRACKING_FILE
    stored = read_json_object(path) if path.exists() else {}
    known_id = str(stored[name]) if name in stored else None
    settings = {key: value for key, value in runs.read_run_config(run).items() if key not in runs.RUN_KEYS}
    try:
        tracker = TRACKERS[name](run, known_id, settings, warn)
    except Exception as error:
        goal = f"continue run {known_id}" if known_id else "start a run"
        problem = f"--track {name} cannot {goal}: {reason(error)}."
        raise UserError(problem, "Check the tracker's settings in the environment, or use --track none.") from None
    if known_id is None:
        atomic_write_json(path, {**stored, name: tracker.id})
        for record in records:
            tracker.record(**record)
    tracker.known = frozenset((int(record.get("step", 0)), str(record.get("split", "train"))) for record in records)
    return tracker


def set_defaults(variables: Mapping[str, str]) -> None:
    """Set the variables that the user has not set."""
    for name, value in variables.items():
        os.environ.setdefault(name, value)


def reason(error: Exception) -> str:
    """The first line of an error, for a message."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return text.strip().splitlines()[0][:200].rstrip(".")
