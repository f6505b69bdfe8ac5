"""Encoding in several processes: the start of a worker cannot be interrupted."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from gpt1.corpus.encoding import block_signals


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="needs POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("other_thread", [False, True])
def test_a_signal_in_the_block_raises_after_it(number: signal.Signals, other_thread: bool):
    """Also where another thread receives it: Python then runs the handler in the main thread, whatever its mask."""
    events: list[str] = []

    def stop(*_: object) -> None:
        events.append("handler")
        raise KeyboardInterrupt

    def receive() -> None:
        os.kill(os.getpid(), number)
        time.sleep(0.05)
        events.append("end of the block")

    done = threading.Event()
    before = signal.signal(number, stop)
    if other_thread:
        threading.Thread(target=done.wait, daemon=True).start()
    try:
        with pytest.raises(KeyboardInterrupt), block_signals():
            receive()
        assert events == ["end of the block", "handler"]
        assert signal.getsignal(number) is stop
    finally:
        done.set()
        signal.signal(number, before)


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="needs POSIX signals")
def test_an_ignored_signal_stays_ignored_in_the_block():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with block_signals():
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
