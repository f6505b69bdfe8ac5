"""Scaling: time and memory of a pre-training step by context, width, layers and batch, one at a time, and the time to
open a corpus by its size; with the exponents of power laws fitted to them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from benchmarks.measure import BenchmarkResult, ResultTable, interleave, run_in_subprocess, summarize_rounds
from benchmarks.step import WARMUP_STEPS, gpt1_workload
from gpt1.config import GPTConfig
from gpt1.corpus.corpus import Corpus
from gpt1.corpus.shards import TOKENIZER_FOLDER, ShardWriter
from gpt1.model.gpt import GPT

ROUNDS = 3
BASE = {"context": 512, "n_embd": 768, "n_layer": 12, "batch": 4}
AXES = {"context": [64, 128, 256, 512], "n_embd": [128, 256, 512, 768], "n_layer": [2, 4, 8, 12], "batch": [1, 2, 4, 8]}
QUICK_BASE = {"context": 32, "n_embd": 64, "n_layer": 1, "batch": 1}
QUICK_AXES = {"context": [16, 32], "batch": [1, 2]}
CORPUS_SIZES = [2**20, 2**22, 2**24, 2**26]  # tokens


def run(rounds: int, quick: bool) -> BenchmarkResult:
    base, axes = (QUICK_BASE, QUICK_AXES) if quick else (BASE, AXES)
    measured: dict[tuple[Any, ...], tuple[float, int]] = {}  # the base is on every axis and measured once
    rows, fits = [], []
    for axis, values in axes.items():
        costs = []
        for value in values:
            shape = base | {axis: value}
            key = tuple(shape.values())
            if key not in measured:
                measured[key] = run_in_subprocess("benchmarks.scaling.step_seconds", rounds=rounds, **shape)
            costs.append(measured[key])
            rows.append([f"{axis} {value}", costs[-1][0], costs[-1][1] / 1e9])
        fits.append(
            [axis, *fit_exponents(values, [s for s, _ in costs]), *fit_exponents(values, [b for _, b in costs])]
        )
    title = "A pre-training step (bf16, dropout 0.1) with one dimension changed; the others: "
    steps = ResultTable(
        title + ", ".join(f"{axis} {value}" for axis, value in base.items()), ["", "s", "peak GB"], rows
    )
    opening, open_fits = opening_times([1000, 2000] if quick else CORPUS_SIZES, max(rounds, 5))
    columns = ["exponent of", "time", "time, last two", "memory", "memory, last two"]
    title = "Exponents, over all sizes and over the last two (a part of a step's cost is constant)"
    return BenchmarkResult([steps, opening, ResultTable(title, columns, fits + open_fits)])


def fit_exponents(sizes: Sequence[float], costs: Sequence[float]) -> list[float]:
    """Slopes of log cost over log size: over all points, and over the last two."""
    x, y = np.log(np.asarray(sizes, float)), np.log(np.asarray(costs, float))
    return [float(np.polyfit(x, y, 1)[0]), float(np.polyfit(x[-2:], y[-2:], 1)[0])]


def step_seconds(context: int, n_embd: int, n_layer: int, batch: int, rounds: int) -> float:
    """Seconds of a step."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(context=context, n_embd=n_embd, n_layer=n_layer, n_head=n_embd // 64))
    step = gpt1_workload(model, torch.randint(model.config.vocab_size, (batch, context + 1)))
    return median(interleave({"step": step}, rounds, warmup_rounds=WARMUP_STEPS)["step"])


def opening_times(sizes: Sequence[int], rounds: int) -> tuple[ResultTable, list[list[Any]]]:
    """Time to open a corpus, and to read its first window, which includes the SHA-256 check of its shard."""
    rows, opens, windows = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            path = Path(folder, str(size))
            write_random_corpus(path, size)
            seconds = interleave({"open": partial(Corpus.open, path)}, rounds)["open"]
            first = []
            for _ in range(rounds):
                start = time.perf_counter()
                Corpus.open(path).read(size // 2, size // 2 + min(513, size // 2))
                first.append(time.perf_counter() - start)
            rows.append(
                [
                    f"{size:,} tokens",
                    summarize_rounds(1e3 * s for s in seconds),
                    summarize_rounds(1e3 * s for s in first),
                ]
            )
            opens.append(median(seconds))
            windows.append(median(first))
    fits = [["corpus: opening", *fit_exponents(sizes, opens), None, None]]
    fits += [["corpus: first window", *fit_exponents(sizes, windows), None, None]]
    return ResultTable("Opening a corpus", ["", "opening, ms", "opening and the first window, ms"], rows), fits


def write_random_corpus(path: Path, tokens: int) -> None:
    """A corpus of random tokens, in shards of the usual size."""
    (path / TOKENIZER_FOLDER).mkdir(parents=True)
    tokenizer: Any = SimpleNamespace(vocab_size=40478, newline_id=0, fingerprint="none")
    writer = ShardWriter(path, tokenizer, shard_tokens=2**24)
    draw = np.random.default_rng(0)
    for start in range(0, tokens, 2**20):
        writer.append(draw.integers(0, 40478, min(2**20, tokens - start), dtype=np.uint16))
    writer.document_starts.append(0)  # one document
    writer.n_bytes.append(4 * tokens)
    writer.n_documents_seen = 1
    writer.finish([])
