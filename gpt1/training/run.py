"""What runs of both stages share while they train: the lock of the run folder, its metrics and its report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpt1.files.atomic import lock_dir
from gpt1.progress import MetricsFile, MultiProgress, Progress
from gpt1.report import report_on_exit
from gpt1.runs import folder as runs
from gpt1.training.tensorboard import TensorBoard


@contextmanager
def open_run(run: Path, progress: Progress, is_rank0: bool = True) -> Iterator[tuple[Progress, MetricsFile | None]]:
    """Lock a run folder while it is trained, record its metrics, and write its report in the end.

    Args:
        run: The run folder.
        progress: Where messages and progress go.
        is_rank0: Other processes do not touch the folder.

    Yields:
        A progress that also writes metrics.jsonl and TensorBoard events; and the metrics file, or None.
    """
    if not is_rank0:
        yield progress, None
        return
    metrics = MetricsFile(run / runs.METRICS_FILE)
    with lock_dir(run), report_on_exit(run):
        yield MultiProgress([progress, metrics, TensorBoard(run / "events", progress.log)]), metrics
