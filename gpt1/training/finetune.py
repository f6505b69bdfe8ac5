"""Stage 2, fine-tuning: add a linear layer to a pre-trained GPT and train on labeled rows (L2, or L3 = L2 + λ · L1)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gpt1.config import FinetuneConfig
from gpt1.corpus.order import batch_indices, derive_seed, steps_per_epoch
from gpt1.datasets.labelled import TaskData, load_task_data
from gpt1.devices import precision_name, prepare_model, resolve_device, resolve_precision
from gpt1.errors import UserError
from gpt1.files.atomic import atomic_file
from gpt1.files.manifest import file_entry
from gpt1.inference.evaluate import compute_metrics, fit_calibration, prediction_records
from gpt1.inference.predictor import TaskPredictor, load_model_and_tokenizer
from gpt1.inference.task import save_task
from gpt1.inference.task_logits import compute_task_logits
from gpt1.kernels.buffers import reuse_buffers
from gpt1.kernels.malloc import keep_some_freed_memory
from gpt1.model.gpt import GPT
from gpt1.model.head import Head, TaskModel
from gpt1.model.losses import Losses, l3
from gpt1.model.weights import WEIGHTS_FILE
from gpt1.progress import NullProgress, Progress
from gpt1.recipes import HEAD_ONLY_DEFAULTS
from gpt1.runs import folder as runs
from gpt1.tables.table import Table
from gpt1.tasks.collate import collate, epoch_examples, micro_batches
from gpt1.tasks.kinds import (
    EncodedExample,
    Example,
    encode_examples,
    example_texts,
    truncated_share,
    truncation_warning,
    windowed_share,
)
from gpt1.tasks.targets import target_to_json
from gpt1.tokenization.tokenizer import Tokenizer
from gpt1.training.distributed import require_single_process
from gpt1.training.head_only import HeadOnlySource
from gpt1.training.loop import Outcome, Stage, StepBatch, train
from gpt1.training.run import open_run
from gpt1.training.speed import micro_batch_tokens
from gpt1.training.train_scope import check_train_scope, describe_trained, freeze

COLUMN_ROLES = ("text", "premise", "hypothesis", "text_a", "text_b", "context", "question", "choices", "label")
MAX_DEFAULT_LR = 3.75e-4  # peak learning rate of fine-tuning, the best for `tiny`


def finetune(
    train_on: str | Path | Table | None = None,
    *,
    from_: str | Path | None = None,
    out: str | Path,
    kind: str | None = None,
    score: bool = False,
    valid: str | Path | Table | None = None,
    data_dir: str | Path | None = None,
    resume: bool = False,
    config: str | Path | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Path:
    """Fine-tune a pre-trained model on labeled rows.

    Args:
        train_on: Table or table file to train on, or the name of a known data set, which sets kind and columns.
            With `resume` it can be omitted, like every input and setting.
        from_: Run or model folder of the pre-trained model.
        out: Run folder to create.
        kind: classification, regression, entailment, similarity or choice.
        score: Predict similarity as a number instead of two classes.
        valid: Table, file or data set for validation, instead of a share of `train_on`.
        data_dir: Folder of the known data sets.
        resume: Resume the run `out` from its newest checkpoint.
        config: YAML file with settings.
        progress: Receives messages, progress and metrics; by default they are discarded.
        **settings: The columns (see COLUMN_ROLES) and fields of FinetuneConfig, which override those of `config`.

    Returns:
        The run folder `out`.

    Raises:
        UserError: A setting or an input is invalid. It is raised before anything is written.
        Interrupted: After Ctrl-C; the state is saved.
    """
    require_single_process("gpt1 finetune")
    if not resume and (train_on is None or from_ is None):
        missing = "--from" if from_ is None else "the table of training rows"
        raise UserError(f"{missing} is missing.", "Use: gpt1 finetune TABLE --from RUN --out NEW --kind KIND COLUMNS")
    progress = progress or NullProgress()
    columns = {role: settings.pop(role) for role in COLUMN_ROLES if settings.get(role) is not None}
    settings = {name: value for name, value in settings.items() if name not in COLUMN_ROLES}
    task_facts = {"kind": kind, "score": score, "columns": columns}
    inputs: dict[str, Any] = {"train": train_on, "from": from_, "valid": valid, "data_dir": data_dir}
    facts = {**{name: source_name(source) for name, source in inputs.items()}, **task_facts}
    requested = runs.user_settings(FinetuneConfig, config, settings)
    if resume:
        run, cfg = runs.open_for_resume(out, FinetuneConfig, requested, facts)
        if runs.is_finished(run):
            progress.log(f"{run} is already finished")
            return run
        command = runs.complete_command(run, inputs)
    else:
        runs.check_new_folder(out)
        command = {**inputs, **task_facts}
    gpt, tokenizer = load_model_and_tokenizer(command["from"])
    if not resume:
        cfg = resolve_finetune_settings(gpt.config.n_embd, requested)
    check_train_scope(cfg, gpt.config.n_layer)
    rows, columns = (command["train"], command["valid"]), command["columns"]
    task = load_task_data(*rows, command["kind"], columns, command["score"], command["data_dir"], cfg, progress)
    setup = prepare_finetuning(cfg, gpt, tokenizer, runs.find_model_folder(command["from"]), task, progress)
    cfg = replace(cfg, precision=precision_name(setup.model.gpt.activation_dtype))
    if not resume:
        run = runs.create_run(out, cfg, facts, setup.precision)
    run_training(setup, cfg, run, progress, resume)
    return run


def run_training(setup: FinetuneSetup, cfg: FinetuneConfig, run: Path, progress: Progress, resume: bool) -> None:
    """Train, and write the model, the results and the report."""
    if setup.device.type == "cpu":
        keep_some_freed_memory()
    with open_run(run, progress) as (run_progress, metrics):
        source = setup.make_source(cfg, progress)
        with reuse_buffers(setup.model):
            outcome = train(setup.make_stage(cfg, source), cfg, run, run_progress, metrics, resume)
        finish_finetuning(run, setup, source, outcome, cfg, progress)


def source_name(source: str | Path | Table | None) -> str | None:
    return source.name if isinstance(source, Table) else str(source) if source is not None else None


def resolve_finetune_settings(n_embd: int, requested: Mapping[str, Any]) -> FinetuneConfig:
    """All settings of a run on a model of width `n_embd`."""
    return runs.resolve_settings(FinetuneConfig, None, requested, extra=model_dependent_defaults(n_embd, requested))


def model_dependent_defaults(n_embd: int, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Defaults that depend on what is trained.

    The paper's learning rate is for a width of 768. Narrower models need a larger one, up to a limit (docs/lab-log.md).
    """
    head_only = settings.get("train") == "head"
    if settings.get("recipe") == "paper":
        return {"lm_coef": 0.0} if head_only else {}
    if head_only:
        return HEAD_ONLY_DEFAULTS
    return {"peak_lr": min(FinetuneConfig.peak_lr * (768 / n_embd) ** 2, MAX_DEFAULT_LR)}


