"""Pre-training by model size: tokens per second and peak memory, with the defaults of `gpt1 pretrain`."""

from __future__ import annotations

from statistics import median

import torch

from benchmarks.measure import BenchmarkResult, ResultTable, interleave, run_in_subprocess
from benchmarks.models_and_data import benchmark_device
from benchmarks.step import WARMUP_STEPS, gpt1_workload
from gpt1.config import GPTConfig
from gpt1.model.gpt import GPT
from gpt1.recipes import MODEL_SIZES
from gpt1.training.speed import micro_batch_tokens

ROUNDS = 3
VOCAB_SIZE = 8000  # except for size gpt1, which has the paper's


def run(rounds: int, quick: bool) -> BenchmarkResult:
    rows = []
    for size in ["tiny"] if quick else MODEL_SIZES:
        config = size_config(size)
        seconds, peak = run_in_subprocess("benchmarks.sizes.step_seconds", size=size, rounds=rounds)
        rows.append(
            [size, config.n_parameters / 1e6, config.context, tokens_per_micro_batch(config) / seconds, peak / 1e9]
        )
    columns = ["", "million parameters", "context", "tokens/s", "peak GB"]
    return BenchmarkResult(
        [ResultTable("A micro-batch of pre-training and the optimizer step, bf16, dropout 0.1", columns, rows)]
    )


def size_config(size: str) -> GPTConfig:
    training = ("peak_lr", "optimizer")
    dimensions = {name: value for name, value in MODEL_SIZES[size].items() if name not in training}
    return GPTConfig(vocab_size=GPTConfig.vocab_size if size == "gpt1" else VOCAB_SIZE, **dimensions)


def tokens_per_micro_batch(config: GPTConfig) -> int:
    """Tokens per micro-batch of `gpt1 pretrain`."""
    return micro_batch_tokens(config, benchmark_device(), torch.bfloat16) // config.context * config.context


def step_seconds(size: str, rounds: int) -> float:
    """Seconds of a step."""
    torch.manual_seed(0)
    config = size_config(size)
    ids = torch.randint(config.vocab_size, (tokens_per_micro_batch(config) // config.context, config.context + 1))
    step = gpt1_workload(GPT(config).to(benchmark_device()), ids.to(benchmark_device()))
    return median(interleave({"step": step}, rounds, warmup_rounds=WARMUP_STEPS)["step"])
