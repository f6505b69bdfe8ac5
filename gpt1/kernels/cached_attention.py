"""A cache of what the blocks have read, and self-attention of new positions over it: generation and scoring."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt1.config import GPTConfig


class Cache:
    """Keys and values of the positions seen so far, one pair of buffers a block, filled from the left; of an LSTM its
    state and cell."""

    def __init__(self, config: GPTConfig, batch: int, like: Tensor, size: int | None = None) -> None:
        shape = (batch, config.n_head, size or config.context, config.n_embd // config.n_head)
        blocks = config.n_layer if config.architecture == "transformer" else 0
        self.keys = [like.new_empty(shape) for _ in range(blocks)]
        self.values = [like.new_empty(shape) for _ in range(blocks)]
        self.memory: list[tuple[Tensor, Tensor]] = []
        self.length = 0
        self.places: Tensor | None = None  # [batch, 1]: how far each row is filled, if unlike; `length` is the most

    @property
    def size(self) -> int:
        """Positions that there is room for."""
        return self.keys[0].shape[2]

    def repeated(self, n: int, dtype: torch.dtype | None = None) -> Cache:
        """`n` copies of a cache of one sequence, side by side: what was read once is continued in n ways."""
        copy = Cache.__new__(Cache)
        copy.keys = [keys.repeat(n, 1, 1, 1).to(dtype or keys.dtype) for keys in self.keys]
        copy.values = [values.repeat(n, 1, 1, 1).to(dtype or values.dtype) for values in self.values]
        copy.memory = [(state.repeat(n, 1), cell.repeat(n, 1)) for state, cell in self.memory]
        copy.length, copy.places = self.length, None
        return copy


def cached_attention(
    qkv: Tensor, n_head: int, keys: Tensor, values: Tensor, past: int, places: Tensor | None = None
) -> Tensor:
    """causal_attention for positions past, past + 1, …; their keys and values are written into the cache.

    qkv [batch, time, 3 · n_embd]; keys, values [batch, n_head, size, head width], filled up to `past`
    → [batch, time, n_embd]. Where rows are filled unlike, `places` [batch, 1] says how far each is, `past` the most,
    and time is 1.
    """
    batch, time, width = qkv.shape
    q, k, v = qkv.view(batch, time, 3, n_head, -1).permute(2, 0, 3, 1, 4)  # each [batch, n_head, time, head width]
    end = past + time
    seen = None
    if places is None:
        keys[:, :, past:end] = k
        values[:, :, past:end] = v
    else:
        rows, place = torch.arange(batch, device=qkv.device), places[:, 0]
        keys[rows, :, place], values[rows, :, place] = k[:, :, 0], v[:, :, 0]
        seen = (torch.arange(end, device=qkv.device) <= places)[:, None, None]  # [batch, 1, 1, end]
    if past and time > 1:  # position past + i sees everything up to itself
        seen = torch.ones(time, end, dtype=torch.bool, device=qkv.device).tril(past)
    y = F.scaled_dot_product_attention(
        q, keys[:, :, :end], values[:, :, :end], attn_mask=seen, is_causal=past == 0 and time > 1
    )
    return y.transpose(1, 2).reshape(batch, time, width // 3)
