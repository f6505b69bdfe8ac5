"""The language-modelling loss together with the output head, in pieces of rows: all logits at once never exist."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

PIECE_BYTES = 192 << 20  # of logits at a time; every further piece costs a pass over the embedding's gradient


def lm_loss(states: Tensor, embedding: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """sum_i weights_i · -log softmax(states_i @ embeddingᵀ)[targets_i], a scalar in float32.

    states [n, n_embd], embedding [vocab, n_embd], targets [n] int64, weights [n] float32. Rows of weight 0 are skipped.
    """
    if states.device.type == "cpu":  # elsewhere the look would make the processor wait for the device
        counted = weights.nonzero()[:, 0]
        if len(counted) < len(weights):
            states, targets, weights = states[counted], targets[counted], weights[counted]
    return LMLoss.apply(states, embedding, targets, weights)  # type: ignore[no-untyped-call]


class LMLoss(torch.autograd.Function):
    """The gradients are made along with the loss, while the probabilities P of a piece of rows are at hand:

    dstates = w (P - onehot) embedding,   dembedding = (P - onehot)ᵀ (w states)
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, embedding: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        needs_states, needs_embedding = ctx.needs_input_grad[:2]
        head = embedding.to(states.dtype)  # [vocab, n_embd]
        weights = weights.to(torch.promote_types(states.dtype, torch.float32))
        weighted = states * weights.to(states.dtype)[:, None]
        dstates = torch.empty_like(states) if needs_states else None
        dembedding = None
        loss = weights.new_zeros(())
        step = max(1, PIECE_BYTES // (len(embedding) * states.element_size()))
        for start in range(0, len(states), step):
            x, target, weight = (t[start : start + step] for t in (states, targets, weights))
            rows = torch.arange(len(x), device=x.device)
            logits = x @ head.T  # [rows, vocab]
            p = torch.softmax(logits, -1, out=logits)
            loss += weight @ surprise(p, x, head, target)
            p[rows, target] -= 1
            if dstates is not None:
                dstates[start : start + step] = (p @ head) * weight.to(x.dtype)[:, None]
            if needs_embedding:
                part = p.T @ weighted[start : start + step]
                dembedding = part.to(embedding.dtype) if dembedding is None else dembedding.add_(part)
        if needs_embedding and dembedding is None:
            dembedding = torch.zeros_like(embedding)
        ctx.save_for_backward(dstates, dembedding)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        dstates, dembedding = ctx.saved_tensors
        if dloss.device.type == "cpu" and dloss == 1:
            return dstates, dembedding, None, None
        return (
            None if dstates is None else dstates * dloss.to(dstates.dtype),
            None if dembedding is None else dembedding * dloss,
            None,
            None,
        )


def surprise(p: Tensor, states: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """-log p[i, targets_i] in float32 or better, right also where that probability is too small for its type.

    p [rows, vocab] = softmax(states @ headᵀ). There -log p_target = -log p_r + logit_r - logit_target, r the likeliest.
    """
    wide = torch.promote_types(p.dtype, torch.float32)
    at_target = p.gather(1, targets[:, None])[:, 0].to(wide)
    result = -at_target.log()
    lost = at_target < 1e-30
    if p.device.type != "cpu" or bool(lost.any()):
        best, r = p.max(-1)
        gap = (states.to(wide) * (head[r].to(wide) - head[targets].to(wide))).sum(-1)
        result = torch.where(lost, gap - best.to(wide).log(), result)
    return result
