"""Each kernel against the plain line of PyTorch it replaces: forward and backward, bf16, shapes of the 117M model."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import Result, Table, Work, figure, in_turn, ratio
from gpt1.kernels.attention import causal_attention
from gpt1.kernels.dropout import dropout, residual_dropout
from gpt1.kernels.gelu import gelu
from gpt1.kernels.linear import linear
from gpt1.kernels.lm_loss import lm_loss

WIDTH, HEADS, VOCAB, P = 768, 12, 40478, 0.1
ROUNDS = 9

Function = Callable[..., Tensor]


def run(rounds: int, quick: bool) -> Result:
    torch.manual_seed(0)
    rows, ratios, same = [], {}, {}
    for name, (ours, plain, inputs) in kernels(1 if quick else 4, 64 if quick else 512).items():
        seconds = in_turn({"gpt1": both_ways(ours, inputs), "plain": both_ways(plain, inputs)}, rounds)
        ratios[f"{name} / plain"] = ratio(seconds["gpt1"], seconds["plain"])
        milliseconds = [figure(1e3 * s for s in values) for values in seconds.values()]
        rows.append([name, *milliseconds, ratios[f"{name} / plain"]])
        if "dropout" not in name:  # two draws of the same distribution are not the same
            same[name] = agree(ours(*inputs), plain(*inputs))
    title = "Forward and backward, bf16, " + ("64 positions" if quick else "4 × 512 positions")
    return Result([Table(title, ["", "gpt1, ms", "plain, ms", "gpt1 is as fast"], rows)], ratios, same)


def kernels(batch: int, time: int) -> dict[str, tuple[Function, Function, tuple[Tensor, ...]]]:
    """(ours, plain, what both take) by name."""

    def draw(*shape: int, dtype: torch.dtype = torch.bfloat16, std: float = 1.0) -> Tensor:
        return (std * torch.randn(shape)).to(dtype).requires_grad_()

    def weight(*shape: int) -> Tensor:
        return draw(*shape, dtype=torch.float32, std=0.02)

    n = batch * time
    x, y, wide, qkv = (draw(batch, time, width) for width in (WIDTH, WIDTH, 4 * WIDTH, 3 * WIDTH))
    head = (draw(n, WIDTH), weight(VOCAB, WIDTH), torch.randint(VOCAB, (n,)), torch.full((n,), 1 / n))
    return {
        "dropout": (lambda x: dropout(x, P), lambda x: F.dropout(x, P), (x,)),
        "residual sum with dropout": (lambda x, y: residual_dropout(x, y, P), lambda x, y: x + F.dropout(y, P), (x, y)),
        "GELU": (gelu, lambda x: F.gelu(x, approximate="tanh"), (wide,)),
        "attention": (lambda qkv: causal_attention(qkv, HEADS), lambda qkv: plain_attention(qkv, 0.0), (qkv,)),
        "attention with dropout": (
            lambda qkv: causal_attention(qkv, HEADS, P),
            lambda qkv: plain_attention(qkv, P),
            (qkv,),
        ),
        "linear, 768 → 3072": (linear, plain_linear, (x, weight(4 * WIDTH, WIDTH), weight(4 * WIDTH))),
        "linear, 3072 → 768": (linear, plain_linear, (wide, weight(WIDTH, 4 * WIDTH), weight(WIDTH))),
        "loss with its head": (lm_loss, plain_loss, head),
    }


def plain_attention(qkv: Tensor, p: float) -> Tensor:  # [batch, time, 3 · width] → [batch, time, width]
    batch, time, _ = qkv.shape
    q, k, v = qkv.view(batch, time, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=p)
    return y.transpose(1, 2).reshape(batch, time, WIDTH)


def plain_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(x, weight.to(x.dtype), bias.to(x.dtype))


def plain_loss(states: Tensor, embedding: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    logits = (states @ embedding.to(states.dtype).T).float()
    return F.cross_entropy(logits, targets, reduction="none") @ weights


def both_ways(function: Function, inputs: tuple[Tensor, ...]) -> Work:
    """A call and its gradients with respect to every input that has one."""
    leaves = [x for x in inputs if x.requires_grad]
    y = function(*inputs)
    dy = torch.ones_like(y) if y.dim() == 0 else torch.randn_like(y)
    return lambda: torch.autograd.grad(function(*inputs), leaves, dy)


def agree(ours: Tensor, plain: Tensor) -> bool:
    """Within what bf16 rounds off."""
    difference = (ours - plain).float().norm() / plain.float().norm()
    return bool(difference < 0.01)
