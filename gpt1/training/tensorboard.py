"""Metrics as TensorBoard events: `tensorboard --logdir runs` compares runs."""

from __future__ import annotations

import itertools
import math
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from gpt1.progress import NullProgress


class TensorBoard(NullProgress):
    """Writes each recorded number as `split/name`; the event file is created with the first one.

    In a resumed run, TensorBoard is told to discard the events of the steps that are repeated.

    Events are written synchronously: torch's SummaryWriter has a thread, and a write error there is only a traceback.
    If events cannot be written, there is one warning and training continues.

    Args:
        folder: Where the event files go. Its parent must exist, so that a deleted run folder is not created again.
        warn: Receives the warning.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None]) -> None:
        self.folder = folder
        self.warn = warn
        self._is_resumed = folder.is_dir() and any(folder.iterdir())
        self._file: IO[bytes] | None = None
        self._failed = False

    def record(self, **values: float | int | str) -> None:
        step, split = int(values.get("step", 0)), values.get("split", "train")
        numbers = {
            f"{split}/{name}": float(value)
            for name, value in values.items()
            if name not in ("step", "split") and not isinstance(value, str) and math.isfinite(value)
        }
        if self._failed:
            return
        try:
            if self._file is None:
                self._file = self._begin(step)
            for tag, value in numbers.items():
                self._write(self._file, step=step, summary={"value": [{"tag": tag, "simple_value": value}]})
            self._file.flush()
        except OSError as error:
            self._failed = True
            self.warn(f"warning: no more TensorBoard events: {self.folder} cannot be written ({error.strerror})")
            self._close()

    def end(self) -> None:
        """Close the event file; a later record opens a new one."""
        self._close()

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

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError:  # buffered events are lost; the warning was given before
                self._failed = True
