"""The most memory that a pre-training step holds, each competitor in a process of its own; how long a start takes."""

from __future__ import annotations

import subprocess
import sys

import torch

from benchmarks import step
from benchmarks.measure import (
    ROOT,
    BenchmarkResult,
    Ratio,
    ResultTable,
    Workload,
    comparison_table,
    interleave,
    run_in_subprocess,
)
from benchmarks.models_and_data import describe_size, model_config, openai_config, random_model
from gpt1.config import GPTConfig

ROUNDS = 5  # of the starts; a peak needs only one
WARM = 2  # updates: the first one makes the optimiser's state


def run(rounds: int, quick: bool) -> BenchmarkResult:
    peaks = {
        "gpt1 bf16": run_in_subprocess("benchmarks.memory.ours", quick=quick, checkpointing=False)[1],
        "gpt1 bf16, activation checkpointing": run_in_subprocess(
            "benchmarks.memory.ours", quick=quick, checkpointing=True
        )[1],
        "transformers bf16": run_in_subprocess("benchmarks.memory.theirs", quick=quick)[1],
        "torch, imported": run_in_subprocess("benchmarks.memory.nobody")[1],
    }
    table, ratios = peaks_compared(model_config(quick), peaks)
    starts = {
        "python": started("-c", "pass"),
        "import gpt1": started("-c", "import gpt1"),
        "gpt1 --help": started("-m", "gpt1", "--help"),
        "import torch": started("-c", "import torch"),
    }
    seconds = interleave(starts, rounds)
    start_table, _ = comparison_table("Start-up, python's own start in it", seconds, [])
    return BenchmarkResult([table, start_table], ratios)


def peaks_compared(config: GPTConfig, peaks: dict[str, int]) -> tuple[ResultTable, dict[str, Ratio]]:
    lasting = 4 * 4 * config.n_parameters / 1e9
    title = f"Peak resident memory, {describe_size(config)}, batch {step.BATCH} × {config.context}, two updates"
    title += f" (weights, gradients and Adam's two moments alone: {lasting:.2f} GB)"
    times = {name: peaks["transformers bf16"] / peaks[name] for name in peaks if name.startswith("gpt1")}
    ratios = {f"{name} / transformers bf16": Ratio(value, value, value) for name, value in times.items()}
    rows = [[name, bytes_ / 1e9, ratios.get(f"{name} / transformers bf16")] for name, bytes_ in peaks.items()]
    return ResultTable(title, ["", "GB", "transformers needs"], rows), ratios


def started(*words: str) -> Workload:
    command = [sys.executable, *words]
    return lambda: subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


# ---- what the processes run


def ours(quick: bool, checkpointing: bool) -> None:
    model = random_model(quick)
    ids = torch.randint(model.config.vocab_size, (step.BATCH, model.config.context + 1))
    update = step.gpt1_workload(model, ids, activation_checkpointing=checkpointing)
    for _ in range(WARM):
        update()


def theirs(quick: bool) -> None:
    from transformers import OpenAIGPTLMHeadModel

    config = model_config(quick)
    ids = torch.randint(config.vocab_size, (step.BATCH, config.context + 1))
    update = step.transformers_workload(OpenAIGPTLMHeadModel(openai_config(config)), ids, bf16=True)
    for _ in range(WARM):
        update()


def nobody() -> None:
    pass
