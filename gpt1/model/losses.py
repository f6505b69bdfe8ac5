"""L1, L2 and L3 of the paper, as sums whose weights make the pieces of an update add up to exactly the plain loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gpt1.kernels.lm_loss import lm_loss
from gpt1.kernels.packing import Packing
from gpt1.model.gpt import GPT
from gpt1.model.head import Head, TaskModel

TaskLoss = Callable[[Tensor, Tensor], Tensor]
"""(logits [examples, ...], targets [examples, ...]) → the loss of each example [examples]."""


@dataclass(frozen=True)
class Losses:
    """`total` is what is differentiated; `metrics` are the figures to show, already detached. All add up over pieces."""

    total: Tensor
    metrics: dict[str, Tensor]


@dataclass(frozen=True)
class PretrainMicroBatch:
    """A piece of a pre-training update: ids [windows, context + 1], and the predicted tokens of the whole update, of
    which it is a share (infinite for a piece that counts nothing)."""

    ids: Tensor
    step_tokens: float


@dataclass(frozen=True)
class FinetuneMicroBatch:
    """A piece of a fine-tuning update.

    ids [tokens]: the sequences one after another, which `packing` tells apart; example [sequences]: the example of each
    sequence, ascending from 0, in the processor's memory, where the head takes shapes from it; targets [examples, ...];
    and the examples and sequences of the whole update.
    """

    ids: Tensor
    packing: Packing
    example_index: Tensor
    targets: Tensor
    step_examples: int
    step_sequences: int


@dataclass(frozen=True)
class FeatureMicroBatch:
    """A piece of head-only training: states [sequences, n_embd] at the extract tokens, computed once."""

    features: Tensor
    example_index: Tensor
    targets: Tensor
    step_examples: int


def l1(model: GPT, micro_batch: PretrainMicroBatch) -> Losses:
    """−L1 (paper, eq. 1), a mean over the update's predicted tokens."""
    states = model.hidden_states(micro_batch.ids[:, :-1])  # [windows, context, n_embd]
    targets = micro_batch.ids[:, 1:].reshape(-1)
    weights = torch.full(targets.shape, 1 / micro_batch.step_tokens, device=targets.device)
    loss = lm_loss(states.flatten(0, 1), model.tokens.weight, targets, weights)
    return Losses(loss, {"loss": loss.detach()})


def l2(head: Head, task_loss: TaskLoss, micro_batch: FeatureMicroBatch) -> Losses:
    """−L2 (paper, eq. 4) over cached features, a mean over the update's examples."""
    loss = (
        task_loss(head(micro_batch.features, micro_batch.example_index), micro_batch.targets).sum()
        / micro_batch.step_examples
    )
    return Losses(loss, {"loss": loss.detach(), "task_loss": loss.detach()})


def l3(model: TaskModel, task_loss: TaskLoss, lm_coef: float, micro_batch: FinetuneMicroBatch) -> Losses:
    """−L3 = −(L2 + λ · L1) (paper, eq. 5).

    L1 as in the release: a mean over each sequence's own tokens (delimiter and extract are predicted too), then a mean
    over sequences.
    """
    packing = micro_batch.packing
    states = model.gpt.hidden_states(micro_batch.ids, packing=packing)  # [tokens, n_embd]
    logits = model.head(states[packing.last_index], micro_batch.example_index)
    task = task_loss(logits, micro_batch.targets).sum() / micro_batch.step_examples
    if not lm_coef:
        return Losses(task, {"loss": task.detach(), "task_loss": task.detach()})
    predicted = packing.lengths - 1  # a sequence predicts all of its tokens but the first
    each = lm_coef / (predicted * micro_batch.step_sequences)
    weights = packing.to_tokens(each).index_fill(0, packing.last_index, 0.0)  # nothing follows the last one
    lm = lm_loss(states, model.gpt.tokens.weight, micro_batch.ids.roll(-1), weights)  # λ · L1
    total = task + lm
    return Losses(total, {"loss": total.detach(), "task_loss": task.detach(), "lm_loss": lm.detach() / lm_coef})
