"""Each kernel against the plain line of PyTorch it replaces: forward and backward, shapes of the 117M model, 4 × 512.

    python -m benchmarks.kernels [--precision bf16] [--threads 2] [--rounds 15] [--json FILE]

Both run alternately; the fastest round of each is compared, since other programs can only slow one down. With one
thread, processor time is measured, otherwise the clock.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt1.kernels.attention import causal_attention
from gpt1.kernels.dropout import dropout, residual_dropout
from gpt1.kernels.gelu import gelu
from gpt1.kernels.linear import linear
from gpt1.kernels.lm_loss import lm_loss
from gpt1.kernels.memory import keep_freed_memory

BATCH, TIME, WIDTH, HEADS, VOCAB, P = 4, 512, 768, 12, 40478, 0.1

Work = Callable[[], object]


def plain_attention(qkv: Tensor, p: float) -> Tensor:
    q, k, v = qkv.view(BATCH, TIME, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=p)
    return y.transpose(1, 2).reshape(BATCH, TIME, WIDTH)


def plain_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(x, weight.to(x.dtype), bias.to(x.dtype))


def plain_loss(states: Tensor, embedding: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    logits = (states @ embedding.to(states.dtype).T).float()
    return F.cross_entropy(logits, targets, reduction="none") @ weights


def both_ways(function: Callable[..., Tensor], *inputs: object) -> Work:
    """A call and its gradients with respect to every input that has one."""
    leaves = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]
    y = function(*inputs)
    dy = torch.ones_like(y) if y.dim() == 0 else torch.randn_like(y)
    return lambda: torch.autograd.grad(function(*inputs), leaves, dy)


def pairs(dtype: torch.dtype) -> dict[str, tuple[Work, Work]]:
    """(ours, plain) by name."""

    def draw(*shape: int, like: torch.dtype = dtype, std: float = 1.0) -> Tensor:
        return (std * torch.randn(shape)).to(like).requires_grad_()

    n = BATCH * TIME
    x, y, wide, qkv = (draw(BATCH, TIME, width) for width in (WIDTH, WIDTH, 4 * WIDTH, 3 * WIDTH))
    weight, bias = draw(4 * WIDTH, WIDTH, like=torch.float32), draw(4 * WIDTH, like=torch.float32)
    back, short = draw(WIDTH, 4 * WIDTH, like=torch.float32), draw(WIDTH, like=torch.float32)
    embedding = draw(VOCAB, WIDTH, like=torch.float32, std=0.02)
    head = (draw(n, WIDTH), embedding, torch.randint(VOCAB, (n,)), torch.full((n,), 1 / n))
    return {
        "dropout": (both_ways(dropout, x, P), both_ways(F.dropout, x, P)),
        "residual sum with dropout": (
            both_ways(residual_dropout, x, y, P),
            both_ways(lambda x, y: x + F.dropout(y, P), x, y),
        ),
        "GELU": (both_ways(gelu, wide), both_ways(lambda x: F.gelu(x, approximate="tanh"), wide)),
        "attention": (both_ways(causal_attention, qkv, HEADS), both_ways(plain_attention, qkv, 0.0)),
        "attention with dropout": (both_ways(causal_attention, qkv, HEADS, P), both_ways(plain_attention, qkv, P)),
        "linear, 768 → 3072": (both_ways(linear, x, weight, bias), both_ways(plain_linear, x, weight, bias)),
        "linear, 3072 → 768": (both_ways(linear, wide, back, short), both_ways(plain_linear, wide, back, short)),
        "loss with its head": (both_ways(lm_loss, *head), both_ways(plain_loss, *head)),
    }


def fastest(works: tuple[Work, ...], rounds: int) -> list[float]:
    """The fastest round of each in milliseconds; they take turns."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    best = [float("inf")] * len(works)
    for _ in range(rounds + 1):  # the first one warms up
        for i, work in enumerate(works):
            start = clock()
            work()
            best[i] = min(best[i], 1e3 * (clock() - start))
    return best


def matrix_products(dtype: torch.dtype, rounds: int) -> float:
    """GFLOP/s of the model's own matrix products, forward and backward, as torch does them: the ceiling of a step."""
    milliseconds = operations = 0.0
    n = BATCH * TIME
    for n_in, n_out in ((WIDTH, 3 * WIDTH), (WIDTH, WIDTH), (WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH)):
        x, weight, dy = torch.randn(n, n_in), torch.randn(n_out, n_in), torch.randn(n, n_out)
        x, weight, dy = x.to(dtype), weight.to(dtype), dy.to(dtype)

        def products(x: Tensor = x, weight: Tensor = weight, dy: Tensor = dy) -> None:
            x @ weight.T, dy @ weight, dy.T @ x

        milliseconds += fastest((products,), rounds)[0]
        operations += 6 * n * n_in * n_out
    return operations / milliseconds / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    keep_freed_memory()
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[options.precision]
    print(
        f"{options.precision}, {options.threads} threads, torch {torch.__version__}, milliseconds forward and backward"
    )
    print(f"{'':28}{'ours':>9}{'plain':>9}{'ratio':>8}")
    results = {}
    for name, works in pairs(dtype).items():
        ours, plain = fastest(works, options.rounds)
        results[name] = {"ours_ms": ours, "plain_ms": plain}
        print(f"{name:28}{ours:9.2f}{plain:9.2f}{plain / ours:7.1f}×", flush=True)
    ceiling = matrix_products(dtype, options.rounds)
    print(f"matrix products of a block: {ceiling:.0f} GFLOP/s")
    if options.json:
        summary = {"precision": options.precision, "threads": options.threads, "gflops": ceiling, "kernels": results}
        options.json.write_text(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
