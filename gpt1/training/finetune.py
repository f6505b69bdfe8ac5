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

from gpt1.config import HEAD_ONLY, FinetuneConfig
from gpt1.corpus.order import mixed, of_update, updates_per_epoch
from gpt1.datasets.labelled import Task, read_task
from gpt1.devices import activations_of, device_of, place, precision_of
from gpt1.errors import UserError, did_you_mean
from gpt1.files.atomic import atomic_file, lock_dir
from gpt1.files.manifest import file_entry
from gpt1.inference.evaluate import calibrated, measured, predictions_of
from gpt1.inference.predictor import Model, pair, task_logits
from gpt1.inference.task import save_task
from gpt1.kernels.buffers import kept_arrays
from gpt1.kernels.memory import keep_some_freed_memory
from gpt1.model.gpt import GPT
from gpt1.model.head import Head, TaskModel
from gpt1.model.losses import Losses, l3
from gpt1.model.weights import WEIGHTS
from gpt1.progress import Fanout, MetricsFile, Progress, Silent
from gpt1.report import reported
from gpt1.runs import folder as runs
from gpt1.tables.table import Table
from gpt1.tasks.collate import collate, of_epoch, pieces
from gpt1.tasks.kinds import Encoded, Example, cut_share, encode, texts_of, told_of_length, windowed_share
from gpt1.tasks.targets import target_to_json
from gpt1.tokenization.tokenizer import Tokenizer
from gpt1.training.distributed import alone
from gpt1.training.head_only import HeadOnly
from gpt1.training.loop import Outcome, Stage, Update, train
from gpt1.training.speed import tokens_at_a_time
from gpt1.training.tensorboard import TensorBoard

ROLES = ("text", "premise", "hypothesis", "text_a", "text_b", "context", "question", "choices", "label")


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
    alone("gpt1 finetune")
    progress = progress or Silent()
    columns = {role: settings.pop(role) for role in ROLES if settings.get(role) is not None}
    settings = {name: value for name, value in settings.items() if name not in ROLES}
    facts: dict[str, Any] = {
        "train": named(train_on),
        "from": str(from_),
        "valid": named(valid),
        "kind": kind,
        "score": score,
    }
    facts |= {"columns": columns, "data_dir": str(data_dir) if data_dir else None}
    gpt, tokenizer = pair(from_)
    asked = runs.chosen_settings(FinetuneConfig, config, settings)
    if resume:
        run, cfg = runs.reopen(out, FinetuneConfig, asked, facts)
        if runs.is_finished(run):
            progress.say(f"{run} is finished; nothing is left to do")
            return run
    else:
        runs.new_folder(out)
        cfg = settings_for(gpt.config.n_embd, asked)
    check_parts(cfg, gpt.config.n_layer)
    task = read_task(train_on, valid, kind, columns, score, data_dir, cfg, progress)
    work = prepare(cfg, gpt, tokenizer, runs.model_folder(from_), task, progress)
    if not resume:
        run = runs.make(
            out, replace(cfg, precision=precision_of(work.model.gpt.activation_dtype)), facts, work.computes_in
        )
    kept = Fanout([progress, metrics := MetricsFile(run / runs.METRICS), TensorBoard(run / "events", progress.say)])
    if work.device.type == "cpu":
        keep_some_freed_memory()
    with lock_dir(run), reported(run):
        source = work.source(cfg, progress)
        with kept_arrays(work.model):
            outcome = train(work.stage(cfg, source), cfg, run, kept, metrics, resume)
        finish(run, work, source, outcome, cfg, progress)
    return run


def named(source: str | Path | Table | None) -> str | None:
    return source.name if isinstance(source, Table) else str(source) if source is not None else None


LARGEST_RATE = 3.75e-4  # of fine-tuning, what `tiny` wants


def settings_for(n_embd: int, asked: Mapping[str, Any]) -> FinetuneConfig:
    """Every setting of a run on a model of this width, from those that are asked for."""
    return runs.settings_of(FinetuneConfig, None, asked, extra=suited(n_embd, asked))


