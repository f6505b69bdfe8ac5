"""Pre-train once for every combination of settings and compare them: bits per byte by seconds and by tokens.

    python -m benchmarks.sweep corpus --valid held-out --out runs/sweep --model tiny --steps 1000 \\
        --peak-lr 1e-3,2e-3,4e-3 --optimizer adamw,muon --seed 0,1

Every setting of `gpt1 pretrain` is a flag here and takes several values, separated by commas; others have the defaults
of the recipe and the model size. A cell is one run. Its line is added to OUT/cells.jsonl when it is finished, and
finished cells are skipped, so the same command, also with more values, continues a sweep. OUT/sweep.md is the result.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

from gpt1.config import PretrainConfig
from gpt1.corpus.corpus import Corpus
from gpt1.errors import GPT1Error, Interrupted, UserError
from gpt1.progress import Progress
from gpt1.runs.folder import read_results, resolve_settings, user_settings
from gpt1.training.pretrain import pretrain

CELLS_FILE, PAGE_FILE = "cells.jsonl", "sweep.md"


class LossCurve(Progress):
    """The validation losses of a run, each with the seconds of training before it, without those of validation.

    Both wall-clock and CPU seconds: on a shared machine, only CPU seconds are comparable.
    """

    def __init__(self) -> None:
        self.points: list[dict[str, float]] = []
        self.start = self.trained = self.read_clocks()
        self.step = 0  # of the last training record

    @staticmethod
    def read_clocks() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    def begin(self, title: str, total: int, done: int = 0, unit: str = "steps") -> None:
        self.start = self.trained = self.read_clocks()

    def record(self, **values: Any) -> None:
        now = self.read_clocks()
        if values["split"] == "train":
            self.trained, self.step = now, values["step"]
            return
        if values["step"] != self.step:  # no training record at this step: count the time until now
            self.trained = now
        seconds, cpu_seconds = (a - b for a, b in zip(self.trained, self.start, strict=True))
        metrics = {name: values[name] for name in ("step", "loss", "bits_per_byte")}
        self.points.append(metrics | {"seconds": seconds, "cpu_seconds": cpu_seconds})
        pause = [a - b for a, b in zip(self.read_clocks(), self.trained, strict=True)]
        self.start = (self.start[0] + pause[0], self.start[1] + pause[1])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.sweep", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("corpus", type=Path, nargs="+", help="corpus folders, one cell for each")
    parser.add_argument("--valid", type=Path, help="corpus folder to validate on (default: a part of each corpus)")
    parser.add_argument("--out", type=Path, required=True, help=f"folder for {CELLS_FILE} and {PAGE_FILE}")
    options, rest = parser.parse_known_args(arguments)
    try:
        axes = parse_axes(rest)
        options.out.mkdir(parents=True, exist_ok=True)
        for corpus, *values in itertools.product(options.corpus, *axes.values()):
            run_cell(corpus, options.valid, dict(zip(axes, values, strict=True)), options.out)
    except UserError as error:
        parser.error(str(error))
    except Interrupted:
        print("stopped; the same command continues with the remaining cells", file=sys.stderr)
        return Interrupted.exit_code
    print(render_page(read_cells(options.out)))
    return 0


def parse_axes(words: Sequence[str]) -> dict[str, list[Any]]:
    """The values of each setting, from flags such as `--peak-lr 1e-3,2e-3`."""
    if len(words) % 2 or not all(word.startswith("--") for word in words[::2]):
        raise UserError(
            f"{' '.join(words)}: expected pairs of a setting and its values.", "For example: --peak-lr 1e-3,2e-3"
        )
    axes: dict[str, list[Any]] = {}
    for name, values in zip(words[::2], words[1::2], strict=True):
        for value in values.split(","):
            ((field, converted),) = user_settings(PretrainConfig, None, {name[2:]: value}).items()
            axes.setdefault(field, []).append(converted)
    return axes


def read_cells(out: Path) -> list[dict[str, Any]]:
    path = out / CELLS_FILE
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def run_cell(corpus: Path, valid: Path | None, settings: Mapping[str, Any], out: Path) -> None:
    """Pre-train with these settings and append the cell's line, unless it is there."""
    fingerprints = [Corpus.open(path).fingerprint for path in (corpus, valid) if path]
    config = resolve_settings(PretrainConfig, settings)
    key = {"corpus": corpus.name, "fingerprints": fingerprints, **asdict(config)}
    if any(cell["key"] == key for cell in read_cells(out)):
        return
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    run, curve = out / f"running-{digest[:12]}", LossCurve()
    shutil.rmtree(run, ignore_errors=True)
    cell: dict[str, Any] = {"key": key, "requested": settings, "error": None}
    try:
        pretrain(corpus, out=run, valid=valid, progress=curve, **settings)
        results = read_results(run)
        cell |= {"unigram": results["unigram"], "parameters": results["parameters"]}
    except (Interrupted, UserError):
        raise
    except GPT1Error as error:  # diverged, which is a result too
        cell["error"] = str(error)
    cell["curve"] = [point | {"tokens": point["step"] * config.batch_size * config.context} for point in curve.points]
    with (out / CELLS_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(cell) + "\n")
    shutil.rmtree(run, ignore_errors=True)
    (out / PAGE_FILE).write_text(render_page(read_cells(out)), encoding="utf-8")
    print(describe_cell(cell), flush=True)


