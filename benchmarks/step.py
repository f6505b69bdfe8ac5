"""A pre-training step, batch 4 × 512, dropout 0.1: gpt1, transformers' OpenAIGPT, and its GPT-2 of the same size.

Also the matrix products of a step alone, which bound its speed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import (
    BenchmarkResult,
    Measurement,
    Ratio,
    ResultTable,
    SecondsByRound,
    Workload,
    comparison_table,
    interleave,
    speed_ratio,
    summarize_rounds,
)
from benchmarks.models_and_data import (
    benchmark_device,
    copy_weights,
    describe_size,
    openai_config,
    random_model,
    transformers_step,
)
from gpt1.config import GPTConfig, PretrainConfig
from gpt1.kernels.malloc import keep_freed_memory
from gpt1.model.gpt import GPT
from gpt1.model.losses import PretrainMicroBatch, l1
from gpt1.training.loop import Stage, StepBatch, train_step
from gpt1.training.optimizers import OPTIMIZERS
from gpt1.training.speed import flops_per_token, peak_flops

BATCH, GPU_BATCH, ROUNDS = 4, 64, 5
WARMUP_STEPS = 2
"""Unmeasured steps: the first ones allocate memory, and take a third longer."""


def run(rounds: int, quick: bool) -> BenchmarkResult:
    from transformers import GPT2Config, GPT2LMHeadModel, OpenAIGPTLMHeadModel

    model = random_model(quick).to(benchmark_device())
    config = model.config
    batch = GPU_BATCH if benchmark_device().type == "cuda" else BATCH
    tokens = batch * config.context
    ids = torch.randint(config.vocab_size, (batch, config.context + 1), device=benchmark_device())
    openai = OpenAIGPTLMHeadModel(openai_config(config)).to(benchmark_device())
    copy_weights(model, openai.transformer)
    sizes: Any = {"n_embd": config.n_embd, "n_layer": config.n_layer, "n_head": config.n_head}
    sizes |= {"n_positions": config.context, "vocab_size": config.vocab_size}
    gpt2 = GPT2LMHeadModel(GPT2Config(**sizes, attn_implementation="sdpa", use_cache=False)).to(benchmark_device())
    same = {"transformers' loss on the batch is ours, fp32": losses_agree(model, openai, ids[:, :-1])}

    products, operations = matrix_products(config, tokens)
    works = {
        "gpt1 bf16": gpt1_workload(model, ids),
        "gpt1 bf16, no dropout": gpt1_workload(model, ids, dropout=0.0),
        "transformers bf16": transformers_workload(openai, ids, bf16=True),
        "transformers fp32": transformers_workload(openai, ids, bf16=False),
        "transformers GPT-2 bf16": transformers_workload(gpt2, ids, bf16=True),  # its dropout is 0.1 too
        "matrix products alone": products,
    }
    seconds = interleave(works, rounds, warmup_rounds=1 if quick else WARMUP_STEPS)
    alone = seconds.pop("matrix products alone")
    title = f"A pre-training step, {describe_size(config)}, batch {batch} × {config.context}, dropout 0.1"
    table, ratios = comparison_table(title, seconds, ["gpt1 bf16"], tokens, "tokens")
    ceiling, shares = ceiling_table(config, tokens, seconds, alone, operations)
    return BenchmarkResult([table, ceiling], ratios | shares, same)


def ceiling_table(
    config: GPTConfig, tokens: int, seconds: SecondsByRound, alone: list[float], operations: float
) -> tuple[ResultTable, dict[str, Ratio]]:
    """The speed of a step as a share of that of its matrix products alone, and of the GPU's peak."""
    counted = flops_per_token(config) * tokens
    peak = peak_flops(benchmark_device(), torch.bfloat16)
    rows, shares = [], {}
    for name in ("gpt1 bf16", "gpt1 bf16, no dropout"):
        share = shares[f"{name} / matrix ceiling"] = speed_ratio(seconds[name], alone, counted / operations)
        speed = summarize_rounds(counted / s / 1e9 for s in seconds[name])
        rows.append(
            [name, speed, Measurement(share.median, share.low, share.high), 1e9 * speed.median / peak if peak else None]
        )
    rows.append(["matrix products alone", summarize_rounds(operations / s / 1e9 for s in alone), None, None])
    title = f"At {flops_per_token(config) / 1e9:.3f} GFLOP per token, against the bf16 matrix products of a step alone"
    return ResultTable(title, ["", "GFLOP/s", "of the ceiling", "MFU (known GPUs)"], rows), shares


def gpt1_workload(
    model: GPT, ids: Tensor, dropout: float = 0.1, activation_checkpointing: bool = False
) -> Workload:  # ids [batch, context + 1]
    """A step of the training loop, with the malloc settings of `gpt1 pretrain`, which then hold for all competitors."""
    keep_freed_memory()
    config = PretrainConfig(peak_lr=1e-5)
    stage = Stage("", model, lambda micro_batch: l1(model, micro_batch), no_step_batch, 0, dict, bool, {})
    optimizer = OPTIMIZERS[config.optimizer](stage.trainable_parameters(), config)
    batch = StepBatch(0, [PretrainMicroBatch(ids, ids[:, 1:].numel())], ids[:, 1:].numel())

    def step() -> None:
        model.set_dropout(dropout)
        model.activation_dtype, model.activation_checkpointing = torch.bfloat16, activation_checkpointing
        train_step(stage, optimizer, config, batch, 0, config.peak_lr)

    model.train()
    return step


def no_step_batch(step: int) -> StepBatch:
    raise RuntimeError(f"step {step}: the workload repeats one batch")


def transformers_workload(model: Any, ids: Tensor, bf16: bool) -> Workload:
    step = transformers_step(model, bf16)
    return lambda: step(input_ids=ids[:, :-1], labels=ids[:, :-1])


@torch.no_grad()
def losses_agree(model: GPT, openai: Any, ids: Tensor) -> bool:
    model.eval(), openai.eval()
    mine = l1(model, PretrainMicroBatch(ids, ids[:, 1:].numel())).total
    loss = openai(input_ids=ids, labels=ids).loss
    return bool(torch.isclose(mine, loss, rtol=1e-4))


def matrix_products(config: GPTConfig, tokens: int) -> tuple[Workload, float]:
    """The bf16 products of a step with weights, forward and both gradients, and their number of FLOPs.

    Factors are contiguous, and all blocks use the same ones, so that only the products take time.
    """
    d = config.n_embd
    shapes = [(d, 3 * d), (d, d), (d, 4 * d), (4 * d, d)]
    factors = []
    for n_in, n_out, times in [*((*shape, config.n_layer) for shape in shapes), (d, config.vocab_size, 1)]:
        x, weight, dy = (
            torch.randn(s, device=benchmark_device()).bfloat16()
            for s in ((tokens, n_in), (n_out, n_in), (tokens, n_out))
        )
        factors.append((x, weight, dy, dy.T.contiguous(), times))

    def products() -> None:
        for x, weight, dy, transposed, times in factors:
            for _ in range(times):
                x @ weight.T, dy @ weight, transposed @ x

    return products, sum(6.0 * tokens * weight.numel() * times for _, weight, _, _, times in factors)
