"""Batches of examples: unpadded micro-batches in a fixed order, collated into tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gpt1.corpus.order import derive_seed
from gpt1.kernels.packing import Packing
from gpt1.kernels.to_device import to_device
from gpt1.model.losses import FinetuneMicroBatch
from gpt1.tasks.kinds import EncodedExample


def micro_batches(encoded: Sequence[EncodedExample], positions: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Split `positions` into micro-batches of at most `max_tokens` tokens (but at least one example).

    Examples are sorted by length, longest first: attention is fastest on sequences of similar length, and a step that
    does not fit in memory fails at once, not after an hour.

    Args:
        encoded: All examples.
        positions: Positions in `encoded` to batch, in any order.
        max_tokens: Maximum number of tokens per micro-batch.

    Yields:
        Positions in `encoded` of each micro-batch.
    """
    micro_batch: list[int] = []
    tokens = 0
    for position in sorted(positions, key=lambda i: (-encoded[i].max_row_tokens, i)):
        added = encoded[position].tokens
        if micro_batch and tokens + added > max_tokens:
            yield micro_batch
            micro_batch, tokens = [], 0
        micro_batch.append(position)
        tokens += added
    if micro_batch:
        yield micro_batch


def window_index(windows: int, seed: int, epoch: int, example: int) -> int:
    """Index of the window of `example` that `epoch` trains on.

    The first one depends on (seed, example), the next ones follow in turn: `windows` epochs see each window once.
    """
    return (derive_seed(seed, example) + epoch) % windows if windows > 1 else 0


def epoch_examples(
    encoded: Sequence[EncodedExample], positions: Sequence[int], seed: int, epoch: int
) -> list[EncodedExample]:
    """The examples at `positions` as `epoch` trains on them: one window of each."""
    return [encoded[i].split_windows()[window_index(encoded[i].windows, seed, epoch, i)] for i in positions]


def collate(
    encoded: Sequence[EncodedExample],
    indices: Sequence[int],
    targets: Tensor | None,
    device: torch.device,
    step_examples: int = 1,
    step_sequences: int = 1,
    weights: Tensor | None = None,
) -> FinetuneMicroBatch:
    """Pack the examples at `indices` into one micro-batch, without padding.

    Args:
        encoded: All examples.
        indices: Positions in `encoded` of this micro-batch.
        targets: Targets of all examples, [examples, ...]; None for prediction (then zeros).
        device: Where the tensors go.
        step_examples: Examples of the whole step, over which the task loss is averaged.
        step_sequences: Sequences of the whole step, over which the language-model loss is averaged.
        weights: Weights of all examples in the task loss, [examples]; None: all 1.
    """
    rows = [row for i in indices for row in encoded[i].packed_rows]
    ids = torch.tensor([token for tokens, _ in rows for token in tokens])
    packing = Packing([row for _, row in rows], device)
    example = torch.tensor([n for n, i in enumerate(indices) for _ in encoded[i].sequences])
    own_targets = torch.zeros(len(indices)) if targets is None else targets[torch.tensor(indices)]
    own_weights = None if weights is None else to_device(weights[torch.tensor(indices)], device)
    return FinetuneMicroBatch(
        to_device(ids, device),
        packing,
        example,
        to_device(own_targets, device),
        step_examples,
        step_sequences,
        own_weights,
    )
