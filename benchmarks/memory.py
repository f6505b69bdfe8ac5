"""Peak memory of a pre-training step, each competitor in its own process; and start-up times."""

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

ROUNDS = 5  # of the start-up times; a peak needs only one
STEPS = 2  # the first one allocates the optimizer's state


def run(rounds: int, quick: bool) -> BenchmarkResult:
    peaks = {
        "gpt1 bf16": run_in_subprocess("benchmarks.memory.ours", quick=quick, checkpointing=False)[1],
        "gpt1 bf16, activation checkpointing": run_in_subprocess(
            "benchmarks.memory.ours", quick=quick, checkpointing=True
        )[1],
        "transformers bf16": run_in_subprocess("benchmarks.memory.theirs", quick=quick)[1],
        "torch, imported": run_in_subprocess("benchmarks.memory.import_only")[1],
    }
    table, ratios = compare_peaks(model_config(quick), peaks)
    starts = {
        "python": start_workload("-c", "pass"),
        "import gpt1": start_workload("-c", "import gpt1"),
        "gpt1 --help": start_workload("-m", "gpt1", "--help"),
        "import torch": start_workload("-c", "import torch"),
    }
    seconds = interleave(starts, rounds)
    start_table, _ = comparison_table("Start-up, including that of Python", seconds, [])
    return BenchmarkResult([table, start_table], ratios)


def compare_peaks(config: GPTConfig, peaks: dict[str, int]) -> tuple[ResultTable, dict[str, Ratio]]:
    persistent = 4 * 4 * config.n_parameters / 1e9
    title = f"Peak resident memory, {describe_size(config)}, batch {step.BATCH} × {config.context}, two steps"
    title += f" (weights, gradients and Adam's two moments alone: {persistent:.2f} GB)"
    times = {name: peaks["transformers bf16"] / peaks[name] for name in peaks if name.startswith("gpt1")}
    ratios = {f"{name} / transformers bf16": Ratio(value, value, value) for name, value in times.items()}
    rows = [[name, bytes_ / 1e9, ratios.get(f"{name} / transformers bf16")] for name, bytes_ in peaks.items()]
    return ResultTable(title, ["", "GB", "transformers needs"], rows), ratios


def start_workload(*words: str) -> Workload:
    command = [sys.executable, *words]
    return lambda: subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


# ---- in the processes


def ours(quick: bool, checkpointing: bool) -> None:
    model = random_model(quick)
    ids = torch.randint(model.config.vocab_size, (step.BATCH, model.config.context + 1))
    run_step = step.gpt1_workload(model, ids, activation_checkpointing=checkpointing)
    for _ in range(STEPS):
        run_step()


def theirs(quick: bool) -> None:
    from transformers import OpenAIGPTLMHeadModel

    config = model_config(quick)
    ids = torch.randint(config.vocab_size, (step.BATCH, config.context + 1))
    run_step = step.transformers_workload(OpenAIGPTLMHeadModel(openai_config(config)), ids, bf16=True)
    for _ in range(STEPS):
        run_step()


def import_only() -> None:
    pass
