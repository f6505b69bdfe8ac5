"""Shared code of the benchmarks: interleaved rounds, ratios per round, peak memory, the machine, tables.

A ratio is always "times as good as the peer": larger is better.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

ROOT = Path(__file__).parents[1]
PACKAGES = ("gpt1", "transformers", "tokenizers", "scikit-learn", "numpy")

Workload = Callable[[], Any]
SecondsByRound = dict[str, list[float]]  # by competitor, round by round


@dataclass(frozen=True)
class Measurement:
    """The median, min and max of the rounds."""

    median: float
    low: float
    high: float
    suffix: ClassVar[str] = ""

    def __str__(self) -> str:
        spread = f" [{format_number(self.low)}–{format_number(self.high)}]" if self.low < self.high else ""
        return f"{format_number(self.median)}{self.suffix}{spread}"


class Ratio(Measurement):
    """gpt1 against a peer, per round."""

    suffix: ClassVar[str] = " ×"


@dataclass(frozen=True)
class ResultTable:
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def __str__(self) -> str:
        """As Markdown."""
        lines = [self.columns, ["---"] * len(self.columns), *([format_cell(cell) for cell in row] for row in self.rows)]
        return "\n".join([f"{self.title}\n", *(f"| {' | '.join(line)} |" for line in lines)])


@dataclass(frozen=True)
class BenchmarkResult:
    """Result of a benchmark. `ratios` are named "ours / peer"; `same_work` says whether results were equal."""

    tables: list[ResultTable]
    ratios: dict[str, Ratio] = field(default_factory=dict)
    same_work: dict[str, bool] = field(default_factory=dict)


def interleave(
    workloads: Mapping[str, Workload],
    rounds: int,
    *,
    warm_up: Mapping[str, Workload] | None = None,
    setup: Mapping[str, Workload] | None = None,
    clock: Callable[[], float] | None = None,
    warmup_rounds: int = 1,
) -> SecondsByRound:
    """Measure the workloads in turn: A B A B …, after some warm-up rounds.

    Args:
        workloads: By competitor.
        rounds: Measured rounds.
        warm_up: What to run for warm-up, instead of the workload.
        setup: What to run before each round, not measured.
        clock: Returns seconds; by default wall-clock time after GPU synchronization.
        warmup_rounds: Warm-up rounds of each workload.

    Returns:
        Seconds by competitor, per round.
    """
    for _ in range(warmup_rounds):
        for name, work in workloads.items():
            (warm_up or {}).get(name, work)()
    clock = clock or synchronized_time
    seconds: SecondsByRound = {name: [] for name in workloads}
    for _ in range(rounds):
        for name, work in workloads.items():
            (setup or {}).get(name, no_op)()
            start = clock()
            work()
            seconds[name].append(clock() - start)
    return seconds


def no_op() -> None:
    pass


def synchronized_time() -> float:
    """Wall-clock time after GPU synchronization."""
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def summarize_rounds(values: Iterable[float]) -> Measurement:
    rounds = list(values)
    return Measurement(median(rounds), min(rounds), max(rounds))


def speed_ratio(ours: Sequence[float], peer: Sequence[float], scale: float = 1.0) -> Ratio:
    """Ratio of seconds (or bytes) in the same rounds: how many times as much the peer needs."""
    ratios = [scale * b / a for a, b in zip(ours, peer, strict=True)]
    return Ratio(median(ratios), min(ratios), max(ratios))


def comparison_table(
    title: str, seconds: SecondsByRound, ours: Sequence[str], amount: float | None = None, unit: str = "s"
) -> tuple[ResultTable, dict[str, Ratio]]:
    """A row for each competitor, and the ratio of each of `ours` to every peer (names that do not begin with gpt1).

    One round processes `amount` of `unit`; without it the table has seconds.
    """
    peers = [name for name in seconds if not name.startswith("gpt1")]
    ratios = {f"{mine} / {peer}": speed_ratio(seconds[mine], seconds[peer]) for peer in peers for mine in ours}
    rows = [
        [
            name,
            summarize_rounds(amount / s if amount else s for s in values),
            *(ratios.get(f"{mine} / {name}") for mine in ours),
        ]
        for name, values in seconds.items()
    ]
    return ResultTable(
        title, ["", f"{unit}/s" if amount else unit, *(f"{mine} is as fast" for mine in ours)], rows
    ), ratios


# ---- memory


def run_in_subprocess(function: str, **arguments: Any) -> tuple[Any, int]:
    """The result of `function` ("benchmarks.memory.ours") in its own process, and its peak memory in bytes."""
    code = "import sys; from benchmarks.measure import subprocess_main; subprocess_main(*sys.argv[1:])"
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", code, function, json.dumps(arguments)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=True, stdout=subprocess.PIPE)
    value, peak = json.loads(done.stdout.splitlines()[-1])
    return value, peak


def subprocess_main(function: str, arguments: str) -> None:
    module, _, name = function.rpartition(".")
    value = getattr(importlib.import_module(module), name)(**json.loads(arguments))
    print(json.dumps([value, peak_memory()]))


def peak_memory() -> int:
    """Peak resident memory of this process in bytes."""
    try:  # of this process alone; getrusage starts at the memory of its parent
        status = Path("/proc/self/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


# ---- the machine


def machine_facts() -> dict[str, Any]:
    """The machine, versions and time of the measurements."""
    import torch

    cpu, flags = cpu_facts()
    cuda = range(torch.cuda.device_count())
    return {
        "processor": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "flags": [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags],
        "gpus": [torch.cuda.get_device_name(i) for i in cuda],
        "load": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {"torch": str(torch.__version__), **{package: package_version(package) for package in PACKAGES}},
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": git_commit(),
    }


def describe_machine(machine: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in ("torch", "transformers"))
    where = f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads"
    with_ = ", ".join([*machine["flags"], *machine["gpus"]])
    when = f"{machine['date']}, commit {machine['commit']}, load before {machine['load']}"
    return f"{where} ({with_}); {versions}, Python {machine['python']}; {when}"


def cpu_facts() -> tuple[str, set[str]]:
    """(model, flags); the flags only on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine(), set()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return facts.get("model name", platform.machine()), set(facts.get("flags", "").split())


def package_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def git_commit() -> str:
    """The commit of the checkout, with a + if files of the package were changed."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    try:
        return (git("rev-parse", "--short", "HEAD") or "unknown") + "+" * bool(git("status", "--short", "gpt1"))
    except OSError:
        return "unknown"


# ---- numbers


def format_number(number: float) -> str:
    """Three significant digits: 0.0123, 1.23, 12.3, 123, 1,234."""
    if number == 0:
        return "0"
    if abs(number) >= 100:
        return f"{number:,.0f}"
    return f"{number:.3g}" if abs(number) < 1 else f"{number:.{2 - (abs(number) >= 10)}f}"


def format_cell(cell: Any) -> str:
    if cell is None:
        return ""
    return format_number(cell) if isinstance(cell, float) else f"{cell:,}" if isinstance(cell, int) else str(cell)
