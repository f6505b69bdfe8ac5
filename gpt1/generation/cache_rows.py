"""Rows of a KV cache, and the blocks of prompts that they hold for others."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

BLOCK = 64
"""Tokens of a prompt that are computed, and shared, together."""


def block_key(ids: Sequence[int]) -> bytes:
    """Identifies a block: all tokens up to its end."""
    return array("I", ids).tobytes()


def block_keys(ids: Sequence[int]) -> list[bytes]:
    """The keys of the blocks of a prompt that can be shared: all but the last token, whose hidden state is needed."""
    return [block_key(ids[:end]) for end in range(BLOCK, len(ids), BLOCK)]


class CacheRows:
    """Which rows of the cache are free, and which blocks of prompts they hold."""

    def __init__(self, size: int) -> None:
        self.free = list(range(size))  # least recently used first
        self.keys: list[list[bytes]] = [[] for _ in range(size)]
        self.row_of: dict[bytes, int] = {}

    def allocate(self, keys: Sequence[bytes]) -> tuple[int, int]:
        """(row, number of its first blocks that match `keys`): the free row with the most, and of these the oldest.

        The row drops its other blocks.
        """
        matches = [common_prefix(self.keys[row], keys) for row in self.free]
        best = max(range(len(matches)), key=matches.__getitem__)
        row = self.free.pop(best)
        self.drop_blocks(row, matches[best])
        return row, matches[best]

    def release(self, row: int) -> None:
        self.free.append(row)

    def find(self, key: bytes) -> int | None:
        """A row that holds the block."""
        return self.row_of.get(key)

    def add_block(self, row: int, key: bytes) -> None:
        self.keys[row].append(key)
        self.row_of[key] = row

    def drop_blocks(self, row: int, keep: int = 0) -> None:
        """Drop the blocks of a row after its first `keep`, because the row will be overwritten there."""
        for key in self.keys[row][keep:]:
            if self.row_of.get(key) == row:
                del self.row_of[key]
        del self.keys[row][keep:]


def common_prefix(a: Sequence[bytes], b: Sequence[bytes]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
