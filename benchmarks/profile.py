"""Time of a pre-training step by kind of operation (torch's profiler), batch 4 × 512, dropout 0.1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from benchmarks.measure import BenchmarkResult, ResultTable
from benchmarks.models_and_data import benchmark_device, describe_size, random_model
from benchmarks.step import BATCH, gpt1_workload

ROUNDS, WARMUP_STEPS = 3, 4
OPERATION_KINDS = {  # names of torch's operations
    "matrix products with weights": "mm addmm",
    "matrix products of attention": "bmm baddbmm_",
    "copies": "copy_ index_select",
    "elementwise": "mul mul_ add add_ addcmul addcmul_ sigmoid sum bitwise_xor_ ge_",
    "softmax": "_softmax _softmax_backward_data",
    "Adam and gradient norm": "_fused_adamw_ dot",
    "LayerNorm": "native_layer_norm native_layer_norm_backward",
}
OTHER_OPERATIONS = "other: hundreds of small operations, Python"


def missing_requirement(quick: bool) -> str:
    return "it knows the operations of a CPU only" if benchmark_device().type == "cuda" else ""


def run(rounds: int, quick: bool) -> BenchmarkResult:
    model = random_model(quick)
    ids = torch.randint(model.config.vocab_size, (BATCH, model.config.context + 1))
    step = gpt1_workload(model, ids)
    profiled = schedule(wait=0, warmup=WARMUP_STEPS, active=rounds)  # the first steps allocate memory
    with profile(activities=[ProfilerActivity.CPU], schedule=profiled, acc_events=True) as profiler:
        for _ in range(WARMUP_STEPS + rounds):
            step()
            profiler.step()
    found = time_by_kind({event.key: event.self_cpu_time_total for event in profiler.key_averages()})
    total = found.total()
    rows = [
        [kind, found[kind] / rounds / 1e3, f"{100 * found[kind] / total:.0f} %"]
        for kind in (*OPERATION_KINDS, OTHER_OPERATIONS)
    ]
    size = f"{describe_size(model.config)}, batch {BATCH} × {model.config.context}"
    return BenchmarkResult(
        [ResultTable(f"A pre-training step, {size}, dropout 0.1, under the profiler", ["", "ms", "share"], rows)]
    )


def time_by_kind(times: Mapping[str, float]) -> Counter[str]:
    """Sum the times of the operations by kind."""
    kinds = {
        f"aten::{operation}": kind for kind, operations in OPERATION_KINDS.items() for operation in operations.split()
    }
    found: Counter[str] = Counter()
    for operation, time in times.items():
        found[kinds.get(operation, OTHER_OPERATIONS)] += time  # type: ignore[assignment]
    return found
