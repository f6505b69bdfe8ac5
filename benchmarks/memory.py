"""The most memory that a pre-training step holds, each competitor in a process of its own; how long a start takes."""

from __future__ import annotations

import subprocess
import sys

import torch

from benchmarks import step
from benchmarks.material import called, gpt, openai_config, shape
from benchmarks.measure import ROOT, Ratio, Result, Table, Work, apart, compared, in_turn
from gpt1.config import GPTConfig

ROUNDS = 5  # of the starts; a peak needs only one
WARM = 2  # updates: the first one makes the optimiser's state


def run(rounds: int, quick: bool) -> Result:
    peaks = {
        "gpt1 bf16": apart("benchmarks.memory.ours", quick=quick, recompute=False)[1],
        "gpt1 bf16, recompute": apart("benchmarks.memory.ours", quick=quick, recompute=True)[1],
        "transformers bf16": apart("benchmarks.memory.theirs", quick=quick)[1],
        "torch, imported": apart("benchmarks.memory.nobody")[1],
    }
    table, ratios = peaks_compared(shape(quick), peaks)
    starts = {
        "python": started("-c", "pass"),
        "import gpt1": started("-c", "import gpt1"),
        "gpt1 --help": started("-m", "gpt1", "--help"),
        "import torch": started("-c", "import torch"),
    }
    seconds = in_turn(starts, rounds)
    start_table, _ = compared("Start-up, python's own start in it", seconds, [])
    return Result([table, start_table], ratios)


def peaks_compared(config: GPTConfig, peaks: dict[str, int]) -> tuple[Table, dict[str, Ratio]]:
    lasting = 4 * 4 * config.n_parameters / 1e9
    title = f"Peak resident memory, {called(config)}, batch {step.BATCH} × {config.context}, two updates"
    title += f" (weights, gradients and Adam's two moments alone: {lasting:.2f} GB)"
    times = {name: peaks["transformers bf16"] / peaks[name] for name in peaks if name.startswith("gpt1")}
    ratios = {f"{name} / transformers bf16": Ratio(value, value, value) for name, value in times.items()}
    rows = [[name, bytes_ / 1e9, ratios.get(f"{name} / transformers bf16")] for name, bytes_ in peaks.items()]
    return Table(title, ["", "GB", "transformers needs"], rows), ratios


def started(*words: str) -> Work:
    command = [sys.executable, *words]
    return lambda: subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


# ---- what the processes run


def ours(quick: bool, recompute: bool) -> None:
    model = gpt(quick)
    ids = torch.randint(model.config.vocab_size, (step.BATCH, model.config.context + 1))
    update = step.ours(model, ids, recompute=recompute)
    for _ in range(WARM):
        update()


def theirs(quick: bool) -> None:
    from transformers import OpenAIGPTLMHeadModel

    config = shape(quick)
    ids = torch.randint(config.vocab_size, (step.BATCH, config.context + 1))
    update = step.theirs(OpenAIGPTLMHeadModel(openai_config(config)), ids, bf16=True)
    for _ in range(WARM):
        update()


def nobody() -> None:
    pass