@dataclass(frozen=True)
class FinetuneSetup:
    """Model and data of a fine-tuning run, checked and ready to train."""

    model: TaskModel
    tokenizer: Tokenizer
    task: TaskData
    train_examples: list[EncodedExample]
    validation_examples: list[EncodedExample]
    device: torch.device
    title: str
    fingerprints: dict[str, str]
    facts: dict[str, Any]
    precision: str = ""  # and why it was chosen

    def encode_targets(self, examples: Sequence[Example]) -> Tensor:
        return torch.stack([self.task.target.encode(example.label) for example in examples])

    def make_source(self, cfg: FinetuneConfig, progress: Progress) -> FullTrainingSource | HeadOnlySource:
        """The batches and the losses for what `--train` selects."""
        if cfg.train != "head":
            return FullTrainingSource(self, cfg)
        targets = self.encode_targets(self.task.training)
        return HeadOnlySource(
            self.model, self.task.target, targets, self.train_examples, self.validation_examples, cfg, progress
        )

    def make_stage(self, cfg: FinetuneConfig, source: FullTrainingSource | HeadOnlySource) -> Stage:
        per_epoch = steps_per_epoch(len(self.train_examples), cfg.batch_size)
        steps = max(1, math.ceil(cfg.epochs * per_epoch))

        def should_evaluate(done: int) -> bool:
            # Without validation rows there is nothing to measure, and no checkpoint to choose, before the end.
            return done == steps or bool(self.validation_examples and done % per_epoch == 0)

        def evaluate() -> dict[str, float]:
            if not self.validation_examples:
                return {}
            targets = self.encode_targets(self.task.validation)
            labels = [example.label for example in self.task.validation]
            logits = source.validation_logits()
            metrics: dict[str, float] = compute_metrics(
                self.task.target, logits, targets, labels, with_intervals=False
            )["metrics"]
            return metrics

        return Stage(
            title=self.title,
            model=source.model,
            loss_fn=source.loss_fn,
            step_batch=source.step_batch,
            total_steps=steps,
            evaluate=evaluate,
            should_evaluate=should_evaluate,
            fingerprints=self.fingerprints,
            main_metric=self.task.primary_metric if self.validation_examples else "",
            micro_batch_size=source.micro_batch_size,
        )


