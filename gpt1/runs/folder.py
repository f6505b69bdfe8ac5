"""Run folders: create, resume, find; config.yaml and results.json."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml

from gpt1.config import (
    RENAMED_SETTINGS,
    FinetuneConfig,
    TrainingConfig,
    default_value,
    field_name,
    flag_name,
    format_flag,
    merge_settings,
    parse_value,
    recipe_defaults,
)
from gpt1.console import Console
from gpt1.errors import UserError, require_path
from gpt1.files.atomic import (
    atomic_dir,
    atomic_write_json,
    atomic_write_text,
    delete_folder,
    ensure_exists,
    is_being_written,
    lock_dir,
)
from gpt1.files.foreign import read_json_object, read_yaml
from gpt1.files.manifest import verify_folder, write_manifest
from gpt1.files.names import (
    FIRST_ARRAY,
    MANIFEST,
    METRICS_FILE,
    MODEL_CONFIG_FILE,
    MODEL_FOLDER,
    PREDICTIONS,
    REPORT_FILE,
    RESULTS_FILE,
    RUN_CONFIG_FILE,
    WEIGHTS_FILE,
)
from gpt1.files.output import check_new_folder
from gpt1.files.reading import is_url, not_found_error
from gpt1.formatting import format_columns, shell_join, shell_quote
from gpt1.hub import download, is_hub_name
from gpt1.version import __version__

STARTER, STARTER_FOLDER = "starter", Path(__file__).parents[1] / "starter"
"""Name and folder of the model that comes with the package."""
STARTER_HINT = f"--from {STARTER} is a pre-trained English model, which comes with gpt1."
MODEL_FIX = f"Use a run folder, a model folder, owner/name, or {STARTER}: the English model that comes with gpt1."
MODEL_FIRST = "evaluate and predict take it before the table: gpt1 predict RUN TABLE"
RUN_FILES = "gpt1-run-files-1"
"""Format of a finished run's manifest.json. It covers the files that are read later; model/ has its own manifest."""
COVERED = (RUN_CONFIG_FILE, RESULTS_FILE, METRICS_FILE, PREDICTIONS)
INPUT_NAMES = {"train": "table", "from": "starting model", "corpus": "corpus", "columns": "columns"}  # in messages
INPUTS = ("corpus", "valid", "from", "train")  # inputs of a command that are paths
# Settings that may change on --resume: none of them changes the trained weights.
RESUMABLE_FIELDS = {"keep", "checkpoint_every", "checkpoint_minutes", "device", "micro_batch"}
RESUMABLE_FIELDS |= {"activation_checkpointing", "cache_features", "track"}

AnyConfig = TypeVar("AnyConfig", bound=TrainingConfig)


def resolve_settings(
    config_class: type[AnyConfig], chosen: Mapping[str, Any], extra: Mapping[str, Any] = {}
) -> AnyConfig:
    """All settings of a run.

    Args:
        config_class: PretrainConfig or FinetuneConfig.
        chosen: What `user_settings` returns.
        extra: Defaults that depend on the model. They win over the recipe and the model size, and lose to `chosen`.

    Raises:
        UserError: for a value that is not allowed.
    """
    base = recipe_defaults(config_class, chosen.get("recipe", "default"), chosen.get("model"))
    return merge_settings(config_class, base, extra, chosen)


