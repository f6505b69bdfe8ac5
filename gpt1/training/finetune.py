"""Stage 2, fine-tuning: add a linear layer to a pre-trained GPT and train on labeled rows (L2, or L3 = L2 + λ · L1)."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gpt1.config import FinetuneConfig
from gpt1.console import default_progress
from gpt1.corpus.order import steps_per_epoch
from gpt1.datasets.labeled import TaskData, TaskRequest, load_task_data
from gpt1.datasets.task_guess import complete_task
from gpt1.devices import precision_name
from gpt1.errors import UserError
from gpt1.files.output import check_new_folder
from gpt1.inference.foreign_task import read_any_task
from gpt1.inference.predictor import load_model_and_tokenizer
from gpt1.kernels.buffers import reuse_buffers
from gpt1.kernels.malloc import keep_some_freed_memory
from gpt1.progress import Progress
from gpt1.recipes import (
    FINETUNING_BATCH_SIZES,
    HEAD_ONLY_DEFAULTS,
    MIN_FINETUNING_STEPS,
    SMALL_TABLE_EPOCHS,
    SMALL_TABLE_ROWS,
)
from gpt1.runs import folder as runs
from gpt1.tables.frames import FRAME, ROWS, to_table
from gpt1.tables.table import Table
from gpt1.tasks.kinds import KINDS
from gpt1.tasks.targets import Target
from gpt1.training import checkpoints
from gpt1.training.distributed import require_single_process
from gpt1.training.finetune_results import finish_finetuning
from gpt1.training.finetune_setup import FinetuneSetup, prepare_finetuning
from gpt1.training.loop import train
from gpt1.training.run import check_validation_source, open_run, resume_run
from gpt1.training.time_limit import check_time_limit, plan_epochs
from gpt1.training.tracking import check_tracker
from gpt1.training.train_scope import check_train_scope

COLUMN_ROLES = (*dict.fromkeys(role for kind in KINDS.values() for role in kind.columns), "label")
EMBEDDING_LR = 3.75e-4  # default of the token embedding at every width, and of all weights up to EMBEDDING_LR_WIDTH
EMBEDDING_LR_WIDTH = 128
SCRATCH_LR_FACTOR = 8 / 3  # new weights need a higher one: 1e-3 for `tiny`
CLASSIFICATION_LR, CLASSIFICATION_LR_FACTOR = 5e-4, 4.0
"""Learning rate where `allows_larger_lr`, and how many times the usual one it may be."""


def finetune(
    train_on: Any = None,
    *,
    from_: str | Path | None = None,
    out: str | Path,
    kind: str | None = None,
    score: bool = False,
    weight: str | None = None,
    unlabeled: str = "refuse",
    valid: Any = None,
    data_dir: str | Path | None = None,
    resume: bool = False,
    time_limit: float | None = None,
    overwrite: bool = False,
    config: str | Path | None = None,
    baselines: bool = True,
    progress: Progress | None = None,
    **settings: Any,
) -> Path:
    """Fine-tune a pre-trained model on labeled rows.

    Args:
        train_on: Table file, DataFrame, list of rows (dicts) or `Table` to train on, or the name of a known data set,
            which sets kind and columns. With `resume` it can be omitted, like every input and setting, but not rows in
            memory, which the run does not store.
        from_: Run or model folder of the pre-trained model.
        out: Run folder to create.
        kind: One of `gpt1.tasks.kinds.KINDS`; if only `label` is named, guessed from the table with the other columns.
        score: Predict similarity as a number instead of two classes.
        weight: Column with the weight of each row in the task loss.
        unlabeled: Rows without a label: `refuse` is an error, `drop` leaves them out.
        valid: Rows for validation, as for `train_on`, instead of a share of them.
        data_dir: Folder of the known data sets.
        resume: Resume the run `out` from its newest checkpoint.
        time_limit: Minutes: train as many epochs as fit. A resumed run keeps the number of epochs.
        overwrite: Replace a run that is there, once everything is checked.
        config: YAML file with settings.
        baselines: Train TF-IDF with a linear model on the same rows, to compare.
        progress: Receives messages, progress and metrics; default: printed in a notebook, else discarded.
        **settings: The columns (see COLUMN_ROLES) and fields of FinetuneConfig, which override those of `config`.

    Returns:
        The run folder `out`.

    Raises:
        UserError: A setting or an input is invalid; raised before anything is written.
        Interrupted: After Ctrl-C; the state is saved.
    """
    require_single_process()
    requested = requested_finetune_settings(config, settings)
    check_inputs(train_on, from_, resume, overwrite, time_limit, requested.get("epochs"))
    check_validation_source(valid, settings)
    started, progress = time.monotonic(), progress or default_progress()
    task = TaskRequest(train_on, valid, kind, named_columns(settings), score, data_dir, weight or None, unlabeled)
    request = FinetuneRequest(frames_to_tables(task), from_, requested)
    if resume:
        return resume_finetuning(out, request, baselines, progress)
    check_new_folder(out, overwrite, (train_on, from_, valid, config))
    request = replace(request, task=complete_task(request.task, progress))
    setup, cfg = prepare(request, None, progress)
    cfg = fit_epochs(setup, cfg, time_limit, started, progress)
    run = runs.create_run(out, cfg, request.first_command, setup.precision, overwrite)
    return run_finetuning(setup, cfg, run, progress, False, baselines, is_planned=time_limit is not None)


@dataclass(frozen=True)
class FinetuneRequest:
    """The arguments of `finetune`: the task, the model to start from, and the given settings."""

    task: TaskRequest
    from_: Any  # name or folder of a model; None, like the rows, on --resume: that of the run
    settings: Mapping[str, Any]

    @property
    def inputs(self) -> dict[str, Any]:
        return {"train": self.task.train, "from": self.from_, "valid": self.task.valid, "data_dir": self.task.data_dir}

    @property
    def command(self) -> dict[str, Any]:
        """The inputs and the task, as config.yaml stores them."""
        task = self.task
        more = {"weight": task.weight} if task.weight else {}
        more |= {"unlabeled": task.unlabeled} if task.unlabeled and task.unlabeled != "refuse" else {}
        names = {name: source_name(source) for name, source in self.inputs.items()}
        return {**names, "kind": task.kind, "score": task.score, "columns": task.columns, **more}

    @property
    def first_command(self) -> dict[str, Any]:
        """The command of a new run, with the names of the settings that were given: advice repeats them."""
        return {**self.command, **({"given": sorted(self.settings)} if self.settings else {})}


def check_inputs(
    train_on: Any, from_: Any, resume: bool, overwrite: bool, time_limit: float | None, epochs: float | None
) -> None:
    """UserError for a missing input, which only a resumed run has stored, or inputs that contradict each other."""
    check_time_limit(time_limit, epochs)
    if not resume and (train_on is None or from_ is None):
        missing = "--from" if from_ is None else "the table of training rows"
        usage = "Use: gpt1 finetune TABLE --from RUN --out NEW --kind KIND COLUMNS"
        raise UserError(f"{missing} is missing.", usage if from_ else f"{usage}\n{runs.STARTER_HINT}")
    runs.check_resume(resume, overwrite)


def named_columns(settings: Mapping[str, Any]) -> dict[str, str]:
    """The columns among the keywords of `finetune`, by role."""
    return {role: settings[role] for role in COLUMN_ROLES if settings.get(role) is not None}


def requested_finetune_settings(config: str | Path | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in a YAML file and among the keywords of `finetune`: those that are not columns."""
    given = {name: value for name, value in settings.items() if name not in COLUMN_ROLES}
    return runs.user_settings(FinetuneConfig, config, given)


