"""The one thread that runs models. Event loops never wait for a model."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from gpt1.errors import GPT1Error

T = TypeVar("T")


class WorkSource(Protocol):
    """Something that has work for the thread. Methods are called in the thread and must not raise."""

    def has_work(self) -> bool: ...

    def step(self) -> None:
        """Do a bounded part of the work."""

    def abort(self) -> None:
        """The thread has stopped: fail all waiting requests."""


class ModelThread:
    """Runs the steps of its sources in turn, so that none of them waits for more than one step of each other one."""

    def __init__(self) -> None:
        self._sources: list[WorkSource] = []
        self._condition = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="gpt1-model", daemon=True)
        self._thread.start()

    def add(self, source: WorkSource) -> None:
        with self._condition:
            self._sources.append(source)
            self._condition.notify()

    def wake(self) -> None:
        """A source has new work."""
        with self._condition:
            self._condition.notify()

    def submit(self) -> None:
        """As `wake`, for work that somebody waits for. Raises GPT1Error if the thread was closed."""
        with self._condition:
            if self._closed:
                raise engine_closed_error()
            self._condition.notify()

    def close(self) -> None:
        """Stop the thread after its current step. Waiting requests fail."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        self._thread.join()
        for source in self._sources:
            source.abort()

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._closed and not any(source.has_work() for source in self._sources):
                    self._condition.wait()
                if self._closed:
                    return
                sources = list(self._sources)
            for source in sources:
                if source.has_work():
                    source.step()


def engine_closed_error() -> GPT1Error:
    return GPT1Error("the engine was closed.")


class Calls:
    """Calls of functions in the model thread, one per step, in order."""

    def __init__(self, thread: ModelThread) -> None:
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._thread = thread
        thread.add(self)

    async def __call__(self, function: Callable[[], T]) -> T:
        """The result of the function; if the caller is cancelled before its turn, it is not called."""
        future: Future[T] = Future()
        self._calls.append((future, function))
        self._thread.submit()
        return await asyncio.wrap_future(future)

    def has_work(self) -> bool:
        return bool(self._calls)

    def step(self) -> None:
        future, function = self._calls.popleft()
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(function())
            except BaseException as error:  # an error of the caller
                future.set_exception(error)

    def abort(self) -> None:
        for future, _ in self._calls:
            future.cancel()
        self._calls.clear()
