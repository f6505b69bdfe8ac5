"""Stage 2: put a linear layer on a pre-trained GPT and train it on labelled rows (L2, or L3 = L2 + λ · L1)."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gpt1.config import HEAD_ONLY_DEFAULTS, FinetuneConfig
from gpt1.corpus.order import batch_indices, derive_seed, steps_per_epoch
from gpt1.datasets.labelled import TaskData, load_task_data
from gpt1.devices import precision_name, prepare_model, resolve_device, resolve_precision
from gpt1.errors import UserError, did_you_mean
from gpt1.files.atomic import atomic_file, lock_dir
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
from gpt1.progress import MetricsFile, MultiProgress, NullProgress, Progress
from gpt1.report import report_on_exit
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
from gpt1.training.speed import micro_batch_tokens
from gpt1.training.tensorboard import TensorBoard

COLUMN_ROLES = ("text", "premise", "hypothesis", "text_a", "text_b", "context", "question", "choices", "label")


def finetune(
    train_on: str | Path | Table,
    *,
    from_: str | Path,
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
    """Fine-tune the model of `from_` (a run or model folder) on labelled rows; returns the run folder `out`.

    train_on, valid: tables, or names of known data sets, which bring their kind and columns. kind: see inputs.KINDS.
    score: similarity as a number instead of two classes. settings: the columns (text=, premise=, hypothesis=, text_a=,
    text_b=, context=, question=, choices=, label=) and the fields of FinetuneConfig.
    Raises UserError before anything is written.
    """
    require_single_process("gpt1 finetune")
    progress = progress or NullProgress()
    columns = {role: settings.pop(role) for role in COLUMN_ROLES if settings.get(role) is not None}
    settings = {name: value for name, value in settings.items() if name not in COLUMN_ROLES}
    facts: dict[str, Any] = {
        "train": source_name(train_on),
        "from": str(from_),
        "valid": source_name(valid),
        "kind": kind,
        "score": score,
    }
    facts |= {"columns": columns, "data_dir": str(data_dir) if data_dir else None}
    gpt, tokenizer = load_model_and_tokenizer(from_)
    asked = runs.user_settings(FinetuneConfig, config, settings)
    if resume:
        run, cfg = runs.open_for_resume(out, FinetuneConfig, asked, facts)
        if runs.is_finished(run):
            progress.log(f"{run} is finished; nothing is left to do")
            return run
    else:
        runs.check_new_folder(out)
        cfg = resolve_finetune_settings(gpt.config.n_embd, asked)
    check_train_scope(cfg, gpt.config.n_layer)
    task = load_task_data(train_on, valid, kind, columns, score, data_dir, cfg, progress)
    work = prepare_finetuning(cfg, gpt, tokenizer, runs.find_model_folder(from_), task, progress)
    if not resume:
        run = runs.create_run(
            out, replace(cfg, precision=precision_name(work.model.gpt.activation_dtype)), facts, work.computes_in
        )
    kept = MultiProgress(
        [progress, metrics := MetricsFile(run / runs.METRICS_FILE), TensorBoard(run / "events", progress.log)]
    )
    if work.device.type == "cpu":
        keep_some_freed_memory()
    with lock_dir(run), report_on_exit(run):
        source = work.make_source(cfg, progress)
        with reuse_buffers(work.model):
            outcome = train(work.make_stage(cfg, source), cfg, run, kept, metrics, resume)
        finish_finetuning(run, work, source, outcome, cfg, progress)
    return run


def source_name(source: str | Path | Table | None) -> str | None:
    return source.name if isinstance(source, Table) else str(source) if source is not None else None


MAX_DEFAULT_LR = 3.75e-4  # of fine-tuning, what `tiny` wants


def resolve_finetune_settings(n_embd: int, requested: Mapping[str, Any]) -> FinetuneConfig:
    """Every setting of a run on a model of this width, from those that are asked for."""
    return runs.resolve_settings(FinetuneConfig, None, requested, extra=model_dependent_defaults(n_embd, requested))


def model_dependent_defaults(n_embd: int, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings that depend on what is trained. The paper's rate belongs to a width of 768; narrower models want a
    larger one, up to a limit (docs/lab-log.md)."""
    head = settings.get("train") == "head"
    if settings.get("recipe") == "paper":
        return {"lm_coef": 0.0} if head else {}
    if head:
        return HEAD_ONLY_DEFAULTS
    return {"peak_lr": min(FinetuneConfig.peak_lr * (768 / n_embd) ** 2, MAX_DEFAULT_LR)}


