"""Self-attention of new positions over a cache of earlier ones: generation and scoring."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cached_attention(qkv: Tensor, n_head: int, keys: Tensor, values: Tensor, past: int) -> Tensor:
    """causal_attention for positions past, past + 1, …; their keys and values are written into the cache.

    qkv [batch, time, 3 · n_embd]; keys, values [batch, n_head, size, head width], filled up to `past`
    → [batch, time, n_embd].
    """
    batch, time, width = qkv.shape
    q, k, v = qkv.view(batch, time, 3, n_head, -1).permute(2, 0, 3, 1, 4)  # each [batch, n_head, time, head width]
    end = past + time
    keys[:, :, past:end] = k
    values[:, :, past:end] = v
    seen = None
    if past and time > 1:  # position past + i sees everything up to itself
        seen = torch.ones(time, end, dtype=torch.bool, device=qkv.device).tril(past)
    y = F.scaled_dot_product_attention(
        q, keys[:, :, :end], values[:, :, :end], attn_mask=seen, is_causal=past == 0 and time > 1
    )
    return y.transpose(1, 2).reshape(batch, time, width // 3)
