"""Runs of an experiment: each result is saved as soon as its run is finished, and no run is repeated."""

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
from gpt1.files.atomic import atomic_write_json, ensure_writable, lock_dir
from gpt1.files.foreign import read_json_object
from gpt1.files.names import MODEL_CONFIG_FILE, RUN_CONFIG_FILE
from gpt1.progress import Progress
from gpt1.runs import folder as runs
from gpt1.tables.table import Table

STORE_FILE, SCRATCH_DIR = "cells.json", "scratch"


@dataclass(frozen=True)
class Job:
    """One run of an experiment.

    Args:
        key: its name, for people and in cells.json.
        cost: its share of the progress bar, in rows or another unit.
        run: takes a scratch folder and a Progress, returns the result to save (a JSON object).
    """

    key: str
    cost: int
    run: Callable[[Path, Progress], dict[str, Any]]


@dataclass
class ResultStore:
    """The results in a folder. They all depend on `about`, which cannot change once the folder has results."""

    folder: Path
    about: dict[str, Any]
    results: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: str | Path, about: Mapping[str, Any]) -> ResultStore:
        """Read the results of `folder`, or prepare a new one.

        Raises:
            UserError: the folder has other files, a damaged cells.json, or results that depend on something else.
        """
        folder = Path(folder)
        about = dict(json.loads(json.dumps(about)))  # as it is after reading it from the file
        if not (folder / STORE_FILE).exists():
            if folder.exists() and not is_empty_or_unfinished(folder):
                raise UserError(f"--out {folder} exists and contains other files.", "Choose another --out.")
            ensure_writable(folder)
            return cls(folder, about)
        try:
            stored = read_json_object(folder / STORE_FILE, allow_nan=True)
            before, results = dict(stored["about"]), {key: dict(result) for key, result in stored["cells"].items()}
        except (UserError, AttributeError, ValueError, KeyError, TypeError):
            raise UserError(
                f"{folder / STORE_FILE} cannot be read: the file is damaged.", "Delete it, or choose another --out."
            ) from None
        for name, value in about.items():
            old, new = without_resumable_fields(before.get(name)), without_resumable_fields(value)
            if old != new:
                raise UserError(
                    f"{folder} was started with {describe_change(name, old, new)}.",
                    f"Choose another --out, or use the same {name}.",
                )
        return cls(folder, about, results)

    def add(self, key: str, result: dict[str, Any]) -> None:
        self.results[key] = result
        self.write()

    def write(self) -> None:
        """Replace the file in one move: a process killed at any moment keeps every finished result."""
        content = {"format": "gpt1-cells-1", "about": self.about, "cells": self.results}
        atomic_write_json(self.folder / STORE_FILE, content)


def without_resumable_fields(value: Any) -> Any:
    """Settings without those that do not change what is learned (device, micro-batch, …); other values as they are."""
    return {k: v for k, v in value.items() if k not in runs.RESUMABLE_FIELDS} if isinstance(value, dict) else value


def is_empty_or_unfinished(folder: Path) -> bool:
    """Whether `folder` has only hidden files: a process that is killed while it writes leaves one."""
    return folder.is_dir() and all(entry.name.startswith(".") for entry in folder.iterdir())


def describe_change(name: str, before: Any, now: Any) -> str:
    """How the results of a folder were started, in words: a user has not chosen hashes and configs."""
    if name == "model":
        return "another model"
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return f"{name} {before}, not {now}"
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if name == "rows":
        return f"other {' and '.join(changed)} rows"
    show = show_setting if name == "settings" else "{} {}".format
    old, new = (", ".join(show(key, side[key]) for key in changed if key in side) for side in (before, now))
    return f"other {name}: {old or 'the defaults'} instead of {new or 'the defaults'}"


def show_setting(name: str, value: Any) -> str:
    return format_flag("min_steps" if name == "min_updates" else name, value)  # older folders have the former name


def run_jobs(
    title: str, jobs: Sequence[Job], store: ResultStore, progress: Progress, reported_metric: str, unit: str = "rows"
) -> list[str]:
    """Run the jobs that have no result yet, in order, under one progress bar.

    Args:
        title: of the progress bar.
        jobs: all jobs of the experiment.
        store: receives the results.
        progress: shows the bar, and a line for each finished job.
        reported_metric: the number of a result that is shown in this line.
        unit: of the jobs' costs.

    Returns:
        A line for each job that failed. A diverging run does not stop the others; the next call tries it again.

    Raises:
        Interrupted: after Ctrl-C; finished results are saved.
    """
    store.folder.mkdir(parents=True, exist_ok=True)
    with lock_dir(store.folder, f"--out {store.folder}"):
        # Another process may have finished jobs since the store was opened: keep its results. Writing before the first
        # job lets a later call recognize the folder.
        store.results |= ResultStore.open(store.folder, store.about).results
        store.write()
        return run_missing_jobs(title, jobs, store, progress, reported_metric, unit)


