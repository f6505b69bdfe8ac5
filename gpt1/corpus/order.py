"""The order of the samples: a pure function of (seed, epoch, position), so that a resumed run needs no saved state."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

FEISTEL_ROUNDS = 6


def derive_seed(*numbers: int) -> int:
    """A 63-bit seed that depends on all the numbers and their order, for example (seed, step, rank)."""
    return int(np.random.SeedSequence([n % 2**64 for n in numbers]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def shuffled_indices(positions: NDArray[np.int64], n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The entries at `positions` of a random permutation of 0 … n - 1, without storing the permutation.

    A Feistel network permutes 0 … 2^(2k) - 1, the smallest such range that contains n values. Values of n or more are
    permuted again until they are smaller than n (cycle walking), which gives a permutation of 0 … n - 1.

    Args:
        positions: Integers in 0 … n - 1, shape [count].

    Returns:
        Integers in 0 … n - 1, shape [count].
    """
    half = max(1, ((n - 1).bit_length() + 1) // 2)  # k: bits of each half
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
    """The finalizer of SplitMix64: every input bit affects every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def batch_indices(step: int, n: int, batch_size: int, seed: int) -> tuple[int, NDArray[np.int64]]:
    """(epoch, sample indices) of a step: each sample once per epoch; the last batch of an epoch may be smaller."""
    epoch, batch = divmod(step, steps_per_epoch(n, batch_size))
    positions = np.arange(batch * batch_size, min(n, (batch + 1) * batch_size))
    return epoch, shuffled_indices(positions, n, seed, epoch)


def steps_per_epoch(n: int, batch_size: int) -> int:
    return -(-n // batch_size)


def count_steps(epochs: float, per_epoch: int) -> int:
    """Steps of `epochs` epochs, at least one. 1.1 · 100 is 110.00000000000001 in floating point, and means 110."""
    return max(1, math.ceil(round(epochs * per_epoch, 6)))
