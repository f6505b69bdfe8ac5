"""Metrics as TensorBoard events: `tensorboard --logdir runs` compares runs."""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from gpt1.training.tracking import Tracker


class TensorBoard(Tracker):
    """Writes TensorBoard events; the event file is created with the first record.

    In a resumed run, TensorBoard is told to discard the events of the steps that are repeated.

    Events are written synchronously: torch's SummaryWriter has a thread, and a write error there is only a traceback.

    Args:
        folder: Where the event files go. Its parent must exist, so that a deleted run folder is not created again.
        warn: Receives the warning if events cannot be written.
    """

    title, errors = "TensorBoard events", (OSError,)

    def __init__(self, folder: Path, warn: Callable[[str], None]) -> None:
        super().__init__(folder, warn)
        self.folder = folder
        self._is_resumed = folder.is_dir() and any(folder.iterdir())
        self._file: IO[bytes] | None = None

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        if self._file is None:
            self._file = self._begin(step)
        for tag, value in numbers.items():
            self._write(self._file, step=step, summary={"value": [{"tag": tag, "simple_value": value}]})
        self._file.flush()

    def end(self) -> None:
        """Close the event file; a later record opens a new one."""
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError:  # buffered events are lost; the warning was given before
                self._failed = True

    def _begin(self, step: int) -> IO[bytes]:
        self.folder.mkdir(exist_ok=True)
        for number in itertools.count():  # there may be a file of the same second
            name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}.{number}"
            if not (self.folder / name).exists():
                break
        file = open(self.folder / name, "xb")  # noqa: SIM115 (open until the run ends)
        self._write(file, file_version="brain.Event:2")
        if self._is_resumed:
            self._write(file, step=step, session_log={"status": 1})  # START: discard events from this step on
        self._is_resumed = False
        return file

    def _write(self, file: IO[bytes], **event: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        RecordWriter(file).write(Event(wall_time=time.time(), **event).SerializeToString())
