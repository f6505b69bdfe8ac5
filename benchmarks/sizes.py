"""Pre-training by named size: tokens a second and peak memory, with settings and pieces of `gpt1 pretrain`."""

from __future__ import annotations

from statistics import median

import torch

from benchmarks.material import device
from benchmarks.measure import Result, Table, apart, in_turn
from benchmarks.step import SETTLING, ours
from gpt1.config import MODEL_SIZES, GPTConfig
from gpt1.model.gpt import GPT
from gpt1.training.speed import tokens_at_a_time

ROUNDS = 3
VOCABULARY = 8000  # of a corpus of one's own; the paper's size has the paper's


def run(rounds: int, quick: bool) -> Result:
    rows = []
    for size in ["tiny"] if quick else MODEL_SIZES:
        config = shape(size)
        seconds, peak = apart("benchmarks.sizes.step", size=size, rounds=rounds)
        rows.append([size, config.n_parameters / 1e6, config.context, tokens(config) / seconds, peak / 1e9])
    columns = ["", "million weights", "context", "tokens/s", "peak GB"]
    return Result(
        [Table("A piece of a pre-training update and the optimiser's pass, bf16, dropout 0.1", columns, rows)]
    )


def shape(size: str) -> GPTConfig:
    dimensions = {name: value for name, value in MODEL_SIZES[size].items() if name != "peak_lr"}
    return GPTConfig(vocab_size=GPTConfig.vocab_size if size == "gpt1" else VOCABULARY, **dimensions)


def tokens(config: GPTConfig) -> int:
    """Of a piece, as `gpt1 pretrain` cuts it."""
    return tokens_at_a_time(config, device(), torch.bfloat16) // config.context * config.context


def step(size: str, rounds: int) -> float:
    """Seconds of a step, in a process of its own."""
    torch.manual_seed(0)
    config = shape(size)
    ids = torch.randint(config.vocab_size, (tokens(config) // config.context, config.context + 1))
    update = ours(GPT(config).to(device()), ids.to(device()))
    return median(in_turn({"step": update}, rounds, settling=SETTLING)["step"])
