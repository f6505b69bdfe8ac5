"""Examples as tensors: pieces of an update without padding, in an order that changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gpt1.corpus.order import mixed
from gpt1.kernels.packing import Packing
from gpt1.kernels.to_device import moved
from gpt1.model.losses import Labelled
from gpt1.tasks.kinds import Encoded


def pieces(encoded: Sequence[Encoded], positions: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """`positions` sorted by length, longest first, in pieces of at most `tokens` tokens (one example at least).

    Sequences of like length are neighbours, which is what attention wants; the longest go first, so that an update that
    does not fit in memory fails at once and not after an hour.
    """
    piece: list[int] = []
    held = 0
    for position in sorted(positions, key=lambda i: (-encoded[i].longest, i)):
        more = encoded[position].tokens
        if piece and held + more > tokens:
            yield piece
            piece, held = [], 0
        piece.append(position)
        held += more
    if piece:
        yield piece


def window_of(windows: int, seed: int, epoch: int, example: int) -> int:
    """The window in which an epoch of training sees an example. (seed, example) draw the first, then they take turns:
    after as many epochs as there are windows each has been seen once."""
    return (mixed(seed, example) + epoch) % windows if windows > 1 else 0


def of_epoch(encoded: Sequence[Encoded], positions: Sequence[int], seed: int, epoch: int) -> list[Encoded]:
    """The examples at `positions` as an epoch of training sees them: in one window each."""
    return [encoded[i].apart()[window_of(encoded[i].windows, seed, epoch, i)] for i in positions]


def collate(
    encoded: Sequence[Encoded],
    piece: Sequence[int],
    targets: Tensor | None,
    device: torch.device,
    update_examples: int = 1,
    update_sequences: int = 1,
) -> Labelled:
    """The examples of `piece` as one batch, their rows one after another. `targets`: those of all examples, or None."""
    rows = [row for i in piece for row in encoded[i].rows]
    ids = torch.tensor([token for tokens, _ in rows for token in tokens])
    packing = Packing([row for _, row in rows], device)
    example = torch.tensor([n for n, i in enumerate(piece) for _ in encoded[i].sequences])
    chosen = torch.zeros(len(piece)) if targets is None else targets[torch.tensor(piece)]
    return Labelled(moved(ids, device), packing, example, moved(chosen, device), update_examples, update_sequences)
