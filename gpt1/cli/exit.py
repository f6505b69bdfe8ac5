"""The end of a command: error messages, exit codes, signals and closed streams."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TextIO

from gpt1.cli.output import echo
from gpt1.errors import DISK_FULL, FREE_SPACE, PATH_FIXES, GPT1Error, ResourceError, UserError, os_error_reason


def translate_oserror(error: OSError) -> GPT1Error:
    """An error of the operating system as UserError, ResourceError or GPT1Error."""
    if isinstance(error, BrokenPipeError):  # the reader of the output has ended, as `head` does
        exit_with(0)
    # Only standard output has no name, and none of the errors of PATH_FIXES.
    name = error.filename or ("a file" if error.errno in PATH_FIXES else "the output")
    what = f"{name}: {os_error_reason(error)}."
    if error.errno in DISK_FULL:
        return ResourceError(f"the disk is full. {what}", FREE_SPACE)
    if error.errno in PATH_FIXES:
        return UserError(what, PATH_FIXES[error.errno])
    return GPT1Error(what, "Fix the cause and run the command again.")


def report_and_exit(error: GPT1Error) -> None:
    lines = [f"gpt1: {error.problem}", *(f"      {line}" for line in error.fix.split("\n") if line)]
    for line in lines:
        echo(line)
    exit_with(error.exit_code)


def exit_with(code: int) -> None:
    """Exit. Output that cannot be written is dropped, or the interpreter would print an error for it."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


class TolerantStderr:
    """Standard error without write errors: if the terminal is closed, or `2>&1 | tee log` ends at the same Ctrl-C, the
    command continues (or saves its state) silently."""

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
    """Ctrl-C or SIGTERM. A subclass, because Python may end by the signal after a plain KeyboardInterrupt."""


@contextmanager
def raise_on_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM raise Stopped, so that unfinished files are removed. The training loop has its own handlers.

    Handlers that others have set stay, and ignored signals stay ignored.

    A signal waits until no module is being imported: packages swallow the exception there, or stay half imported.
    """
    defaults: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    handled = [number for number, handler in defaults.items() if signal.getsignal(number) is handler]
    if threading.current_thread() is not threading.main_thread():
        handled = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        if not is_importing(frame):
            raise Stopped
        retry = threading.Timer(0.02, send_to_main, [number])
        retry.daemon = True
        retry.start()

    for number in handled:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, defaults[number])


def send_to_main(number: int) -> None:
    """Send the signal to the main thread: in another thread it would not interrupt a sleep or a read."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:  # Windows
        signal.raise_signal(number)


def is_importing(frame: FrameType | None) -> bool:
    while frame and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def ensure_standard_streams() -> None:
    """Replace missing standard streams by the null device, and make standard error tolerant of write errors."""
    for stream, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, stream) is None:
            setattr(sys, stream, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 (open until the end)
    if not isinstance(sys.stderr, TolerantStderr):
        sys.stderr = TolerantStderr(sys.stderr)
