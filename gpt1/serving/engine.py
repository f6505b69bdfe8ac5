"""The engine: one model that many tasks of an event loop share.

    engine = Engine(gpt1.load("runs/books"))
    async for token in engine.generate("it was a dark and", max_tokens=50, seed=1):
        print(token.text, end="")

Texts are continued together (generation/continuous.py), rows are predicted together. A text does not depend
on the other texts in the batch, whether greedy or sampled with its own seed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from gpt1.errors import ResourceError, UserError
from gpt1.generation.continuous import Continuation, ContinuousBatch, StepResult, TokenScore, batch_invariant
from gpt1.generation.sampling import Sampler
from gpt1.inference.explanation import check_label, describe, find_words, remove_each
from gpt1.inference.predictor import LanguageModel, TaskPredictor
from gpt1.inference.streaming import ContinuationText
from gpt1.inference.task_logits import ignore_empty
from gpt1.serving.label_queue import LabelQueue, pad_logits
from gpt1.serving.model_thread import Calls, ModelThread
from gpt1.serving.text_queue import StepFacts, TextQueue
from gpt1.tasks.kinds import EncodedExample, Example
from gpt1.tasks.targets import decode_predictions

EXPLAINED_AT_ONCE = 32
"""Rows without a word that are in memory at a time: a row may have as many words as its text has characters / 2."""

T = TypeVar("T")


class QueueFull(ResourceError):
    """The queue of the engine is full: try again later."""


@dataclass(frozen=True)
class GeneratedToken:
    """A new token of a text.

    Attributes:
        id: The token.
        text: The new text: empty while a character is incomplete or a stop string may have begun.
        score: Its log-probability and the most likely tokens, if they were asked for.
        finish_reason: `length` or `stop` with the last token.
    """

    id: int
    text: str
    score: TokenScore
    finish_reason: str | None = None


class Engine:
    """Runs a model for many tasks at once. All methods are for event loops; the model runs in its own thread.

    Args:
        model: From `gpt1.load`.
        max_batch: Maximum number of texts that are continued at once; each takes a row of the KV cache.
        step_tokens: Maximum number of tokens per step: bounds the time between two tokens of a text.
        label_tokens: Maximum number of tokens per step of rows to label.
        max_queue: Maximum number of accepted, unfinished texts and rows.
        thread: The model thread, to share it with other engines; by default a new one.
        observe: Called in the model thread with the facts of each step.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        max_batch: int = 32,
        step_tokens: int = 256,
        label_tokens: int = 4096,
        max_queue: int = 1024,
        thread: ModelThread | None = None,
        observe: Callable[[StepFacts], None] | None = None,
    ) -> None:
        self.model, self.max_queue, self.accepted = model, max_queue, 0
        self.thread, self.owns_thread = thread or ModelThread(), thread is None
        self.tokenizing = ThreadPoolExecutor(1, "gpt1-tokenizer")
        batch = ContinuousBatch(batch_invariant(model.gpt), max_batch, step_tokens)
        self.texts = TextQueue(batch, self.thread, observe)
        self.calls = Calls(self.thread)
        self.labels = (
            LabelQueue(model.task_model, self.thread, label_tokens, observe)
            if isinstance(model, TaskPredictor)
            else None
        )

    def close(self) -> None:
        """Stop the threads. Waiting requests fail."""
        if self.owns_thread:
            self.thread.close()
        self.tokenizing.shutdown(wait=False, cancel_futures=True)

    @contextmanager
    def admit(self, n: int) -> Iterator[None]:
        """Reserve `n` places in the queue; requests beyond `max_queue` are refused.

        Raises:
            QueueFull: There are not enough places.
            UserError: There will never be: `n` is above `max_queue`.
        """
        if n > self.max_queue:
            problem = f"{n:,} texts or rows exceed the queue of {self.max_queue:,} places."
            raise UserError(problem, "Send fewer at a time.")
        if self.accepted + n > self.max_queue:
            raise QueueFull(f"the queue is full ({self.accepted:,} of {self.max_queue:,} places).", "Try again later.")
        self.accepted += n
        try:
            yield
        finally:
            self.accepted -= n

    async def tokenize(self, function: Callable[..., T], *arguments: Any) -> T:
        """The result of a function that tokenizes, in the tokenizer thread."""
        return await asyncio.get_running_loop().run_in_executor(self.tokenizing, function, *arguments)

    async def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """The result of a function that uses the model, in the model thread."""
        return await self.calls(lambda: function(*arguments))

    # ---- texts

    async def encode_prompt(self, text: str) -> list[int]:
        """The ids of a text; of an empty one, the newline between documents."""
        ids: list[int] = await self.tokenize(self.model.tokenizer.encode, text)
        return ids or [self.model.tokenizer.newline_id]

    async def stream(self, sequence: Continuation) -> AsyncIterator[StepResult]:
        """Yield the result of each step for a sequence."""
        async for result in self.texts.stream(sequence):
            yield result

    async def generate(
        self,
        prompt: str | Sequence[int],
        max_tokens: int = 100,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
        logprobs: int | None = None,
    ) -> AsyncIterator[GeneratedToken]:
        """Continue a text, token by token. It is cancelled when the iteration ends.

        Args:
            prompt: A text, or ids.
            max_tokens: Maximum number of new tokens.
            temperature: Divides the logits; 0 always takes the most likely token.
            top_k: Sample from the k most likely tokens; 0: all.
            top_p: Sample from the most likely tokens whose probabilities sum to at least this.
            seed: Random seed; None: not reproducible.
            stop: The text ends before the first of these strings.
            logprobs: Report log-probabilities, and this many of the most likely tokens.

        Raises:
            QueueFull: The queue is full.
            UserError: A setting is out of range.
        """
        sampler = self.sampler(temperature, top_k, top_p, seed)
        with self.admit(1):
            ids = await self.encode_prompt(prompt) if isinstance(prompt, str) else list(prompt)
            spaced = isinstance(prompt, str) and prompt[-1:].isspace()
            text = ContinuationText(self.model.tokenizer, ids, stop, spaced)
            stream = self.stream(Continuation(ids, max_tokens, sampler, logprobs))
            try:
                async for result in stream:
                    if result.token:
                        part = text.push(result.token, result.finished)
                        reason = "stop" if text.stopped else "length" if result.finished else None
                        yield GeneratedToken(result.token.id, part.text, result.token, reason)
                        if text.stopped:
                            return
            finally:
                await stream.aclose()  # type: ignore[attr-defined]

    def sampler(self, temperature: float, top_k: int, top_p: float, seed: int | None) -> Sampler:
        """A sampler with its own generator, randomly seeded without a seed."""
        own = int.from_bytes(os.urandom(7), "big") if seed is None else seed
        return Sampler(temperature, top_k, top_p, torch.Generator(self.model.device).manual_seed(own))

    # ---- rows

    async def predict(self, rows: Sequence[Any]) -> list[dict[str, Any]]:
        """As `TaskPredictor.predict`, together with the rows of other tasks.

        Raises:
            QueueFull: The queue is full.
            UserError: A row does not have the columns of the task, or the model is not fine-tuned.
        """
        with self.admit(len(rows)):
            return await self.predict_encoded(await self.tokenize(self.encode_rows, rows))

    @property
    def task(self) -> TaskPredictor:
        """The model, if it is fine-tuned; otherwise UserError."""
        if not isinstance(self.model, TaskPredictor):
            raise UserError("this model is pre-trained but not fine-tuned for a task.", "Use a fine-tuned model.")
        return self.model

    def encode_rows(self, rows: Sequence[Any]) -> list[EncodedExample]:
        """Rows as token sequences; for `tokenize`."""
        return self.task.encode(self.task.read_rows(rows))

    async def predict_encoded(self, rows: Sequence[EncodedExample]) -> list[dict[str, Any]]:
        """Predictions of encoded rows; None for rows without text."""
        task, labels = self.task, self.labels
        return task.decode(rows, pad_logits(await labels.logits(rows))) if rows and labels else []

    async def explain(self, rows: Sequence[Any], label: str | None = None) -> list[dict[str, Any]]:
        """As `TaskPredictor.explain`, together with the rows of other tasks. Its rows need places of `admit`."""
        task, found = self.task, list[dict[str, Any]]()
        check_label(task, label)
        for example in await self.tokenize(task.read_rows, rows):
            words = find_words(task, example)
            logits = await self.logits_of([example])
            for start in range(0, len(words), EXPLAINED_AT_ONCE):
                part = await self.tokenize(remove_each, example, words[start : start + EXPLAINED_AT_ONCE])
                logits += await self.logits_of(part)
            decoded = decode_predictions(task.target, pad_logits(logits) / task.temperature)
            found.append(describe(example, words, iter(decoded), label))
        return found

    async def logits_of(self, examples: Sequence[Example]) -> list[torch.Tensor]:
        """As `TaskPredictor.logits`: of each example."""
        assert self.labels  # the model is fine-tuned
        encoded = await self.tokenize(self.task.encode, examples)
        return list(ignore_empty(examples, pad_logits(await self.labels.logits(encoded))))
