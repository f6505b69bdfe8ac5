"""Fine-tuning on rows of SST-2, batch 32: gpt1's training loop, with and without the auxiliary language model, and
transformers' OpenAIGPTForSequenceClassification as its Trainer trains it (bf16, each batch padded to its longest row).
"""

from __future__ import annotations

from itertools import count
from typing import Any

import torch
from torch import Tensor

from benchmarks.material import Rows, alike, called, device, gpt, openai_config, repeated, sst2, trainer
from benchmarks.measure import Result, Work, compared, in_turn
from gpt1.config import FinetuneConfig, resolve
from gpt1.corpus.order import of_update
from gpt1.datasets.labelled import Task
from gpt1.devices import place
from gpt1.kernels.buffers import kept_arrays
from gpt1.kernels.memory import keep_some_freed_memory
from gpt1.model.gpt import GPT
from gpt1.model.head import Head, TaskModel
from gpt1.model.losses import l3
from gpt1.progress import Silent
from gpt1.tasks.kinds import KINDS, Example, Kind, encode
from gpt1.tasks.targets import Classes, Target
from gpt1.training.finetune import Work as Finetuning
from gpt1.training.finetune import freeze
from gpt1.training.loop import one_update
from gpt1.training.optimizers import OPTIMIZERS

BATCH, ROUNDS = 32, 3


def run(rounds: int, quick: bool) -> Result:
    updates = 1 if quick else 4  # of a round
    rows = sst2(64 if quick else 2048)
    work = finetuning(rows, quick)
    title = f"batch {BATCH}, {rows.source} (transformers knows only λ = 0)"
    return measured(work, classifier(work), BATCH, updates, rounds, title, "rows")


def measured(work: Finetuning, peer: Any, batch: int, updates: int, rounds: int, title: str, unit: str) -> Result:
    """Updates of `batch` examples, `updates` a round: ours with and without the auxiliary language model, and the
    peer's, whose forward takes what `padded` gives and returns a loss."""
    same = {"transformers' loss on the first update is ours, fp32, λ = 0": losses_agree(work, peer, batch)}
    works = {
        "gpt1 bf16, λ = 0": ours(work, 0.0, batch),
        "gpt1 bf16, λ = 0.5": ours(work, 0.5, batch),
        "transformers bf16": theirs(work, peer, batch),
    }
    place(work.model, work.device, torch.bfloat16)
    work.model.train()
    with kept_arrays(work.model):  # as the training loop does
        seconds = in_turn({name: repeated(one, updates) for name, one in works.items()}, rounds, warm_up=works)
    title = f"Fine-tuning, {called(work.model.gpt.config)}, {title}"
    table, ratios = compared(title, seconds, list(works)[:2], updates * batch, unit)
    return Result([table], ratios, same)


def finetuning(rows: Rows, quick: bool, train: str = "all") -> Finetuning:
    model = gpt(quick)
    model.add_special_tokens()
    kind, target = KINDS["classification"], Classes.fit(rows.labels)
    examples = [Example(("",), label=label) for label in rows.labels]
    return prepared(model, kind, target, examples, rows.ids, train)


def prepared(
    model: GPT, kind: Kind, target: Target, examples: list[Example], ids: list[list[int]], train: str = "all"
) -> Finetuning:
    """What `gpt1 finetune` has in its hands once its rows, here tokens already, are read. The C library is told what it
    tells it, for all competitors."""
    if device().type == "cpu":
        keep_some_freed_memory()
    coded = encode(kind, examples, ids, model.config.vocab_size, model.config.context, alike=True)
    task = Task(kind, {}, target, examples, [], target.main, {})
    task_model = TaskModel(model, Head(model.config.n_embd, target.outputs, kind.each)).to(device())
    freeze(task_model, train)
    tokenizer: Any = None
    return Finetuning(task_model, tokenizer, task, coded, [], device(), "", {}, {})


def ours(work: Finetuning, lm_coef: float, batch: int) -> Work:
    """The training loop's updates 0, 1, 2, …: rows drawn, cut into pieces, L3, clip, optimiser."""
    config = resolve(FinetuneConfig, {"lm_coef": lm_coef, "batch_size": batch, "peak_lr": 1e-5})
    stage = work.stage(config, work.source(config, Silent()))
    optimizer = OPTIMIZERS[config.optimizer](stage.trained(), config)
    steps = count()

    def update() -> None:
        step = next(steps)
        one_update(stage, optimizer, config, stage.update(step), step, config.peak_lr)

    return update


def classifier(work: Finetuning, dropout: float = 0.1) -> Any:
    """transformers' classifier with our weights; its output layer has no bias."""
    from transformers import OpenAIGPTForSequenceClassification

    outputs = len(work.model.head.linear.weight)
    config = openai_config(work.model.gpt.config, dropout, num_labels=outputs, pad_token_id=0)
    peer = OpenAIGPTForSequenceClassification(config)
    alike(work.model.gpt, peer.transformer)
    with torch.no_grad():
        peer.score.weight.copy_(work.model.head.linear.weight)
    return peer.to(device())


def theirs(work: Finetuning, peer: Any, batch: int) -> Work:
    """The same examples in the same updates."""
    update, steps = trainer(peer), count()
    return lambda: update(**padded(work, of_update(next(steps), len(work.training), batch, 0)[1].tolist()))


def padded(work: Finetuning, chosen: list[int]) -> dict[str, Tensor]:
    """Sequences as DataCollatorWithPadding lays them out, in the order in which they were drawn."""
    rows = [torch.tensor(sequence) for i in chosen for sequence in work.training[i].sequences]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    labels = work.targets([work.task.training[i] for i in chosen])
    found = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    return {name: tensor.to(work.device) for name, tensor in found.items()}


@torch.no_grad()
def losses_agree(work: Finetuning, peer: Any, batch: int) -> bool:
    work.model.eval(), peer.eval()
    config = resolve(FinetuneConfig, {"batch_size": batch})
    update = work.source(config, Silent()).update(0)
    mine = sum(l3(work.model, work.task.target.loss, 0.0, piece).total for piece in update.pieces)
    loss = peer(**padded(work, of_update(0, len(work.training), batch, config.seed)[1].tolist())).loss
    return bool(torch.isclose(torch.as_tensor(mine), loss, rtol=1e-4))
