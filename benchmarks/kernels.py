"""Each kernel against the line of PyTorch that it replaces: forward and backward, bf16, shapes of the 117M model.

And products with few vectors, as in decoding, with all matrices of the model in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import BenchmarkResult, ResultTable, Workload, interleave, speed_ratio, summarize_rounds
from gpt1.kernels.attention import causal_attention
from gpt1.kernels.dropout import dropout, residual_dropout
from gpt1.kernels.gelu import gelu
from gpt1.kernels.int4 import Int4Linear
from gpt1.kernels.linear import linear, pack_weight
from gpt1.kernels.lm_loss import lm_loss

WIDTH, HEADS, VOCAB, DROPOUT = 768, 12, 40478, 0.1
ROUNDS = 9

COLUMNS = ("", "gpt1, ms", "plain, ms", "gpt1 is as fast")

Function = Callable[..., Tensor]


def run(rounds: int, quick: bool) -> BenchmarkResult:
    torch.manual_seed(0)
    rows, ratios, same = [], {}, {}
    for name, (ours, plain, inputs) in kernel_cases(1 if quick else 4, 64 if quick else 512).items():
        seconds = interleave({"gpt1": forward_backward(ours, inputs), "plain": forward_backward(plain, inputs)}, rounds)
        ratios[f"{name} / plain"] = speed_ratio(seconds["gpt1"], seconds["plain"])
        milliseconds = [summarize_rounds(1e3 * s for s in values) for values in seconds.values()]
        rows.append([name, *milliseconds, ratios[f"{name} / plain"]])
        if "dropout" not in name:  # two random masks are not the same
            same[name] = outputs_agree(ours(*inputs), plain(*inputs))
    title = "Forward and backward, bf16, " + ("64 positions" if quick else "4 × 512 positions")
    tables = [
        ResultTable(title, COLUMNS, rows),
        compare_small_products(rounds, 1 if quick else 12, 64 if quick else WIDTH),
    ]
    return BenchmarkResult(tables, ratios, same)


@torch.inference_mode()
def compare_small_products(rounds: int, blocks: int, width: int) -> ResultTable:
    """Products with every matrix of a model: packed and 4-bit weights against F.linear."""
    shapes = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)] * blocks + [(VOCAB, width)]
    weights = [0.02 * torch.randn(shape) for shape in shapes]
    ways: dict[str, tuple[int, torch.dtype, Callable[[Tensor], Function]]] = {
        "packed, bf16, 1 vector": (1, torch.bfloat16, lambda weight: partial(linear, weight=pack_weight(weight))),
        "packed, bf16, 9 vectors": (9, torch.bfloat16, lambda weight: partial(linear, weight=pack_weight(weight))),
        "packed, fp32, 9 vectors": (9, torch.float32, lambda weight: partial(linear, weight=pack_weight(weight))),
        "4 bits, bf16, 1 vector": (1, torch.bfloat16, Int4Linear),
    }
    rows = []
    for name, (n, dtype, product) in ways.items():
        x = [torch.randn(n, weight.shape[1]).to(dtype) for weight in weights]
        plain = [partial(F.linear, weight=weight.to(dtype)) for weight in weights]
        ours = [product(weight.to(dtype)) for weight in weights]
        seconds = interleave({"gpt1": partial(apply_all, ours, x), "plain": partial(apply_all, plain, x)}, rounds)
        milliseconds = [summarize_rounds(1e3 * s for s in values) for values in seconds.values()]
        rows.append([name, *milliseconds, speed_ratio(seconds["gpt1"], seconds["plain"])])
    return ResultTable(f"Products with few vectors, {len(weights)} matrices in turn, forward", COLUMNS, rows)


def apply_all(products: Sequence[Function], x: Sequence[Tensor]) -> None:
    for product, vectors in zip(products, x, strict=True):
        product(vectors)


def kernel_cases(batch: int, time: int) -> dict[str, tuple[Function, Function, tuple[Tensor, ...]]]:
    """(ours, plain, inputs) by name."""

    def draw(*shape: int, dtype: torch.dtype = torch.bfloat16, std: float = 1.0) -> Tensor:
        return (std * torch.randn(shape)).to(dtype).requires_grad_()

    def weight(*shape: int) -> Tensor:
        return draw(*shape, dtype=torch.float32, std=0.02)

    n = batch * time
    x, y, wide, qkv = (draw(batch, time, width) for width in (WIDTH, WIDTH, 4 * WIDTH, 3 * WIDTH))
    head = (draw(n, WIDTH), weight(VOCAB, WIDTH), torch.randint(VOCAB, (n,)), torch.full((n,), 1 / n))
    return {
        "dropout": (lambda x: dropout(x, DROPOUT), lambda x: F.dropout(x, DROPOUT), (x,)),
        "residual sum with dropout": (
            lambda x, y: residual_dropout(x, y, DROPOUT),
            lambda x, y: x + F.dropout(y, DROPOUT),
            (x, y),
        ),
        "GELU": (gelu, lambda x: F.gelu(x, approximate="tanh"), (wide,)),
        "attention": (lambda qkv: causal_attention(qkv, HEADS), lambda qkv: plain_attention(qkv, 0.0), (qkv,)),
        "attention with dropout": (
            lambda qkv: causal_attention(qkv, HEADS, DROPOUT),
            lambda qkv: plain_attention(qkv, DROPOUT),
            (qkv,),
        ),
        "linear, 768 → 3072": (linear, plain_linear, (x, weight(4 * WIDTH, WIDTH), weight(4 * WIDTH))),
        "linear, 3072 → 768": (linear, plain_linear, (wide, weight(WIDTH, 4 * WIDTH), weight(WIDTH))),
        "loss with the output head": (lm_loss, plain_loss, head),
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


def forward_backward(function: Function, inputs: tuple[Tensor, ...]) -> Workload:
    """A call and its gradients with respect to all inputs that require one."""
    leaves = [x for x in inputs if x.requires_grad]
    y = function(*inputs)
    dy = torch.ones_like(y) if y.dim() == 0 else torch.randn_like(y)
    return lambda: torch.autograd.grad(function(*inputs), leaves, dy)


def outputs_agree(ours: Tensor, plain: Tensor) -> bool:
    """Whether they are equal up to the rounding of bf16."""
    difference = (ours - plain).float().norm() / plain.float().norm()
    return bool(difference < 0.01)
