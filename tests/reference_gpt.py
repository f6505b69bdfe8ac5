"""GPT-1 in plain torch, straight from the paper: the reference for the kernels, the losses and the decoding.

No kernels, no cache, no packing, no dropout; weights by the names of `gpt1.model.gpt.GPT.state_dict()`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]


def gelu(x: Tensor) -> Tensor:
    """The tanh form, as in the released code."""
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def layer_norm(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:  # [..., n_embd] → the same
    variance, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5) * gain + bias


def attention(x: Tensor, n_head: int, w: Weights) -> Tensor:  # [batch, time, n_embd] → the same
    batch, time, n_embd = x.shape
    qkv = x @ w["attention.qkv.weight"].T + w["attention.qkv.bias"]
    q, k, v = (part.view(batch, time, n_head, -1).transpose(1, 2) for part in qkv.split(n_embd, dim=-1))
    scores = q @ k.transpose(2, 3) / math.sqrt(n_embd // n_head)  # [batch, n_head, time, time]
    future = torch.ones(time, time, dtype=torch.bool).triu(1)
    y = scores.masked_fill(future, -math.inf).softmax(-1) @ v
    return y.transpose(1, 2).reshape(batch, time, n_embd) @ w["attention.out.weight"].T + w["attention.out.bias"]


def block(x: Tensor, n_head: int, w: Weights) -> Tensor:  # post-LN
    x = layer_norm(x + attention(x, n_head, w), w["norm_1.weight"], w["norm_1.bias"])
    hidden = gelu(x @ w["mlp.widen.weight"].T + w["mlp.widen.bias"])
    x = x + hidden @ w["mlp.narrow.weight"].T + w["mlp.narrow.bias"]
    return layer_norm(x, w["norm_2.weight"], w["norm_2.bias"])


def hidden_states(ids: Tensor, n_layer: int, n_head: int, w: Weights) -> Tensor:  # [batch, time] → […, n_embd]
    """h_0 = U W_e + W_p; h_l = block(h_{l-1})."""
    h = w["tokens.weight"][ids] + w["positions.weight"][: ids.shape[1]]
    for layer in range(n_layer):
        prefix = f"blocks.{layer}."
        h = block(h, n_head, {name.removeprefix(prefix): t for name, t in w.items() if name.startswith(prefix)})
    return h


def logits(ids: Tensor, n_layer: int, n_head: int, w: Weights) -> Tensor:  # [batch, time] → [batch, time, rows]
    """h_n W_eᵀ."""
    return hidden_states(ids, n_layer, n_head, w) @ w["tokens.weight"].T


def l1_loss(ids: Tensor, n_layer: int, n_head: int, w: Weights) -> Tensor:
    """−L1 / tokens: the mean negative log-probability of each token given those before it (eq. 1)."""
    log_p = logits(ids[:, :-1], n_layer, n_head, w).log_softmax(-1)
    return -log_p.gather(-1, ids[:, 1:, None]).mean()


def generate(ids: Tensor, max_new_tokens: int, n_layer: int, n_head: int, w: Weights) -> Tensor:
    """Greedy decoding; every token recomputes everything."""
    for _ in range(max_new_tokens):
        ids = torch.cat([ids, logits(ids, n_layer, n_head, w)[:, -1:].argmax(-1)], dim=1)
    return ids
