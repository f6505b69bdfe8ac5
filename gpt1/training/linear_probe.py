"""Head first: fit the head to the features of the pre-trained model, before all weights are trained from there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gpt1.kernels.to_device import to_device
from gpt1.model.head import Head
from gpt1.model.losses import TaskLoss, weighted_sum

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
"""Weights of the penalty ‖W‖² (added to the mean loss), from which cross-validation chooses."""
PROBE_FOLDS = 5
MAX_ITERATIONS = 100


def fit_linear_probe(
    head: Head, features: Sequence[Tensor], targets: Tensor, task_loss: TaskLoss, weights: Tensor | None = None
) -> float:
    """Set the weights of `head` to those of a linear probe: the minimum of mean loss + penalty · ‖W‖² (L-BFGS).

    The result depends on the arguments alone: nothing is random, except for the folds, whose seed is fixed.

    Args:
        head: Overwritten.
        features: The hidden states at the extract tokens of each example, each [sequences, n_embd].
        targets: [examples, ...].
        task_loss: The loss of each example.
        weights: [examples], in the mean loss and in cross-validation; None: all 1.

    Returns:
        The penalty that has the lowest loss in cross-validation.
    """
    examples = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))
    folds = [fold for fold in examples.tensor_split(PROBE_FOLDS) if len(fold)]
    losses = dict.fromkeys(PENALTIES, 0.0)
    for i, fold in enumerate(folds if len(folds) > 1 else ()):
        others = torch.cat([*folds[:i], *folds[i + 1 :]])
        for penalty in PENALTIES:
            minimize(head, features, targets, others, task_loss, penalty, weights)
            with torch.no_grad():
                fold_losses = task_loss(head(*gather(features, fold)), select(targets, fold))
                losses[penalty] += float(weighted_sum(fold_losses, None if weights is None else select(weights, fold)))
    best = min(PENALTIES, key=lambda penalty: (losses[penalty], -penalty))
    minimize(head, features, targets, examples, task_loss, best, weights)
    head.zero_grad()
    return best


def minimize(
    head: Head,
    features: Sequence[Tensor],
    targets: Tensor,
    chosen: Tensor,
    task_loss: TaskLoss,
    penalty: float,
    weights: Tensor | None = None,
) -> None:
    """Fit the head to the `chosen` examples, from weights of 0."""
    head.eval()
    for parameter in head.parameters():
        torch.nn.init.zeros_(parameter)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=MAX_ITERATIONS, line_search_fn="strong_wolfe")
    states, index = gather(features, chosen)
    wanted = select(targets, chosen)
    own_weights = None if weights is None else select(weights, chosen)

    def objective() -> float:
        optimizer.zero_grad()
        loss = weighted_mean(task_loss(head(states, index), wanted), own_weights)
        loss = loss + penalty * head.linear.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    optimizer.step(objective)  # type: ignore[no-untyped-call]


def weighted_mean(losses: Tensor, weights: Tensor | None) -> Tensor:  # [examples], [examples] → scalar
    """0 if all weights are 0: other folds can have all the weight."""
    if weights is None:
        return losses.mean()
    return losses @ weights / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)


def select(values: Tensor, chosen: Tensor) -> Tensor:
    """The values of the `chosen` examples; their indices are on the CPU."""
    return values[to_device(chosen, values.device)]


def gather(features: Sequence[Tensor], chosen: Tensor) -> tuple[Tensor, Tensor]:
    """(states [sequences, n_embd], index of the example [sequences]) of the `chosen` examples."""
    parts = [features[i] for i in chosen.tolist()]
    index = torch.repeat_interleave(torch.arange(len(parts)), torch.tensor([len(part) for part in parts]))
    return torch.cat(parts), index
