"""KV cache, and causal self-attention of new positions over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt1.config import GPTConfig
from gpt1.kernels.attention import split_heads
from gpt1.kernels.to_device import to_device

STRETCH = 16
"""A sequence in a row begins at a multiple of this many positions. As float32 numbers they are one cache line."""
SPLIT = 512
"""torch's attention on a CPU computes the scores of this many positions at a time."""


class CachePart(NamedTuple):
    """Consecutive new tokens of one sequence in a pass over several sequences."""

    row: int  # of the cache
    past: int  # filled positions of that row
    time: int  # new tokens


class NewestTokens(NamedTuple):
    """New tokens of several sequences, one each, whose attention is computed in one call."""

    tokens: slice  # of the pass
    rows: slice | Tensor  # of the cache; a slice copies nothing
    mask: Tensor  # [tokens, 1, 1, positions read]: 0 up to a token's own position, −∞ after it


class KVCache:
    """Keys and values of past positions, a pair of buffers per block; for an LSTM, the state and cell of each layer.

    Args:
        config: The model's config.
        batch: Number of sequences.
        like: A tensor with the device and the dtype of the buffers.
        size: Number of positions; by default the context.
    """

    def __init__(self, config: GPTConfig, batch: int, like: Tensor, size: int | None = None) -> None:
        self.size = size or config.context
        """Number of positions that fit; `read_length` needs some more memory."""
        positions = round_up(self.size) + STRETCH
        shape = (batch, config.n_head, positions, config.n_embd // config.n_head)
        blocks = config.n_layer if config.architecture == "transformer" else 0
        self.keys = [like.new_empty(shape) for _ in range(blocks)]
        self.values = [like.new_empty(shape) for _ in range(blocks)]
        self.recurrent_states: list[tuple[Tensor, Tensor]] = []
        self.length = 0
        """Filled positions."""
        self.parts: Sequence[CachePart] = ()
        """Set by `begin_parts`: the sequences that the tokens of the next pass belong to."""
        self.part_rows = torch.empty(0, dtype=torch.long)
        self.positions: Tensor | None = None
        """[tokens, 1], set by `begin_parts`: the position of each token of the next pass."""
        self.gathers = like.device.type != "cpu"
        """Whether one call computes the attention of the newest tokens of any rows: where many small calls are slow."""
        self.newest: list[NewestTokens] = []
        """Set by `begin_parts`: the parts of one token, by call."""
        self.longer: list[tuple[int, CachePart]] = []
        """Set by `begin_parts`: the parts of several tokens, with the index of their first token in the pass."""

    def begin_parts(self, parts: Sequence[CachePart], tokens: int) -> None:
        """Prepare a pass over new tokens [tokens, 1] of several sequences, those of `parts` one after another.

        Tokens after those of the last part are padding: they see nothing and change nothing. In each row, a sequence
        begins at a multiple of `STRETCH`, after positions that are filled.
        """
        device = self.keys[0].device
        rows = [part.row for part in parts for _ in range(part.time)]
        positions = [position for part in parts for position in range(part.past, part.past + part.time)]
        padded = positions + [0] * (tokens - len(positions))
        self.parts, self.length = parts, 0
        self.part_rows = to_device(torch.tensor(rows), device)
        self.positions = to_device(torch.tensor(padded)[:, None], device)
        if not self.gathers:  # otherwise rows are read as far as the longest sequence goes
            self.clear_stretches()
        self.group_parts(self.positions)

    def read_length(self, n: int) -> int:
        """Number of positions that attention of one token reads to see the first `n`.

        A sequence in a batch may be computed in another thread than alone. torch gives each thread memory for
        n + 2 + head width float32 numbers, and the order in which MKL adds numbers depends on their alignment. With a
        multiple of `STRETCH` the memory of all threads is aligned alike, and so the bits are the same.
        """
        return round_up(n) if self.gathers else n + -(n + 2 + self.keys[0].shape[3]) % STRETCH

    def clear_stretches(self) -> None:
        """Zero what may be read of each stretch that a part enters: masked values count 0 times, and 0 · NaN is NaN.

        Zeroing everything once would need the memory of all positions, most of which no sequence may ever reach.
        """
        for row, past, time in self.parts:
            end, stretch_end = past + time, round_up(past + time)
            if stretch_end > round_up(past):
                for buffer in self.keys + self.values:
                    buffer[row, :, end : stretch_end + STRETCH] = 0

    def group_parts(self, positions: Tensor) -> None:
        """Set `newest` and `longer`: positions [tokens, 1].

        A call that does not gather has consecutive rows, which need no copy, and reads them equally far. How far
        depends on a sequence alone, and the call computes each row on its own, so a result does not depend on the other
        rows, bit by bit. Beyond `SPLIT` positions each sequence has its own call, where a head has always the same
        thread.
        """
        self.newest, self.longer = [], []

        def call_key(item: tuple[int, CachePart]) -> tuple[int, int] | None:
            first, (row, past, time) = item
            if time > 1:
                return None
            if self.gathers:
                return (0, 0)
            end = self.read_length(past + 1)
            return (row - first if end <= SPLIT else first, end)

        firsts = accumulate([part.time for part in self.parts], initial=0)
        for key, group in groupby(zip(firsts, self.parts, strict=False), call_key):
            items = [*group]
            if key is None:
                self.longer += items
                continue
            first, (row, _, _) = items[0]
            tokens, rows = slice(first, first + len(items)), slice(row, row + len(items))
            end = self.read_length(1 + max(part.past for _, part in items))
            later = (torch.arange(end, device=positions.device) > positions[tokens])[:, None, None]
            mask = self.keys[0].new_zeros(later.shape).masked_fill_(later, -torch.inf)
            self.newest.append(NewestTokens(tokens, self.part_rows[tokens] if self.gathers else rows, mask))

    def layer(self, index: int) -> LayerCache:
        """The part that belongs to block `index`."""
        return LayerCache(self, index)

    def repeat(self, n: int, dtype: torch.dtype | None = None) -> KVCache:
        """`n` copies of a cache of one sequence, to continue it in n ways."""
        copy = KVCache.__new__(KVCache)
        copy.keys = [keys.repeat(n, 1, 1, 1).to(dtype or keys.dtype) for keys in self.keys]
        copy.values = [values.repeat(n, 1, 1, 1).to(dtype or values.dtype) for values in self.values]
        copy.recurrent_states = [(state.repeat(n, 1), cell.repeat(n, 1)) for state, cell in self.recurrent_states]
        copy.size, copy.length, copy.positions, copy.parts = self.size, self.length, None, ()
        return copy


@dataclass(frozen=True)
class LayerCache:
    """One block's part of a `KVCache`."""

    cache: KVCache
    index: int

    @property
    def recurrent_state(self) -> tuple[Tensor, Tensor] | None:
        """(state, cell) of an LSTM layer, each [batch, units]; None before its first step."""
        states = self.cache.recurrent_states
        return states[self.index] if len(states) > self.index else None

    def set_recurrent_state(self, state: Tensor, cell: Tensor) -> None:
        self.cache.recurrent_states[self.index : self.index + 1] = [(state, cell)]


def round_up(n: int) -> int:
    """The end of the stretch of `n` positions."""
    return -(-n // STRETCH) * STRETCH


def cached_attention(qkv: Tensor, n_head: int, kv_cache: LayerCache) -> Tensor:
    """softmax(q kᵀ / √(head width), causal) v for new positions, over the cached and the new keys and values.

    Args:
        qkv: [batch, time, 3 · n_embd], queries, keys and values of the positions that follow the cached ones.
        n_head: Number of heads.
        kv_cache: Receives the new keys and values.

    Returns:
        [batch, time, n_embd].
    """
    cache, index = kv_cache.cache, kv_cache.index
    if cache.parts:
        return attention_by_part(qkv, n_head, kv_cache)
    keys, values, past = cache.keys[index], cache.values[index], cache.length
    q, k, v = split_heads(qkv, 3, n_head)  # each [batch, n_head, time, head width]
    end = past + qkv.shape[1]
    keys[:, :, past:end] = k
    values[:, :, past:end] = v
    return attention_after(q, keys[:, :, :end], values[:, :, :end], past).transpose(1, 2).flatten(2)


def attention_after(q: Tensor, keys: Tensor, values: Tensor, past: int) -> Tensor:
    """Attention of the positions from `past` on: q [batch, n_head, time, head width] → the same."""
    time, visible = q.shape[2], None
    if past and time > 1:  # position past + i attends to all positions up to itself
        visible = torch.ones(time, past + time, dtype=torch.bool, device=q.device).tril(past)
    return F.scaled_dot_product_attention(q, keys, values, visible, is_causal=not past and time > 1)


def attention_by_part(qkv: Tensor, n_head: int, kv_cache: LayerCache) -> Tensor:
    """As `cached_attention`, for the parts of `KVCache.begin_parts`: qkv [tokens, 1, 3 · n_embd] → [tokens, 1, n_embd].

    Parts of one token are computed together, in the dtype of the cache; a longer part alone, over its own keys only.
    Unless `KVCache.gathers`, the result of a part does not depend on the rest of the pass, bit by bit.
    """
    cache, index = kv_cache.cache, kv_cache.index
    keys, values, used = cache.keys[index], cache.values[index], len(cache.part_rows)
    assert cache.positions is not None  # as `begin_parts` left it
    positions = cache.positions[:used, 0]
    tokens, _, width = qkv.shape
    q, k, v = qkv.to(keys.dtype).view(tokens, 3, n_head, -1).unbind(1)  # each [tokens, n_head, head width]
    keys[cache.part_rows, :, positions] = k[:used]
    values[cache.part_rows, :, positions] = v[:used]
    y = qkv.new_empty(tokens, n_head, width // 3 // n_head)
    y[used:] = 0
    for newest in cache.newest:
        own = newest.tokens
        y[own] = attention_of_newest(q[own], keys, values, newest.rows, newest.mask)
    for first, (row, past, time) in cache.longer:
        own = slice(first, first + time)
        own_q = q[own].transpose(0, 1)[None].to(qkv.dtype)  # [1, n_head, time, head width]
        own_k, own_v = (cached[row, None, :, : past + time].to(qkv.dtype) for cached in (keys, values))
        y[own] = attention_after(own_q, own_k, own_v, past)[0].transpose(0, 1)
    return y.view(tokens, 1, width // 3)


def attention_of_newest(
    q: Tensor, keys: Tensor, values: Tensor, rows: slice | Tensor, mask: Tensor
) -> Tensor:  # → [tokens, n_head, head width]
    """Attention of one new token of each of several sequences, in one call.

    Args:
        q: [tokens, n_head, head width].
        keys: [batch, n_head, positions, head width], finite also where the mask is −∞.
        values: The same.
        rows: The rows of the cache of the tokens.
        mask: [tokens, 1, 1, n], added to the scores of the first n positions.
    """
    end = mask.shape[-1]
    own_keys, own_values = keys[rows, :, :end], values[rows, :, :end]
    return F.scaled_dot_product_attention(q[:, :, None], own_keys, own_values, mask)[:, :, 0]