def frames_to_tables(task: TaskRequest) -> TaskRequest:
    """The request with DataFrames and lists of rows as tables."""
    texts = [column for role, column in task.columns.items() if role not in ("label", "choices", "question")]
    train, valid = (rows if rows is None else to_table(rows, texts) for rows in (task.train, task.valid))
    return replace(task, train=train, valid=valid)


def resume_finetuning(out: str | Path, request: FinetuneRequest, with_tfidf: bool, progress: Progress) -> Path:
    """Train the run `out` to its end, unless it is finished."""
    given = request.settings, request.command, request.inputs
    run, stored, command = resume_run(out, FinetuneConfig, *given, progress)
    if command is None:
        return run
    check_rows_are_stored(run, command)
    request = replace(request, task=TaskRequest.from_command(command), from_=command["from"])
    setup, cfg = prepare(request, stored, progress)
    return run_finetuning(setup, cfg, run, progress, True, with_tfidf)


def check_rows_are_stored(run: Path, command: Mapping[str, Any]) -> None:
    """UserError for a run that was started with rows in memory, if they are not given again."""
    for name, call in (("train", "finetune(rows"), ("valid", "finetune(valid=rows")):
        if (source := command[name]) in (FRAME, ROWS):
            what = "validation rows" if name == "valid" else "rows"
            raise UserError(
                f"{run} was started from Python with {what} in memory ({source}), which it does not store.",
                f"Resume it in Python with the same {what}: {call}, out=..., resume=True)",
            )


