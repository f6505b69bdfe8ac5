"""Causal self-attention with dropout on the probabilities.

On a CPU, torch's fused attention has no fast path with dropout, and a slow backward pass. Here the rows are split into
strips: a strip attends only to the positions up to its end, and its scores are used while they are in the CPU cache.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from gpt1.kernels.random_bits import apply_mask, keep_mask
from gpt1.kernels.torch_private import softmax_backward

STRIP = 128  # rows; fewer waste less above the diagonal, more give faster matrix products
MAX_SCORES = 24 * 128 * 512  # computed at a time: 3 MiB in bfloat16, which fits the caches of two cores


def causal_attention(qkv: Tensor, n_head: int, dropout_p: float = 0.0, masked_out: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ / √(head width) + causal mask) v, with dropout on the probabilities.

    Args:
        qkv: [batch, time, 3 · n_embd], queries, keys and values of all heads side by side.
        n_head: Number of heads.
        dropout_p: Probability of dropping an attention probability; the others are scaled by 1 / (1 − p).
        masked_out: [batch, time, time], True where a position must not attend to an earlier one.

    Returns:
        [batch, time, n_embd].
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
    """(start, end) of each strip of rows."""
    return [(start, min(start + STRIP, time)) for start in range(0, time, STRIP)]


def sequences_at_a_time(n_head: int, time: int) -> int:
    """How many fit the caches. Independent of the number of threads, since it decides the dropout masks."""
    return max(1, MAX_SCORES // max(1, n_head * min(STRIP, time) * time))


class CausalAttentionFunction(torch.autograd.Function):
    """y = (P ∘ M) v / (1 − p) with P = softmax(q kᵀ / √(head width)) and the dropout mask M."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, n_head: int, p: float, masked_out: Tensor | None) -> Tensor:
        batch, time, width = qkv.shape
        out = qkv.new_empty(batch, time, width // 3)
        ctx.n_head, ctx.p, ctx.group = n_head, p, sequences_at_a_time(n_head, time)
        saved = []
        groups = range(0, batch, ctx.group)
        masks = [None] * len(groups) if masked_out is None else torch.split(masked_out, ctx.group)
        for part, result, mask in zip(torch.split(qkv, ctx.group), torch.split(out, ctx.group), masks, strict=True):
            saved += attention_forward(part, result, n_head, p, mask)
        ctx.save_for_backward(*saved)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, None, None, None]:
        batch, time, width = dout.shape
        saved = list(ctx.saved_tensors)
        dqkv = dout.new_empty(batch, time, 3 * width)
        for part, result in reversed([*zip(torch.split(dout, ctx.group), torch.split(dqkv, ctx.group), strict=True)]):
            attention_backward(part, saved, result, ctx.n_head, ctx.p)
        return dqkv, None, None, None


def attention_forward(qkv: Tensor, out: Tensor, n_head: int, p: float, masked_out: Tensor | None) -> list[Tensor]:
    """Fill out [batch, time, n_embd] from qkv [batch, time, 3 · n_embd]; returns the tensors for the backward pass."""
    batch, time, _ = qkv.shape
    q, k, v = split_heads(qkv, 3, n_head)
    (y,) = split_heads(out, 1, n_head)
    k, v = (part.contiguous().flatten(0, 1) for part in (k, v))  # each [batch · n_head, time, head width]
    future = qkv.new_full((STRIP, STRIP), -math.inf).triu_(1)
    saved = [k, v]
    for top, end in strips(time):
        rows = end - top
        q_strip = scale_rows(q, top, end, q.shape[-1] ** -0.5)
        scores = torch.bmm(q_strip, k[:, :end].transpose(1, 2))  # [batch · n_head, rows, end]
        scores[:, :, top:].add_(future[:rows, :rows])
        if masked_out is not None:
            scores.view(batch, n_head, rows, end).masked_fill_(masked_out[:, None, top:end, :end], -math.inf)
        probabilities = torch.softmax(scores, -1, out=scores)
        saved += [q_strip, probabilities]
        if p:
            mask = keep_mask(scores.shape, p, scores.dtype)
            saved.append(mask)
            probabilities = apply_mask(probabilities, mask)
        y_strip = torch.bmm(probabilities, v[:, :end]).view(batch, n_head, rows, -1)
        torch.mul(y_strip, 1 / (1 - p), out=y[:, :, top:end])
    return saved


def attention_backward(dout: Tensor, saved: list[Tensor], dqkv: Tensor, n_head: int, p: float) -> None:
    """Fill dqkv [batch, time, 3 · n_embd] from dout [batch, time, n_embd]; pops what forward saved from the end."""
    batch, time, _ = dout.shape
    (dy,) = split_heads(dout, 1, n_head)
    dq, dk, dv = split_heads(dqkv, 3, n_head)
    saved_per_strip = 3 if p else 2
    k, v = saved[-2 - saved_per_strip * len(strips(time)) :][:2]
    dkeys, dvalues = torch.empty_like(k), torch.empty_like(v)
    for top, end in reversed(strips(time)):  # the last strip sees all keys: it fills dkeys and dvalues, the others add
        mask = saved.pop() if p else None
        probabilities, q = saved.pop(), saved.pop()
        dy_strip = scale_rows(dy, top, end, 1 / (1 - p))
        dropped = probabilities if mask is None else apply_mask(probabilities, mask)
        dprobabilities = torch.bmm(dy_strip, v[:, :end].transpose(1, 2))
        if mask is not None:
            dprobabilities.view(mask.dtype).mul_(mask)
        dscores = softmax_backward(dprobabilities, probabilities, -1, probabilities.dtype)
        if end == time:
            torch.bmm(dropped.transpose(1, 2), dy_strip, out=dvalues)
            torch.bmm(dscores.transpose(1, 2), q, out=dkeys)
        else:
            dvalues[:, :end].baddbmm_(dropped.transpose(1, 2), dy_strip)
            dkeys[:, :end].baddbmm_(dscores.transpose(1, 2), q)
        dq_strip = torch.bmm(dscores, k[:, :end]).view(batch, n_head, end - top, -1)
        torch.mul(dq_strip, q.shape[-1] ** -0.5, out=dq[:, :, top:end])
    del saved[-2:]  # k and v
    dk.copy_(dkeys.view_as(dk))
    dv.copy_(dvalues.view_as(dv))


def split_heads(x: Tensor, parts: int, n_head: int) -> Tensor:
    """[batch, time, parts · n_embd] → [parts, batch, n_head, time, head width], a view."""
    batch, time, _ = x.shape
    return x.view(batch, time, parts, n_head, -1).permute(2, 0, 3, 1, 4)


def scale_rows(x: Tensor, top: int, end: int, scale: float) -> Tensor:
    """Rows `top` to `end` of x [batch, n_head, time, head width], scaled → [batch · n_head, end − top, head width]."""
    part = x[:, :, top:end]
    return torch.mul(part, scale, out=x.new_empty(part.shape)).flatten(0, 1)
