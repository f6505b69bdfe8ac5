"""Causal self-attention with dropout on the probabilities.

torch's fused attention loses its fast path on a CPU when there is dropout, and its backward pass is slow there. Here
the rows are cut into strips: a strip sees only the positions up to its end, and its scores are used while they are in
the cache.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from gpt1.kernels.random_bits import keep_mask, masked

STRIP = 128  # rows; fewer waste less above the diagonal, more make better matrix products


def causal_attention(qkv: Tensor, n_head: int, p: float = 0.0) -> Tensor:
    """softmax(q kᵀ / √(head width), causal) v, each probability dropped with probability p and else scaled by 1/(1-p).

    qkv [batch, time, 3 · n_embd]: queries, keys, values of all heads side by side → [batch, time, n_embd].
    """
    if qkv.device.type == "cpu" and (p or (torch.is_grad_enabled() and qkv.requires_grad)):
        return CausalAttention.apply(qkv, n_head, p)  # type: ignore[no-untyped-call]
    batch, time, width = qkv.shape
    q, k, v = qkv.view(batch, time, 3, n_head, -1).permute(2, 0, 3, 1, 4)  # each [batch, n_head, time, head width]
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=p)
    return y.transpose(1, 2).reshape(batch, time, width // 3)


def strips(time: int) -> list[tuple[int, int]]:
    """(first row, row after the last one) of every strip."""
    return [(start, min(start + STRIP, time)) for start in range(0, time, STRIP)]


class CausalAttention(torch.autograd.Function):
    """With P = softmax(S), S = q kᵀ (q scaled) and the mask M of what is kept: y = (P ∘ M) v / (1 - p)."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, n_head: int, p: float) -> Tensor:
        batch, time, width = qkv.shape
        width //= 3
        heads = qkv.new_empty(3, batch, n_head, time, width // n_head)
        heads.copy_(qkv.view(batch, time, 3, n_head, -1).permute(2, 0, 3, 1, 4))
        q, k, v = heads.flatten(1, 2)  # each [batch · n_head, time, head width]
        q.mul_(q.shape[-1] ** -0.5)
        future = qkv.new_full((STRIP, STRIP), -math.inf).triu_(1)
        y = torch.empty_like(q)
        saved = [heads]
        for top, end in strips(time):
            rows = end - top
            scores = torch.bmm(q[:, top:end], k[:, :end].transpose(1, 2))  # [batch · n_head, rows, end]
            scores[:, :, top:].add_(future[:rows, :rows])
            probabilities = torch.softmax(scores, -1, out=scores)
            saved.append(probabilities)
            if p:
                mask = keep_mask(scores.shape, p, scores.dtype)
                saved.append(mask)
                probabilities = masked(probabilities, mask)
            y[:, top:end] = torch.bmm(probabilities, v[:, :end])
        ctx.save_for_backward(*saved)
        ctx.p = p
        out = qkv.new_empty(batch, time, n_head, width // n_head)
        torch.mul(y.view(batch, n_head, time, -1).transpose(1, 2), 1 / (1 - p), out=out)
        return out.view(batch, time, width)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, None, None]:
        heads, *saved = ctx.saved_tensors
        _, batch, n_head, time, head_width = heads.shape
        q, k, v = heads.flatten(1, 2)
        dy = torch.empty_like(heads[0])
        torch.mul(dout.view(batch, time, n_head, head_width).transpose(1, 2), 1 / (1 - ctx.p), out=dy)
        dy = dy.flatten(0, 1)
        dheads = torch.empty_like(heads)
        dq, dk, dv = dheads.flatten(1, 2)
        for top, end in reversed(strips(time)):  # the last strip sees every key: it fills dk and dv, the others add
            mask = saved.pop() if ctx.p else None
            probabilities = saved.pop()
            dropped = probabilities if mask is None else masked(probabilities, mask)
            dprobabilities = torch.bmm(dy[:, top:end], v[:, :end].transpose(1, 2))
            if mask is not None:
                dprobabilities = masked(dprobabilities, mask)
            dscores = torch._softmax_backward_data(dprobabilities, probabilities, -1, probabilities.dtype)
            first = end == time
            torch.baddbmm(dv[:, :end], dropped.transpose(1, 2), dy[:, top:end], beta=not first, out=dv[:, :end])
            torch.baddbmm(dk[:, :end], dscores.transpose(1, 2), q[:, top:end], beta=not first, out=dk[:, :end])
            dq[:, top:end] = torch.bmm(dscores, k[:, :end])
        dq.mul_(head_width**-0.5)
        dqkv = dout.new_empty(batch, time, 3, n_head, head_width)
        dqkv.permute(2, 0, 3, 1, 4).copy_(dheads)
        return dqkv.view(batch, time, -1), None, None
