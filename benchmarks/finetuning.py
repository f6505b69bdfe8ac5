"""Fine-tuning on rows of SST-2, batch 32: gpt1's training loop, with and without the auxiliary loss, against
transformers' OpenAIGPTForSequenceClassification as in its Trainer (bf16, each batch padded to its longest row).
"""

from __future__ import annotations

from itertools import count
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import BenchmarkResult, Workload, comparison_table, interleave
from benchmarks.models_and_data import (
    TokenizedRows,
    benchmark_device,
    copy_weights,
    describe_size,
    openai_config,
    random_model,
    repeat,
    sst2_rows,
    transformers_step,
)
from gpt1.config import FinetuneConfig, merge_settings
from gpt1.corpus.order import batch_indices
from gpt1.datasets.labeled import TaskData
from gpt1.devices import prepare_model
from gpt1.kernels.buffers import reuse_buffers
from gpt1.kernels.malloc import keep_some_freed_memory
from gpt1.model.gpt import GPT
from gpt1.model.head import Head, TaskModel
from gpt1.model.losses import l3
from gpt1.progress import Progress
from gpt1.tasks.kinds import KINDS, Example, Kind, encode_examples
from gpt1.tasks.targets import Classes, Target
from gpt1.training.finetune_setup import FinetuneSetup
from gpt1.training.loop import train_step
from gpt1.training.optimizers import OPTIMIZERS
from gpt1.training.train_scope import freeze

BATCH, ROUNDS = 32, 3


def run(rounds: int, quick: bool) -> BenchmarkResult:
    steps = 1 if quick else 4  # per round
    rows = sst2_rows(64 if quick else 2048)
    work = sst2_setup(rows, quick)
    title = f"batch {BATCH}, {rows.source} (transformers supports only λ = 0)"
    return compare_finetuning(work, transformers_classifier(work), BATCH, steps, rounds, title, "rows")


def compare_finetuning(
    setup: FinetuneSetup, peer: Any, batch: int, steps: int, rounds: int, title: str, unit: str
) -> BenchmarkResult:
    """Steps of `batch` examples, `steps` per round: gpt1 with and without the auxiliary loss, and the peer.

    The peer's forward takes the output of `pad_batch` and returns a loss.
    """
    same = {"transformers' loss in the first step is ours, fp32, λ = 0": losses_agree(setup, peer, batch)}
    works = {
        "gpt1 bf16, λ = 0": gpt1_workload(setup, 0.0, batch),
        "gpt1 bf16, λ = 0.5": gpt1_workload(setup, 0.5, batch),
        "transformers bf16": transformers_workload(setup, peer, batch),
    }
    prepare_model(setup.model, setup.device, torch.bfloat16)
    setup.model.train()
    with reuse_buffers(setup.model):  # as the training loop does
        seconds = interleave({name: repeat(one, steps) for name, one in works.items()}, rounds, warm_up=works)
    title = f"Fine-tuning, {describe_size(setup.model.gpt.config)}, {title}"
    table, ratios = comparison_table(title, seconds, list(works)[:2], steps * batch, unit)
    return BenchmarkResult([table], ratios, same)


def sst2_setup(rows: TokenizedRows, quick: bool, train: str = "all") -> FinetuneSetup:
    model = random_model(quick)
    model.add_special_tokens()
    kind, target = KINDS["classification"], Classes.from_labels(rows.labels)
    examples = [Example(("",), label=label) for label in rows.labels]
    return make_setup(model, kind, target, examples, rows.ids, train)


def make_setup(
    model: GPT, kind: Kind, target: Target, examples: list[Example], ids: list[list[int]], train: str = "all"
) -> FinetuneSetup:
    """The set-up of `gpt1 finetune` for tokenized rows; its malloc settings then hold for all competitors."""
    if benchmark_device().type == "cpu":
        keep_some_freed_memory()
    coded = encode_examples(kind, examples, ids, model.config.vocab_size, model.config.context, shared_prefix=True)
    task = TaskData(kind, {}, target, examples, [], target.primary_metric, {})
    task_model = TaskModel(model, Head(model.config.n_embd, target.outputs, kind.multiple_choice)).to(
        benchmark_device()
    )
    freeze(task_model, train)
    tokenizer: Any = None
    return FinetuneSetup(task_model, tokenizer, task, coded, [], benchmark_device(), "", {}, {})


def gpt1_workload(setup: FinetuneSetup, lm_coef: float, batch: int) -> Workload:
    """Steps 0, 1, 2, … of the training loop: sampling, micro-batches, L3, clipping, optimizer."""
    config = merge_settings(FinetuneConfig, {"lm_coef": lm_coef, "batch_size": batch, "peak_lr": 1e-5})
    stage = setup.make_stage(config, setup.make_source(config, Progress()))
    optimizer = OPTIMIZERS[config.optimizer](stage.trainable_parameters(), config)
    steps = count()

    def update() -> None:
        step = next(steps)
        train_step(stage, optimizer, config, stage.step_batch(step), step, config.peak_lr)

    return update


def transformers_classifier(setup: FinetuneSetup, dropout: float = 0.1) -> Any:
    """transformers' classifier with our weights; its output layer has no bias."""
    from transformers import OpenAIGPTForSequenceClassification

    outputs = len(setup.model.head.linear.weight)
    config = openai_config(setup.model.gpt.config, dropout, num_labels=outputs, pad_token_id=0)
    peer = OpenAIGPTForSequenceClassification(config)
    copy_weights(setup.model.gpt, peer.transformer)
    with torch.no_grad():
        peer.score.weight.copy_(setup.model.head.linear.weight)
    return peer.to(benchmark_device())


def transformers_workload(setup: FinetuneSetup, peer: Any, batch: int) -> Workload:
    """The same examples in the same steps."""
    update, steps = transformers_step(peer), count()
    return lambda: update(
        **pad_batch(setup, batch_indices(next(steps), len(setup.train_examples), batch, 0)[1].tolist())
    )


def pad_batch(setup: FinetuneSetup, indices: list[int]) -> dict[str, Tensor]:
    """Sequences padded as by DataCollatorWithPadding, in the order of sampling."""
    rows = [torch.tensor(sequence) for i in indices for sequence in setup.train_examples[i].sequences]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    labels = setup.encode_targets([setup.task.training[i] for i in indices])
    found = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    return {name: tensor.to(setup.device) for name, tensor in found.items()}


@torch.no_grad()
def losses_agree(setup: FinetuneSetup, peer: Any, batch: int) -> bool:
    setup.model.eval(), peer.eval()
    config = merge_settings(FinetuneConfig, {"batch_size": batch})
    update = setup.make_source(config, Progress()).step_batch(0)
    mine = sum(l3(setup.model, setup.task.target.loss, 0.0, piece).total for piece in update.micro_batches)
    loss = peer(**pad_batch(setup, batch_indices(0, len(setup.train_examples), batch, config.seed)[1].tolist())).loss
    return bool(torch.isclose(torch.as_tensor(mine), loss, rtol=1e-4))
