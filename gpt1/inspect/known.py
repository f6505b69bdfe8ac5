"""What a known data set is: its splits beside the official counts, its labels, rows that stand in two splits."""

from __future__ import annotations

import os
from pathlib import Path

from gpt1.datasets import DataSet, KnownTable, MissingSplit, Named
from gpt1.errors import UserError
from gpt1.formatting import shell_quote
from gpt1.inspect.guessing import Guess
from gpt1.inspect.tables import Facts, of_table
from gpt1.progress import Progress


def of_data_set(
    named: Named, name: str, data_dir: str | Path | None, from_: str | Path | None, progress: Progress
) -> Facts:
    """Facts about a data set, or about the part of it that `name` names."""
    data = named.data
    task = Guess(data.kind, dict(data.columns), data.score)
    where = f" --data-dir {shell_quote(str(data_dir))}" if data_dir else ""
    train = f"gpt1 finetune {name}{where} --from {shell_quote(str(from_ or 'RUN'))} --out runs/{data.name}"
    if named.split or named.subset:
        facts = of_table(named.evaluation_table(data_dir), from_, progress, task)
        unlabelled = "label" not in facts["task"]["columns"]
        test = f"gpt1 predict RUN {name}{where} --out F" if unlabelled else f"gpt1 evaluate RUN {name}{where}"
        return {**facts, "name": name, "next": [train if named.split == data.train_split else test]}
    here = data_dir or os.environ.get("GPT1_DATA")  # the hub is asked only by name: a look should not download
    splits, tables = read_splits(data, here, progress) if here else ({}, {})
    odd = [note for split, table in tables.items() if split != data.train_split for note in table.notes]
    odd += [split["broken"] for split in splits.values() if "broken" in split]
    hub = [f"gpt1 inspect {name} --data-dir hub   (downloads it)"] if data.hub and not here else []
    facts = {
        "what": "data set",
        "name": data.name,
        "title": data.title,
        "home": data.home,
        "task": {"kind": data.kind, "columns": task.columns, "score": data.score, "flags": task.flags},
        "metrics": list(data.metrics),
        "splits": {split: {"official": data.official_count(split), **splits.get(split, {})} for split in data.splits},
    }
    if not tables:
        reasons = odd or [split["missing"] for split in splits.values()] or ["no folder with its files is named."]
        return {**facts, "odd": reasons[:1], "next": [f"gpt1 inspect {name} --data-dir DIR", *hub]}
    looked_at = data.train_split if data.train_split in tables else next(iter(tables))
    table = of_table(tables[looked_at], from_, progress, task)
    next_steps = []
    if data.train_split in tables:
        odd += data.train_table(data_dir)[1]
        next_steps.append(train)
    if data.evaluation_split in tables:
        next_steps.append(f"gpt1 evaluate runs/{data.name} {name}{where}")
    return {**facts, "table": table, "odd": [*odd, *table["odd"]], "next": next_steps}


def read_splits(
    data: DataSet, data_dir: str | Path, progress: Progress
) -> tuple[dict[str, Facts], dict[str, KnownTable]]:
    """(facts by split, tables by split): the rows of those that are there, why the others are not."""
    splits: dict[str, Facts] = {}
    tables: dict[str, KnownTable] = {}
    progress.begin("reading", len(data.splits), unit="splits")
    for number, split in enumerate(data.splits, 1):
        try:
            tables[split] = data.read(split, data_dir)
            splits[split] = {"rows": len(tables[split]), "official": tables[split].official}
        except UserError as error:
            what = "missing" if isinstance(error, MissingSplit) else "broken"
            splits[split] = {what: f"{split}: {error.problem} {error.fix}".strip()}
            if what == "broken":  # a damaged file, or a hub that does not answer: the others would give no better news
                splits |= {other: {"not_read": True} for other in data.splits[number:]}
                break
        progress.advance(number)
    progress.end()
    return splits, tables