def prepare(
    request: FinetuneRequest, stored: FinetuneConfig | None, progress: Progress
) -> tuple[FinetuneSetup, FinetuneConfig]:
    """(model and rows, all settings) of a run; a resumed run has its settings `stored`. Nothing is written yet."""
    origin = request.from_
    gpt, tokenizer = load_model_and_tokenizer(origin)
    model, folder = asdict(gpt.config), runs.find_model_folder(origin)
    cfg = stored or resolve_finetune_settings(model, request.settings)
    check_train_scope(cfg, gpt.config.n_layer)
    check_tracker(cfg.track)
    earlier = read_earlier_task(folder, origin, cfg)
    task = load_task_data(request.task, cfg, progress, earlier[1] if earlier and cfg.keep_head else None)
    cfg = stored or resolve_finetune_settings(model, request.settings, len(task.training), task.kind.name)
    if earlier:
        check_earlier_head(earlier, task, origin, cfg, progress)
    setup = prepare_finetuning(cfg, gpt, tokenizer, folder, task, progress)
    return setup, replace(cfg, precision=precision_name(setup.model.gpt.activation_dtype))


def fit_epochs(
    setup: FinetuneSetup, cfg: FinetuneConfig, minutes: float | None, started: float, progress: Progress
) -> FinetuneConfig:
    """The settings with as many epochs as fit into the time limit; unchanged without one."""
    if minutes is None:
        return cfg
    stage = setup.make_stage(cfg, setup.make_source(cfg, progress))
    with reuse_buffers(setup.model):
        return plan_epochs(stage, cfg, len(setup.train_examples), minutes, started, progress)


def read_earlier_task(folder: Path, from_: str | Path, cfg: FinetuneConfig) -> tuple[dict[str, Any], Target] | None:
    """task.json and target of a model that is fine-tuned already; None for a pre-trained one."""
    if stored := read_any_task(folder):
        return stored.task, stored.target
    if cfg.keep_head:
        raise UserError(f"--keep-head requires a fine-tuned model; {from_} has no output layer.", "Remove --keep-head.")
    return None


def check_earlier_head(
    earlier: tuple[dict[str, Any], Target], task: TaskData, from_: str | Path, cfg: FinetuneConfig, progress: Progress
) -> None:
    """Log what happens to the output layer of a fine-tuned model; UserError if it cannot be kept."""
    kind, target = str(earlier[0]["kind"]), earlier[1]
    if cfg.keep_head:
        if kind != task.kind.name:
            problem = f"--keep-head: {from_} was fine-tuned for {kind}, not {task.kind.name}."
            raise UserError(problem, "Omit --keep-head to train a new output layer.")
        progress.log(f"{from_} is already fine-tuned: its output layer is kept")
        return
    ours, theirs = (getattr(one, "labels", one) for one in (target, task.target))
    same = kind == task.kind.name and ours == theirs
    offer = " (same labels: use --keep-head to keep it)" if same else ""
    progress.log(f"{from_} is already fine-tuned: a new output layer replaces its own{offer}")


def run_finetuning(
    setup: FinetuneSetup,
    cfg: FinetuneConfig,
    run: Path,
    progress: Progress,
    resume: bool,
    with_tfidf: bool,
    is_planned: bool = False,
) -> Path:
    """Train, and write the model, the results and the report; returns the run."""
    if setup.device.type == "cpu":
        keep_some_freed_memory()
    with open_run(run, progress, cfg.track) as (run_progress, metrics):
        # Do not log the fit of a head that a checkpoint replaces, or that the plan for a time limit has already fitted.
        continues = resume and cfg.train != "head" and bool(checkpoints.list_steps(run / "checkpoints"))
        is_known = continues or (is_planned and cfg.cache_features)
        source = setup.make_source(cfg, Progress() if is_known else progress)
        with reuse_buffers(setup.model):
            outcome = train(setup.make_stage(cfg, source), cfg, run, run_progress, metrics, resume)
        finish_finetuning(run, setup, source, outcome, cfg, progress, with_tfidf)
    return run


