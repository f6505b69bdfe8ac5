"""The runs that a curve or a table is made of: each is kept the moment it is finished, and none is done twice."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gpt1.config import flagged
from gpt1.errors import GPT1Error, Interrupted, ResourceError, UserError
from gpt1.files.atomic import ensure_writable, lock_dir
from gpt1.files.foreign import read_json_object
from gpt1.progress import Progress, Silent
from gpt1.runs import folder as runs
from gpt1.tables.table import Table

FILE, SCRATCH = "cells.json", "scratch"


@dataclass(frozen=True)
class Cell:
    """One run. `key` names it for people and for the file of results; `cost` is its share of the whole, in rows or
    another unit; `work` does it, with a folder of its own to work in, and returns what is to be kept."""

    key: str
    cost: int
    work: Callable[[Path, Progress], dict[str, Any]]


@dataclass
class Kept:
    """The finished cells of a folder. `about` is all that they depend on, and may not change between two sittings."""

    folder: Path
    about: dict[str, Any]
    cells: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: str | Path, about: Mapping[str, Any]) -> Kept:
        """The cells that `folder` holds; none where it is new. UserError for a folder of something else, or of cells
        that were made from something else."""
        folder = Path(folder)
        about = dict(json.loads(json.dumps(about)))  # as it will be read again
        if not (folder / FILE).exists():
            if folder.exists() and not is_new(folder):
                raise UserError(f"--out {folder} exists and holds something else.", "Choose another --out.")
            ensure_writable(folder)
            return cls(folder, about)
        try:
            stored = read_json_object(folder / FILE, allow_nan=True)
            before, cells = dict(stored["about"]), {key: dict(cell) for key, cell in stored["cells"].items()}
        except (UserError, AttributeError, ValueError, KeyError, TypeError):
            raise UserError(
                f"{folder / FILE} cannot be read: the file is damaged.", "Remove it, or choose another --out."
            ) from None
        for name, value in about.items():
            if lasting(before.get(name)) != lasting(value):
                raise UserError(
                    f"{folder} was begun with {name} {short(before.get(name))}, not {short(value)}.",
                    "Choose another --out, or go on with what it was begun with.",
                )
        return cls(folder, about, cells)

    def keep(self, key: str, result: dict[str, Any]) -> None:
        self.cells[key] = result
        self.write()

    def write(self) -> None:
        """All the cells anew in one move: a process killed at any moment leaves every finished cell."""
        content = {"format": "gpt1-cells-1", "about": self.about, "cells": self.cells}
        runs.write_json(self.folder / FILE, content)

    def values(self, keys: Sequence[str], name: str) -> list[float]:
        """The number `name` of the finished ones among `keys`."""
        return [float(self.cells[key][name]) for key in keys if name in self.cells.get(key, {})]


def lasting(value: Any) -> Any:
    """`value`, of settings without those that change nothing of what is learnt."""
    return {k: v for k, v in value.items() if k not in runs.FREE} if isinstance(value, dict) else value


def is_new(folder: Path) -> bool:
    """Whether `folder` holds nothing, or what was being written when the process was killed."""
    return folder.is_dir() and all(entry.name.startswith(".") for entry in folder.iterdir())


def short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "…"


def run_cells(
    title: str, cells: Sequence[Cell], kept: Kept, progress: Progress, told: str, unit: str = "rows"
) -> list[str]:
    """Do what is missing, in order, under one bar; returns a line for each cell that failed.

    told: the number of a result that is said when a cell is finished. unit: of the cells' costs. A run that diverges
    fails alone: the others go on, and the next call tries it again. Raises Interrupted after Ctrl-C,
    when everything finished is kept.
    """
    kept.folder.mkdir(parents=True, exist_ok=True)
    with lock_dir(kept.folder, f"--out {kept.folder}"):
        # each process writes all the cells that it knows of: what another one finished meanwhile is taken over, and the
        # folder is known again before the first cell is
        kept.cells |= Kept.open(kept.folder, kept.about).cells
        kept.write()
        return run_missing(title, cells, kept, progress, told, unit)


def run_missing(title: str, cells: Sequence[Cell], kept: Kept, progress: Progress, told: str, unit: str) -> list[str]:
    total = sum(cell.cost for cell in cells)
    behind = sum(cell.cost for cell in cells if cell.key in kept.cells)
    todo = [cell for cell in cells if cell.key not in kept.cells]
    if len(todo) < len(cells):
        progress.say(f"{len(cells) - len(todo)} of {len(cells)} runs are finished already")
    failed = []
    if todo:
        progress.begin(title, total, behind, unit)
    for number, cell in enumerate(todo, len(cells) - len(todo) + 1):
        scratch = kept.folder / SCRATCH / hashlib.sha256(cell.key.encode()).hexdigest()[:12]
        try:
            result = cell.work(scratch, Inside(progress, behind, cell.cost))
        except (Interrupted, KeyboardInterrupt):
            progress.end()
            raise Interrupted(
                f"stopped in run {number} of {len(cells)}; the finished ones are kept in {kept.folder}.",
                "The same command goes on from there.",
            ) from None
        except (UserError, ResourceError):
            progress.end()
            raise
        except GPT1Error as error:
            failed.append(f"{cell.key}: {error.problem}")
            progress.say(f"{number} of {len(cells)}  {failed[-1]}")
            result = None
        if result is not None:
            kept.keep(cell.key, result)
            progress.say(f"{number} of {len(cells)}  {cell.key}: {told} {result[told]:.3f}")
        shutil.rmtree(scratch, ignore_errors=True)
        behind += cell.cost
        progress.advance(behind)
    if todo:
        progress.end()
    shutil.rmtree(kept.folder / SCRATCH, ignore_errors=True)
    return failed


def run_and_write(
    title: str, cells: Sequence[Cell], kept: Kept, progress: Progress, told: str, write: Write, unit: str = "rows"
) -> Path:
    """`run_cells`, then the page; after Ctrl-C the page shows what there is. Returns the folder."""
    try:
        failed = run_cells(title, cells, kept, progress, told, unit)
    except Interrupted:
        write([])
        raise
    for line in write(failed):
        progress.say(line)
    return kept.folder


Write = Callable[[list[str]], list[str]]
"""Makes the page, from the lines of what failed; returns what to say."""


class Inside(Silent):
    """What a run inside a cell tells: only how far the whole is. Of several bars in a row the last is the long one."""

    def __init__(self, outer: Progress, behind: int, cost: int) -> None:
        self.outer, self.behind, self.cost, self.total = outer, behind, cost, 1
        self.furthest = 0.0

    def begin(self, title: str, total: int, done: int = 0, unit: str = "updates") -> None:
        self.total = max(1, total)
        self.advance(done)

    def advance(self, done: int, **values: float) -> None:
        self.furthest = max(self.furthest, min(0.95, done / self.total))  # the last of it is the evaluation
        self.outer.advance(self.behind + int(self.cost * self.furthest), **values)


def finetuned(
    rows: str | Path | Table, scratch: Path, progress: Progress, learnt: Mapping[str, Any], **options: Any
) -> Path:
    """`finetune` on `rows` into the folder `scratch`, going on with what a killed process left there if it has been
    `learnt_with` the same."""
    from gpt1.training.finetune import finetune

    if is_half_made(scratch, learnt):
        try:
            return finetune(rows, out=scratch, resume=True, progress=progress, **options)
        except UserError:  # half made, or made otherwise: what the user has to mend is told below
            pass
    shutil.rmtree(scratch, ignore_errors=True)
    return finetune(rows, out=scratch, progress=progress, **options)


def is_half_made(scratch: Path, learnt: Mapping[str, Any]) -> bool:
    """Whether a run that learns with these settings has begun in `scratch`."""
    if not (scratch / runs.CONFIG).exists():
        return False
    try:
        before = runs.read_run_config(scratch)
    except UserError:  # killed while it was written
        return False
    # The precision is written down as what `auto` came to.
    return all(before.get(name) == value for name, value in learnt.items() if name != "precision")


def learnt_with(n_embd: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """All that decides what a run on a model of this width learns from its rows, but for the seed."""
    from gpt1.training.finetune import settings_for

    every = lasting(asdict(settings_for(n_embd, settings)))
    return {name: value for name, value in every.items() if name != "seed"}


def check_settings(folder: Path, cell: str, before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> None:
    """UserError where the finished `cell` was made `before` with other settings: the defaults of another gpt1."""
    for name, value in (before or {}).items():
        if now.get(name, value) != value:
            raise UserError(
                f"{folder} has '{cell}' with {flagged(name, value)}; this gpt1 would take {now[name]}.",
                "Choose another --out, or go on with the version of gpt1 that it was begun with.",
            )


def digest(rows: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 over rows, in order."""
    text = json.dumps([list(row.items()) for row in rows], ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def model_facts(from_: str | Path) -> dict[str, Any]:
    """The model that a result depends on: where it stood, and the SHA-256 of its weights and tokenizer."""
    from gpt1.files.manifest import file_entry
    from gpt1.model.weights import FORMAT, WEIGHTS, check_own, read_config, read_header
    from gpt1.tokenization.tokenizer import Tokenizer

    folder = runs.model_folder(from_)
    if not (folder / WEIGHTS).exists():
        raise UserError(f"{from_} is no model folder of gpt1.", "Bring it here first: gpt1 import --help")
    settings = read_config(folder)
    if settings.get("format") == FORMAT:
        check_own(folder, settings)  # before anything is written
    else:
        read_header(folder / WEIGHTS)
    config = {name: value for name, value in settings.items() if name != "format"}
    weights, tokenizer = file_entry(folder / WEIGHTS)["sha256"], Tokenizer.load(folder).fingerprint
    return {"weights": weights, "tokenizer": tokenizer, "config": config}


def shape_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a person wants to know of a model's size."""
    kind = ("n_layer", "lstm_units") if config.get("architecture") == "lstm" else ("n_layer", "n_head")
    return {name: config[name] for name in (*kind, "n_embd", "context", "vocab_size")}
