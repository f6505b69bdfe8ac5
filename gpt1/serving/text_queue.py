"""Texts to continue: a queue in front of a `ContinuousBatch`, run by the model thread."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from gpt1.errors import OUT_OF_MEMORY, GPT1Error, ResourceError
from gpt1.generation.continuous import Continuation, ContinuousBatch, StepResult
from gpt1.serving.model_thread import ModelThread, engine_closed_error

Message = StepResult | BaseException


@dataclass(eq=False)
class QueuedText:
    """A sequence, and the event loop that waits for its tokens."""

    sequence: Continuation
    loop: asyncio.AbstractEventLoop
    messages: asyncio.Queue[Message] = field(default_factory=asyncio.Queue)
    cancelled: bool = False


@dataclass(frozen=True)
class StepFacts:
    """Counts and duration of a step, for metrics."""

    seconds: float
    sequences: int
    new_tokens: int
    computed_tokens: int
    shared_tokens: int


class TextQueue:
    """Sequences join the batch as places become free, in the order in which they came; cancelled ones leave it.

    Args:
        batch: The batch, used by the model thread only.
        thread: The model thread.
        observe: Called in the model thread after each step.
    """

    def __init__(
        self, batch: ContinuousBatch, thread: ModelThread, observe: Callable[[StepFacts], None] | None = None
    ) -> None:
        self.batch, self.thread, self.observe = batch, thread, observe
        self.waiting: deque[QueuedText] = deque()
        self.running: dict[int, QueuedText] = {}  # by the id of the sequence
        thread.add(self)

    async def stream(self, sequence: Continuation) -> AsyncIterator[StepResult]:
        """Yield the result of each step for the sequence, which leaves the batch when the iteration ends.

        Raises:
            GPT1Error: The sequence cannot be computed.
        """
        queued = QueuedText(sequence, asyncio.get_running_loop())
        self.waiting.append(queued)
        self.thread.submit()
        try:
            while True:
                message = await queued.messages.get()
                if isinstance(message, BaseException):
                    raise message
                if message.error:
                    raise message.error
                yield message
                if message.finished:
                    return
        finally:
            queued.cancelled = True
            self.thread.wake()

    # ---- in the model thread

    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def step(self) -> None:
        messages: list[tuple[QueuedText, Message]] = []
        try:
            self.update_batch(messages)
            messages += [(self.running[id(result.sequence)], result) for result in self.run_step()]
        except BaseException as error:  # an error of the requests that wait for the step
            failed = translate_failure(error)
            messages += [(queued, failed) for queued in self.running.values()]
        for queued, message in messages:
            if isinstance(message, BaseException) or message.finished or message.error:
                self.remove(queued)
        deliver(messages)

    def run_step(self) -> list[StepResult]:
        start, computed, shared = time.perf_counter(), self.batch.computed_tokens, self.batch.shared_tokens
        sequences = len(self.batch.running)
        results = self.batch.step()
        if self.observe and sequences:
            new = sum(result.token is not None for result in results)
            computed, shared = self.batch.computed_tokens - computed, self.batch.shared_tokens - shared
            self.observe(StepFacts(time.perf_counter() - start, sequences, new, computed, shared))
        return results

    def abort(self) -> None:
        closed = engine_closed_error()
        deliver([(queued, closed) for queued in [*self.running.values(), *self.waiting]])
        self.waiting.clear()

    def update_batch(self, messages: list[tuple[QueuedText, Message]]) -> None:
        """Remove cancelled sequences and add waiting ones."""
        for queued in [queued for queued in self.running.values() if queued.cancelled]:
            self.remove(queued)
        while self.waiting and not self.batch.is_full:
            queued = self.waiting.popleft()
            if queued.cancelled:
                continue
            try:
                self.batch.add(queued.sequence)
            except GPT1Error as error:
                messages.append((queued, error))
            else:
                self.running[id(queued.sequence)] = queued

    def remove(self, queued: QueuedText) -> None:
        self.batch.remove(queued.sequence)
        self.running.pop(id(queued.sequence), None)


def deliver(messages: list[tuple[QueuedText, Message]]) -> None:
    """Hand messages to their event loops, each loop woken once."""
    by_loop = defaultdict(list)
    for queued, message in messages:
        by_loop[queued.loop].append((queued.messages, message))
    for loop, own in by_loop.items():
        try:
            loop.call_soon_threadsafe(put_all, own)
        except RuntimeError:  # the loop is closed: nobody waits any more
            continue


def put_all(messages: list[tuple[asyncio.Queue[Message], Message]]) -> None:
    for queue, message in messages:
        queue.put_nowait(message)


def translate_failure(error: BaseException) -> BaseException:
    """Running out of memory as a ResourceError."""
    if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error)):
        return ResourceError("out of memory.", "Use fewer or shorter texts, or a smaller --max-batch.")
    return error
