"""Adam as released with the paper, AdamW, and SGD with momentum, behind one small face.

Decay touches tensors of rank > 1 only (embeddings and positions included), never a bias or a gain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, cast

import torch
from torch import Tensor

from gpt1.config import TrainingConfig

GRAD_SCALE_DEVICES = (
    "cpu",
    "cuda",
)  # by `grad_scale`: an Apple GPU's kernel takes it and does not (pytorch pull request 186360)
# The same holds for `found_inf`.


class ParameterGroup(NamedTuple):
    """Parameters that are treated alike, their gradients, and the optimiser's state of each: a list a slot."""

    parameters: list[Tensor]
    gradients: list[Tensor]
    slots: list[list[Tensor]]


class Optimizer:
    """Holds parameters by name and updates them in place; its state is tensors by name and the number of updates."""

    slots: tuple[str, ...] = ()

    def __init__(self, parameters: Iterable[tuple[str, Tensor]], config: TrainingConfig) -> None:
        named = list(parameters)
        self.config = config
        self.steps_taken = 0
        # decayed ones first: both groups are lists, which is what torch's fused kernels take
        decayed = [(name, p) for name, p in named if p.dim() > 1]
        spared = [(name, p) for name, p in named if p.dim() <= 1]
        self.groups = [(decayed, config.weight_decay), (spared, 0.0)]
        self.state = {slot: {name: torch.zeros_like(p) for name, p in [*decayed, *spared]} for slot in self.slots}

    def step(self, lr: float, clip_coef: Tensor | None = None, finite: Tensor | None = None) -> None:
        """One update with learning rate `lr` (the schedule is already in it), of gradients times `clip_coef`, a scalar.

        Where `finite`, a boolean scalar, is false, the step is skipped: weights and state keep their bits, only
        `updates` counts it. On a GPU the choice is made there, so that the host does not wait.
        """
        self.steps_taken += 1
        if finite is not None and finite.device.type == "cpu":
            if not finite:
                return
            finite = None
        self.update_all(lr, clip_coef, finite)

    def update_all(self, lr: float, shrink: Tensor | None, finite: Tensor | None) -> None:
        for named, decay in self.groups:
            named = [(name, p) for name, p in named if p.grad is not None]
            if named:
                names = [name for name, _ in named]
                slots = [[self.state[slot][name] for name in names] for slot in self.slots]
                parameters, gradients = [p for _, p in named], [cast(Tensor, p.grad) for _, p in named]
                self.update_group(ParameterGroup(parameters, gradients, slots), lr, decay, shrink, finite)

    def update_group(
        self, group: ParameterGroup, lr: float, decay: float, clip_coef: Tensor | None, finite: Tensor | None = None
    ) -> None:
        raise TypeError(f"{type(self).__name__} has no update rule")

    def state_tensors(self) -> dict[str, Tensor]:
        return {f"{slot}.{name}": tensor for slot, named in self.state.items() for name, tensor in named.items()}

    def load_state_tensors(self, tensors: Mapping[str, Tensor], steps_taken: int) -> None:
        for name, tensor in self.state_tensors().items():
            tensor.copy_(tensors[name])
        self.steps_taken = steps_taken


class AdamW(Optimizer):
    """Decoupled decay: p ← p − lr · (m̂ / (√v̂ + ε) + decay · p), both moments corrected for their start."""

    slots = ("exp_avg", "exp_avg_sq")

    @torch.no_grad()
    def update_group(
        self, group: ParameterGroup, lr: float, decay: float, clip_coef: Tensor | None, finite: Tensor | None = None
    ) -> None:
        self.fused_adamw(group, lr, decay, clip_coef, self.config.eps, finite)

    def fused_adamw(
        self,
        group: ParameterGroup,
        lr: float,
        decay: float,
        clip_coef: Tensor | None,
        eps: float,
        finite: Tensor | None,
    ) -> None:
        """torch's fused kernel: one pass over the memory instead of ten. It divides gradients by `grad_scale`, and
        changes nothing where `found_inf` is 1."""
        if finite is not None and finite.device.type not in GRAD_SCALE_DEVICES:
            only_where(finite, group, lambda one: self.fused_adamw(one, lr, decay, clip_coef, eps, None))
            return
        exp_avg, exp_avg_sq = group.slots
        device = group.parameters[0].device
        if clip_coef is not None and device.type not in GRAD_SCALE_DEVICES:
            torch._foreach_mul_(group.gradients, clip_coef)
            clip_coef = None
        updates = torch.full((), float(self.steps_taken), device=device)  # filled there: nothing waits
        torch._fused_adamw_(
            group.parameters,
            group.gradients,
            exp_avg,
            exp_avg_sq,
            [],
            [updates] * len(group.parameters),
            lr=lr,
            beta1=self.config.beta1,
            beta2=self.config.beta2,
            weight_decay=decay,
            eps=eps,
            amsgrad=False,
            maximize=False,
            grad_scale=None if clip_coef is None else 1 / clip_coef,
            found_inf=None if finite is None else (~finite).float(),
        )