def run_missing_jobs(
    title: str, jobs: Sequence[Job], store: ResultStore, progress: Progress, reported_metric: str, unit: str
) -> list[str]:
    todo = [job for job in jobs if job.key not in store.results]
    n_finished, total = len(jobs) - len(todo), sum(job.cost for job in jobs)
    completed_cost = total - sum(job.cost for job in todo)
    failed = []
    if n_finished:
        progress.log(f"{n_finished} of {len(jobs)} runs are finished already")
    if todo:
        progress.begin(title, total, completed_cost, unit)
    for number, job in enumerate(todo, n_finished + 1):
        scratch = store.folder / SCRATCH_DIR / hashlib.sha256(job.key.encode()).hexdigest()[:12]
        try:
            result = job.run(scratch, JobProgress(progress, completed_cost, job.cost))
        except (Interrupted, KeyboardInterrupt):
            progress.end()
            raise Interrupted(
                f"stopped in run {number} of {len(jobs)}; finished runs are saved in {store.folder}.",
                "Resume with the same command.",
            ) from None
        except (UserError, ResourceError):
            progress.end()
            raise
        except GPT1Error as error:
            failed.append(f"{job.key}: {error.problem}")
            progress.log(f"{number} of {len(jobs)}  {failed[-1]}")
        else:
            store.add(job.key, result)
            progress.log(f"{number} of {len(jobs)}  {job.key}: {reported_metric} {result[reported_metric]:.3f}")
        shutil.rmtree(scratch, ignore_errors=True)
        completed_cost += job.cost
        progress.advance(completed_cost)
    if todo:
        progress.end()
    shutil.rmtree(store.folder / SCRATCH_DIR, ignore_errors=True)
    return failed


def run_and_write(
    title: str,
    jobs: Sequence[Job],
    store: ResultStore,
    progress: Progress,
    reported_metric: str,
    write_report: Callable[[list[str]], list[str]],
    unit: str = "rows",
) -> Path:
    """`run_jobs`, then write the report, also after Ctrl-C. Returns the folder.

    `write_report` takes the lines of the failed jobs and returns the lines to print.
    """
    try:
        failed = run_jobs(title, jobs, store, progress, reported_metric, unit)
    except Interrupted:
        write_report([])
        raise
    for line in write_report(failed):
        progress.log(line)
    return store.folder


class JobProgress(Progress):
    """Shows a job as part of the experiment's bar: its own bars one after the other, mostly the training steps."""

    def __init__(self, outer: Progress, completed_cost: int, cost: int) -> None:
        self.outer, self.completed_cost, self.cost, self.total = outer, completed_cost, cost, 1
        self.fraction = self.first = self.share = 0.0

    def begin(self, title: str, total: int, done: int = 0, unit: str = "steps") -> None:
        rest = 0.95 - self.fraction  # the last 5% are the evaluation
        self.first, self.share = self.fraction, rest if unit == "steps" else min(0.1, rest)  # else features, windows
        self.total = max(1, total)
        self.advance(done)

    def advance(self, done: int, **values: float) -> None:
        self.fraction = max(self.fraction, self.first + self.share * min(1.0, done / self.total))
        self.outer.advance(self.completed_cost + int(self.cost * self.fraction), **values)


def finetune_or_resume(
    rows: str | Path | Table, scratch: Path, progress: Progress, training_settings: Mapping[str, Any], **options: Any
) -> Path:
    """`finetune` on `rows` into the folder `scratch`.

    Resumes the run of a killed process if its settings are `training_settings` (of `resolve_training_settings`).
    """
    from gpt1.training.finetune import finetune

    if is_resumable(scratch, training_settings):
        try:
            return finetune(rows, out=scratch, resume=True, progress=progress, **options)
        except UserError:  # an unusable run; an error of the user's own is raised again by the call below
            pass
    shutil.rmtree(scratch, ignore_errors=True)
    return finetune(rows, out=scratch, progress=progress, **options)


def is_resumable(scratch: Path, training_settings: Mapping[str, Any]) -> bool:
    """Whether `scratch` has a run that was started with these settings."""
    if not (scratch / RUN_CONFIG_FILE).exists():
        return False
    try:
        before = runs.read_run_config(scratch)
    except UserError:  # killed while it was written
        return False
    # The file has the resolved precision, also if the setting is `auto`.
    return all(before.get(name) == value for name, value in training_settings.items() if name != "precision")


def resolve_training_settings(
    model: Mapping[str, Any], settings: Mapping[str, Any], rows: int, kind: str
) -> dict[str, Any]:
    """All settings, with their defaults, that decide what a run learns from its `rows`; without the random seed."""
    from gpt1.training.finetune import resolve_finetune_settings

    resolved = without_resumable_fields(asdict(resolve_finetune_settings(model, settings, rows, kind)))
    return {name: value for name, value in resolved.items() if name != "seed"}


def check_same_settings(folder: Path, job_key: str, before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> None:
    """UserError if the finished `job_key` used other settings: the defaults of another version of gpt1."""
    for name, value in (before or {}).items():
        if now.get(name, value) != value:
            raise UserError(
                f"'{job_key}' in {folder} was run with {format_flag(name, value)}; this gpt1 would use {now[name]}.",
                "Choose another --out, or use the version of gpt1 that started the folder.",
            )


def rows_fingerprint(rows: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 of the rows, in order."""
    text = json.dumps([list(row.items()) for row in rows], ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def model_facts(from_: str | Path) -> dict[str, Any]:
    """The model that a result depends on: SHA-256 of its weights, fingerprint of its tokenizer, its config."""
    from gpt1.model.gpt import GPT
    from gpt1.model.weights import MODEL_FORMAT, fingerprint_weights, read_config
    from gpt1.tokenization.tokenizer import Tokenizer

    folder = runs.find_model_folder(from_)
    gpt = GPT.from_pretrained(folder)  # a model that cannot be used is an error before anything is written
    config = asdict(gpt.config)
    stored = read_config(folder) if (folder / MODEL_CONFIG_FILE).exists() else {}
    if stored.pop("format", None) == MODEL_FORMAT:  # a foreign format has other names
        config |= stored
    tokenizer = Tokenizer.load(folder).fingerprint
    return {"weights": fingerprint_weights(folder), "tokenizer": tokenizer, "config": config}


def config_dimensions(config: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a model's config that reports show."""
    kind = ("n_layer", "lstm_units") if config.get("architecture") == "lstm" else ("n_layer", "n_head")
    return {name: config[name] for name in (*kind, "n_embd", "context", "vocab_size")}
