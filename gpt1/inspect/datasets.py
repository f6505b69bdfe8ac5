"""Inspect a known data set: rows of its splits and official counts, labels, rows in several splits."""

from __future__ import annotations

import os
from pathlib import Path

from gpt1.datasets import DataSet, DataSetSplit, KnownTable, MissingSplit
from gpt1.datasets.task_guess import TaskGuess
from gpt1.errors import UserError
from gpt1.formatting import shell_quote
from gpt1.inspect.tables import Facts, inspect_table
from gpt1.progress import Progress


def inspect_dataset(
    selection: DataSetSplit, name: str, data_dir: str | Path | None, from_: str | Path | None, progress: Progress
) -> Facts:
    """Facts about a data set, or about the split or subset `name` of it."""
    data = selection.data
    task = TaskGuess(data.kind_name, dict(data.columns), data.score)
    data_dir_flag = f" --data-dir {shell_quote(str(data_dir))}" if data_dir else ""
    train = f"gpt1 finetune {name}{data_dir_flag} --from {shell_quote(str(from_ or 'RUN'))} --out runs/{data.name}"
    if selection.split or selection.subset:
        facts = inspect_table(selection.evaluation_table(data_dir), from_, progress, task)
        unlabeled = "label" not in facts["task"]["columns"]
        test = f"predict RUN {name}{data_dir_flag} --out F" if unlabeled else f"evaluate RUN {name}{data_dir_flag}"
        zeroshot = f"gpt1 zeroshot {name}{data_dir_flag} --run RUN"
        step = zeroshot if not data.train_split else train if selection.split == data.train_split else f"gpt1 {test}"
        return {**facts, "name": name, "next": [step]}
    location = data_dir or os.environ.get("GPT1_DATA")  # never the hub by default: inspecting must not download
    splits, tables = read_splits(data, location, progress) if location else ({}, {})
    warnings = [note for split, table in tables.items() if split != data.train_split for note in table.notes]
    warnings += [split["broken"] for split in splits.values() if "broken" in split]
    hub = [f"gpt1 inspect {name} --data-dir hub   (downloads it)"] if data.hub and not location else []
    facts = {
        "type": "data set",
        "name": data.name,
        "title": data.title,
        "download_hint": data.download_hint,
        "task": {"kind": data.kind_name, "columns": task.columns, "score": data.score, "flags": task.flags},
        "metrics": list(data.metrics),
        "splits": {
            split: {"official_rows": data.official_count(split), **splits.get(split, {})} for split in data.splits
        },
    }
    if not tables:
        reasons = warnings or [split["missing"] for split in splits.values()] or ["no folder with its files was given."]
        return {**facts, "warnings": reasons[:1], "next": [f"gpt1 inspect {name} --data-dir DIR", *hub]}
    split = data.train_split if data.train_split in tables else next(iter(tables))
    table = inspect_table(tables[split], from_, progress, task)
    next_steps = []
    if data.train_split in tables:
        warnings += data.train_table(data_dir)[1]
        next_steps.append(train)
    if not data.train_split:
        next_steps.append(f"gpt1 zeroshot {data.name}{data_dir_flag} --run RUN")
    elif data.evaluation_split in tables:
        next_steps.append(f"gpt1 evaluate runs/{data.name} {name}{data_dir_flag}")
    return {**facts, "table": table, "warnings": [*warnings, *table["warnings"]], "next": next_steps}


def read_splits(
    data: DataSet, data_dir: str | Path, progress: Progress
) -> tuple[dict[str, Facts], dict[str, KnownTable]]:
    """(facts by split, tables by split); for splits without a table, the facts contain the reason."""
    splits: dict[str, Facts] = {}
    tables: dict[str, KnownTable] = {}
    progress.begin("reading", len(data.splits), unit="splits")
    for number, split in enumerate(data.splits, 1):
        try:
            tables[split] = data.read(split, data_dir)
            splits[split] = {"rows": len(tables[split]), "official_rows": tables[split].official_rows}
        except UserError as error:
            status = "missing" if isinstance(error, MissingSplit) else "broken"
            splits[split] = {status: f"{split}: {error.problem} {error.fix}".strip()}
            if status == "broken":  # a damaged file, or no answer from the hub: do not try the other splits
                splits |= {other: {"not_read": True} for other in data.splits[number:]}
                break
        progress.advance(number)
    progress.end()
    return splits, tables
