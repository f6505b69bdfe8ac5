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
    """`total` is what is differentiated; `parts` are the figures to show, already detached. All add up over pieces."""

    total: Tensor
    parts: dict[str, Tensor]


@dataclass(frozen=True)
class Windows:
    """A piece of a pre-training update: ids [windows, context + 1], and the predicted tokens of the whole update, of
    which it is a share (infinite for a piece that counts nothing)."""

    ids: Tensor
    update_tokens: float


@dataclass(frozen=True)
class Labelled:
    """A piece of a fine-tuning update.

    ids [tokens]: the sequences one after another, which `packing` tells apart; example [sequences]: the example of each
    sequence, ascending from 0, in the processor's memory, where the head takes shapes from it; targets [examples, ...];
    and the examples and sequences of the whole update.
    """

    ids: Tensor
    packing: Packing
    example: Tensor
    targets: Tensor
    update_examples: int
    update_sequences: int


@dataclass(frozen=True)
class Features:
    """A piece of head-only training: states [sequences, n_embd] at the extract tokens, computed once."""

    states: Tensor
    example: Tensor
    targets: Tensor
    update_examples: int


def l1(model: GPT, piece: Windows) -> Losses:
    """−L1 (paper, eq. 1), a mean over the update's predicted tokens."""
    states = model.hidden_states(piece.ids[:, :-1])  # [windows, context, n_embd]
    targets = piece.ids[:, 1:].reshape(-1)
    weights = torch.full(targets.shape, 1 / piece.update_tokens, device=targets.device)
    loss = lm_loss(states.flatten(0, 1), model.tokens.weight, targets, weights)
    return Losses(loss, {"loss": loss.detach()})


def l2(head: Head, task_loss: TaskLoss, piece: Features) -> Losses:
    """−L2 (paper, eq. 4) over cached features, a mean over the update's examples."""
    loss = task_loss(head(piece.states, piece.example), piece.targets).sum() / piece.update_examples
    return Losses(loss, {"loss": loss.detach(), "task_loss": loss.detach()})


def l3(model: TaskModel, task_loss: TaskLoss, lm_coef: float, piece: Labelled) -> Losses:
    """−L3 = −(L2 + λ · L1) (paper, eq. 5).

    L1 as in the release: a mean over each sequence's own tokens (delimiter and extract are predicted too), then a mean
    over sequences.
    """
    packing = piece.packing
    states = model.gpt.hidden_states(piece.ids, packing=packing)  # [tokens, n_embd]
    logits = model.head(states[packing.last], piece.example)
    task = task_loss(logits, piece.targets).sum() / piece.update_examples
    if not lm_coef:
        return Losses(task, {"loss": task.detach(), "task_loss": task.detach()})
    predicted = packing.lengths - 1  # a sequence predicts all of its tokens but the first
    each = lm_coef / (predicted * piece.update_sequences)
    weights = packing.spread(each).index_fill(0, packing.last, 0.0)  # nothing follows the last one
    lm = lm_loss(states, model.gpt.tokens.weight, piece.ids.roll(-1), weights)  # λ · L1
    total = task + lm
    return Losses(total, {"loss": total.detach(), "task_loss": task.detach(), "lm_loss": lm.detach() / lm_coef})
