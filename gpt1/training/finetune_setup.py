"""A fine-tuning run before its first step: the model with its new layer, the encoded rows, the batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gpt1.config import FinetuneConfig
from gpt1.corpus.order import batch_indices, count_steps, derive_seed, shuffled_indices, steps_per_epoch
from gpt1.datasets.labeled import TaskData
from gpt1.devices import prepare_model, resolve_device, resolve_precision
from gpt1.formatting import count_noun
from gpt1.inference.evaluate import compute_metrics
from gpt1.inference.foreign_task import read_any_task
from gpt1.inference.task_logits import compute_task_logits
from gpt1.kernels.to_device import to_device
from gpt1.model.gpt import GPT
from gpt1.model.head import Head, TaskModel
from gpt1.model.losses import Losses, l3
from gpt1.model.weights import fingerprint_weights
from gpt1.progress import Progress
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
from gpt1.tokenization.tokenizer import Tokenizer
from gpt1.training.head_only import HeadOnlySource, load_or_extract_features
from gpt1.training.linear_probe import fit_linear_probe
from gpt1.training.loop import Stage, StepBatch
from gpt1.training.speed import micro_batch_tokens
from gpt1.training.train_scope import describe_trained, freeze

MAX_EVALUATIONS = 20
"""With more epochs, not each is evaluated: each evaluation writes a checkpoint of all weights."""
MAX_PROBE_ROWS = 10_000
"""Maximum number of rows to fit the head to before all weights are trained: it is only their starting point."""


@dataclass(frozen=True)
class FinetuneSetup:
    """Model and data of a fine-tuning run, checked and ready to train."""

    model: TaskModel
    tokenizer: Tokenizer
    task: TaskData
    train_examples: list[EncodedExample]
    validation_examples: list[EncodedExample]
    device: torch.device
    fingerprints: dict[str, str]
    facts: dict[str, Any]
    precision: str = ""  # and why it was chosen

    def encode_targets(self, examples: Sequence[Example]) -> Tensor:
        return torch.stack([self.task.target.encode(example.label) for example in examples])

    def title(self, cfg: FinetuneConfig) -> str:
        """The trained part and the length of the run, in words."""
        how_long = f"{count_noun(cfg.epochs, 'epoch')}, {count_noun(cfg.batch_size, 'row')} per step"
        what = describe_trained(cfg.train, count_trained(self.model))
        return f"fine-tuning {what}, λ {cfg.lm_coef:g}, {how_long}, {self.precision}"

    def make_source(self, cfg: FinetuneConfig, progress: Progress) -> FullTrainingSource | HeadOnlySource:
        """The batches and the losses for what `--train` selects."""
        targets = self.encode_targets(self.task.training)
        if cfg.train != "head":
            if cfg.head_first:
                self.fit_head(cfg, targets, progress)
            return FullTrainingSource(self, cfg)
        return HeadOnlySource(
            self.model,
            self.task.target,
            targets,
            self.train_examples,
            self.validation_examples,
            cfg,
            progress,
            self.task.weights,
        )

    def fit_head(self, cfg: FinetuneConfig, targets: Tensor, progress: Progress) -> None:
        """Start the head as a linear probe on the features of the rows, at most MAX_PROBE_ROWS random ones."""
        rows = len(self.train_examples)
        chosen = np.sort(shuffled_indices(np.arange(min(rows, MAX_PROBE_ROWS)), rows, cfg.seed, epoch=0))
        examples = [self.train_examples[i].split_windows()[0] for i in chosen]
        states = load_or_extract_features(self.model, examples, cfg, progress).float()
        features = torch.split(states, [len(example.sequences) for example in examples])
        own = to_device(targets[torch.from_numpy(chosen)], states.device)
        weights = self.task.weights
        if weights is not None:
            weights = to_device(weights[torch.from_numpy(chosen)], states.device)
        penalty = fit_linear_probe(self.model.head, features, own, self.task.target.loss, weights)
        progress.log(
            f"head: initialized as a linear probe on {count_noun(len(examples), 'row')}, L2 penalty {penalty:g}"
        )

    def make_stage(self, cfg: FinetuneConfig, source: FullTrainingSource | HeadOnlySource) -> Stage:
        per_epoch = steps_per_epoch(len(self.train_examples), cfg.batch_size)
        steps = count_steps(cfg.epochs, per_epoch)
        every = per_epoch if cfg.train == "head" else per_epoch * math.ceil(cfg.epochs / MAX_EVALUATIONS)

        def should_evaluate(done: int) -> bool:
            # Without validation rows there is nothing to measure, and no checkpoint to choose, before the end.
            return done == steps or bool(self.validation_examples and done % every == 0)

        def evaluate() -> dict[str, float]:
            if not self.validation_examples:
                return {}
            targets = self.encode_targets(self.task.validation)
            labels = [example.label for example in self.task.validation]
            logits = source.validation_logits()
            found = compute_metrics(self.task.target, logits, targets, labels, with_intervals=False, cross_fit=True)
            return dict(found["metrics"])

        return Stage(
            title=self.title(cfg),
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
        weights = None if self.setup.task.weights is None else self.setup.task.weights[torch.from_numpy(chosen)]
        sequences = sum(len(example.sequences) for example in examples)
        batches = [
            collate(examples, indices, targets, self.setup.device, len(examples), sequences, weights)
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
    kind = task.kind
    head = Head(gpt.config.n_embd, task.target.outputs, kind.multiple_choice, cfg.head_dropout, kind.several_labels)
    model = TaskModel(gpt, head)
    if cfg.keep_head and (stored := read_any_task(folder)):
        model.head.load_state_dict(stored.head.state_dict())
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
    fingerprints = {
        "model": fingerprint_weights(folder),
        "tokenizer": tokenizer.fingerprint,
        "data": task.fingerprint(),
        "precision": str(activations),
    }
    facts = {**task.counts, "unknown": unknown, "cut": truncated_share(encoded), "tokens": tokens}
    facts["trained"] = count_trained(model)
    if cfg.long == "windows":
        facts["read_in_windows"] = windowed_share(encoded)
    n = len(task.training)
    return FinetuneSetup(model, tokenizer, task, encoded[:n], encoded[n:], device, fingerprints, facts, precision)


def count_trained(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


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
