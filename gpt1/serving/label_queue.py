"""Rows to label: those of several requests are computed together, batched by tokens."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gpt1.generation.sampling import check_finite_logits
from gpt1.inference.task_logits import compute_task_logits
from gpt1.model.head import TaskModel
from gpt1.serving.model_thread import ModelThread
from gpt1.serving.text_queue import StepFacts, translate_failure
from gpt1.tasks.kinds import EncodedExample


@dataclass(eq=False)
class QueuedRows:
    """The rows of a request; they may be computed in several steps."""

    rows: Sequence[EncodedExample]
    future: Future[list[Tensor]] = field(default_factory=Future)
    logits: list[Tensor] = field(default_factory=list)
    """Logits [outputs] of the first rows, which are done."""
    cancelled: bool = False


class LabelQueue:
    """Computes logits of rows, in the order in which they came.

    Args:
        model: The fine-tuned model.
        thread: The model thread.
        step_tokens: Maximum number of tokens per step, but at least one row.
        observe: Called in the model thread after each step.
    """

    def __init__(
        self,
        model: TaskModel,
        thread: ModelThread,
        step_tokens: int,
        observe: Callable[[StepFacts], None] | None = None,
    ) -> None:
        self.model, self.thread, self.step_tokens, self.observe = model, thread, step_tokens, observe
        self.queue: deque[QueuedRows] = deque()
        thread.add(self)

    async def logits(self, rows: Sequence[EncodedExample]) -> list[Tensor]:
        """Logits [outputs] of each row, on the CPU; outputs may differ between rows of multiple choice."""
        if not rows:
            return []
        queued = QueuedRows(rows)
        self.queue.append(queued)
        self.thread.submit()
        try:
            return await asyncio.wrap_future(queued.future)
        finally:
            queued.cancelled = True  # no further rows, if it is not done

    # ---- in the model thread

    def has_work(self) -> bool:
        return bool(self.queue)

    def step(self) -> None:
        parts = self.plan()
        rows = [row for _, own in parts for row in own]
        start = time.perf_counter()
        try:
            logits = compute_task_logits(self.model, rows, self.model.gpt.tokens.weight.device)
            check_finite_logits(logits)
        except BaseException as error:  # an error of the requests that wait for these rows
            failed = translate_failure(error)
            for queued, _ in parts:
                self.remove(queued)
                with suppress(InvalidStateError):  # cancelled just now
                    queued.future.set_exception(failed)
            return
        if self.observe and rows:
            tokens = sum(row.tokens for row in rows)
            self.observe(StepFacts(time.perf_counter() - start, len(rows), 0, tokens, 0))
        remaining = iter(logits)
        for queued, own in parts:
            queued.logits += [next(remaining).clone() for _ in own]
            if len(queued.logits) == len(queued.rows):
                self.remove(queued)
                with suppress(InvalidStateError):
                    queued.future.set_result(queued.logits)

    def plan(self) -> list[tuple[QueuedRows, Sequence[EncodedExample]]]:
        """The next rows, of one or more requests, up to `step_tokens` tokens."""
        parts: list[tuple[QueuedRows, Sequence[EncodedExample]]] = []
        budget = self.step_tokens
        for queued in list(self.queue):
            if queued.cancelled:
                self.remove(queued)
                continue
            first = end = len(queued.logits)
            while end < len(queued.rows) and (queued.rows[end].tokens <= budget or not (parts or end > first)):
                budget -= queued.rows[end].tokens
                end += 1
            if end > first:
                parts.append((queued, queued.rows[first:end]))
            if end < len(queued.rows):
                break
        return parts

    def remove(self, queued: QueuedRows) -> None:
        if queued in self.queue:
            self.queue.remove(queued)

    def abort(self) -> None:
        for queued in self.queue:
            queued.future.cancel()
        self.queue.clear()


def pad_logits(rows: Sequence[Tensor]) -> Tensor:  # → [rows, outputs]
    """Rows of logits as one tensor; answers that a row does not have are -inf."""
    width = max(len(row) for row in rows)
    return torch.stack([torch.nn.functional.pad(row, (0, width - len(row)), value=-torch.inf) for row in rows])
