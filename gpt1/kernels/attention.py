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
    """With P = softmax(q kᵀ / √(head width)) and the mask M of what is kept: y = (P ∘ M) v / (1 - p)."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, n_head: int, p: float) -> Tensor:
        batch, time, width = qkv.shape
        apart = qkv.view(batch, time, 3, n_head, -1).permute(2, 0, 3, 1, 4)  # [3, batch, n_head, time, head width]
        k, v = apart[1:].clone(memory_format=torch.contiguous_format).flatten(1, 2)
        out = qkv.new_empty(batch, time, width // 3)
        y = out.view(batch, time, n_head, -1).transpose(1, 2)  # [batch, n_head, time, head width]
        future = qkv.new_full((STRIP, STRIP), -math.inf).triu_(1)
        saved = [k, v]
        for top, end in strips(time):
            rows = end - top
            q = rows_of(apart[0], top, end, k.shape[-1] ** -0.5)
            scores = torch.bmm(q, k[:, :end].transpose(1, 2))  # [batch · n_head, rows, end]
            scores[:, :, top:].add_(future[:rows, :rows])
            probabilities = torch.softmax(scores, -1, out=scores)
            saved += [q, probabilities]
            if p:
                mask = keep_mask(scores.shape, p, scores.dtype)
                saved.append(mask)
                probabilities = masked(probabilities, mask)
            part = torch.bmm(probabilities, v[:, :end]).view(batch, n_head, rows, -1)
            torch.mul(part, 1 / (1 - p), out=y[:, :, top:end])
        ctx.save_for_backward(*saved)
        ctx.shape, ctx.p = (batch, time, n_head, width // 3 // n_head), p
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, None, None]:
        k, v, *saved = ctx.saved_tensors
        batch, time, n_head, head_width = ctx.shape
        dy_all = dout.view(batch, time, n_head, -1).transpose(1, 2)  # [batch, n_head, time, head width]
        dqkv = dout.new_empty(batch, time, 3, n_head, head_width)
        apart = dqkv.permute(2, 0, 3, 1, 4)  # [3, batch, n_head, time, head width]
        dk, dv = torch.empty_like(k), torch.empty_like(v)
        for top, end in reversed(strips(time)):  # the last strip sees every key: it fills dk and dv, the others add
            mask = saved.pop() if ctx.p else None
            probabilities, q = saved.pop(), saved.pop()
            dy = rows_of(dy_all, top, end, 1 / (1 - ctx.p))
            dropped = probabilities if mask is None else masked(probabilities, mask)
            dprobabilities = torch.bmm(dy, v[:, :end].transpose(1, 2))
            if mask is not None:
                dprobabilities.view(mask.dtype).mul_(mask)
            dscores = torch._softmax_backward_data(dprobabilities, probabilities, -1, probabilities.dtype)
            if end == time:
                torch.bmm(dropped.transpose(1, 2), dy, out=dv)
                torch.bmm(dscores.transpose(1, 2), q, out=dk)
            else:
                dv[:, :end].baddbmm_(dropped.transpose(1, 2), dy)
                dk[:, :end].baddbmm_(dscores.transpose(1, 2), q)
            dq = torch.bmm(dscores, k[:, :end]).view(batch, n_head, end - top, -1)
            torch.mul(dq, head_width**-0.5, out=apart[0, :, :, top:end])
        apart[1] = dk.view_as(dy_all)
        apart[2] = dv.view_as(dy_all)
        return dqkv.view(batch, time, -1), None, None


def rows_of(x: Tensor, top: int, end: int, scale: float) -> Tensor:
    """Rows top to end of x [batch, n_head, time, head width], scaled → [batch · n_head, end - top, head width]."""
    part = x[:, :, top:end]
    return torch.mul(part, scale, out=x.new_empty(part.shape)).flatten(0, 1)
