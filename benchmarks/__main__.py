"""Benchmark gpt1 against its peers, in turn and on the same work. Without NAME, run all of them but the last three,
each in its own process.

step        pre-training step of the 117M model
finetuning  fine-tuning the 117M model on SST-2 rows
choice      fine-tuning the 117M model on questions of RACE
head        training the head only
generation  16 + 256 tokens, greedy
serving     many clients of a server on this machine
load        200 clients for a minute, and more than the server accepts
page        the page of a server in a browser (needs playwright and chromium)
memory      peak memory of a pre-training step, start-up
sizes       tokens per second and memory of pre-training, by model size
scaling     a step by context, width, layers and batch; opening a corpus
tokenizing  novels (needs the public data: GPT1_DATA)
kernels     each kernel against the line of PyTorch that it replaces
profile     where the time of a pre-training step goes
imbalance   class weights against the plain loss on rare positives (needs GPT1_DATA and a model, GPT1_MODEL)
multilabel  several labels for one text against one class for each set of labels
onnx        accuracy and speed in ONNX Runtime, 8-bit weights too (needs GPT1_DATA)
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
    "serving",
    "load",
    "page",
    "memory",
    "sizes",
    "scaling",
    "tokenizing",
    "kernels",
    "profile",
    "imbalance",
    "multilabel",
    "onnx",
)
WITHOUT_PEER = (
    "load",
    "page",
    "sizes",
    "scaling",
    "kernels",
    "profile",
    "imbalance",
    "multilabel",
    "onnx",
)  # the others have transformers as a peer
ONLY_BY_NAME = ("imbalance", "multilabel", "onnx")  # they fine-tune models
EXPECTED_FILE = Path(__file__).parent / "expected.json"
RESULTS_DIR = Path(__file__).parent / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("names", metavar="NAME", nargs="*", help="benchmarks to run")
    parser.add_argument("--rounds", type=int, help="measured rounds, instead of each benchmark's default")
    parser.add_argument("--quick", action="store_true", help="tiny models, one round: only tests that it runs")
    parser.add_argument(
        "--check", action="store_true", help="compare the ratios with expected.json; exit code 1 if one is too small"
    )
    parser.add_argument("--out", type=Path, help="folder for NAME.json (benchmarks/results; its quick/ with --quick)")
    options = parser.parse_args(arguments)
    options.out = options.out or (RESULTS_DIR / "quick" if options.quick else RESULTS_DIR)
    names = options.names or [name for name in BENCHMARKS if name not in ONLY_BY_NAME]
    for name in names:
        if name not in BENCHMARKS:
            parser.error(f"unknown benchmark '{name}'. Choices: {', '.join(BENCHMARKS)}")
    if options.rounds is not None and options.rounds < 1:
        parser.error(f"--rounds {options.rounds} is out of range: use at least 1")
    if options.quick and options.check:
        parser.error("--quick and --check cannot be combined: quick runs are not measurements")
    try:  # before the benchmarks, which take minutes
        options.out.mkdir(parents=True, exist_ok=True)
        expected = read_expected_ratios() if options.check else None
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if len(names) == 1:
        return run_benchmark(names[0], options, expected)
    flags = ["--out", str(options.out)] + ["--rounds", str(options.rounds)] * bool(options.rounds)
    flags += ["--quick"] * options.quick + ["--check"] * options.check
    codes = [subprocess.run([sys.executable, "-m", "benchmarks", name, *flags]).returncode for name in names]
    return max(map(abs, codes))  # a killed process has a negative code


def run_benchmark(name: str, options: argparse.Namespace, expected: Mapping[str, Any] | None) -> int:
    """Run a benchmark, print its tables and write its JSON; 1 if a ratio is below the expected one."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    machine = machine_facts()  # first, so that the load is that of other programs
    module = importlib.import_module(f"benchmarks.{name}")
    missing = module.missing_requirement(options.quick) if hasattr(module, "missing_requirement") else ""
    if name not in WITHOUT_PEER and not importlib.util.find_spec("transformers"):
        missing = "its peer is not installed: python -m pip install transformers"
    if missing:
        print(f"## {name}: skipped, {missing}\n", flush=True)
        return report_check(name, {}, {}, expected)
    result = module.run(options.rounds or (1 if options.quick else module.ROUNDS), options.quick)
    print(f"## {name}{' (quick: not a measurement)' if options.quick else ''}\n\n{describe_machine(machine)}\n")
    for table in result.tables:
        print(f"{table}\n")
    for what, same in result.same_work.items():
        print(f"same work: {what}: {'yes' if same else 'NO'}")
    content = {"name": name, "quick": options.quick, "machine": machine, **asdict(result)}
    path = options.out / f"{name}.json"
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"→ {os.path.relpath(path)}\n", flush=True)
    return report_check(name, result.ratios, result.same_work, expected)


def report_check(
    name: str, ratios: Mapping[str, Ratio], same_work: Mapping[str, bool], expected: Mapping[str, Any] | None
) -> int:
    """Print the ratios that are too small, and what was not the same work; 1 if there is anything."""
    if expected is None:
        return 0
    short = find_shortfalls(name, ratios, expected)
    short += [f"{name}: not the same work: {what}" for what, same in same_work.items() if not same]
    if short:
        short.append(f"{name}: the expected ratios were measured on: {expected['machine']}")
    passed = "all ratios as expected" if name in expected["ratios"] else "has no expected ratios"
    print("\n".join(short) or f"{name}: {passed}", flush=True)
    return int(bool(short))


def read_expected_ratios() -> dict[str, Any]:
    """The content of expected.json. Raises ValueError if it is invalid."""
    try:
        found = json.loads(EXPECTED_FILE.read_text(encoding="utf-8"))
        ratios = {name: {what: float(ratio) for what, ratio in of.items()} for name, of in found["ratios"].items()}
        return {"tolerance": float(found["tolerance"]), "machine": str(found.get("machine", "?")), "ratios": ratios}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{EXPECTED_FILE} is damaged ({type(error).__name__}: {error}): it needs a tolerance and ratios"
        ) from None


def find_shortfalls(name: str, ratios: Mapping[str, Ratio], expected: Mapping[str, Any]) -> list[str]:
    """A line for each ratio of this benchmark that is below the expected one by more than the tolerance."""
    lines = []
    for what, wanted in expected["ratios"].get(name, {}).items():
        minimum = wanted * (1 - expected["tolerance"])
        if what not in ratios:
            lines.append(f"{name}: {what}: expected {wanted}, not measured")
        elif ratios[what].median < minimum:
            lines.append(f"{name}: {what}: {ratios[what]}, expected {wanted} (at least {minimum:.2f})")
    return lines


if __name__ == "__main__":
    sys.exit(main())
