"""How a command ends: one message and an exit code, never a traceback."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TextIO

from gpt1.cli.output import echo
from gpt1.errors import GPT1Error, ResourceError, UserError

# What the user can mend by naming another place.
PLACES = ("EACCES", "EPERM", "EROFS", "ENOENT", "ENOTDIR", "EISDIR", "EEXIST", "ENAMETOOLONG", "ELOOP")


def of_the_system(error: OSError) -> GPT1Error:
    """What the operating system refused, by whose fault it is."""
    if isinstance(error, BrokenPipeError):  # the reader of our output has gone, as `head` does
        leave(0)
    what = f"{error.filename or 'the output'}: {(error.strerror or str(error)).lower()}."
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None)):
        return ResourceError(f"the disk is full. {what}", "Free some space, or write to another disk.")
    if error.errno in [getattr(errno, name) for name in PLACES]:
        return UserError(what, "Name a place that is there and that you may read and write.")
    return GPT1Error(what, "Mend that and run it again.")


def stop(error: GPT1Error) -> None:
    lines = [f"gpt1: {error.problem}", *(f"      {line}" for line in error.fix.split("\n") if line)]
    for line in lines:
        echo(line)
    leave(error.exit_code)


def leave(code: int) -> None:
    """Exit; output that can no longer be written is not tried again by the interpreter, which would complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


class Talk:
    """Standard error, for as long as somebody reads it: where the terminal is closed, or `2>&1 | tee log` has ended at
    the same Ctrl-C, the work goes on (or is saved) in silence."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def terminate_as_ctrl_c() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does: what is half written is removed, and a line says so. The loop has its own
    way with both while it trains. A handler that is there already stays."""
    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def open_streams() -> None:
    """A program may be started without one of its three, or lose its standard error: what is written there is lost."""
    for stream, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, stream) is None:
            setattr(sys, stream, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 (for as long as we run)
    if not isinstance(sys.stderr, Talk):
        sys.stderr = Talk(sys.stderr)
