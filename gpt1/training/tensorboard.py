"""Measurements as TensorBoard events: `tensorboard --logdir runs` shows every run beside the others."""

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
    """Writes each recorded number as `split/name` into `folder`; a file appears with the first of them.

    In the folder of an earlier try (a resumed run) TensorBoard is told to forget what that try wrote for the updates
    that are done again.

    Events are written here and now: the writer of torch has a thread, and what it cannot write is a traceback of that
    thread. Events that cannot be written end with one warning, and the work goes on.

    Args:
        folder: Where the files go. The folder above it must exist: that of a deleted run does not come back.
        warn: Gets the warning.
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
            self.warn(f"warning: no more TensorBoard events, {self.folder} cannot be written: {error.strerror}")
            self._close()

    def end(self) -> None:
        """A later measurement opens another file."""
        self._close()

    def _begin(self, step: int) -> IO[bytes]:
        self.folder.mkdir(exist_ok=True)
        for number in itertools.count():  # a file of this second may be there
            name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}.{number}"
            if not (self.folder / name).exists():
                break
        file = open(self.folder / name, "xb")  # noqa: SIM115 (for as long as the run lasts)
        self._write(file, file_version="brain.Event:2")
        if self._is_resumed:
            self._write(file, step=step, session_log={"status": 1})  # START: forget what is at this step and later
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
            except OSError:  # what is still in memory; the warning is out
                self._failed = True