class ReleasedAdam(AdamW):
    """Adam as in the released code, whose bias correction multiplies the decay too and leaves ε as it is:

        p ← p − lr_t · (m / (√v + ε) + decay · p),   lr_t = lr · √(1 − β2^t) / (1 − β1^t)

    The fused AdamW computes p ← p − lr · decay' · p − lr / (1 − β1^t) · m / (√v / √(1 − β2^t) + ε'), which is the same
    with ε' = ε / √(1 − β2^t) and decay' = decay · √(1 − β2^t) / (1 − β1^t).
    """

    @torch.no_grad()
    def update_group(
        self, group: ParameterGroup, lr: float, decay: float, clip_coef: Tensor | None, finite: Tensor | None = None
    ) -> None:
        root = math.sqrt(1 - self.config.beta2**self.steps_taken)
        correction = root / (1 - self.config.beta1**self.steps_taken)
        self.fused_adamw(group, lr, decay * correction, clip_coef, self.config.eps / root, finite)


class SGD(Optimizer):
    """Stochastic gradient descent with momentum β1: b ← β1 · b + g + decay · p;  p ← p − lr · b."""

    slots = ("momentum",)

    @torch.no_grad()
    def update_group(
        self, group: ParameterGroup, lr: float, decay: float, clip_coef: Tensor | None, finite: Tensor | None = None
    ) -> None:
        if finite is not None:
            only_where(finite, group, lambda one: self.update_group(one, lr, decay, clip_coef))
            return
        if clip_coef is not None:
            torch._foreach_mul_(group.gradients, clip_coef)
        (momentum,) = group.slots
        torch._foreach_mul_(momentum, self.config.beta1)
        torch._foreach_add_(momentum, group.gradients)
        if decay:
            torch._foreach_add_(momentum, group.parameters, alpha=decay)
        torch._foreach_add_(group.parameters, momentum, alpha=-lr)


def only_where(finite: Tensor, group: ParameterGroup, update: Callable[[ParameterGroup], None]) -> None:
    """Update a group in place; where the scalar `finite` is false, it keeps its bits. One parameter at a time, so that
    only one is in memory twice."""
    for i, parameter in enumerate(group.parameters):
        one = ParameterGroup([parameter], [group.gradients[i]], [[slot[i]] for slot in group.slots])
        changed = [parameter, *(slot[i] for slot in group.slots)]
        before = [tensor.clone() for tensor in changed]
        update(one)
        for tensor, old in zip(changed, before, strict=True):
            tensor.copy_(torch.where(finite, tensor, old))


OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": ReleasedAdam, "adamw": AdamW, "sgd": SGD}


def global_norm(parameters: Iterable[Tensor]) -> Tensor:
    """‖g‖ over the gradients of all parameters, a scalar. On a CPU by dot products, which read twice as fast as torch's
    norm there and lose less: of 117 million numbers 1e-5 of the norm instead of 5e-4."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if all(gradient.device.type == "cpu" for gradient in gradients):
        return torch.stack([torch.dot(g, g) for g in (gradient.reshape(-1) for gradient in gradients)]).sum().sqrt()
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))


def clip_coefficient(norm: Tensor, max_norm: float) -> Tensor | None:
    """What gradients of this global norm are multiplied with so that it is at most `max_norm`; None for 0, no limit."""
    return torch.clamp(max_norm / (norm + 1e-6), max=1.0) if max_norm else None