def varied_settings(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Settings in which the cells differ, except the seed."""
    names = dict.fromkeys(name for cell in cells for name in cell["key"] if name not in ("fingerprints", "seed"))
    return [name for name in names if len({json.dumps(cell["key"].get(name)) for cell in cells}) > 1]


def describe_cell(cell: Mapping[str, Any]) -> str:
    key = " ".join(f"{name} {value}" for name, value in cell["requested"].items())
    curve = " ".join(f"{point['step']:g}: {point['bits_per_byte']:.3f}" for point in cell["curve"])
    unigram = cell.get("unigram", {}).get("bits_per_byte", float("nan"))
    return f"{cell['key']['corpus']} {key} | {curve} (unigram {unigram:.3f}) {cell['error'] or ''}".strip()


def render_page(cells: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table: a row per combination, with all its seeds; * marks a loss not below the unigram loss."""
    names = varied_settings(cells)
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for cell in cells:
        groups.setdefault(json.dumps([cell["key"].get(name, "") for name in names]), []).append(cell)
    steps = sorted({point["step"] for cell in cells for point in cell["curve"]})
    steps = [steps[round(i * (len(steps) - 1) / 5)] for i in range(6)] if len(steps) > 6 else steps
    columns = [*names, "seeds", *(f"after {step:g}" for step in steps), "each seed", "M tokens", "s", "CPU s"]
    rows = [columns, ["---"] * len(columns)]

    def final_mean(group: Sequence[Mapping[str, Any]]) -> float:
        return mean(cell["curve"][-1]["bits_per_byte"] if not cell["error"] else 99.0 for cell in group)

    for key, group in sorted(groups.items(), key=lambda item: final_mean(item[1])):
        curves = [{p["step"]: p for p in cell["curve"]} for cell in group if cell["curve"]]
        means = [format_mean([c[step]["bits_per_byte"] for c in curves if step in c]) for step in steps]
        finals_by_seed = [format_final(cell) for cell in group]
        finals = [cell["curve"][-1] for cell in group if cell["curve"]]
        cost = [mean(p[name] for p in finals) if finals else 0.0 for name in ("tokens", "seconds", "cpu_seconds")]
        shown = [str(value) for value in json.loads(key)]
        rows.append([*shown, str(len(group)), *means, " ".join(finals_by_seed)])
        rows[-1] += [f"{cost[0] / 1e6:.2f}", f"{cost[1]:.0f}", f"{cost[2]:.0f}"]
    requested = cells[0]["requested"] if cells else {}
    about = ", ".join(f"{name} {value}" for name, value in requested.items() if name not in (*names, "seed"))
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return f"Bits per byte of the validation text ({about})\n\n{table}\n"


def format_mean(values: Sequence[float]) -> str:
    return f"{mean(values):.3f}" if values else ""


def format_final(cell: Mapping[str, Any]) -> str:
    if cell["error"] or not cell["curve"]:
        return "diverged"
    value = cell["curve"][-1]["bits_per_byte"]
    return f"{value:.3f}" + "*" * (value >= cell["unigram"].get("bits_per_byte", 1e9))


if __name__ == "__main__":
    sys.exit(main())