def user_settings(
    config_class: type[AnyConfig], file: str | Path | None, overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings that the user chose: the `--config` file, overridden by `overrides`, converted to their types.

    In `overrides`, which may come from Python, a mapping (class → weight) is the text of the flag, JSON.
    """
    if file and not Path(file).exists():
        raise not_found_error(file)
    from_file = {name: value for name, value in (read_yaml(file) if file else {}).items() if name not in RUN_KEYS}
    given = {name: value for name, value in overrides.items() if value is not None}
    for name, value in given.items():
        if isinstance(value, Mapping):
            given[name] = json.dumps({str(label): weight for label, weight in value.items()}, default=str)
    chosen = [*from_file.items(), *given.items()]
    warn_renamed_settings(name for name, _ in chosen)
    return {(key := field_name(config_class, name)): parse_value(config_class, key, value) for name, value in chosen}


RUN_KEYS = ("stage", "version", "command", "computes_in", "starting_model")


def warn_renamed_settings(names: Iterable[str]) -> None:
    for name in names:
        if name.replace("-", "_") in RENAMED_SETTINGS and os.environ.get("RANK", "0") == "0":
            log_once(f"{flag_name(name)} is now called {flag_name(RENAMED_SETTINGS[name.replace('-', '_')])}.")


@cache
def log_once(line: str) -> None:
    Console().log(line)


def create_run(
    out: str | Path, config: TrainingConfig, command: Mapping[str, Any], computes_in: str = "", overwrite: bool = False
) -> Path:
    """Create a run folder with its config.yaml.

    Args:
        out: The folder; it must not exist or be empty.
        config: All settings.
        command: Inputs of the command, such as {"corpus": "corpus", "from": None}.
        computes_in: The precision and why it was chosen.
        overwrite: Delete a run that is there.
    """
    run = check_new_folder(out, overwrite)
    if overwrite and run.is_dir():
        delete_folder(run)
    run.mkdir(parents=True, exist_ok=True)
    content = {"stage": stage_name(type(config)), "version": __version__, "command": dict(command)}
    if command.get("from") and (name := public_starting_model(command["from"])):
        content["starting_model"] = name
    content |= ({"computes_in": computes_in} if computes_in else {}) | asdict(config)
    # Checked again under the lock: another process may have created it in between.
    with lock_dir(run):
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        atomic_write_text(check_new_folder(run) / RUN_CONFIG_FILE, text)
    return run


def public_starting_model(source: str | Path) -> str | None:
    """The public name of the model that training began with, if need be through other runs; a model card may print it.

    The license of `starter` asks for its name.
    """
    if is_model_name(source):
        return str(source)
    run = Path(source).parent if Path(source).name == MODEL_FOLDER else Path(source)
    name = read_run_config(run).get("starting_model") if (run / RUN_CONFIG_FILE).exists() else None
    return name if isinstance(name, str) else None


def stage_name(config_class: type[TrainingConfig]) -> str:
    return "finetune" if issubclass(config_class, FinetuneConfig) else "pretrain"


def check_resume(resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise UserError("--resume and --overwrite contradict each other.", "Use one of them.")


def open_for_resume(
    out: str | Path, config_class: type[AnyConfig], overrides: Mapping[str, Any], command: Mapping[str, Any]
) -> tuple[Path, AnyConfig]:
    """(folder, settings) of a run to resume.

    Args:
        out: The run folder.
        config_class: PretrainConfig or FinetuneConfig.
        overrides: The user's settings, as `user_settings` returns them.
        command: The inputs of the command, as for `create_run`; None, False and {} mean not given.

    Raises:
        UserError: for a setting or an input that differs from the run's and would change the trained weights.
    """
    run = Path(out)
    verify_run(run)
    stored = read_run_config(run)
    stage = stage_name(config_class)
    if not isinstance(stored.get("command"), dict):
        raise UserError(
            f"{run / RUN_CONFIG_FILE} was changed or damaged: the command that started the run is missing.",
            "Copy it again, or start a new run with another --out.",
        )
    if stored.get("stage") != stage:
        raise UserError(
            f"{run} is not a run of gpt1 {stage}: its {RUN_CONFIG_FILE} says stage {stored.get('stage')}.",
            "Resume it with the command that started it.",
        )
    settings = {RENAMED_SETTINGS.get(name, name): value for name, value in stored.items() if name not in RUN_KEYS}
    for name, value in overrides.items():
        if (name, value) == ("precision", "auto"):  # the run has stored what it resolved to
            continue
        started_with = settings.get(name, default_value(config_class, name))  # a run of an earlier version has fewer
        if name not in RESUMABLE_FIELDS and value != started_with:
            raise UserError(
                f"{format_flag(name, value)}: {run} was started with {describe_setting(name, started_with)}. "
                "Settings cannot change on --resume.",
                f"Omit {flag_name(name)}, or start a new run with another --out.",
            )
        settings[name] = value
    for name, value in command.items():
        if value and name != "data_dir" and not is_same_input(run, name, stored["command"].get(name), value):
            before, fix = stored["command"].get(name), "or start a new run with another --out."
            if not before and name not in ("corpus", "train", "columns"):
                raise UserError(f"{run} was started without {flag_name(name)}.", f"Omit {flag_name(name)}, {fix}")
            what, (old, new) = INPUT_NAMES.get(name) or flag_name(name), map(format_columns, (before, value))
            raise UserError(f"{run} was started with {what} {old}, not {new}.", f"Use the same {what}, {fix}")
    with lock_dir(run):  # change nothing in a run that another process is writing
        if is_finished(run):
            restore_report(run)
        else:  # its model was deleted: training continues, and its files change
            (run / MANIFEST).unlink(missing_ok=True)
    return run, merge_settings(config_class, settings)


def describe_setting(name: str, value: Any) -> str:
    """A setting for a message: as typed, or that it is empty."""
    return f"no {flag_name(name)}" if value == "" else format_flag(name, value)


def is_same_input(run: Path, name: str, before: Any, now: Any) -> bool:
    """Whether an input is the one that the run was started with, by its path: `corpus/` is `corpus`.

    Columns that are given must be the same; naming the default label column changes nothing.
    An input that was moved since is accepted here; the fingerprints in the run's checkpoints decide later.
    """
    if name == "columns" and isinstance(before, dict):
        return all({"label": "label", **before}.get(role) == column for role, column in now.items())
    if before == now or name not in INPUTS or not before:
        return bool(before == now)
    moved = not os.path.exists(before) and any((run / "checkpoints").glob("step-*"))
    return moved or os.path.realpath(before) == os.path.realpath(now)


def restore_report(run: Path) -> None:
    """Write the manifest and the report of a finished run that was killed after its results were written."""
    if not (run / MANIFEST).exists():
        write_run_manifest(run)
    page = run / REPORT_FILE
    if not page.exists() or page.stat().st_mtime_ns < (run / RESULTS_FILE).stat().st_mtime_ns:
        from gpt1.report.sections import write_report

        write_report(run)


def read_run_config(run: Path) -> dict[str, Any]:
    if not (run / RUN_CONFIG_FILE).exists():
        raise UserError(
            f"{run} is not a run folder: no {RUN_CONFIG_FILE} found.", "Use a folder that pretrain or finetune created."
        )
    return read_yaml(run / RUN_CONFIG_FILE)


def is_finished(run: Path) -> bool:
    """Whether the run has its results and its model. --resume restores a deleted model from the last checkpoint."""
    return (run / RESULTS_FILE).exists() and (run / MODEL_FOLDER).is_dir()


def write_results(run: Path, results: Mapping[str, Any]) -> None:
    """Write results.json, which marks the run as finished, and the manifest."""
    atomic_write_json(run / RESULTS_FILE, results)
    write_run_manifest(run)


def write_run_manifest(run: Path) -> None:
    """Write the manifest.json of a finished run."""
    write_manifest(run, RUN_FILES, [name for name in COVERED if (run / name).exists()])


def verify_run(run: Path) -> None:
    """Check a finished run against its manifest.json. Older runs have none; unfinished ones are not checked.

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
    """Verified results.json of a run; {} if there is none."""
    verify_run(run)
    return read_json_object(run / RESULTS_FILE, allow_nan=True) if (run / RESULTS_FILE).exists() else {}


@contextmanager
def new_model(run: Path) -> Iterator[Path]:
    """A folder to fill that becomes the model of the run, atomically; the results that follow mark it as finished."""
    ensure_exists(run)
    shutil.rmtree(run / ".model.tmp", ignore_errors=True)  # left by an earlier version
    with atomic_dir(run / MODEL_FOLDER, replace=True) as folder:
        yield folder


def find_model_folder(name: str | Path) -> Path:
    """The model folder that RUN names. Every command and every function that takes a model calls this.

    Args:
        name: A run folder, a model folder, `starter` (the model that comes with the package), or the name of a model
            on the Hugging Face hub, `owner/name[@revision]`, which is downloaded into its cache. An existing path takes
            precedence; if it is called `starter`, a message says so.

    Raises:
        UserError: There is no such folder, run or model.
    """
    require_path(name, "the model", MODEL_FIX)
    folder = Path(name)
    if str(name) == STARTER and folder.exists():
        check_hides_starter(folder)
    if not str(name).strip():
        raise UserError("the name of the model is empty.", "Use a run folder, a model folder, starter or owner/name.")
    if folder.is_file():
        raise UserError(f"{folder} is a file, not a run or model folder.", f"{MODEL_FIX} {MODEL_FIRST}")
    if (folder / RUN_CONFIG_FILE).exists():
        if not (folder / MODEL_FOLDER).is_dir() and is_being_written(folder):
            raise UserError(f"{folder} is still training: it has no finished model yet.", "Wait until it ends.")
        if not (folder / MODEL_FOLDER).is_dir():
            command = shell_join(["gpt1", read_run_config(folder).get("stage"), "--out", folder, "--resume"])
            raise UserError(f"{folder} has no finished model yet.", f"Finish the run first: {command}")
        return folder / MODEL_FOLDER
    if folder.exists():
        return folder
    if str(name) == STARTER:
        if not has_starter():
            weights = STARTER_FOLDER / WEIGHTS_FILE
            raise UserError(
                f"this gpt1 installation does not include the model {STARTER}: no {weights} found.",
                "Install a release of gpt1 that includes it, or use your own model: gpt1 pretrain --help",
            )
        return STARTER_FOLDER
    if is_hub_name(str(name)):
        return download(str(name))
    raise UserError(not_found_error(folder, (STARTER,)).problem, MODEL_FIX)


def has_weights(name: str) -> bool:
    """Whether a name that may also be a tokenizer or a corpus is a model, so that --from can continue it."""
    return not is_url(name) and (find_model_folder(name) / WEIGHTS_FILE).exists()


def has_starter() -> bool:
    """Whether this installation holds the weights of `starter`; a checkout may not."""
    return (STARTER_FOLDER / WEIGHTS_FILE).exists()


def check_hides_starter(path: Path) -> None:
    """Log that a model in the current directory is used, not the package's; UserError if it is not a model."""
    if any((path / file).exists() for file in (RUN_CONFIG_FILE, MODEL_CONFIG_FILE, FIRST_ARRAY)):
        log_once(f"{STARTER}: using the folder in the current directory, not the model that comes with gpt1")
        return
    what = "folder" if path.is_dir() else "file"
    raise UserError(
        f"the {what} {STARTER} in the current directory is not a model, but hides the built-in model of that name.",
        f"Rename the {what}, or run the command in another folder.",
    )


def is_model_name(name: str | Path) -> bool:
    """Whether a name, which is not a path, names a model: `starter`, or a name on the hub."""
    return not Path(name).exists() and (str(name) == STARTER or is_hub_name(str(name)))


def example_prompt(folder: str | Path) -> str:
    """A prompt to try a pre-trained run with: in its own language if its samples show letters that English lacks."""
    with suppress(UserError, OSError):
        samples = read_json_object(Path(folder) / RESULTS_FILE, allow_nan=True).get("samples") or []
        prompts = [str(one["prompt"]) for one in samples if isinstance(one, dict) and one.get("prompt")]
        if prompts and any(letter.isalpha() and not letter.isascii() for letter in "".join(prompts)):
            return " ".join(prompts[0].split()[:4])
    return "once upon a"


FINETUNE_COMMAND = "gpt1 finetune TABLE --from {} --out runs/NAME --kind classification --text COLUMN --label COLUMN"


def pretrained_commands(folder: str | Path) -> list[str]:
    """What a user can run next with a pre-trained model."""
    quoted = shell_quote(folder)
    return [f'gpt1 next {quoted} "{example_prompt(folder)}"', FINETUNE_COMMAND.format(quoted)]
