"""L1, L2 and L3 of the paper, weighted so that the losses of the micro-batches add up to exactly that of the step."""

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
"""(logits [examples, ...], targets [examples, ...]) → loss of each example [examples]."""


@dataclass(frozen=True)
class Losses:
    """`total` is differentiated; `metrics` are detached, for reports. All of them add up over micro-batches."""

    total: Tensor
    metrics: dict[str, Tensor]


@dataclass(frozen=True)
class PretrainMicroBatch:
    """A micro-batch of pre-training."""

    ids: Tensor  # [windows, context + 1]
    step_tokens: float  # predicted tokens of the whole step; infinite for a micro-batch with weight 0


@dataclass(frozen=True)
class FinetuneMicroBatch:
    """A micro-batch of fine-tuning."""

    ids: Tensor  # [tokens], packed sequences
    packing: Packing
    example_index: Tensor  # [sequences], the example of each sequence, ascending from 0; on the CPU
    targets: Tensor  # [examples, ...]
    step_examples: int  # of the whole step
    step_sequences: int  # of the whole step
    weights: Tensor | None = None  # [examples], in the task loss; None: all 1


@dataclass(frozen=True)
class FeatureMicroBatch:
    """A micro-batch of head-only training."""

    features: Tensor  # [sequences, n_embd], hidden states at the extract tokens
    example_index: Tensor  # [sequences], as in FinetuneMicroBatch
    targets: Tensor  # [examples, ...]
    step_examples: int  # of the whole step
    weights: Tensor | None = None  # [examples]; None: all 1


def l1(model: GPT, micro_batch: PretrainMicroBatch) -> Losses:
    """−L1 (paper, eq. 1), the mean over the predicted tokens of the step."""
    states = model.hidden_states(micro_batch.ids[:, :-1])  # [windows, context, n_embd]
    targets = micro_batch.ids[:, 1:].reshape(-1)
    weights = torch.full(targets.shape, 1 / micro_batch.step_tokens, device=targets.device)
    loss = lm_loss(states.flatten(0, 1), model.tokens.weight, targets, weights)
    return Losses(loss, {"loss": loss.detach()})


def l2(head: Head, task_loss: TaskLoss, micro_batch: FeatureMicroBatch) -> Losses:
    """−L2 (paper, eq. 4) over cached features, the mean over the examples of the step."""
    logits = head(micro_batch.features, micro_batch.example_index)
    loss = weighted_sum(task_loss(logits, micro_batch.targets), micro_batch.weights) / micro_batch.step_examples
    return Losses(loss, {"loss": loss.detach(), "task_loss": loss.detach()})


def weighted_sum(losses: Tensor, weights: Tensor | None) -> Tensor:  # [examples], [examples] → scalar
    return losses.sum() if weights is None else losses @ weights


def l3(model: TaskModel, task_loss: TaskLoss, lm_coef: float, micro_batch: FinetuneMicroBatch) -> Losses:
    """−L3 = −(L2 + λ · L1) (paper, eq. 5).

    As in the release, L1 is a mean over the tokens of each sequence (including delimiter and extract), then a mean over
    sequences.
    """
    packing = micro_batch.packing
    states = model.gpt.hidden_states(micro_batch.ids, packing=packing)  # [tokens, n_embd]
    logits = model.head(states[packing.last_index], micro_batch.example_index)
    task = weighted_sum(task_loss(logits, micro_batch.targets), micro_batch.weights) / micro_batch.step_examples
    if not lm_coef:
        return Losses(task, {"loss": task.detach(), "task_loss": task.detach()})
    predicted = packing.lengths - 1  # all tokens of a sequence but the first
    per_token = lm_coef / (predicted * micro_batch.step_sequences)
    weights = packing.to_tokens(per_token).index_fill(0, packing.last_index, 0.0)  # the last one has no next token
    lm = lm_loss(states, model.gpt.tokens.weight, micro_batch.ids.roll(-1), weights)  # λ · L1
    total = task + lm
    return Losses(total, {"loss": total.detach(), "task_loss": task.detach(), "lm_loss": lm.detach() / lm_coef})
