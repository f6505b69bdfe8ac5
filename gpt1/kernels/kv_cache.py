"""KV cache, and causal self-attention of new positions over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt1.config import GPTConfig
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
        """Filled positions; the maximum over the rows if `row_lengths` is set."""
        self.row_lengths: Tensor | None = None
        """[batch, 1], the filled positions of each row, if rows differ."""
        self.parts: Sequence[CachePart] = ()
        """Set by `begin_parts`: the sequences that the tokens of the next pass belong to."""
        self.part_rows = self.part_positions = torch.empty(0, dtype=torch.long)

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
        self.row_lengths = to_device(torch.tensor(padded)[:, None], device)
        self.part_positions = self.row_lengths[: len(positions), 0]

    def layer(self, index: int) -> LayerCache:
        """The part that belongs to block `index`."""
        return LayerCache(self, index)

    def repeat(self, n: int, dtype: torch.dtype | None = None) -> KVCache:
        """`n` copies of a cache of one sequence, to continue it in n ways."""
        copy = KVCache.__new__(KVCache)
        copy.keys = [keys.repeat(n, 1, 1, 1).to(dtype or keys.dtype) for keys in self.keys]
        copy.values = [values.repeat(n, 1, 1, 1).to(dtype or values.dtype) for values in self.values]
        copy.recurrent_states = [(state.repeat(n, 1), cell.repeat(n, 1)) for state, cell in self.recurrent_states]
        copy.length, copy.row_lengths, copy.parts = self.length, None, ()
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
        kv_cache: Receives the new keys and values. If its rows have different lengths, time must be 1.

    Returns:
        [batch, time, n_embd].
    """
    cache, index = kv_cache.cache, kv_cache.index
    if cache.parts:
        return attention_by_part(qkv, n_head, kv_cache)
    keys, values, past, row_lengths = cache.keys[index], cache.values[index], cache.length, cache.row_lengths
    batch, time, width = qkv.shape
    q, k, v = qkv.view(batch, time, 3, n_head, -1).permute(2, 0, 3, 1, 4)  # each [batch, n_head, time, head width]
    end = past + time
    visible = None
    if row_lengths is None:
        keys[:, :, past:end] = k
        values[:, :, past:end] = v
    else:
        rows, positions = torch.arange(batch, device=qkv.device), row_lengths[:, 0]
        keys[rows, :, positions], values[rows, :, positions] = k[:, :, 0], v[:, :, 0]
        visible = (torch.arange(end, device=qkv.device) <= row_lengths)[:, None, None]  # [batch, 1, 1, end]
    if past and time > 1:  # position past + i attends to all positions up to itself
        visible = torch.ones(time, end, dtype=torch.bool, device=qkv.device).tril(past)
    y = F.scaled_dot_product_attention(
        q, keys[:, :, :end], values[:, :, :end], attn_mask=visible, is_causal=past == 0 and time > 1
    )
    return y.transpose(1, 2).reshape(batch, time, width // 3)


def attention_by_part(qkv: Tensor, n_head: int, kv_cache: LayerCache) -> Tensor:
    """As `cached_attention`, for the parts of `KVCache.begin_parts`: qkv [tokens, 1, 3 · n_embd] → [tokens, 1, n_embd].

    A part is computed alone, over its own keys only. So its result does not depend on the rest of the pass, bit by bit.
    """
    cache, index = kv_cache.cache, kv_cache.index
    keys, values, used = cache.keys[index], cache.values[index], len(cache.part_rows)
    tokens, _, width = qkv.shape
    q, k, v = qkv.view(tokens, 3, n_head, -1).unbind(1)  # each [tokens, n_head, head width]
    keys[cache.part_rows, :, cache.part_positions] = k[:used]
    values[cache.part_rows, :, cache.part_positions] = v[:used]
    y = qkv.new_zeros(tokens, n_head, width // 3 // n_head)
    first = 0
    for row, past, time in cache.parts:
        end = past + time
        visible = None
        if past and time > 1:  # position past + i attends to all positions up to itself
            visible = torch.ones(time, end, dtype=torch.bool, device=qkv.device).tril(past)
        own_q = q[first : first + time].transpose(0, 1)[None]  # [1, n_head, time, head width]
        own_k, own_v = keys[row, None, :, :end], values[row, None, :, :end]
        own_y = F.scaled_dot_product_attention(own_q, own_k, own_v, visible, is_causal=not past and time > 1)
        y[first : first + time] = own_y[0].transpose(0, 1)
        first += time
    return y.view(tokens, 1, width // 3)