def source_name(source: str | Path | Table | None) -> str | None:
    return source.name if isinstance(source, Table) else str(source) if source is not None else None


def resolve_finetune_settings(
    model: Mapping[str, Any], requested: Mapping[str, Any], rows: int = 0, kind: str = ""
) -> FinetuneConfig:
    """All settings of a run from a model with this config; those that depend on the table, if `rows` is given."""
    extra: dict[str, Any] = {
        **model_dependent_defaults(model["n_embd"], requested),
        **(table_dependent_defaults(rows, model["dropout"], requested) if rows else {}),
    }
    is_large = rows >= SMALL_TABLE_ROWS and kind == "classification"
    if is_large and allows_larger_lr(model["n_embd"], {**extra, **requested}):
        extra["peak_lr"] = min(CLASSIFICATION_LR, CLASSIFICATION_LR_FACTOR * extra["peak_lr"])
    return runs.resolve_settings(FinetuneConfig, requested, extra=extra)


def allows_larger_lr(n_embd: int, settings: Mapping[str, Any]) -> bool:
    """Whether the auxiliary objective trains all of a pre-trained model, without dropout.

    The classification of many texts then gains from a larger learning rate, which without that objective destroys what
    the model knows, and which is worse for pairs of texts. Models of width 128 gain nothing (docs/lab-log.md).
    """
    if settings.get("recipe", "default") != "default" or n_embd <= EMBEDDING_LR_WIDTH:
        return False
    is_whole = settings.get("train", "all") == "all" and not settings.get("from_scratch")
    has_objective = settings.get("lm_coef", FinetuneConfig.lm_coef) >= FinetuneConfig.lm_coef
    return is_whole and has_objective and settings.get("dropout") == 0


def model_dependent_defaults(n_embd: int, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Defaults that depend on what is trained.

    The paper's learning rate is for a width of 768. Weight matrices of narrower models need a larger one, in inverse
    proportion to the width. The token embedding needs the same at every width (Yang et al., 2022: μP; docs/lab-log.md).
    """
    head_only = settings.get("train") == "head"
    if settings.get("recipe") == "paper":
        return {"lm_coef": 0.0} if head_only else {}
    if head_only:
        return HEAD_ONLY_DEFAULTS
    # Nothing is learned from the features of random weights, and a head that is kept is fitted already.
    no_probe = settings.get("from_scratch") or settings.get("keep_head") or settings.get("transfer_layers", -1) >= 0
    factor = max(1.0, n_embd / EMBEDDING_LR_WIDTH)
    embedding_lr = EMBEDDING_LR * (SCRATCH_LR_FACTOR if settings.get("from_scratch") else 1)
    rates = {"peak_lr": embedding_lr / factor}
    if settings.get("train", "all") == "all":  # else the embedding is frozen
        rates["embedding_lr_factor"] = factor
    return {**rates, "head_first": False} if no_probe else rates


def table_dependent_defaults(rows: int, pretraining_dropout: float, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Batch size, epochs, dropout and --head-first of the default recipe: what small tables need (docs/lab-log.md).

    Dropout helps where a model sees few rows in many epochs. On more rows, a model that was pre-trained without dropout
    learns slowly with it.
    """
    if settings.get("recipe") == "paper" or settings.get("train") == "head":
        return {}
    small = next((size for limit, size in FINETUNING_BATCH_SIZES if rows < limit), FinetuneConfig.batch_size)
    per_epoch = steps_per_epoch(rows, settings.get("batch_size", small))
    is_small = rows < SMALL_TABLE_ROWS
    min_epochs = SMALL_TABLE_EPOCHS if is_small else FinetuneConfig.epochs
    epochs = max(min_epochs, math.ceil(MIN_FINETUNING_STEPS / per_epoch))
    dropout = max(pretraining_dropout, FinetuneConfig.dropout if is_small else 0.0)
    found: dict[str, Any] = {"batch_size": small, "epochs": float(epochs), "dropout": dropout}
    return found if is_small else {**found, "head_first": False}
