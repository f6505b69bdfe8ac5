"""Logits of a fine-tuned model for many examples, and statistics of these examples."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt1.formatting import count_noun
from gpt1.model.head import TaskModel
from gpt1.tasks.collate import collate, micro_batches
from gpt1.tasks.kinds import EncodedExample, Example, truncation_summary
from gpt1.tokenization.tokenizer import Tokenizer

PREDICTION_BATCH_TOKENS = 8192
"""Tokens of one forward pass."""


@dataclass
class InputStatistics:
    """Unknown tokens and truncated texts, summed over blocks of rows."""

    tokens: int = 0
    unknown: int = 0
    lengths: Counter[tuple[bool, int]] = field(default_factory=Counter)
    """Examples by (is_truncated, windows)."""

    def add(self, encoded: Sequence[EncodedExample], tokenizer: Tokenizer) -> None:
        for example in encoded:
            self.lengths[example.is_truncated, example.windows] += 1
            for sequence in example.sequences:
                ids = [i for i in sequence if i < tokenizer.vocab_size]  # without special tokens
                self.tokens += len(ids)
                self.unknown += tokenizer.count_unknown(ids)

    def summary(self, name: str, context: int, long: str) -> str:
        rows, unknown = count_noun(self.lengths.total(), "row"), self.unknown / max(1, self.tokens)
        return f"{name}: {rows}; {unknown:.2%} of the tokens unknown; {truncation_summary(self.lengths, context, long)}"


@torch.inference_mode()
def compute_task_logits(
    model: TaskModel,
    encoded: Sequence[EncodedExample],
    device: torch.device,
    advance: Callable[[int], None] | None = None,
) -> Tensor:  # → [examples, outputs]
    """Logits of every example.

    Args:
        model: The fine-tuned model.
        encoded: The examples; batched by length, which does not change the result.
        device: Where the model is.
        advance: Called with the number of examples done.

    Returns:
        [examples, outputs], on the CPU in float32, in the given order; -inf for answers that a row does not have, and
        averaged over windows (see `average_windows`).
    """
    windows = [window for example in encoded for window in example.split_windows()]
    rows: list[Tensor | None] = [None] * len(windows)
    done = 0
    for micro_batch in micro_batches(windows, range(len(windows)), PREDICTION_BATCH_TOKENS):
        batch = collate(windows, micro_batch, None, device)
        for i, row in zip(micro_batch, model(batch.ids, batch.packing, batch.example_index).float().cpu(), strict=True):
            rows[i] = row
        done += len(micro_batch)
        if advance:
            advance(done * len(encoded) // len(windows))
    width = max((len(row) for row in rows if row is not None), default=1)
    table = torch.full((len(rows), width), -torch.inf)
    for i, row in enumerate(rows):
        if row is not None:
            table[i, : len(row)] = row
    return average_windows(table, [example.windows for example in encoded], model.head.independent)


@torch.inference_mode()
def compute_task_features(
    model: TaskModel, encoded: Sequence[EncodedExample], device: torch.device
) -> Tensor:  # → [examples, n_embd]
    """The input of the head: the states at the extract tokens, added over the sequences of an example.

    The states of the windows of a long text are averaged. float32, on the CPU, in the given order.
    """
    windows = [window for example in encoded for window in example.split_windows()]
    states = torch.zeros(len(windows), model.gpt.config.n_embd)
    for micro_batch in micro_batches(windows, range(len(windows)), PREDICTION_BATCH_TOKENS):
        batch = collate(windows, micro_batch, None, device)
        own = model.features(batch.ids, batch.packing).float().cpu()
        states.index_add_(0, torch.tensor(micro_batch)[batch.example_index], own)
    owner = torch.tensor([i for i, example in enumerate(encoded) for _ in range(example.windows)], dtype=torch.int64)
    counts = torch.tensor([example.windows for example in encoded])[:, None]
    return torch.zeros(len(encoded), states.shape[1]).index_add(0, owner, states) / counts


def average_windows(
    logits: Tensor, window_counts: Sequence[int], independent: bool = False
) -> Tensor:  # [windows of all examples, outputs] → [examples, …]
    """Combine the windows of each example: the mean of a number, or the logarithm of the mean probabilities.

    These logarithms replace the logits in everything that follows (loss, temperature, prediction). Of labels that are
    `independent` it is the logit of the mean probability of each.
    """
    averaged = []
    for part in torch.split(logits, list(window_counts)):
        if len(part) > 1 and part.shape[1] == 1:
            part = part.mean(0, keepdim=True)
        elif len(part) > 1 and independent:
            part = F.logsigmoid(part).logsumexp(0, keepdim=True) - F.logsigmoid(-part).logsumexp(0, keepdim=True)
        elif len(part) > 1:
            part = part.log_softmax(-1).logsumexp(0, keepdim=True) - math.log(len(part))
        averaged.append(part)
    return torch.cat(averaged) if averaged else logits


def ignore_empty(examples: Sequence[Example], logits: Tensor) -> Tensor:
    """Equal logits for rows without text: equal probabilities. A number is the mean of the training rows, or with
    `--score` the middle of the scores."""
    empty = torch.tensor([not example.has_text for example in examples], dtype=torch.bool)
    return logits.masked_fill(empty[:, None] & logits.isfinite(), 0.0)
