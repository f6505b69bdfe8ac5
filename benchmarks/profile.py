"""Where the time of a pre-training step goes, batch 4 × 512, dropout 0.1: the shares of the kinds of operation, as
torch's profiler counts them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from benchmarks.measure import BenchmarkResult, ResultTable
from benchmarks.models_and_data import benchmark_device, describe_size, random_model
from benchmarks.step import BATCH, gpt1_workload

ROUNDS, WARMUP_STEPS = 3, 4
OPERATION_KINDS = {  # torch's operations of each
    "products with weights": "mm addmm",
    "attention's own products": "bmm baddbmm_",
    "copies": "copy_ index_select",
    "element by element": "mul mul_ add add_ addcmul addcmul_ sigmoid sum bitwise_xor_ ge_",
    "softmax": "_softmax _softmax_backward_data",
    "Adam and the norm of the gradient": "_fused_adamw_ dot",
    "LayerNorm": "native_layer_norm native_layer_norm_backward",
}
OTHER_OPERATIONS = "the rest: hundreds of small operations, Python"


def missing_requirement() -> str:
    return "its kinds of operation are those of a processor" if benchmark_device().type == "cuda" else ""


def run(rounds: int, quick: bool) -> BenchmarkResult:
    model = random_model(quick)
    ids = torch.randint(model.config.vocab_size, (BATCH, model.config.context + 1))
    update = gpt1_workload(model, ids)
    looked_at = schedule(wait=0, warmup=WARMUP_STEPS, active=rounds)  # the first updates ask for memory anew
    with profile(activities=[ProfilerActivity.CPU], schedule=looked_at, acc_events=True) as seen:
        for _ in range(WARMUP_STEPS + rounds):
            update()
            seen.step()
    found = time_by_kind({event.key: event.self_cpu_time_total for event in seen.key_averages()})
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
    """The time in every operation itself, under its kind."""
    kinds = {
        f"aten::{operation}": kind for kind, operations in OPERATION_KINDS.items() for operation in operations.split()
    }
    found: Counter[str] = Counter()
    for operation, time in times.items():
        found[kinds.get(operation, OTHER_OPERATIONS)] += time  # type: ignore[assignment]
    return found
