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
PATH_ERRNOS = ("EACCES", "EPERM", "EROFS", "ENOENT", "ENOTDIR", "EISDIR", "EEXIST", "ENAMETOOLONG", "ELOOP")


def translate_oserror(error: OSError) -> GPT1Error:
    """What the operating system refused, by whose fault it is."""
    if isinstance(error, BrokenPipeError):  # the reader of our output has gone, as `head` does
        exit_with(0)
    what = f"{error.filename or 'the output'}: {(error.strerror or str(error)).lower()}."
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None)):
        return ResourceError(f"the disk is full. {what}", "Free some space, or write to another disk.")
    if error.errno in [getattr(errno, name) for name in PATH_ERRNOS]:
        return UserError(what, "Name a place that is there and that you may read and write.")
    return GPT1Error(what, "Mend that and run it again.")


def report_and_exit(error: GPT1Error) -> None:
    lines = [f"gpt1: {error.problem}", *(f"      {line}" for line in error.fix.split("\n") if line)]
    for line in lines:
        echo(line)
    exit_with(error.exit_code)


def exit_with(code: int) -> None:
    """Exit; output that can no longer be written is not tried again by the interpreter, which would complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


class TolerantStderr:
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


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM. After some of its own KeyboardInterrupts Python ends by the signal, whatever the exit code."""


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM raise Stopped: what is half written is removed, and one line says so. The training loop has
    its own way with both. Handlers that others have set stay, and what is ignored stays ignored.

    While a module is imported the signal waits: packages swallow the exception there, or are left half imported.
    """
    usual: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    mine = [number for number, handler in usual.items() if signal.getsignal(number) is handler]
    if threading.current_thread() is not threading.main_thread():
        mine = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        if not is_importing(frame):
            raise Stopped
        again = threading.Timer(0.02, send_to_main, [number])
        again.daemon = True
        again.start()

    for number in mine:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, usual[number])


def send_to_main(number: int) -> None:
    """Sent to another thread, it would not end a sleep or a read of the main one."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:  # Windows
        signal.raise_signal(number)


def is_importing(frame: FrameType | None) -> bool:
    while frame and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def ensure_standard_streams() -> None:
    """A program may be started without one of its three, or lose its standard error: what is written there is lost."""
    for stream, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, stream) is None:
            setattr(sys, stream, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 (for as long as we run)
    if not isinstance(sys.stderr, TolerantStderr):
        sys.stderr = TolerantStderr(sys.stderr)