def suited(n_embd: int, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings that depend on what is trained. The paper's rate belongs to a width of 768; narrower models want a
    larger one, up to a limit (docs/lab-log.md)."""
    head = settings.get("train") == "head"
    if settings.get("recipe") == "paper":
        return {"lm_coef": 0.0} if head else {}
    if head:
        return HEAD_ONLY
    return {"peak_lr": min(FinetuneConfig.peak_lr * (768 / n_embd) ** 2, LARGEST_RATE)}


@dataclass(frozen=True)
class Work:
    """What a fine-tuning run has in its hands."""

    model: TaskModel
    tokenizer: Tokenizer
    task: Task
    training: list[Encoded]
    validation: list[Encoded]
    device: torch.device
    title: str
    fingerprints: dict[str, str]
    facts: dict[str, Any]
    computes_in: str

    def targets(self, examples: Sequence[Example]) -> Tensor:
        return torch.stack([self.task.target.encode(example.label) for example in examples])

    def source(self, cfg: FinetuneConfig, progress: Progress) -> Everything | HeadOnly:
        """Where the updates come from, and what is trained on them."""
        if cfg.train != "head":
            return Everything(self, cfg)
        targets = self.targets(self.task.training)
        return HeadOnly(self.model, self.task.target, targets, self.training, self.validation, cfg, progress)

    def stage(self, cfg: FinetuneConfig, source: Everything | HeadOnly) -> Stage:
        per_epoch = updates_per_epoch(len(self.training), cfg.batch_size)
        steps = max(1, math.ceil(cfg.epochs * per_epoch))

        def evaluate_after(done: int) -> bool:
            # With nothing held out there is nothing to measure, and no checkpoint to choose, before the end.
            return done == steps or bool(self.validation and done % per_epoch == 0)

        def evaluate() -> dict[str, float]:
            if not self.validation:
                return {}
            targets = self.targets(self.task.validation)
            labels = [example.label for example in self.task.validation]
            figures: dict[str, float] = measured(
                self.task.target, source.validation_logits(), targets, labels, intervals=False
            )["metrics"]
            return figures

        main = self.task.main if self.validation else ""
        model, objective, update = source.model, source.objective, source.update
        together, prints = source.together, self.fingerprints
        return Stage(
            self.title, model, objective, update, steps, evaluate, evaluate_after, prints, main, together=together
        )


class Everything:
    """`--train all` and `last:K`: L3 over token sequences, nothing padded."""

    def __init__(self, work: Work, cfg: FinetuneConfig) -> None:
        self.work, self.cfg = work, cfg
        self.model: nn.Module = work.model
        self.targets = work.targets(work.task.training)
        longest = max(example.longest for example in work.training)
        gpt = work.model.gpt
        self.piece_tokens = cfg.micro_batch * longest or tokens_at_a_time(gpt.config, work.device, gpt.activation_dtype)
        self.together = min(max(1, self.piece_tokens // longest), cfg.batch_size)

    def update(self, step: int) -> Update:
        seed = self.cfg.seed
        epoch, chosen = of_update(step, len(self.work.training), self.cfg.batch_size, seed)
        chosen.sort()
        coded = of_epoch(self.work.training, chosen.tolist(), seed, epoch)
        targets = self.targets[torch.from_numpy(chosen)]
        sequences = sum(len(example.sequences) for example in coded)
        batches = [
            collate(coded, piece, targets, self.work.device, len(coded), sequences)
            for piece in pieces(coded, range(len(coded)), self.piece_tokens)
        ]
        return Update(epoch, batches, sum(example.tokens for example in coded))

    def objective(self, piece: Any) -> Losses:
        return l3(self.work.model, self.work.task.target.loss, self.cfg.lm_coef, piece)

    def validation_logits(self) -> Tensor:
        return task_logits(self.work.model.eval(), self.work.validation, self.work.device)


def prepare(cfg: FinetuneConfig, gpt: GPT, tokenizer: Tokenizer, folder: Path, task: Task, progress: Progress) -> Work:
    """The model as it will be trained and the examples as token sequences; nothing written yet."""
    torch.manual_seed(mixed(cfg.seed, 2**32))  # apart from the seeds of the updates
    gpt = transferred(cfg, gpt)
    gpt.add_special_tokens()
    gpt.set_dropout(cfg.dropout)
    model = TaskModel(gpt, Head(gpt.config.n_embd, task.target.outputs, task.kind.each, cfg.head_dropout))
    freeze(model, cfg.train)
    device = device_of(cfg.device)
    activations, precision = activations_of(cfg.precision, device)
    place(model, device, activations, cfg.recompute)

    config = gpt.config
    examples = [*task.training, *task.validation]
    ids = tokenizer.encode_batch(texts_of(examples))
    alike = cfg.shared_context and not gpt.recurrent
    coded = encode(task.kind, examples, ids, config.vocab_size, config.context, cfg.cut, cfg.long, alike)
    tokens = sum(map(len, ids))
    unknown = sum(tokenizer.count_unknown(one) for one in ids) / max(1, tokens)
    progress.say(f"{unknown:.2%} of the tokens unknown; {told_of_length(coded, config.context, cfg.long)}")
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    which = {"all": f"all {trained / 1e6:.1f} M weights", "head": f"the head ({trained:,} weights)"}
    title = f"training {which.get(cfg.train, f'the {cfg.train} blocks ({trained / 1e6:.1f} M weights)')}"
    title += f", λ {cfg.lm_coef:g}, {precision}"
    prints = {
        "model": file_entry(folder / WEIGHTS)["sha256"] if (folder / WEIGHTS).exists() else str(folder),
        "tokenizer": tokenizer.fingerprint,
        "data": digest(task),
        "precision": str(activations),
    }
    facts = {**task.counts, "unknown": unknown, "cut": cut_share(coded), "tokens": tokens, "trained": trained}
    if cfg.long == "windows":
        facts["read_in_windows"] = windowed_share(coded)
    n = len(task.training)
    return Work(model, tokenizer, task, coded[:n], coded[n:], device, title, prints, facts, precision)


def transferred(cfg: FinetuneConfig, gpt: GPT) -> GPT:
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
    for block in model.gpt.blocks[n_layer - last_blocks(train) :]:
        block.requires_grad_(True)


def last_blocks(train: str) -> int:
    """K of `last:K`; 0 for anything else."""
    match = re.fullmatch(r"last:(\d+)", train)
    return int(match[1]) if match else 0


def check_parts(cfg: FinetuneConfig, n_layer: int) -> None:
    """UserError for parts that the model does not have, before the rows are read."""
    if cfg.train not in ("all", "head") and not 1 <= last_blocks(cfg.train) <= n_layer:
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


def digest(task: Task) -> str:
    """SHA-256 over the rows and their labels, in order."""
    rows = [[*e.fields, *e.answers, str(e.label)] for e in [*task.training, *task.validation]]
    return hashlib.sha256(json.dumps([rows, target_to_json(task.target)]).encode()).hexdigest()


def finish(
    run: Path, work: Work, source: Everything | HeadOnly, outcome: Outcome, cfg: FinetuneConfig, progress: Progress
) -> None:
    """The finished model folder, calibrated; results, predictions on the validation rows, report."""
    target, task = work.task.target, work.task
    calibration: dict[str, Any] = {}
    validation: dict[str, Any] = {}
    if task.validation:
        logits = source.validation_logits()
        targets, labels = work.targets(task.validation), [example.label for example in task.validation]
        calibration = calibrated(target, logits, targets)
        logits = logits / calibration.get("temperature", 1.0)
        validation = {**measured(target, logits, targets, labels), "rows": len(labels)}
    described = {
        "kind": task.kind.name,
        "columns": task.columns,
        "cut": cfg.cut,
        "long": cfg.long,
        "temperature": calibration.get("temperature", 1.0),
        "train": cfg.train,
    }
    with runs.new_model(run) as folder:
        save_task(folder, work.model, work.tokenizer, described, target)
    if task.validation:
        model = Model(work.model, work.tokenizer, described, target)
        records = predictions_of(model, task.validation, logits)
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        with atomic_file(run / runs.PREDICTIONS) as file:
            file.write(lines.encode())
    best = next((h for h in outcome.history if h["step"] == (outcome.best or outcome.step)), {})
    results = {
        "stage": "finetune",
        "kind": task.kind.name,
        "labels": list(getattr(target, "labels", [])),
        "main": task.main,
        "best_epoch": best.get("epoch"),
        "validation": validation,
        "calibration": calibration,
        "parameters_trained": work.facts["trained"],
        "data": {name: fact for name, fact in work.facts.items() if name != "trained"}
        | {"train": len(task.training), "validation": len(task.validation)},
        "seconds": outcome.seconds,
        "history": outcome.history,
    }
    runs.write_json(run / runs.RESULTS, results)
    runs.seal_run(run)
    if validation:
        low, high = validation["interval"][task.main]
        ece = (
            f", calibrated (ECE {calibration['ece_before']:.3f} → {calibration['ece_after']:.3f})"
            if calibration
            else ""
        )
        value = validation["metrics"][task.main]
        progress.say(f"best epoch {best.get('epoch', 0):g}: {task.main} {value:.3f} [{low:.3f}, {high:.3f}]{ece}")
