"""Examples as tensors: pieces of an update without padding, in an order that changes nothing."""

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
    """`positions` sorted by length, longest first, in pieces of at most `max_tokens` tokens (one example at least).

    Sequences of like length are neighbours, which is what attention wants; the longest go first, so that an update that
    does not fit in memory fails at once and not after an hour.
    """
    piece: list[int] = []
    held = 0
    for position in sorted(positions, key=lambda i: (-encoded[i].max_row_tokens, i)):
        more = encoded[position].tokens
        if piece and held + more > max_tokens:
            yield piece
            piece, held = [], 0
        piece.append(position)
        held += more
    if piece:
        yield piece


def window_index(windows: int, seed: int, epoch: int, example: int) -> int:
    """The window in which an epoch of training sees an example. (seed, example) draw the first, then they take turns:
    after as many epochs as there are windows each has been seen once."""
    return (derive_seed(seed, example) + epoch) % windows if windows > 1 else 0


def epoch_examples(
    encoded: Sequence[EncodedExample], positions: Sequence[int], seed: int, epoch: int
) -> list[EncodedExample]:
    """The examples at `positions` as an epoch of training sees them: in one window each."""
    return [encoded[i].split_windows()[window_index(encoded[i].windows, seed, epoch, i)] for i in positions]


def collate(
    encoded: Sequence[EncodedExample],
    indices: Sequence[int],
    targets: Tensor | None,
    device: torch.device,
    step_examples: int = 1,
    step_sequences: int = 1,
) -> FinetuneMicroBatch:
    """The examples of `indices` as one batch, their rows one after another. `targets`: those of all examples, or None."""
    rows = [row for i in indices for row in encoded[i].packed_rows]
    ids = torch.tensor([token for tokens, _ in rows for token in tokens])
    packing = Packing([row for _, row in rows], device)
    example = torch.tensor([n for n, i in enumerate(indices) for _ in encoded[i].sequences])
    chosen = torch.zeros(len(indices)) if targets is None else targets[torch.tensor(indices)]
    return FinetuneMicroBatch(
        to_device(ids, device), packing, example, to_device(chosen, device), step_examples, step_sequences
    )
