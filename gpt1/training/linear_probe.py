"""Head first: fit the head to the features of the pre-trained model, before all weights are trained from there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gpt1.kernels.to_device import to_device
from gpt1.model.head import Head
from gpt1.model.losses import TaskLoss

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
"""Weights of the penalty ‖W‖² (added to the mean loss), from which cross-validation chooses."""
PROBE_FOLDS = 5
MAX_ITERATIONS = 100


def fit_linear_probe(head: Head, features: Sequence[Tensor], targets: Tensor, task_loss: TaskLoss) -> float:
    """Set the weights of `head` to those of a linear probe: the minimum of mean loss + penalty · ‖W‖² (L-BFGS).

    The result depends on the arguments alone: nothing is random, except for the folds, whose seed is fixed.

    Args:
        head: Overwritten.
        features: The hidden states at the extract tokens of each example, each [sequences, n_embd].
        targets: [examples, ...].
        task_loss: The loss of each example.

    Returns:
        The penalty that has the lowest loss in cross-validation.
    """
    examples = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))
    folds = [fold for fold in examples.tensor_split(PROBE_FOLDS) if len(fold)]
    losses = dict.fromkeys(PENALTIES, 0.0)
    for i, fold in enumerate(folds if len(folds) > 1 else ()):
        others = torch.cat([*folds[:i], *folds[i + 1 :]])
        for penalty in PENALTIES:
            minimize(head, features, targets, others, task_loss, penalty)
            with torch.no_grad():
                losses[penalty] += float(
                    task_loss(head(*gather(features, fold)), targets[to_device(fold, targets.device)]).sum()
                )
    best = min(PENALTIES, key=lambda penalty: (losses[penalty], -penalty))
    minimize(head, features, targets, examples, task_loss, best)
    head.zero_grad()
    return best


def minimize(
    head: Head, features: Sequence[Tensor], targets: Tensor, chosen: Tensor, task_loss: TaskLoss, penalty: float
) -> None:
    """Fit the head to the `chosen` examples, from weights of 0."""
    head.eval()
    for parameter in head.parameters():
        torch.nn.init.zeros_(parameter)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=MAX_ITERATIONS, line_search_fn="strong_wolfe")
    states, index = gather(features, chosen)
    wanted = targets[to_device(chosen, targets.device)]

    def objective() -> float:
        optimizer.zero_grad()
        loss = task_loss(head(states, index), wanted).mean() + penalty * head.linear.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    optimizer.step(objective)  # type: ignore[no-untyped-call]


def gather(features: Sequence[Tensor], chosen: Tensor) -> tuple[Tensor, Tensor]:
    """(states [sequences, n_embd], index of the example [sequences]) of the `chosen` examples."""
    parts = [features[i] for i in chosen.tolist()]
    index = torch.repeat_interleave(torch.arange(len(parts)), torch.tensor([len(part) for part in parts]))
    return torch.cat(parts), index
