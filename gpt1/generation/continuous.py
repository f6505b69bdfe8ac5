"""Continuous batching: sequences join and leave a batch between tokens.

A pass of the model computes some new tokens of several sequences: the newest token of each sequence that is being
continued, and blocks of the prompts of others. The bits of a sequence's logits do not depend on what else is in the
pass, so sampling with its own random numbers gives the same tokens alone and in any batch:

- attention over the keys of a sequence does not depend on the other sequences (kernels/kv_cache.py);
- prompts are computed in blocks whose borders depend on the prompt only;
- the number of rows of a pass is a multiple of 8, for which the products of a row do not depend on the other rows
  (measured with oneDNN and MKL in float32 and bfloat16; tests/generation/test_continuous.py);
- GELU uses one formula for every size.

Whole blocks of prompts are shared: a block that another sequence has computed after the same tokens is copied.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from gpt1.errors import UserError
from gpt1.generation.cache_rows import BLOCK, CacheRows, block_key, block_keys
from gpt1.generation.inference_model import pack_weights
from gpt1.generation.sampling import Sampler, sample_each
from gpt1.kernels.gelu import invariant_gelu
from gpt1.kernels.kv_cache import CachePart, KVCache
from gpt1.kernels.to_device import to_device
from gpt1.model.gpt import GPT, MLP

M = TypeVar("M", bound=nn.Module)

ROWS, MANY_ROWS = 8, 16
"""Passes have a multiple of `ROWS` rows, above 32 of `MANY_ROWS`: oneDNN compiles every new number of rows."""


@dataclass(eq=False)
class Continuation:
    """A sequence to continue.

    Args:
        ids: The prompt, at least one token; new tokens are appended.
        max_new_tokens: Number of tokens to generate; 0 only scores the prompt.
        sampler: Its own sampler.
        top_logprobs: Number of most likely tokens to report with each token; None: no log-probabilities.
        score_prompt: Also report the log-probabilities of the tokens of the prompt, which must fit the context.
    """

    ids: list[int]
    max_new_tokens: int
    sampler: Sampler
    top_logprobs: int | None = None
    score_prompt: bool = False
    new: int = 0
    """Tokens generated so far."""
    row: int = -1
    start: int = 0
    """Index in `ids` of position 0 of the cache."""
    filled: int = 0
    """Filled positions of the cache."""


@dataclass(frozen=True)
class TokenScore:
    """A token with its log-probability (paper, eq. 2: at temperature 1) and the most likely tokens at its place."""

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    rank: int | None = None
    """1 for the most likely token; only for tokens of prompts."""


@dataclass
class StepResult:
    """The result of a step for one sequence."""

    sequence: Continuation
    prompt: list[TokenScore] = field(default_factory=list)
    """Scores of the next tokens of the prompt, if `score_prompt` is set; the first token has no log-probability."""
    token: TokenScore | None = None
    """The new token."""
    finished: bool = False
    error: UserError | None = None


class InvariantMLP(nn.Module):
    """MLP whose GELU does not depend on the number of rows, bit by bit."""

    def __init__(self, mlp: MLP) -> None:
        super().__init__()
        self.widen, self.narrow = mlp.widen, mlp.narrow

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(invariant_gelu(self.widen(x)))


def batch_invariant(model: GPT) -> GPT:
    """A model for `ContinuousBatch` that shares its vectors with `model` (its matrices are packed where that pays)."""
    ready = shallow_copy(model if model.recurrent else pack_weights(model))
    if not model.recurrent:
        blocks = [shallow_copy(block) for block in ready.blocks]
        for block in blocks:
            mlp: Any = block.mlp
            block.mlp = InvariantMLP(mlp)
        ready.blocks = nn.ModuleList(blocks)
    return ready.requires_grad_(False).eval()


def shallow_copy(module: M) -> M:
    new = copy.copy(module)
    new._modules = dict(module._modules)
    return new


class TokenSpan(NamedTuple):
    """Consecutive tokens of a sequence that a step computes."""

    sequence: Continuation
    past: int  # positions of the cache before them
    time: int

    @property
    def end(self) -> int:
        """Index in `sequence.ids` of the token after them."""
        return self.sequence.start + self.past + self.time


class ContinuousBatch:
    """Continues sequences together, one token each per step.

    Args:
        model: Prepared by `batch_invariant`.
        size: Maximum number of sequences; each takes a row of the KV cache.
        step_tokens: Maximum number of tokens per step, but at least one block of a prompt: bounds the time between two
            tokens.
    """

    def __init__(self, model: GPT, size: int, step_tokens: int = 256) -> None:
        self.model, self.size, self.step_tokens = model, size, step_tokens
        self.context, self.device = model.config.context, model.tokens.weight.device
        self.running: list[Continuation] = []
        self.rows = CacheRows(size)
        on_cpu = self.device.type == "cpu"
        # float32 on a CPU: in bfloat16 attention of single tokens takes 1.3 (50 positions) to 5 times (500) as long
        like = model.tokens.weight.new_empty(0, dtype=torch.float32 if on_cpu else None)
        self.kv_cache = KVCache(model.config, size, like)
        if not on_cpu:  # there, attention also reads masked positions that were never filled: they must be finite
            for buffer in self.kv_cache.keys + self.kv_cache.values:
                buffer.zero_()
        self.recurrent_caches: dict[int, KVCache] = {}
        """For an LSTM, whose sequences are computed one after another: the state of each row."""
        self.computed_tokens = self.shared_tokens = 0
        """Since the start."""

    @property
    def is_full(self) -> bool:
        return len(self.running) >= self.size

    def add(self, sequence: Continuation) -> None:
        """Add a sequence; the next step computes it. The batch must not be full.

        Raises:
            UserError: The prompt is empty, or `score_prompt` is set and it does not fit the context.
        """
        if not sequence.ids:
            raise UserError("the prompt has no tokens.", "Use a prompt of at least one word.")
        sequence.start = max(0, len(sequence.ids) - self.context)
        if sequence.start and sequence.score_prompt:
            problem = f"{len(sequence.ids):,} tokens exceed the {self.context} positions of the model."
            raise UserError(problem, "Score a shorter text.")
        shareable = not (self.model.recurrent or sequence.score_prompt)
        sequence.row, blocks = self.rows.allocate(block_keys(sequence.ids[sequence.start :]) if shareable else [])
        sequence.filled = blocks * BLOCK
        self.shared_tokens += blocks * BLOCK
        self.recurrent_caches.pop(sequence.row, None)
        self.running.append(sequence)

    def remove(self, sequence: Continuation) -> None:
        """Remove a sequence, finished or not. Its prompt stays in the cache for others until its row is needed."""
        if sequence in self.running:
            self.running.remove(sequence)
            self.rows.release(sequence.row)

    @torch.inference_mode()
    def step(self) -> list[StepResult]:
        """Compute a part of the prompts, and the next token of every sequence whose prompt is done."""
        work = self.plan()
        if not work:
            return []
        run = self.recurrent_states if self.model.recurrent else self.hidden_states
        try:
            results = self.read_results(work, run(work))
        except BaseException:  # out of memory: nobody may copy blocks that were not computed
            for w in work:
                self.rows.drop_blocks(w.sequence.row)
            raise
        self.computed_tokens += sum(w.time for w in work)
        for result in results:
            if result.finished or result.error:
                self.remove(result.sequence)
        return results

    def plan(self) -> list[TokenSpan]:
        """Plan the next step, and copy the blocks that need no computing. A sequence may have several blocks."""
        for sequence in self.running:
            if sequence.filled == self.context:  # continue from the last half, as `decode` does
                sequence.start, sequence.filled = len(sequence.ids) - max(1, self.context // 2), 0
                self.rows.drop_blocks(sequence.row)
                self.recurrent_caches.pop(sequence.row, None)
        prompts = [sequence for sequence in self.running if not sequence.filled or count_uncached_tokens(sequence) > 1]
        work = [TokenSpan(sequence, sequence.filled, 1) for sequence in self.running if sequence not in prompts]
        work.sort(key=lambda span: span.sequence.row)  # attention computes neighboring rows in one call
        for sequence, _, _ in work:
            sequence.filled += 1
        # At least a block, however many texts are being continued: prompts would wait until these have ended.
        budget, planned = max(BLOCK, self.step_tokens - len(work)), set[bytes]()
        for sequence in prompts:
            while left := count_uncached_tokens(sequence):
                past, time = sequence.filled, min(BLOCK - sequence.filled % BLOCK, left)
                key = self.shared_key(sequence) if time == BLOCK < left else None
                if key in planned:  # another sequence computes it in this step
                    break
                if key and (source := self.rows.find(key)) is not None:
                    self.copy_block(source, sequence, key)
                    continue
                if time > budget and work:
                    return work
                if key:
                    planned.add(key)
                    self.rows.add_block(sequence.row, key)
                work.append(TokenSpan(sequence, past, time))
                sequence.filled += time
                budget -= time
        return work

    def shared_key(self, sequence: Continuation) -> bytes | None:
        """The key of the next block of a prompt, unless its hidden states are needed or cannot be shared."""
        if self.model.recurrent or sequence.score_prompt:
            return None
        return block_key(sequence.ids[sequence.start : sequence.start + sequence.filled + BLOCK])

    def copy_block(self, source: int, sequence: Continuation, key: bytes) -> None:
        """Copy the next block of a prompt from another row of the cache."""
        positions = slice(sequence.filled, sequence.filled + BLOCK)
        for buffer in self.kv_cache.keys + self.kv_cache.values:
            buffer[sequence.row, :, positions] = buffer[source, :, positions]
        self.rows.add_block(sequence.row, key)
        sequence.filled += BLOCK
        self.shared_tokens += BLOCK

    def hidden_states(self, work: Sequence[TokenSpan]) -> Tensor:  # → [rows, n_embd]
        """Run the model on all of the work in one pass."""
        ids = [token for w in work for token in w.sequence.ids[w.end - w.time : w.end]]
        padded = torch.tensor(ids + [0] * (row_count(len(ids)) - len(ids)))[:, None]  # [rows, 1]
        self.kv_cache.begin_parts([CachePart(w.sequence.row, w.past, w.time) for w in work], len(padded))
        return self.model.hidden_states(to_device(padded, self.device), kv_cache=self.kv_cache)[:, 0]

    def recurrent_states(self, work: Sequence[TokenSpan]) -> Tensor:  # → [tokens, n_embd]
        """An LSTM: one sequence after another."""
        states = []
        for w in work:
            cache = self.recurrent_caches.setdefault(w.sequence.row, self.model.new_kv_cache(1, 1))
            ids = torch.tensor([w.sequence.ids[w.end - w.time : w.end]], device=self.device)
            states.append(self.model.hidden_states(ids, kv_cache=cache)[0])
        return torch.cat(states)

    def read_results(self, work: Sequence[TokenSpan], states: Tensor) -> list[StepResult]:
        """Score prompts and sample new tokens: states [rows, n_embd] of all spans of `work`, one after another."""
        wanted: list[int] = []  # rows whose logits are needed
        parts: list[tuple[TokenSpan, int]] = []  # with the number of these rows
        first = 0
        for w in work:
            at_end = w.end == len(w.sequence.ids)
            needed = w.time if w.sequence.score_prompt and not w.sequence.new else int(at_end)
            wanted += range(first + w.time - needed, first + w.time)
            parts.append((w, needed))
            first += w.time
        if not wanted:
            return []
        index = torch.tensor(wanted + [0] * (row_count(len(wanted)) - len(wanted)))
        logits = self.model.logits(states[to_device(index, self.device)])[:, : self.model.config.vocab_size]
        results: dict[int, StepResult] = {}
        ready: list[tuple[StepResult, int]] = []  # with the row of its logits: sequences that get a new token
        first = 0
        for w, needed in parts:
            if needed:
                result = results.setdefault(id(w.sequence), StepResult(w.sequence))
                own = logits[first : first + needed]
                if w.sequence.score_prompt and not w.sequence.new:
                    result.prompt += score_prompt_tokens(w.sequence, own, w.end)
                if w.end == len(w.sequence.ids):
                    result.finished = w.sequence.new == w.sequence.max_new_tokens  # 0: it is only scored
                    if not result.finished:
                        ready.append((result, first + needed - 1))
            first += needed
        if ready:
            chosen = [row for _, row in ready]
            newest = logits[: len(chosen)] if chosen == [*range(len(chosen))] else logits[chosen]  # mostly a view
            append_tokens([result for result, _ in ready], newest)
        return list(results.values())


def continue_all(batch: ContinuousBatch, sequences: Iterable[Continuation]) -> Iterator[StepResult]:
    """Continue sequences to their end, each as soon as there is room. The caller may remove any from the batch."""
    waiting = deque(sequences)
    while waiting or batch.running:
        while waiting and not batch.is_full:
            batch.add(waiting.popleft())
        yield from batch.step()


def append_tokens(ready: Sequence[StepResult], logits: Tensor) -> None:
    """Sample the next token of sequences from their logits [sequences, vocab].

    All are read at once: on a GPU every read waits for it.
    """
    sequences = [result.sequence for result in ready]
    chosen = sample_each([s.sampler for s in sequences], logits, [s.new for s in sequences])
    tokens = iter(torch.stack(found).tolist() if (found := [t for t in chosen if isinstance(t, Tensor)]) else [])
    for i, (result, token_or_error) in enumerate(zip(ready, chosen, strict=True)):
        if isinstance(token_or_error, UserError):
            result.error = token_or_error
            continue
        sequence, token = result.sequence, next(tokens)
        sequence.ids.append(token)
        sequence.new += 1
        top = sequence.top_logprobs
        result.token = TokenScore(token) if top is None else score_tokens(logits[i : i + 1], [token], top)[0]
        result.finished = sequence.new == sequence.max_new_tokens
        if result.finished:
            try:
                sequence.sampler.check()
            except UserError as error:
                result.error = error


def score_prompt_tokens(sequence: Continuation, logits: Tensor, end: int) -> list[TokenScore]:
    """Scores of the tokens that follow: logits [n, vocab], those of the n tokens before the index `end` of the ids."""
    first = [TokenScore(sequence.ids[0])] if end == len(logits) else []
    following = sequence.ids[end - len(logits) + 1 : end + 1]
    return first + score_tokens(logits[: len(following)], following, sequence.top_logprobs or 0)


def score_tokens(logits: Tensor, ids: Sequence[int], top: int) -> list[TokenScore]:
    """Log-probability, rank and alternatives of the tokens that follow: logits [n, vocab], n ids."""
    if not ids:
        return []
    logprobs = logits.float().log_softmax(-1)
    own = logprobs.gather(1, torch.tensor(ids, device=logits.device)[:, None])  # [n, 1]
    ranks = ((logprobs > own).sum(1) + 1).tolist()
    best = logprobs.topk(min(top, logprobs.shape[1]))
    tops = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [
        TokenScore(token, logprob, tuple(zip(*pairs, strict=True)), rank)
        for token, logprob, pairs, rank in zip(ids, own[:, 0].tolist(), tops, ranks, strict=True)
    ]


def count_uncached_tokens(sequence: Continuation) -> int:
    """Tokens that are not in the cache yet."""
    return len(sequence.ids) - sequence.start - sequence.filled


def row_count(n: int) -> int:
    """Rows of a pass or product for n tokens."""
    multiple = ROWS if n <= 32 else MANY_ROWS
    return -(-n // multiple) * multiple