class FullTrainingSource:
    """Batches of `--train all` and `last:K`: L3 over packed token sequences, without padding."""

    def __init__(self, setup: FinetuneSetup, cfg: FinetuneConfig) -> None:
        self.setup, self.cfg = setup, cfg
        self.model: nn.Module = setup.model
        self.targets = setup.encode_targets(setup.task.training)
        longest = max(example.max_row_tokens for example in setup.train_examples)
        gpt = setup.model.gpt
        self.micro_batch_tokens = cfg.micro_batch * longest or micro_batch_tokens(
            gpt.config, setup.device, gpt.activation_dtype
        )
        self.micro_batch_size = min(max(1, self.micro_batch_tokens // longest), cfg.batch_size)

    def step_batch(self, step: int) -> StepBatch:
        seed = self.cfg.seed
        epoch, chosen = batch_indices(step, len(self.setup.train_examples), self.cfg.batch_size, seed)
        chosen.sort()
        examples = epoch_examples(self.setup.train_examples, chosen.tolist(), seed, epoch)
        targets = self.targets[torch.from_numpy(chosen)]
        sequences = sum(len(example.sequences) for example in examples)
        batches = [
            collate(examples, indices, targets, self.setup.device, len(examples), sequences)
            for indices in micro_batches(examples, range(len(examples)), self.micro_batch_tokens)
        ]
        return StepBatch(epoch, batches, sum(example.tokens for example in examples))

    def loss_fn(self, batch: Any) -> Losses:
        return l3(self.setup.model, self.setup.task.target.loss, self.cfg.lm_coef, batch)

    def validation_logits(self) -> Tensor:
        return compute_task_logits(self.setup.model.eval(), self.setup.validation_examples, self.setup.device)


def prepare_finetuning(
    cfg: FinetuneConfig, gpt: GPT, tokenizer: Tokenizer, folder: Path, task: TaskData, progress: Progress
) -> FinetuneSetup:
    """Build the model to train and encode the examples; nothing is written yet."""
    torch.manual_seed(derive_seed(cfg.seed, 2**32))  # differs from the seeds of all steps
    gpt = transfer_weights(cfg, gpt)
    gpt.add_special_tokens(cfg.init_std)
    gpt.set_dropout(cfg.dropout)
    model = TaskModel(gpt, Head(gpt.config.n_embd, task.target.outputs, task.kind.multiple_choice, cfg.head_dropout))
    freeze(model, cfg.train)
    device = resolve_device(cfg.device)
    activations, precision = resolve_precision(cfg.precision, device)
    prepare_model(model, device, activations, cfg.activation_checkpointing)

    config = gpt.config
    examples = [*task.training, *task.validation]
    ids = tokenizer.encode_batch(example_texts(examples))
    shared_prefix = cfg.shared_context and not gpt.recurrent
    encoded = encode_examples(
        task.kind, examples, ids, config.vocab_size, config.context, cfg.cut, cfg.long, shared_prefix
    )
    tokens = sum(map(len, ids))
    unknown = sum(tokenizer.count_unknown(sequence) for sequence in ids) / max(1, tokens)
    progress.log(f"{unknown:.2%} of the tokens unknown; {truncation_warning(encoded, config.context, cfg.long)}")
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    title = f"fine-tuning {describe_trained(cfg.train, trained)}, λ {cfg.lm_coef:g}, {precision}"
    fingerprints = {
        "model": file_entry(folder / WEIGHTS_FILE)["sha256"] if (folder / WEIGHTS_FILE).exists() else str(folder),
        "tokenizer": tokenizer.fingerprint,
        "data": task_fingerprint(task),
        "precision": str(activations),
    }
    facts = {**task.counts, "unknown": unknown, "cut": truncated_share(encoded), "tokens": tokens, "trained": trained}
    if cfg.long == "windows":
        facts["read_in_windows"] = windowed_share(encoded)
    n = len(task.training)
    return FinetuneSetup(
        model, tokenizer, task, encoded[:n], encoded[n:], device, title, fingerprints, facts, precision
    )


def transfer_weights(cfg: FinetuneConfig, gpt: GPT) -> GPT:
    """The initial model: the pre-trained one, its embeddings and first blocks only, or a new one of its shape."""
    layers = cfg.transfer_layers
    if not cfg.from_scratch and layers < 0:
        return gpt
    model = GPT(gpt.config, cfg.init_std)
    if not cfg.from_scratch:
        weights = {
            name: tensor
            for name, tensor in gpt.state_dict().items()
            if not name.startswith("blocks.") or int(name.split(".")[1]) < layers
        }
        model.load_state_dict(weights, strict=False)
    return model


def task_fingerprint(task: TaskData) -> str:
    """SHA-256 over the rows and their labels, in order."""
    rows = [[*e.fields, *e.answers, str(e.label)] for e in [*task.training, *task.validation]]
    return hashlib.sha256(json.dumps([rows, target_to_json(task.target)]).encode()).hexdigest()


def finish_finetuning(
    run: Path,
    setup: FinetuneSetup,
    source: FullTrainingSource | HeadOnlySource,
    outcome: Outcome,
    cfg: FinetuneConfig,
    progress: Progress,
) -> None:
    """Calibrate, and write the model folder, the results and the predictions on the validation rows."""
    target, task = setup.task.target, setup.task
    calibration: dict[str, Any] = {}
    validation: dict[str, Any] = {}
    if task.validation:
        logits = source.validation_logits()
        targets, labels = setup.encode_targets(task.validation), [example.label for example in task.validation]
        calibration = fit_calibration(target, logits, targets)
        logits = logits / calibration.get("temperature", 1.0)
        validation = {**compute_metrics(target, logits, targets, labels), "rows": len(labels)}
    description = {
        "kind": task.kind.name,
        "columns": task.columns,
        "cut": cfg.cut,
        "long": cfg.long,
        "temperature": calibration.get("temperature", 1.0),
        "train": cfg.train,
    }
    with runs.new_model(run) as folder:
        save_task(folder, setup.model, setup.tokenizer, description, target)
    if task.validation:
        model = TaskPredictor(setup.model, setup.tokenizer, description, target)
        records = prediction_records(model, task.validation, logits)
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        with atomic_file(run / runs.PREDICTIONS) as file:
            file.write(lines.encode())
    best = next((h for h in outcome.history if h["step"] == (outcome.best or outcome.step)), {})
    results = {
        "stage": "finetune",
        "kind": task.kind.name,
        "labels": list(getattr(target, "labels", [])),
        "main": task.primary_metric,
        "best_epoch": best.get("epoch"),
        "validation": validation,
        "calibration": calibration,
        "parameters_trained": setup.facts["trained"],
        "data": {name: fact for name, fact in setup.facts.items() if name != "trained"}
        | {"train": len(task.training), "validation": len(task.validation)},
        "seconds": outcome.seconds,
        "history": outcome.history,
    }
    runs.write_json(run / runs.RESULTS_FILE, results)
    runs.seal_run(run)
    if validation:
        low, high = validation["interval"][task.primary_metric]
        metric = f"{task.primary_metric} {validation['metrics'][task.primary_metric]:.3f} [{low:.3f}, {high:.3f}]"
        if calibration:
            metric += f", calibrated (ECE {calibration['ece_before']:.3f} → {calibration['ece_after']:.3f})"
        progress.log(f"best epoch {best.get('epoch', 0):g}: {metric}")
