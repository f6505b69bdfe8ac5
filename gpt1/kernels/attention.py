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

from gpt1.kernels.random_bits import apply_mask, keep_mask

STRIP = 128  # rows; fewer waste less above the diagonal, more make better matrix products
MAX_SCORES = 24 * 128 * 512  # at a time: 3 MiB in bfloat16, little enough for the caches of two cores


def causal_attention(qkv: Tensor, n_head: int, dropout_p: float = 0.0, masked_out: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ / √(head width), causal) v, each probability dropped with probability p and else scaled by 1/(1-p).

    qkv [batch, time, 3 · n_embd]: queries, keys, values of all heads side by side → [batch, time, n_embd]. hidden
    [batch, time, time]: True where a position must not see another one, besides the later ones.
    """
    if qkv.device.type == "cpu" and (dropout_p or (torch.is_grad_enabled() and qkv.requires_grad)):
        return CausalAttentionFunction.apply(qkv, n_head, dropout_p, masked_out)  # type: ignore[no-untyped-call]
    q, k, v = split_heads(qkv, 3, n_head)  # each [batch, n_head, time, head width]
    if masked_out is None:
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout_p)
    else:
        y = F.scaled_dot_product_attention(q, k, v, (~masked_out).tril()[:, None], dropout_p=dropout_p)
    return y.transpose(1, 2).flatten(2)


def strips(time: int) -> list[tuple[int, int]]:
    """(first row, row after the last one) of every strip."""
    return [(start, min(start + STRIP, time)) for start in range(0, time, STRIP)]


def sequences_at_a_time(n_head: int, time: int) -> int:
    """As many as the caches hold; never by the number of threads, since it decides which random number falls where."""
    return max(1, MAX_SCORES // max(1, n_head * min(STRIP, time) * time))


class CausalAttentionFunction(torch.autograd.Function):
    """With P = softmax(q kᵀ / √(head width)) and the mask M of what is kept: y = (P ∘ M) v / (1 - p)."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, n_head: int, p: float, hidden: Tensor | None) -> Tensor:
        batch, time, width = qkv.shape
        out = qkv.new_empty(batch, time, width // 3)
        ctx.n_head, ctx.p, ctx.group = n_head, p, sequences_at_a_time(n_head, time)
        saved = []
        groups = range(0, batch, ctx.group)
        unseen = [None] * len(groups) if hidden is None else torch.split(hidden, ctx.group)
        for some, result, not_here in zip(
            torch.split(qkv, ctx.group), torch.split(out, ctx.group), unseen, strict=True
        ):
            saved += attention_forward(some, result, n_head, p, not_here)
        ctx.save_for_backward(*saved)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, None, None, None]:
        batch, time, width = dout.shape
        saved = list(ctx.saved_tensors)
        dqkv = dout.new_empty(batch, time, 3 * width)
        for some, result in reversed([*zip(torch.split(dout, ctx.group), torch.split(dqkv, ctx.group), strict=True)]):
            attention_backward(some, saved, result, ctx.n_head, ctx.p)
        return dqkv, None, None, None


def attention_forward(qkv: Tensor, out: Tensor, n_head: int, p: float, hidden: Tensor | None) -> list[Tensor]:
    """Fill out [batch, time, n_embd] from qkv [batch, time, 3 · n_embd] → what the backward pass needs."""
    batch, time, _ = qkv.shape
    q, k, v = split_heads(qkv, 3, n_head)
    (y,) = split_heads(out, 1, n_head)
    k, v = (part.contiguous().flatten(0, 1) for part in (k, v))  # each [batch · n_head, time, head width]
    future = qkv.new_full((STRIP, STRIP), -math.inf).triu_(1)
    saved = [k, v]
    for top, end in strips(time):
        rows = end - top
        some = scaled_rows(q, top, end, q.shape[-1] ** -0.5)
        scores = torch.bmm(some, k[:, :end].transpose(1, 2))  # [batch · n_head, rows, end]
        scores[:, :, top:].add_(future[:rows, :rows])
        if hidden is not None:
            scores.view(batch, n_head, rows, end).masked_fill_(hidden[:, None, top:end, :end], -math.inf)
        probabilities = torch.softmax(scores, -1, out=scores)
        saved += [some, probabilities]
        if p:
            mask = keep_mask(scores.shape, p, scores.dtype)
            saved.append(mask)
            probabilities = apply_mask(probabilities, mask)
        part = torch.bmm(probabilities, v[:, :end]).view(batch, n_head, rows, -1)
        torch.mul(part, 1 / (1 - p), out=y[:, :, top:end])
    return saved


def attention_backward(dout: Tensor, saved: list[Tensor], dqkv: Tensor, n_head: int, p: float) -> None:
    """Fill dqkv [batch, time, 3 · n_embd] from dout [batch, time, n_embd], taking what forward saved from the end."""
    batch, time, _ = dout.shape
    (dy,) = split_heads(dout, 1, n_head)
    dq, dk, dv = split_heads(dqkv, 3, n_head)
    each = 3 if p else 2  # tensors saved a strip
    k, v = saved[-2 - each * len(strips(time)) :][:2]
    dkeys, dvalues = torch.empty_like(k), torch.empty_like(v)
    for top, end in reversed(strips(time)):  # the last strip sees every key: it fills dkeys, dvalues; the others add
        mask = saved.pop() if p else None
        probabilities, q = saved.pop(), saved.pop()
        some = scaled_rows(dy, top, end, 1 / (1 - p))
        dropped = probabilities if mask is None else apply_mask(probabilities, mask)
        dprobabilities = torch.bmm(some, v[:, :end].transpose(1, 2))
        if mask is not None:
            dprobabilities.view(mask.dtype).mul_(mask)
        dscores = torch._softmax_backward_data(dprobabilities, probabilities, -1, probabilities.dtype)
        if end == time:
            torch.bmm(dropped.transpose(1, 2), some, out=dvalues)
            torch.bmm(dscores.transpose(1, 2), q, out=dkeys)
        else:
            dvalues[:, :end].baddbmm_(dropped.transpose(1, 2), some)
            dkeys[:, :end].baddbmm_(dscores.transpose(1, 2), q)
        part = torch.bmm(dscores, k[:, :end]).view(batch, n_head, end - top, -1)
        torch.mul(part, q.shape[-1] ** -0.5, out=dq[:, :, top:end])
    del saved[-2:]  # k and v
    dk.copy_(dkeys.view_as(dk))
    dv.copy_(dvalues.view_as(dv))


def split_heads(x: Tensor, parts: int, n_head: int) -> Tensor:
    """A view: [batch, time, parts · n_embd] → [parts, batch, n_head, time, head width]."""
    batch, time, _ = x.shape
    return x.view(batch, time, parts, n_head, -1).permute(2, 0, 3, 1, 4)


def scaled_rows(x: Tensor, top: int, end: int, scale: float) -> Tensor:
    """Rows top to end of x [batch, n_head, time, head width], scaled → [batch · n_head, end - top, head width]."""
    part = x[:, :, top:end]
    return torch.mul(part, scale, out=x.new_empty(part.shape)).flatten(0, 1)
