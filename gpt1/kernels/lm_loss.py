"""The language-modelling loss together with the output head, in pieces of rows: all logits at once never exist."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from gpt1.kernels.buffers import cast_weight, gradient_buffer
from gpt1.kernels.embedding import offer_gradient
from gpt1.kernels.linear import pad_rows, transpose_into

PIECE_BYTES = 192 << 20  # of logits at a time; every further piece costs a pass over the embedding's gradient
VOCAB_CHUNK = 2048  # CPU: logits of so many words at a time; a width that divides well makes the product faster
GRADIENT_ROWS = (
    1536  # CPU: words of the embedding's gradient at a time, added up in the cache; two threads share fewer badly
)
ALIGNED = 64  # GPU: the head gets rows of zeros up to a multiple of this, without which its products are slow


def lm_loss(hidden_states: Tensor, embedding: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """sum_i weights_i · -log softmax(states_i @ embeddingᵀ)[targets_i], a scalar in float32.

    states [n, n_embd], embedding [vocab, n_embd], targets [n] int64, weights [n] float32, 0 for rows left out.
    """
    if on_cpu(hidden_states):  # elsewhere the look would make the processor wait for the device
        counted = weights.nonzero()[:, 0]
        if len(counted) < 0.9 * len(weights):  # fewer are not worth the copy
            hidden_states, targets, weights = hidden_states[counted], targets[counted], weights[counted]
        if spare := pad_rows(len(weights)):
            hidden_states = F.pad(hidden_states, (0, 0, 0, spare))
            targets, weights = F.pad(targets, (0, spare)), F.pad(weights, (0, spare))
    return LMLossFunction.apply(hidden_states, embedding, targets, weights)  # type: ignore[no-untyped-call]


class LMLossFunction(torch.autograd.Function):
    """The gradients are made along with the loss, while the probabilities P of a piece of rows are at hand:

    dstates = w (P - onehot) embedding,   dembedding = (P - onehot)ᵀ (w states)
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, embedding: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        needs_states, needs_embedding = ctx.needs_input_grad[:2]
        head = output_matrix(embedding, states)
        weights = weights.to(torch.promote_types(states.dtype, torch.float32))
        weighted = (states * weights[:, None]).to(states.dtype)  # weights in bfloat16 would be off by up to 0.4 %
        dstates = torch.empty_like(states) if needs_states else None
        dembedding = gradient_buffer(embedding) if needs_embedding else None
        loss = weights.new_zeros(())
        step = max(1, PIECE_BYTES // (len(head) * states.element_size()))
        for start in range(0, len(states), step):
            x, target, weight = (t[start : start + step] for t in (states, targets, weights))
            p = token_probabilities(x, head, len(embedding))
            loss += weight @ negative_log_prob(p, x, head, target)
            p[torch.arange(len(x), device=x.device), target] -= 1
            if dstates is not None:
                dstates[start : start + step] = (p @ head) * weight[:, None]
            if dembedding is not None:
                add_transposed_product(p, weighted[start : start + step], dembedding, overwrite=start == 0)
        if dembedding is not None and not len(states):
            dembedding.zero_()
        ctx.save_for_backward(dstates, dembedding)
        ctx.embedding = embedding
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        gradients = ctx.saved_tensors
        if not on_cpu(dloss) or dloss != 1:
            gradients = [None if g is None else (g * dloss[None, None]).to(g.dtype) for g in gradients]
        dstates, dembedding = gradients
        if dembedding is not None and on_cpu(dembedding):
            offer_gradient(ctx.embedding, dembedding)
        return dstates, dembedding, None, None


def on_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu"


def output_matrix(embedding: Tensor, states: Tensor) -> Tensor:
    """The embedding in the type of the states [vocab, n_embd], on a GPU with rows of zeros up to an aligned number."""
    if on_cpu(states):
        return cast_weight(embedding, states.dtype)
    head = states.new_zeros(-(-len(embedding) // ALIGNED) * ALIGNED, embedding.shape[1])
    head[: len(embedding)] = embedding
    return head


def token_probabilities(states: Tensor, head: Tensor, vocab: int) -> Tensor:
    """softmax(states @ headᵀ) over the first `vocab` words, 0 elsewhere: states [rows, n_embd] → [rows, len(head)]."""
    if not on_cpu(states):
        logits = states @ head.T
        logits[:, vocab:] = -torch.inf
        return torch.softmax(logits, -1)
    logits = states.new_empty(len(states), len(head))
    for start in range(0, len(head), VOCAB_CHUNK):
        words = slice(start, start + VOCAB_CHUNK)
        torch.mm(states, head[words].T, out=logits[:, words])
    return torch.softmax(logits, -1, out=logits)


def add_transposed_product(p: Tensor, states: Tensor, total: Tensor, overwrite: bool) -> None:
    """total += pᵀ states, or = if it is the first: p [rows, words], states [rows, n_embd], total [vocab, n_embd].

    On a CPU as (statesᵀ p)ᵀ, block by block: a product with its wide factor transposed takes twice as long.
    """
    if not on_cpu(p):
        product = (p.T @ states)[: len(total)]
        total.copy_(product) if overwrite else total.add_(product)
        return
    turned = transpose_into(states, states.new_empty(states.shape[1], len(states)))
    for start in range(0, len(total), GRADIENT_ROWS):
        words = slice(start, start + GRADIENT_ROWS)
        block = (turned @ p[:, words]).T
        total[words].copy_(block) if overwrite else total[words].add_(block)


def negative_log_prob(p: Tensor, states: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """-log p[i, targets_i] in float32 or better, right also where that probability is too small for its type.

    p [rows, words] = softmax(states @ headᵀ). There -log p_target = -log p_r + logit_r - logit_target, r the likeliest.
    """
    wide = torch.promote_types(p.dtype, torch.float32)
    at_target = p.gather(1, targets[:, None])[:, 0].to(wide)
    result = -at_target.log()
    lost = at_target < 1e-30
    if not on_cpu(p) or bool(lost.any()):
        best, r = p.max(-1)
        gap = (states.to(wide) * (head[r].to(wide) - head[targets].to(wide))).sum(-1)
        result = torch.where(lost, gap - best.to(wide).log(), result)
    return result
