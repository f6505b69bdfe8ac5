"""Causal self-attention with dropout on the probabilities."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def causal_attention(qkv: Tensor, n_head: int, p: float = 0.0) -> Tensor:
    """softmax(q kᵀ / sqrt(head width), causal) v, the probabilities dropped out with probability p.

    qkv [batch, time, 3·n_embd]: queries, keys, values of all heads side by side → [batch, time, n_embd].
    """
    batch, time, width = qkv.shape
    q, k, v = qkv.view(batch, time, 3, n_head, width // 3 // n_head).permute(
        2, 0, 3, 1, 4
    )  # [batch, head, time, head width]
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=p)
    return y.transpose(1, 2).reshape(batch, time, width // 3)
