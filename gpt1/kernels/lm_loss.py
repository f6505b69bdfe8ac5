"""Language-modeling loss fused with the output matrix, in chunks of rows, so that not all logits exist at once."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from gpt1.kernels.buffers import cast_weight, gradient_buffer
from gpt1.kernels.embedding import offer_gradient
from gpt1.kernels.linear import pad_rows, transpose_into

CHUNK_BYTES = 192 << 20  # of logits at a time; each further chunk costs a pass over the embedding's gradient
VOCAB_CHUNK = 2048  # CPU: tokens per product; a round width makes it faster
GRADIENT_ROWS = 1536  # CPU: rows of the embedding's gradient added at a time, which fit the cache; fewer scale badly
ALIGNED = 64  # GPU: the output matrix is padded to a multiple of this, because its products are slow otherwise


def lm_loss(hidden_states: Tensor, embedding: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Weighted cross-entropy of the next tokens: Σ_i weights_i · −log softmax(hidden_states_i embeddingᵀ)[targets_i].

    Args:
        hidden_states: [n, n_embd].
        embedding: [vocab, n_embd], the tied output matrix.
        targets: [n], int64.
        weights: [n], float32; 0 for rows without a target.

    Returns:
        A float32 scalar.
    """
    if on_cpu(hidden_states):  # on other devices, `nonzero` would make the host wait
        counted = weights.nonzero()[:, 0]
        if len(counted) < 0.9 * len(weights):  # otherwise the copy does not pay
            hidden_states, targets, weights = hidden_states[counted], targets[counted], weights[counted]
        if padding := pad_rows(len(weights)):
            hidden_states = F.pad(hidden_states, (0, 0, 0, padding))
            targets, weights = F.pad(targets, (0, padding)), F.pad(weights, (0, padding))
    return LMLossFunction.apply(hidden_states, embedding, targets, weights)  # type: ignore[no-untyped-call]


class LMLossFunction(torch.autograd.Function):
    """Computes the gradients together with the loss, while the probabilities P of a chunk exist:

    dstates = w (P − onehot) embedding,   dembedding = (P − onehot)ᵀ (w states)
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, embedding: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        needs_states, needs_embedding = ctx.needs_input_grad[:2]
        head = output_matrix(embedding, states)
        weights = weights.to(torch.promote_types(states.dtype, torch.float32))
        weighted = (states * weights[:, None]).to(states.dtype)  # weights in bfloat16 would be off by up to 0.4%
        dstates = torch.empty_like(states) if needs_states else None
        dembedding = gradient_buffer(embedding) if needs_embedding else None
        loss = weights.new_zeros(())
        step = max(1, CHUNK_BYTES // (len(head) * states.element_size()))
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
    """The embedding [vocab, n_embd] in the dtype of the states, on a GPU padded to an aligned number of rows."""
    if on_cpu(states):
        return cast_weight(embedding, states.dtype)
    head = states.new_zeros(-(-len(embedding) // ALIGNED) * ALIGNED, embedding.shape[1])
    head[: len(embedding)] = embedding
    return head


def token_probabilities(states: Tensor, head: Tensor, vocab: int) -> Tensor:
    """softmax(states headᵀ) over the first `vocab` tokens, 0 elsewhere: states [rows, n_embd] → [rows, len(head)]."""
    if not on_cpu(states):
        logits = states @ head.T
        logits[:, vocab:] = -torch.inf
        return torch.softmax(logits, -1)
    logits = states.new_empty(len(states), len(head))
    for start in range(0, len(head), VOCAB_CHUNK):
        chunk = slice(start, start + VOCAB_CHUNK)
        torch.mm(states, head[chunk].T, out=logits[:, chunk])
    return torch.softmax(logits, -1, out=logits)


def add_transposed_product(p: Tensor, states: Tensor, total: Tensor, overwrite: bool) -> None:
    """total += pᵀ states, or = with `overwrite`: p [rows, tokens], states [rows, n_embd], total [vocab, n_embd].

    On a CPU it is computed as (statesᵀ p)ᵀ, block by block: transposing the wide factor takes twice as long.
    """
    if not on_cpu(p):
        product = (p.T @ states)[: len(total)]
        total.copy_(product) if overwrite else total.add_(product)
        return
    transposed = transpose_into(states, states.new_empty(states.shape[1], len(states)))
    for start in range(0, len(total), GRADIENT_ROWS):
        rows = slice(start, start + GRADIENT_ROWS)
        block = (transposed @ p[:, rows]).T
        total[rows].copy_(block) if overwrite else total[rows].add_(block)


def negative_log_prob(p: Tensor, states: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """−log p[i, targets_i] in float32 or better, also if the probability underflows.

    p [rows, tokens] is softmax(states headᵀ). For an underflow, −log p_target = −log p_r + logit_r − logit_target with
    the most likely token r.
    """
    wide = torch.promote_types(p.dtype, torch.float32)
    at_target = p.gather(1, targets[:, None])[:, 0].to(wide)
    result = -at_target.log()
    underflow = at_target < 1e-30
    if not on_cpu(p) or bool(underflow.any()):
        best, r = p.max(-1)
        gap = (states.to(wide) * (head[r].to(wide) - head[targets].to(wide))).sum(-1)
        result = torch.where(underflow, gap - best.to(wide).log(), result)
    return result
