"""The runs that a curve or a table is made of: each is kept the moment it is finished, and none is done twice."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gpt1.config import format_flag
from gpt1.errors import GPT1Error, Interrupted, ResourceError, UserError
from gpt1.files.atomic import ensure_writable, lock_dir
from gpt1.files.foreign import read_json_object
from gpt1.progress import NullProgress, Progress
from gpt1.runs import folder as runs
from gpt1.tables.table import Table

STORE_FILE, SCRATCH_DIR = "cells.json", "scratch"


@dataclass(frozen=True)
class Job:
    """One run. `key` names it for people and for the file of results; `cost` is its share of the whole, in rows or
    another unit; `run` does it, with a folder of its own to work in, and returns what is to be kept."""

    key: str
    cost: int
    run: Callable[[Path, Progress], dict[str, Any]]


@dataclass
class ResultStore:
    """The finished cells of a folder. `about` is all that they depend on, and may not change between two sittings."""

    folder: Path
    about: dict[str, Any]
    results: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: str | Path, about: Mapping[str, Any]) -> ResultStore:
        """The cells that `folder` holds; none where it is new. UserError for a folder of something else, or of cells
        that were made from something else."""
        folder = Path(folder)
        about = dict(json.loads(json.dumps(about)))  # as it will be read again
        if not (folder / STORE_FILE).exists():
            if folder.exists() and not is_empty_or_unfinished(folder):
                raise UserError(f"--out {folder} exists and holds something else.", "Choose another --out.")
            ensure_writable(folder)
            return cls(folder, about)
        try:
            stored = read_json_object(folder / STORE_FILE, allow_nan=True)
            before, cells = dict(stored["about"]), {key: dict(cell) for key, cell in stored["cells"].items()}
        except (UserError, AttributeError, ValueError, KeyError, TypeError):
            raise UserError(
                f"{folder / STORE_FILE} cannot be read: the file is damaged.", "Remove it, or choose another --out."
            ) from None
        for name, value in about.items():
            if without_resumable_fields(before.get(name)) != without_resumable_fields(value):
                raise UserError(
                    f"{folder} was begun with {name} {abbreviate(before.get(name))}, not {abbreviate(value)}.",
                    "Choose another --out, or go on with what it was begun with.",
                )
        return cls(folder, about, cells)

    def add(self, key: str, result: dict[str, Any]) -> None:
        self.results[key] = result
        self.write()

    def write(self) -> None:
        """All the cells anew in one move: a process killed at any moment leaves every finished cell."""
        content = {"format": "gpt1-cells-1", "about": self.about, "cells": self.results}
        runs.write_json(self.folder / STORE_FILE, content)

    def values(self, keys: Sequence[str], metric: str) -> list[float]:
        """The number `metric` of the finished ones among `keys`."""
        return [float(self.results[key][metric]) for key in keys if metric in self.results.get(key, {})]


def without_resumable_fields(value: Any) -> Any:
    """`value`, of settings without those that change nothing of what is learnt."""
    return {k: v for k, v in value.items() if k not in runs.RESUMABLE_FIELDS} if isinstance(value, dict) else value


def is_empty_or_unfinished(folder: Path) -> bool:
    """Whether `folder` holds nothing, or what was being written when the process was killed."""
    return folder.is_dir() and all(entry.name.startswith(".") for entry in folder.iterdir())


def abbreviate(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "…"


def run_jobs(
    title: str, jobs: Sequence[Job], store: ResultStore, progress: Progress, reported_metric: str, unit: str = "rows"
) -> list[str]:
    """Do what is missing, in order, under one bar; returns a line for each cell that failed.

    reported_metric: the number of a result that is said when a cell is finished. unit: of the cells' costs. A run that diverges
    fails alone: the others go on, and the next call tries it again. Raises Interrupted after Ctrl-C,
    when everything finished is kept.
    """
    store.folder.mkdir(parents=True, exist_ok=True)
    with lock_dir(store.folder, f"--out {store.folder}"):
        # each process writes all the cells that it knows of: what another one finished meanwhile is taken over, and the
        # folder is known again before the first cell is
        store.results |= ResultStore.open(store.folder, store.about).results
        store.write()
        return run_missing_jobs(title, jobs, store, progress, reported_metric, unit)


def run_missing_jobs(
    title: str, jobs: Sequence[Job], store: ResultStore, progress: Progress, reported_metric: str, unit: str
) -> list[str]:
    total = sum(cell.cost for cell in jobs)
    behind = sum(cell.cost for cell in jobs if cell.key in store.results)
    todo = [cell for cell in jobs if cell.key not in store.results]
    if len(todo) < len(jobs):
        progress.log(f"{len(jobs) - len(todo)} of {len(jobs)} runs are finished already")
    failed = []
    if todo:
        progress.begin(title, total, behind, unit)
    for number, cell in enumerate(todo, len(jobs) - len(todo) + 1):
        scratch = store.folder / SCRATCH_DIR / hashlib.sha256(cell.key.encode()).hexdigest()[:12]
        try:
            result = cell.run(scratch, JobProgress(progress, behind, cell.cost))
        except (Interrupted, KeyboardInterrupt):
            progress.end()
            raise Interrupted(
                f"stopped in run {number} of {len(jobs)}; the finished ones are kept in {store.folder}.",
                "The same command goes on from there.",
            ) from None
        except (UserError, ResourceError):
            progress.end()
            raise
        except GPT1Error as error:
            failed.append(f"{cell.key}: {error.problem}")
            progress.log(f"{number} of {len(jobs)}  {failed[-1]}")
            result = None
        if result is not None:
            store.add(cell.key, result)
            progress.log(f"{number} of {len(jobs)}  {cell.key}: {reported_metric} {result[reported_metric]:.3f}")
        shutil.rmtree(scratch, ignore_errors=True)
        behind += cell.cost
        progress.advance(behind)
    if todo:
        progress.end()
    shutil.rmtree(store.folder / SCRATCH_DIR, ignore_errors=True)
    return failed


def run_and_write(
    title: str,
    cells: Sequence[Job],
    kept: ResultStore,
    progress: Progress,
    told: str,
    write: Callable[[list[str]], list[str]],
    unit: str = "rows",
) -> Path:
    """`run_jobs`, then the page: `write` takes the lines of what failed and returns what to say. After Ctrl-C the page
    shows what there is. Returns the folder."""
    try:
        failed = run_jobs(title, cells, kept, progress, told, unit)
    except Interrupted:
        write([])
        raise
    for line in write(failed):
        progress.log(line)
    return kept.folder


class JobProgress(NullProgress):
    """What a run inside a cell tells: only how far the whole is. Of several bars in a row the last is the long one."""

    def __init__(self, outer: Progress, completed_cost: int, cost: int) -> None:
        self.outer, self.completed_cost, self.cost, self.total = outer, completed_cost, cost, 1
        self.fraction = 0.0

    def begin(self, title: str, total: int, done: int = 0, unit: str = "steps") -> None:
        self.total = max(1, total)
        self.advance(done)

    def advance(self, done: int, **values: float) -> None:
        self.fraction = max(self.fraction, min(0.95, done / self.total))  # the last of it is the evaluation
        self.outer.advance(self.completed_cost + int(self.cost * self.fraction), **values)


def finetune_or_resume(
    rows: str | Path | Table, scratch: Path, progress: Progress, training_settings: Mapping[str, Any], **options: Any
) -> Path:
    """`finetune` on `rows` into the folder `scratch`, going on with what a killed process left there if it has been
    `resolve_training_settings` the same."""
    from gpt1.training.finetune import finetune

    if is_resumable(scratch, training_settings):
        try:
            return finetune(rows, out=scratch, resume=True, progress=progress, **options)
        except UserError:  # half made, or made otherwise: what the user has to mend is told below
            pass
    shutil.rmtree(scratch, ignore_errors=True)
    return finetune(rows, out=scratch, progress=progress, **options)


def is_resumable(scratch: Path, training_settings: Mapping[str, Any]) -> bool:
    """Whether a run that learns with these settings has begun in `scratch`."""
    if not (scratch / runs.RUN_CONFIG_FILE).exists():
        return False
    try:
        before = runs.read_run_config(scratch)
    except UserError:  # killed while it was written
        return False
    # The precision is written down as what `auto` came to.
    return all(before.get(name) == value for name, value in training_settings.items() if name != "precision")


def resolve_training_settings(n_embd: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """All that decides what a run on a model of this width learns from its rows, but for the seed."""
    from gpt1.training.finetune import resolve_finetune_settings

    every = without_resumable_fields(asdict(resolve_finetune_settings(n_embd, settings)))
    return {name: value for name, value in every.items() if name != "seed"}


def check_same_settings(folder: Path, job_key: str, before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> None:
    """UserError where the finished `job_key` was made `before` with other settings: the defaults of another gpt1."""
    for name, value in (before or {}).items():
        if now.get(name, value) != value:
            raise UserError(
                f"{folder} has '{job_key}' with {format_flag(name, value)}; this gpt1 would take {now[name]}.",
                "Choose another --out, or go on with the version of gpt1 that it was begun with.",
            )


def rows_fingerprint(rows: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 over rows, in order."""
    text = json.dumps([list(row.items()) for row in rows], ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def model_facts(from_: str | Path) -> dict[str, Any]:
    """The model that a result depends on: where it stood, and the SHA-256 of its weights and tokenizer."""
    from gpt1.files.manifest import file_entry
    from gpt1.model.weights import MODEL_FORMAT, WEIGHTS_FILE, check_own, read_config, read_header
    from gpt1.tokenization.tokenizer import Tokenizer

    folder = runs.find_model_folder(from_)
    if not (folder / WEIGHTS_FILE).exists():
        raise UserError(f"{from_} is no model folder of gpt1.", "Bring it here first: gpt1 import --help")
    settings = read_config(folder)
    if settings.get("format") == MODEL_FORMAT:
        check_own(folder, settings)  # before anything is written
    else:
        read_header(folder / WEIGHTS_FILE)
    config = {name: value for name, value in settings.items() if name != "format"}
    weights, tokenizer = file_entry(folder / WEIGHTS_FILE)["sha256"], Tokenizer.load(folder).fingerprint
    return {"weights": weights, "tokenizer": tokenizer, "config": config}


def model_shape(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a person wants to know of a model's size."""
    kind = ("n_layer", "lstm_units") if config.get("architecture") == "lstm" else ("n_layer", "n_head")
    return {name: config[name] for name in (*kind, "n_embd", "context", "vocab_size")}
