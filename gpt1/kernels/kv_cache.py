"""KV cache, and causal self-attention of new positions over it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt1.config import GPTConfig


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

    @property
    def size(self) -> int:
        """Number of positions that fit."""
        return self.keys[0].shape[2]

    def layer(self, index: int) -> LayerCache:
        """The part that belongs to block `index`."""
        return LayerCache(self, index)

    def repeat(self, n: int, dtype: torch.dtype | None = None) -> KVCache:
        """`n` copies of a cache of one sequence, to continue it in n ways."""
        copy = KVCache.__new__(KVCache)
        copy.keys = [keys.repeat(n, 1, 1, 1).to(dtype or keys.dtype) for keys in self.keys]
        copy.values = [values.repeat(n, 1, 1, 1).to(dtype or values.dtype) for values in self.values]
        copy.recurrent_states = [(state.repeat(n, 1), cell.repeat(n, 1)) for state, cell in self.recurrent_states]
        copy.length, copy.row_lengths = self.length, None
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
