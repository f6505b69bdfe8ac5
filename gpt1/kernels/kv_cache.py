"""KV cache, and causal self-attention of new positions over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt1.config import GPTConfig
from gpt1.kernels.attention import split_heads
from gpt1.kernels.to_device import to_device


class CachePart(NamedTuple):
    """Consecutive new tokens of one sequence in a pass over several sequences."""

    row: int  # of the cache
    past: int  # filled positions of that row
    time: int  # new tokens


class KVCache:
    """Keys and values of past positions, a pair of buffers per block; for an LSTM, the state and cell of each layer.

    Args:
        config: The model's config.
        batch: Number of sequences.
        like: A tensor with the device and the dtype of the buffers.
        size: Number of positions; by default the context.
    """

    def __init__(self, config: GPTConfig, batch: int, like: Tensor, size: int | None = None) -> None:
        shape = (batch, config.n_head, size or config.context, config.n_embd // config.n_head)
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

    @property
    def size(self) -> int:
        """Number of positions that fit."""
        return self.keys[0].shape[2]

    def begin_parts(self, parts: Sequence[CachePart], tokens: int) -> None:
        """Prepare a pass over new tokens [tokens, 1] of several sequences, those of `parts` one after another.

        Tokens after those of the last part are padding: they see nothing and change nothing.
        """
        device = self.keys[0].device
        rows = [part.row for part in parts for _ in range(part.time)]
        positions = [position for part in parts for position in range(part.past, part.past + part.time)]
        padded = positions + [0] * (tokens - len(positions))
        self.parts, self.length = parts, 0
        self.part_rows = to_device(torch.tensor(rows), device)
        self.positions = to_device(torch.tensor(padded)[:, None], device)

    def layer(self, index: int) -> LayerCache:
        """The part that belongs to block `index`."""
        return LayerCache(self, index)

    def repeat(self, n: int, dtype: torch.dtype | None = None) -> KVCache:
        """`n` copies of a cache of one sequence, to continue it in n ways."""
        copy = KVCache.__new__(KVCache)
        copy.keys = [keys.repeat(n, 1, 1, 1).to(dtype or keys.dtype) for keys in self.keys]
        copy.values = [values.repeat(n, 1, 1, 1).to(dtype or values.dtype) for values in self.values]
        copy.recurrent_states = [(state.repeat(n, 1), cell.repeat(n, 1)) for state, cell in self.recurrent_states]
        copy.length, copy.positions, copy.parts = self.length, None, ()
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

    On a CPU a part is computed alone, over its own keys only. So its result does not depend on the rest of the pass,
    bit by bit. On other devices, where many small products are slow, the first parts of one token are computed
    together.
    """
    cache, index = kv_cache.cache, kv_cache.index
    keys, values, used = cache.keys[index], cache.values[index], len(cache.part_rows)
    assert cache.positions is not None  # as `begin_parts` left it
    positions = cache.positions[:used, 0]
    tokens, _, width = qkv.shape
    q, k, v = qkv.view(tokens, 3, n_head, -1).unbind(1)  # each [tokens, n_head, head width]
    keys[cache.part_rows, :, positions] = k[:used]
    values[cache.part_rows, :, positions] = v[:used]
    y = qkv.new_zeros(tokens, n_head, width // 3 // n_head)
    first, parts = 0, cache.parts
    if qkv.device.type != "cpu":
        first = next((i for i, part in enumerate(parts) if part.time > 1), len(parts))
        if first:
            end = 1 + max(part.past for part in parts[:first])
            y[:first] = attention_of_newest(q[:first], keys, values, cache.part_rows[:first], positions[:first], end)
        parts = parts[first:]
    for row, past, time in parts:
        own_q = q[first : first + time].transpose(0, 1)[None]  # [1, n_head, time, head width]
        own_k, own_v = (cached[row, None, :, : past + time] for cached in (keys, values))
        own_y = attention_after(own_q, own_k, own_v, past)
        y[first : first + time] = own_y[0].transpose(0, 1)
        first += time
    return y.view(tokens, 1, width // 3)


def attention_of_newest(
    q: Tensor, keys: Tensor, values: Tensor, rows: Tensor, positions: Tensor, end: int
) -> Tensor:  # → [tokens, n_head, head width]
    """Attention of one new token of each of several sequences, in one call.

    Args:
        q: [tokens, n_head, head width].
        keys: [batch, n_head, positions, head width], finite also where nothing is cached yet.
        values: The same.
        rows: [tokens], the row of the cache of each token.
        positions: [tokens], its position, up to which it attends.
        end: One more than the largest position.
    """
    visible = (torch.arange(end, device=q.device) <= positions[:, None])[:, None, None]  # [tokens, 1, 1, end]
    own_keys, own_values = keys[rows, :, :end], values[rows, :, :end]
    return F.scaled_dot_product_attention(q[:, :, None], own_keys, own_values, visible)[:, :, 0]