@dataclass(frozen=True)
class FinetuneSetup:
    """What a fine-tuning run has in its hands."""

    model: TaskModel
    tokenizer: Tokenizer
    task: TaskData
    train_examples: list[EncodedExample]
    validation_examples: list[EncodedExample]
    device: torch.device
    title: str
    fingerprints: dict[str, str]
    facts: dict[str, Any]
    computes_in: str

    def encode_targets(self, examples: Sequence[Example]) -> Tensor:
        return torch.stack([self.task.target.encode(example.label) for example in examples])

    def make_source(self, cfg: FinetuneConfig, progress: Progress) -> FullTrainingSource | HeadOnlySource:
        """Where the updates come from, and what is trained on them."""
        if cfg.train != "head":
            return FullTrainingSource(self, cfg)
        targets = self.encode_targets(self.task.training)
        return HeadOnlySource(
            self.model, self.task.target, targets, self.train_examples, self.validation_examples, cfg, progress
        )

    def make_stage(self, cfg: FinetuneConfig, source: FullTrainingSource | HeadOnlySource) -> Stage:
        per_epoch = steps_per_epoch(len(self.train_examples), cfg.batch_size)
        steps = max(1, math.ceil(cfg.epochs * per_epoch))

        def evaluate_after(done: int) -> bool:
            # With nothing held out there is nothing to measure, and no checkpoint to choose, before the end.
            return done == steps or bool(self.validation_examples and done % per_epoch == 0)

        def evaluate() -> dict[str, float]:
            if not self.validation_examples:
                return {}
            targets = self.encode_targets(self.task.validation)
            labels = [example.label for example in self.task.validation]
            figures: dict[str, float] = compute_metrics(
                self.task.target, source.validation_logits(), targets, labels, with_intervals=False
            )["metrics"]
            return figures

        main = self.task.primary_metric if self.validation_examples else ""
        model, objective, update = source.model, source.loss_fn, source.step_batch
        together, prints = source.micro_batch_size, self.fingerprints
        return Stage(
            self.title,
            model,
            objective,
            update,
            steps,
            evaluate,
            evaluate_after,
            prints,
            main,
            micro_batch_size=together,
        )


class FullTrainingSource:
    """`--train all` and `last:K`: L3 over token sequences, nothing padded."""

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
        coded = epoch_examples(self.setup.train_examples, chosen.tolist(), seed, epoch)
        targets = self.targets[torch.from_numpy(chosen)]
        sequences = sum(len(example.sequences) for example in coded)
        batches = [
            collate(coded, piece, targets, self.setup.device, len(coded), sequences)
            for piece in micro_batches(coded, range(len(coded)), self.micro_batch_tokens)
        ]
        return StepBatch(epoch, batches, sum(example.tokens for example in coded))

    def loss_fn(self, batch: Any) -> Losses:
        return l3(self.setup.model, self.setup.task.target.loss, self.cfg.lm_coef, batch)

    def validation_logits(self) -> Tensor:
        return compute_task_logits(self.setup.model.eval(), self.setup.validation_examples, self.setup.device)


def prepare_finetuning(
    cfg: FinetuneConfig, gpt: GPT, tokenizer: Tokenizer, folder: Path, task: TaskData, progress: Progress
) -> FinetuneSetup:
    """The model as it will be trained and the examples as token sequences; nothing written yet."""
    torch.manual_seed(derive_seed(cfg.seed, 2**32))  # apart from the seeds of the updates
    gpt = transfer_weights(cfg, gpt)
    gpt.add_special_tokens()
    gpt.set_dropout(cfg.dropout)
    model = TaskModel(gpt, Head(gpt.config.n_embd, task.target.outputs, task.kind.multiple_choice, cfg.head_dropout))
    freeze(model, cfg.train)
    device = resolve_device(cfg.device)
    activations, precision = resolve_precision(cfg.precision, device)
    prepare_model(model, device, activations, cfg.activation_checkpointing)

    config = gpt.config
    examples = [*task.training, *task.validation]
    ids = tokenizer.encode_batch(example_texts(examples))
    alike = cfg.shared_context and not gpt.recurrent
    coded = encode_examples(task.kind, examples, ids, config.vocab_size, config.context, cfg.cut, cfg.long, alike)
    tokens = sum(map(len, ids))
    unknown = sum(tokenizer.count_unknown(one) for one in ids) / max(1, tokens)
    progress.log(f"{unknown:.2%} of the tokens unknown; {truncation_warning(coded, config.context, cfg.long)}")
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    which = {"all": f"all {trained / 1e6:.1f} M weights", "head": f"the head ({trained:,} weights)"}
    title = f"training {which.get(cfg.train, f'the {cfg.train} blocks ({trained / 1e6:.1f} M weights)')}"
    title += f", λ {cfg.lm_coef:g}, {precision}"
    prints = {
        "model": file_entry(folder / WEIGHTS_FILE)["sha256"] if (folder / WEIGHTS_FILE).exists() else str(folder),
        "tokenizer": tokenizer.fingerprint,
        "data": task_fingerprint(task),
        "precision": str(activations),
    }
    facts = {**task.counts, "unknown": unknown, "cut": truncated_share(coded), "tokens": tokens, "trained": trained}
    if cfg.long == "windows":
        facts["read_in_windows"] = windowed_share(coded)
    n = len(task.training)
    return FinetuneSetup(model, tokenizer, task, coded[:n], coded[n:], device, title, prints, facts, precision)


