"""Where the time of a pre-training step goes, batch 4 × 512, dropout 0.1: the shares of the kinds of operation, as
torch's profiler counts them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from benchmarks.material import called, device, gpt
from benchmarks.measure import Result, Table
from benchmarks.step import BATCH, ours

ROUNDS, SETTLING = 3, 4
KINDS = {  # torch's operations of each
    "products with weights": "mm addmm",
    "attention's own products": "bmm baddbmm_",
    "copies": "copy_ index_select",
    "element by element": "mul mul_ add add_ addcmul addcmul_ sigmoid sum bitwise_xor_ ge_",
    "softmax": "_softmax _softmax_backward_data",
    "Adam and the norm of the gradient": "_fused_adamw_ dot",
    "LayerNorm": "native_layer_norm native_layer_norm_backward",
}
REST = "the rest: hundreds of small operations, Python"


def lacking() -> str:
    return "its kinds of operation are those of a processor" if device().type == "cuda" else ""


def run(rounds: int, quick: bool) -> Result:
    model = gpt(quick)
    ids = torch.randint(model.config.vocab_size, (BATCH, model.config.context + 1))
    update = ours(model, ids)
    looked_at = schedule(wait=0, warmup=SETTLING, active=rounds)  # the first updates ask for memory anew
    with profile(activities=[ProfilerActivity.CPU], schedule=looked_at, acc_events=True) as seen:
        for _ in range(SETTLING + rounds):
            update()
            seen.step()
    found = by_kind({event.key: event.self_cpu_time_total for event in seen.key_averages()})
    total = found.total()
    rows = [[kind, found[kind] / rounds / 1e3, f"{100 * found[kind] / total:.0f} %"] for kind in (*KINDS, REST)]
    size = f"{called(model.config)}, batch {BATCH} × {model.config.context}"
    return Result([Table(f"A pre-training step, {size}, dropout 0.1, under the profiler", ["", "ms", "share"], rows)])


def by_kind(times: Mapping[str, float]) -> Counter[str]:
    """The time in every operation itself, under its kind."""
    kinds = {f"aten::{operation}": kind for kind, operations in KINDS.items() for operation in operations.split()}
    found: Counter[str] = Counter()
    for operation, time in times.items():
        found[kinds.get(operation, REST)] += time  # type: ignore[assignment]
    return found
