"""Measurements as TensorBoard events: `tensorboard --logdir runs` shows every run beside the others."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from gpt1.progress import Silent


class TensorBoard(Silent):
    """Writes each recorded number as `split/name` into `folder`; a file appears with the first of them.

    In the folder of an earlier try (a resumed run) TensorBoard is told to forget what that try wrote for the updates
    that are done again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._is_resumed = folder.is_dir() and any(folder.iterdir())
        self._writer: Any = None

    def record(self, **values: float | int | str) -> None:
        step, split = int(values.get("step", 0)), values.get("split", "train")
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            purge = step if self._is_resumed else None
            self._writer = SummaryWriter(str(self.folder), purge_step=purge, flush_secs=10)
            self._is_resumed = False
        for name, value in values.items():
            if name in ("step", "split") or isinstance(value, str) or not math.isfinite(value):
                continue
            self._writer.add_scalar(f"{split}/{name}", value, step)

    def end(self) -> None:
        """Write what is still in memory. A later measurement opens another file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
