"""Fine-tune a pre-trained model on short sets of the paper: pre-trained, from scratch and head only, several seeds.

    python experiments/finetune_books.py runs/mini --data-dir tasks/ --out results.jsonl

Every finished run is a line of the output; what is there already is not done again. The last thing printed is the
table of docs/results.md: median [least – most] over the seeds, on the evaluation split that training never saw.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from gpt1 import finetune
from gpt1.data.tables import Table
from gpt1.evaluation import evaluate
from gpt1.tasks import find

METHODS: dict[str, dict[str, Any]] = {
    "pre-trained, all": {},
    "from scratch, all": {"from_scratch": True},
    "pre-trained, head": {"train": "head"},
}
TASKS = {  # name → (metric, most training rows, most evaluation rows)
    "cola": ("matthews", None, None),
    "rte": ("accuracy", None, None),
    "stsb": ("pearson", None, None),
    "race": ("accuracy", 1000, 1000),
    "sst2": ("accuracy", 10000, None),
    "mrpc": ("f1", None, None),
}


def some(table: Table, most: int | None) -> Table:
    """`most` rows of the table, always the same ones."""
    if most is None or len(table) <= most:
        return table
    chosen = np.random.default_rng(0).permutation(len(table))[:most].tolist()
    return replace(
        table, rows=[table.rows[i] for i in chosen], numbers=[], **({"places": []} if hasattr(table, "places") else {})
    )


def one_run(model: Path, task: str, method: str, seed: int, data_dir: Path) -> dict[str, Any]:
    _, most_train, most_test = TASKS[task]
    data = find(task)
    assert data is not None
    train, _ = data.train_table(data_dir)
    test = data.read(data.evaluation_split, data_dir)
    columns = dict(data.columns)
    with tempfile.TemporaryDirectory() as scratch:
        run = finetune(
            some(train, most_train),
            from_=model,
            out=Path(scratch) / "run",
            kind=data.kind,
            score=data.score,
            seed=seed,
            **columns,
            **METHODS[method],
        )
        started = time.perf_counter()
        result = evaluate(run, some(test, most_test))
        fitted = json.loads((run / "results.json").read_text())
        shutil.rmtree(run)
    metrics = result["metrics"]
    return {
        "metrics": metrics,
        "rows": result["rows"],
        "seconds": fitted["seconds"],
        "score_seconds": time.perf_counter() - started,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", default=",".join(TASKS))
    arguments = parser.parse_args()
    done: dict[tuple[str, str, int], dict[str, Any]] = {}
    if arguments.out.exists():
        for line in arguments.out.read_text().splitlines():
            record = json.loads(line)
            done[record["task"], record["method"], record["seed"]] = record
    tasks = arguments.tasks.split(",")
    for seed in range(arguments.seeds):
        for task in tasks:
            for method in METHODS:
                if (task, method, seed) in done:
                    continue
                result = one_run(arguments.model, task, method, seed, arguments.data_dir)
                record = {"task": task, "method": method, "seed": seed, **result}
                done[task, method, seed] = record
                with arguments.out.open("a") as file:
                    file.write(json.dumps(record) + "\n")
                value = result["metrics"][TASKS[task][0]]
                print(f"{task:6} {method:20} seed {seed}: {value:.3f}  {result['seconds']:.0f} s", flush=True)
    print(f"| task | metric | rows | {' | '.join(METHODS)} |\n|---|---|---|{'---|' * len(METHODS)}")
    for task in tasks:
        cells = []
        metric = TASKS[task][0]
        for method in METHODS:
            values = [100 * r["metrics"][metric] for key, r in done.items() if key[:2] == (task, method)]
            cells.append(f"{median(values):.1f} [{min(values):.1f} – {max(values):.1f}]")
        rows = next(r["rows"] for key, r in done.items() if key[0] == task)
        print(f"| {task} | {metric} | {rows:,} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
