"""Run folders: made, opened again, found; their config.yaml and results.json."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import yaml

from gpt1.config import (
    FinetuneConfig,
    TrainingConfig,
    field_name,
    format_flag,
    merge_settings,
    parse_value,
    recipe_defaults,
)
from gpt1.errors import UserError
from gpt1.files import foreign
from gpt1.files.atomic import atomic_dir, atomic_file, ensure_exists, ensure_writable, lock_dir
from gpt1.files.foreign import read_json_object
from gpt1.files.manifest import MANIFEST, verify_folder, write_manifest
from gpt1.files.reading import not_found_error
from gpt1.version import __version__

RUN_CONFIG_FILE, RESULTS_FILE, METRICS_FILE, MODEL_FOLDER = "config.yaml", "results.json", "metrics.jsonl", "model"
REPORT_FILE, PREDICTIONS = "report.html", "predictions.jsonl"
RUN_FILES = "gpt1-run-files-1"
"""Format of a finished run's manifest.json, which covers the files that are read later; model/ has its own."""
COVERED = (RUN_CONFIG_FILE, RESULTS_FILE, METRICS_FILE, PREDICTIONS)

INPUTS = ("corpus", "valid", "from", "train")  # what a run is named by its place

# What a resumed run may change: none of it changes what is learnt.
RESUMABLE_FIELDS = {"keep", "checkpoint_every", "device", "micro_batch", "recompute", "cache_features"}

AnyConfig = TypeVar("AnyConfig", bound=TrainingConfig)


def resolve_settings(
    config_class: type[AnyConfig], file: str | Path | None, overrides: Mapping[str, Any], extra: Mapping[str, Any] = {}
) -> AnyConfig:
    """Defaults < recipe < model size < `extra` < `--config` file < what was `overrides` as flags or keywords."""
    chosen = user_settings(config_class, file, overrides)
    base = recipe_defaults(
        config_class, chosen.get("recipe", "default"), chosen.get("model")
    )  # resolve refuses unknown ones
    return merge_settings(config_class, base, extra, chosen)


