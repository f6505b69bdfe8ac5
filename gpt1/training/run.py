"""A training run of either stage: resuming it, and the lock of its folder, its metrics and its report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpt1.errors import Interrupted, UserError
from gpt1.files.atomic import lock_dir
from gpt1.files.names import METRICS_FILE
from gpt1.formatting import shell_join
from gpt1.progress import MetricsFile, MultiProgress, Progress
from gpt1.report.sections import report_on_exit
from gpt1.runs import folder as runs
from gpt1.runs.folder import AnyConfig
from gpt1.training import checkpoints
from gpt1.training.distributed import SINGLE_PROCESS, Processes
from gpt1.training.tensorboard import TensorBoard
from gpt1.training.tracking import TRACKERS, Tracker, start_tracker


def check_validation_source(valid: Any, settings: Mapping[str, Any]) -> None:
    """UserError for a share of the training data next to validation data of its own."""
    if valid is not None and settings.get("valid_fraction"):
        raise UserError("--valid-fraction has no effect with --valid.", "Use one of them.")


def resume_run(
    out: str | Path,
    config_class: type[AnyConfig],
    requested: Mapping[str, Any],
    command: Mapping[str, Any],
    inputs: Mapping[str, Any],
    progress: Progress,
    processes: Processes = SINGLE_PROCESS,
) -> tuple[Path, AnyConfig, dict[str, Any] | None]:
    """(folder, settings, command) of a run to resume; no command for a finished run, which is logged.

    `command` is what was given now, as for `open_for_resume`. Its `inputs` may have moved: they replace those of the
    command that started the run, unless they are None.
    """

    def read() -> tuple[Path, AnyConfig, dict[str, Any] | None]:
        run, cfg = runs.open_for_resume(out, config_class, requested, command)
        given = {name: value for name, value in inputs.items() if value is not None}
        return run, cfg, None if runs.is_finished(run) else {**runs.read_run_config(run)["command"], **given}

    run, cfg, started_with = processes.broadcast_from_rank0(read)
    if started_with is None:
        progress.log(f"{run} is already finished")
    return run, cfg, started_with


@contextmanager
def open_run(
    run: Path, progress: Progress, track: str = "none", is_rank0: bool = True
) -> Iterator[tuple[Progress, MetricsFile | None]]:
    """Lock a run folder while it is trained, record its metrics, and write its report in the end.

    Args:
        run: The run folder.
        progress: Where messages and progress go.
        track: A tracker besides TensorBoard: `mlflow`, `wandb` or `none`.
        is_rank0: Other processes do not touch the folder.

    Yields:
        A progress that also writes metrics.jsonl and the trackers; and the metrics file, or None.

    Raises:
        UserError: The run is in use, or the tracker cannot be reached.
        Interrupted: After Ctrl-C; its `fix` is the command that finishes the run.
    """
    if not is_rank0:
        yield progress, None
        return
    metrics = MetricsFile(run / METRICS_FILE)
    try:
        with lock_dir(run), report_on_exit(run):
            trackers: list[Tracker] = [TensorBoard(run / "events", progress.log)]
            if track in TRACKERS:
                trackers.append(start_tracker(track, run, metrics.records(), progress.log))
            with close_trackers(trackers):
                yield MultiProgress([progress, metrics, *trackers]), metrics
    except KeyboardInterrupt:  # before or after the steps: during them, the loop saves its state and raises Interrupted
        progress.end()
        raise unfinished_run_error(run) from None


def unfinished_run_error(run: Path) -> Interrupted:
    """What is there of a run that was stopped before its first or after its last step, and how to finish it."""
    steps = checkpoints.list_steps(run / "checkpoints")
    if runs.is_finished(run):
        problem, rest = f"stopped. The model and the results of {run} are complete.", "Write its report page"
    elif steps:
        problem = f"stopped before the results of {run} were complete; the state after step {steps[-1]:,} is saved."
        rest = "Continue from that step"
    else:
        problem, rest = f"stopped before the first checkpoint of {run}.", "Start its training again"
    command = shell_join(["gpt1", runs.read_run_config(run)["stage"], "--out", run, "--resume"])
    return Interrupted(problem, f"{rest}: {command}")


@contextmanager
def close_trackers(trackers: Sequence[Tracker]) -> Iterator[None]:
    """Report to the trackers how the run ended."""
    status = "failed"
    try:
        yield
        status = "finished"
    except (Interrupted, KeyboardInterrupt):
        status = "stopped"
        raise
    finally:
        for tracker in trackers:
            tracker.close(status)
