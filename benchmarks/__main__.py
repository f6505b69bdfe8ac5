"""Measure gpt1 and its peers in turn on the same work; without a NAME all of it, each in a process of its own.

step        pre-training step of the 117M model
finetuning  fine-tuning the 117M model on SST-2 rows
choice      fine-tuning the 117M model on questions of RACE
head        training the head only
generation  16 + 256 tokens, greedy
memory      peak memory of a pre-training step, start-up
sizes       tokens a second and memory of pre-training, by named size
scaling     a step against context, width, layers, batch; opening a corpus
tokenizing  novels (needs the public data: GPT1_DATA)
kernels     each kernel against the plain line it replaces
profile     where the time of a pre-training step goes
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measure import Ratio, describe_machine, machine_facts

BENCHMARKS = (
    "step",
    "finetuning",
    "choice",
    "head",
    "generation",
    "memory",
    "sizes",
    "scaling",
    "tokenizing",
    "kernels",
    "profile",
)
WITHOUT_PEER = ("sizes", "scaling", "kernels", "profile")  # the others have transformers as a peer
EXPECTED_FILE = Path(__file__).parent / "expected.json"
RESULTS_DIR = Path(__file__).parent / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("names", metavar="NAME", nargs="*", help="what to measure")
    parser.add_argument("--rounds", type=int, help="rounds that count, instead of each benchmark's own number")
    parser.add_argument("--quick", action="store_true", help="tiny models, one round: does it run? No figures")
    parser.add_argument("--check", action="store_true", help="compare the ratios with expected.json; 1 if one is short")
    parser.add_argument("--out", type=Path, help="folder for NAME.json (benchmarks/results; its quick/ with --quick)")
    options = parser.parse_args(arguments)
    options.out = options.out or (RESULTS_DIR / "quick" if options.quick else RESULTS_DIR)
    names = options.names or BENCHMARKS
    for name in names:
        if name not in BENCHMARKS:
            parser.error(f"there is no benchmark '{name}'; there are: {', '.join(BENCHMARKS)}")
    if options.rounds is not None and options.rounds < 1:
        parser.error(f"--rounds {options.rounds} is out of range: it has to be at least 1")
    if options.quick and options.check:
        parser.error("--quick gives no figures that could be checked; leave one of the two out")
    try:  # before the minutes that the measuring takes
        options.out.mkdir(parents=True, exist_ok=True)
        expected = read_expected_ratios() if options.check else None
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if len(names) == 1:
        return run_benchmark(names[0], options, expected)
    flags = ["--out", str(options.out)] + ["--rounds", str(options.rounds)] * bool(options.rounds)
    flags += ["--quick"] * options.quick + ["--check"] * options.check
    codes = [subprocess.run([sys.executable, "-m", "benchmarks", name, *flags]).returncode for name in names]
    return max(map(abs, codes))  # that of a killed process is negative


def run_benchmark(name: str, options: argparse.Namespace, expected: Mapping[str, Any] | None) -> int:
    """Run a benchmark, print its tables, write its JSON; where ratios are expected, 1 if one is short."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    where = machine_facts()  # before: the load is that of other programs
    module = importlib.import_module(f"benchmarks.{name}")
    lacking = module.lacking() if hasattr(module, "lacking") else ""
    if name not in WITHOUT_PEER and not importlib.util.find_spec("transformers"):
        lacking = "its peer is not installed: python -m pip install transformers"
    if lacking:
        print(f"## {name}: left out, {lacking}\n", flush=True)
        return report_check(name, {}, {}, expected)
    result = module.run(options.rounds or (1 if options.quick else module.ROUNDS), options.quick)
    print(f"## {name}{' (quick: no figures)' if options.quick else ''}\n\n{describe_machine(where)}\n")
    for table in result.tables:
        print(f"{table}\n")
    for what, same in result.same_work.items():
        print(f"same work: {what}: {'yes' if same else 'NO'}")
    content = {"name": name, "quick": options.quick, "machine": where, **asdict(result)}
    path = options.out / f"{name}.json"
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"→ {os.path.relpath(path)}\n", flush=True)
    return report_check(name, result.ratios, result.same_work, expected)


def report_check(
    name: str, ratios: Mapping[str, Ratio], same_work: Mapping[str, bool], expected: Mapping[str, Any] | None
) -> int:
    """Tell what falls short of what is expected; 1 if anything does."""
    if expected is None:
        return 0
    short = find_shortfalls(name, ratios, expected)
    short += [f"{name}: not the same work: {what}" for what, same in same_work.items() if not same]
    if short:
        short.append(f"{name}: expected is what was measured on: {expected['machine']}")
    well = "all ratios as expected" if name in expected["ratios"] else "no ratio is expected of it"
    print("\n".join(short) or f"{name}: {well}", flush=True)
    return int(bool(short))


def read_expected_ratios() -> dict[str, Any]:
    """expected.json; ValueError where it does not hold what is looked up there."""
    try:
        found = json.loads(EXPECTED_FILE.read_text(encoding="utf-8"))
        ratios = {name: {what: float(ratio) for what, ratio in of.items()} for name, of in found["ratios"].items()}
        return {"tolerance": float(found["tolerance"]), "machine": str(found.get("machine", "?")), "ratios": ratios}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{EXPECTED_FILE} is damaged ({type(error).__name__}: {error}); it holds a tolerance and, by benchmark, ratios"
        ) from None


def find_shortfalls(name: str, ratios: Mapping[str, Ratio], expected: Mapping[str, Any]) -> list[str]:
    """A line for each ratio of this benchmark that is smaller than expected by more than the tolerance."""
    lines = []
    for what, wanted in expected["ratios"].get(name, {}).items():
        least = wanted * (1 - expected["tolerance"])
        if what not in ratios:
            lines.append(f"{name}: {what}: expected {wanted}, not measured")
        elif ratios[what].median < least:
            lines.append(f"{name}: {what}: {ratios[what]}, expected {wanted} (at least {least:.2f})")
    return lines


if __name__ == "__main__":
    sys.exit(main())