def user_settings(
    config_class: type[AnyConfig], file: str | Path | None, overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """What the user asks for: the `--config` file, and over it what was `overrides`, each value as its setting's type."""
    from_file = {name: value for name, value in (read_yaml(Path(file)) if file else {}).items() if name not in RUN_KEYS}
    asked = [*from_file.items(), *((name, value) for name, value in overrides.items() if value is not None)]
    return {(field := field_name(config_class, name)): parse_value(config_class, field, value) for name, value in asked}


RUN_KEYS = ("stage", "version", "command", "computes_in")


def create_run(out: str | Path, config: TrainingConfig, command: Mapping[str, Any], computes_in: str = "") -> Path:
    """A new run folder with its config.yaml: every setting, resolved, the `command` of the command, the precision and why
    it was chosen."""
    run = check_new_folder(out)
    run.mkdir(parents=True, exist_ok=True)
    content = {"stage": stage_name(type(config)), "version": __version__, "command": dict(command)}
    content |= ({"computes_in": computes_in} if computes_in else {}) | asdict(config)
    with (
        lock_dir(run),
        atomic_file(check_new_folder(run) / RUN_CONFIG_FILE) as file,
    ):  # asked again: another process may be faster
        file.write(yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode())
    return run


def stage_name(config_class: type[TrainingConfig]) -> str:
    return "finetune" if issubclass(config_class, FinetuneConfig) else "pretrain"


def check_new_folder(out: str | Path) -> Path:
    """`out`, which must not hold anything yet, except what a process left that was killed while it began a run."""
    folder = Path(out)
    if folder.is_file():
        raise UserError(f"{folder} is a file; a folder is made there.", "Choose another --out.")
    if folder.is_dir() and any(not path.name.startswith(f".{RUN_CONFIG_FILE}.partial-") for path in folder.iterdir()):
        resumable = " Go on with that run: --resume." if (folder / RUN_CONFIG_FILE).exists() else ""
        raise UserError(f"{folder} exists and is not empty.", f"Choose another --out, or remove it.{resumable}")
    ensure_writable(folder)
    return folder


def open_for_resume(
    out: str | Path, config_class: type[AnyConfig], overrides: Mapping[str, Any], command: Mapping[str, Any]
) -> tuple[Path, AnyConfig]:
    """(folder, settings) of a run to go on with; a setting or file that would change its course is refused.

    overrides: as `user_settings` gives them."""
    run = Path(out)
    verify_run(run)
    stored = read_run_config(run)
    stage = stage_name(config_class)
    if not isinstance(stored.get("command"), dict):
        raise UserError(
            f"{run / RUN_CONFIG_FILE} was changed or damaged: it does not say with which command the run was started.",
            "Copy it again, or start a new run with another --out.",
        )
    if stored.get("stage") != stage:
        raise UserError(
            f"{run} is no run of gpt1 {stage}: its {RUN_CONFIG_FILE} says stage {stored.get('stage')}.",
            "Resume it with the command that started it.",
        )
    settings = {name: value for name, value in stored.items() if name not in RUN_KEYS}
    for name, value in overrides.items():
        if (name, value) == ("precision", "auto"):  # what it came to stands there
            continue
        if name not in RESUMABLE_FIELDS and value != settings.get(name):
            raise UserError(
                f"{format_flag(name, value)}: {run} was started with {format_flag(name, settings.get(name))}, "
                "and --resume goes on as it began.",
                "Leave it out, or start a new run with another --out.",
            )
        settings[name] = value
    for name, value in command.items():
        if name != "data_dir" and not is_same_input(run, name, stored["command"].get(name), value):
            raise UserError(
                f"{run} was started with {name} {stored['command'].get(name)}, not {value}.",
                "Resume with what it was started with, or start a new run with another --out.",
            )
    with lock_dir(run):  # nothing of a run that another process is in is touched
        if is_finished(run):
            restore_report(run)
        else:  # its model was deleted: the run goes on, and its files change
            (run / MANIFEST).unlink(missing_ok=True)
    return run, merge_settings(config_class, settings)


def is_same_input(run: Path, name: str, before: Any, now: Any) -> bool:
    """Whether an input is what the run began with, as far as that can be told before it is read: `corpus/` is `corpus`.
    Of what has moved since, the fingerprints in the run's checkpoints decide."""
    if before == now or name not in INPUTS or not (before and now):
        return bool(before == now)
    moved = not os.path.exists(before) and any((run / "checkpoints").glob("step-*"))
    return moved or os.path.realpath(before) == os.path.realpath(now)


def restore_report(run: Path) -> None:
    """The manifest and the page of a finished run that was killed after its results, before these."""
    if not (run / MANIFEST).exists():
        seal_run(run)
    page = run / REPORT_FILE
    if not page.exists() or page.stat().st_mtime_ns < (run / RESULTS_FILE).stat().st_mtime_ns:
        from gpt1.report import write_report

        write_report(run)


def read_run_config(run: Path) -> dict[str, Any]:
    if not (run / RUN_CONFIG_FILE).exists():
        raise UserError(
            f"{run} is no run folder: it has no {RUN_CONFIG_FILE}.", "Name a folder that pretrain or finetune made."
        )
    return read_yaml(run / RUN_CONFIG_FILE)


def read_yaml(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise not_found_error(path)
    return foreign.read_yaml(path)


def is_finished(run: Path) -> bool:
    """Whether the run has its results and its model. A model that was deleted comes again from the last checkpoint."""
    return (run / RESULTS_FILE).exists() and (run / MODEL_FOLDER).is_dir()


def seal_run(run: Path) -> None:
    """Write the manifest.json of a finished run."""
    write_manifest(run, RUN_FILES, [name for name in COVERED if (run / name).exists()])


def verify_run(run: Path) -> None:
    """Check a finished run against its manifest.json; an older run has none. Without results.json a run is unfinished.

    Raises:
        UserError: with the first file that is missing, changed or added.
    """
    if os.path.lexists(path := run / MANIFEST) and os.path.lexists(run / RESULTS_FILE):
        fix = (
            "Undo the change, or copy the run again. To train with other settings, start a new run: --config FILE "
            f"--out NEW. To keep the change, delete {path}."
        )
        verify_folder(run, RUN_FILES, fix, read=COVERED)


def read_results(run: Path) -> dict[str, Any]:
    """results.json of a run, checked; {} where there is none."""
    verify_run(run)
    return read_json_object(run / RESULTS_FILE, allow_nan=True) if (run / RESULTS_FILE).exists() else {}


@contextmanager
def new_model(run: Path) -> Iterator[Path]:
    """A folder to fill that becomes the model of the run; the results that follow call it finished, so it is on the
    disk. Ctrl-C leaves none of it."""
    ensure_exists(run)
    shutil.rmtree(run / ".model.tmp", ignore_errors=True)  # of a run that an earlier version was killed in
    with atomic_dir(run / MODEL_FOLDER, replace=True) as aside:
        yield aside


def find_model_folder(path: str | Path) -> Path:
    """The model folder that `path`, a run or a model folder, stands for."""
    folder = Path(path)
    if (folder / RUN_CONFIG_FILE).exists():
        if not (folder / MODEL_FOLDER).is_dir():
            raise UserError(
                f"{folder} has no finished model yet.",
                "Finish the run first: the command that started it, with --resume.",
            )
        return folder / MODEL_FOLDER
    if not folder.exists():
        raise UserError(not_found_error(folder).problem, "Name a run folder or a model folder.")
    return folder


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_file(path) as file:
        file.write((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
