"""The order of the samples: a pure function of (seed, epoch, position), so that a resumed run needs no memory of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FEISTEL_ROUNDS = 6


def derive_seed(*numbers: int) -> int:
    """63 bits that depend on all the numbers and on their order: the seed of one thing, say (seed, step, rank)."""
    return int(np.random.SeedSequence([n % 2**64 for n in numbers]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def shuffled_indices(positions: NDArray[np.int64], n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """What stands at `positions` of a shuffled 0..n-1. Takes no memory but that of `positions`, however large n is.

    A Feistel network permutes the smallest even power of two that holds n; what lands beyond n is sent through again,
    which ends because a permutation of the whole, restricted like this, is a permutation of the part.
    """
    half = max(1, ((n - 1).bit_length() + 1) // 2)  # bits of each half
    mask = np.uint64((1 << half) - 1)
    keys = np.random.SeedSequence([seed, epoch, n]).generate_state(FEISTEL_ROUNDS, np.uint64)
    values = positions.astype(np.uint64)
    outside = np.ones(len(values), dtype=bool)
    while outside.any():
        left, right = values[outside] >> np.uint64(half), values[outside] & mask
        for key in keys:
            left, right = right, left ^ (splitmix64(right + key) & mask)
        values[outside] = (left << np.uint64(half)) | right
        outside = values >= n
    return values.astype(np.int64)


def splitmix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64: every input bit reaches every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def batch_indices(step: int, n: int, batch_size: int, seed: int) -> tuple[int, NDArray[np.int64]]:
    """(epoch, samples) of update `step`: every sample once an epoch, the last update of an epoch may be smaller."""
    per_epoch = steps_per_epoch(n, batch_size)
    epoch, update = divmod(step, per_epoch)
    positions = np.arange(update * batch_size, min(n, (update + 1) * batch_size))
    return epoch, shuffled_indices(positions, n, seed, epoch)


def steps_per_epoch(n: int, batch_size: int) -> int:
    return -(-n // batch_size)