def transfer_weights(cfg: FinetuneConfig, gpt: GPT) -> GPT:
    """The model to start from: all of the pre-trained one, its embeddings and first blocks, or only its shape."""
    kept = cfg.transfer_layers
    if not cfg.from_scratch and kept < 0:
        return gpt
    fresh = GPT(gpt.config)
    if not cfg.from_scratch:
        weights = {
            name: tensor
            for name, tensor in gpt.state_dict().items()
            if not name.startswith("blocks.") or int(name.split(".")[1]) < kept
        }
        fresh.load_state_dict(weights, strict=False)
    return fresh


def freeze(model: TaskModel, train: str) -> None:
    """Leave trainable what `--train` names: all, the head, or the last K blocks and the head."""
    if train == "all":
        return
    model.gpt.requires_grad_(False)
    n_layer = model.gpt.config.n_layer
    for block in model.gpt.blocks[n_layer - parse_last_blocks(train) :]:
        block.requires_grad_(True)


def parse_last_blocks(train: str) -> int:
    """K of `last:K`; 0 for anything else."""
    match = re.fullmatch(r"last:(\d+)", train)
    return int(match[1]) if match else 0


def check_train_scope(cfg: FinetuneConfig, n_layer: int) -> None:
    """UserError for parts that the model does not have, before the rows are read."""
    if cfg.train not in ("all", "head") and not 1 <= parse_last_blocks(cfg.train) <= n_layer:
        problem = f"--train {cfg.train}: there is no such part.{did_you_mean(cfg.train, ('all', 'head', 'last:1'))}"
        raise UserError(problem, f"Use all, head, or last:K with K from 1 to {n_layer}.")
    if cfg.transfer_layers > n_layer:
        problem = f"--transfer-layers {cfg.transfer_layers}: the model has {n_layer} blocks."
        raise UserError(problem, f"Use 0 to {n_layer}; -1 keeps all of them.")
    if cfg.long == "windows" and cfg.cut == "shares":
        raise UserError(
            "--long windows with --cut shares: a share is filled by its first field, and the next has no window.",
            "Use --cut longest with --long windows.",
        )
    if cfg.train == "head" and cfg.lm_coef:
        raise UserError(
            f"--lm-coef {cfg.lm_coef:g} with --train head: nothing that predicts tokens is trained.",
            "Leave --lm-coef out, or use --train all.",
        )


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
    """The finished model folder, calibrated; results, predictions on the validation rows, report."""
    target, task = setup.task.target, setup.task
    calibration: dict[str, Any] = {}
    validation: dict[str, Any] = {}
    if task.validation:
        logits = source.validation_logits()
        targets, labels = setup.encode_targets(task.validation), [example.label for example in task.validation]
        calibration = fit_calibration(target, logits, targets)
        logits = logits / calibration.get("temperature", 1.0)
        validation = {**compute_metrics(target, logits, targets, labels), "rows": len(labels)}
    described = {
        "kind": task.kind.name,
        "columns": task.columns,
        "cut": cfg.cut,
        "long": cfg.long,
        "temperature": calibration.get("temperature", 1.0),
        "train": cfg.train,
    }
    with runs.new_model(run) as folder:
        save_task(folder, setup.model, setup.tokenizer, described, target)
    if task.validation:
        model = TaskPredictor(setup.model, setup.tokenizer, described, target)
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
        ece = (
            f", calibrated (ECE {calibration['ece_before']:.3f} → {calibration['ece_after']:.3f})"
            if calibration
            else ""
        )
        value = validation["metrics"][task.primary_metric]
        progress.log(
            f"best epoch {best.get('epoch', 0):g}: {task.primary_metric} {value:.3f} [{low:.3f}, {high:.3f}]{ece}"
        )
