"""Adam as released with the paper, AdamW, Muon, and SGD with momentum, with one small interface.

Weight decay applies to tensors of rank > 1 (including the embeddings), not to biases and LayerNorm parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, cast

import torch
from torch import Tensor

from gpt1.config import TrainingConfig
from gpt1.kernels import torch_private

TOKEN_EMBEDDING = "tokens.weight"  # end of its name in GPT, TaskModel and the LSTM
MUON_MOMENTUM = 0.95  # μ of the released Muon
GRAD_SCALE_DEVICES = ("cpu", "cuda")
"""Devices whose fused AdamW applies `grad_scale` and `found_inf`; an Apple GPU's ignores both (PyTorch PR 186360)."""


class GroupSettings(NamedTuple):
    """Named parameters with the same weight decay, and the factor on their learning rate."""

    named: list[tuple[str, Tensor]]
    weight_decay: float
    lr_factor: float = 1.0


class ParameterGroup(NamedTuple):
    """Parameters of one group that have gradients, the gradients, and their optimizer state: one list per slot."""

    parameters: list[Tensor]
    gradients: list[Tensor]
    slots: list[list[Tensor]]


class Optimizer:
    """Base class: updates named parameters in place. Its state is tensors by name and the number of steps taken.

    Args:
        parameters: (name, parameter) pairs.
        config: Betas, epsilon, weight decay, and the factor on the learning rate of the token embedding.
    """

    slots: tuple[str, ...] = ()

    def __init__(self, parameters: Iterable[tuple[str, Tensor]], config: TrainingConfig) -> None:
        named = list(parameters)
        self.config = config
        self.steps_taken = 0
        decayed = [(name, p) for name, p in named if p.dim() > 1]
        not_decayed = [(name, p) for name, p in named if p.dim() <= 1]
        embedding = [(name, p) for name, p in decayed if name.endswith(TOKEN_EMBEDDING)]
        others = [(name, p) for name, p in decayed if not name.endswith(TOKEN_EMBEDDING)]
        self.groups = [
            GroupSettings(others, config.weight_decay),
            GroupSettings(embedding, config.weight_decay, config.embedding_lr_factor),
            GroupSettings(not_decayed, 0.0),
        ]
        self.state = {slot: {name: torch.zeros_like(p) for name, p in [*decayed, *not_decayed]} for slot in self.slots}

    def step(self, lr: float, clip_coef: Tensor | None = None, finite: Tensor | None = None) -> None:
        """Update the parameters once.

        Args:
            lr: Learning rate, with the schedule applied.
            clip_coef: Scalar that the gradients are multiplied with.
            finite: Boolean scalar. If false, weights and state do not change, and only `steps_taken` counts the step.
                On a GPU the choice is made on the device, so that the host does not wait.
        """
        self.steps_taken += 1
        if finite is not None and finite.device.type == "cpu":
            if not finite:
                return
            finite = None
        self.update_all(lr, clip_coef, finite)

    def update_all(self, lr: float, clip_coef: Tensor | None, finite: Tensor | None) -> None:
        for group in self.groups:
            named = [(name, p) for name, p in group.named if p.grad is not None]
            if named:
                names = [name for name, _ in named]
                slots = [[self.state[slot][name] for name in names] for slot in self.slots]
                parameters, gradients = [p for _, p in named], [cast(Tensor, p.grad) for _, p in named]
                one = ParameterGroup(parameters, gradients, slots)
                self.update_group(one, lr * group.lr_factor, group.weight_decay, clip_coef, finite)

    def update_group(
        self, group: ParameterGroup, lr: float, decay: float, clip_coef: Tensor | None, finite: Tensor | None = None
    ) -> None:
        raise NotImplementedError

    def state_tensors(self) -> dict[str, Tensor]:
        return {f"{slot}.{name}": tensor for slot, named in self.state.items() for name, tensor in named.items()}

    def load_state_tensors(self, tensors: Mapping[str, Tensor], steps_taken: int) -> None:
        for name, tensor in self.state_tensors().items():
            tensor.copy_(tensors[name])
        self.steps_taken = steps_taken


class AdamW(Optimizer):
    """AdamW (Loshchilov and Hutter, 2019): p ← p − lr · (m̂ / (√v̂ + ε) + decay · p), with bias-corrected moments."""

    slots = ("exp_avg", "exp_avg_sq")

    def decay_and_eps(self, decay: float) -> tuple[float, float]:
        """Weight decay and ε of the fused kernel."""
        return decay, self.config.eps

    @torch.no_grad()
    def update_group(
        self, group: ParameterGroup, lr: float, decay: float, clip_coef: Tensor | None, finite: Tensor | None = None
    ) -> None:
        """torch's fused kernel: one pass over memory instead of ten.

        It divides the gradients by `grad_scale`, and changes nothing if `found_inf` is 1.
        """
        if finite is not None and finite.device.type not in GRAD_SCALE_DEVICES:
            update_if(finite, group, lambda one: self.update_group(one, lr, decay, clip_coef))
            return
        decay, eps = self.decay_and_eps(decay)
        exp_avg, exp_avg_sq = group.slots
        device = group.parameters[0].device
        if clip_coef is not None and device.type not in GRAD_SCALE_DEVICES:
            torch_private.foreach_mul_(group.gradients, clip_coef)
            clip_coef = None
        steps = torch.full((), float(self.steps_taken), device=device)  # filled on the device: the host does not wait
        torch_private.fused_adamw_(
            group.parameters,
            group.gradients,
            exp_avg,
            exp_avg_sq,
            [],
            [steps] * len(group.parameters),
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
    """Adam as in the released code: the bias correction also scales the weight decay, and does not change ε.

        p ← p − lr_t · (m / (√v + ε) + decay · p),   lr_t = lr · √(1 − β2^t) / (1 − β1^t)

    The fused AdamW computes p ← p − lr · decay' · p − lr / (1 − β1^t) · m / (√v / √(1 − β2^t) + ε'), which is equal
    for ε' = ε / √(1 − β2^t) and decay' = decay · √(1 − β2^t) / (1 − β1^t).
    """

    def decay_and_eps(self, decay: float) -> tuple[float, float]:
        root = math.sqrt(1 - self.config.beta2**self.steps_taken)
        return decay * (root / (1 - self.config.beta1**self.steps_taken)), self.config.eps / root


class Muon(AdamW):
    """Muon (Jordan et al., 2024) for the matrices of Transformer blocks, AdamW for all other parameters.

        b ← μ b + (1 − μ) g;   p ← p − lr · (0.2 √max(rows, columns) · O + decay · p)
        O = orthogonalize((1 − μ) g + μ b)

    The factor gives an update the size that AdamW's has (Liu et al., 2025), so the learning rate and the weight decay
    suit both. Queries, keys and values are stored in one matrix and are orthogonalized separately. O is computed in the
    precision of the activations. The state `exp_avg` holds b.
    """

    def __init__(self, parameters: Iterable[tuple[str, Tensor]], config: TrainingConfig) -> None:
        super().__init__(parameters, config)
        self.dtype = torch.float32 if config.precision == "fp32" else torch.bfloat16
        decayed, *other_groups = self.groups
        self.matrices = [(name, p) for name, p in decayed.named if ".attention." in name or ".mlp." in name]
        for name, _ in self.matrices:
            del self.state["exp_avg_sq"][name]
        others = [(name, p) for name, p in decayed.named if name in self.state["exp_avg_sq"]]
        self.groups = [decayed._replace(named=others), *other_groups]

    @torch.no_grad()
    def update_all(self, lr: float, clip_coef: Tensor | None, finite: Tensor | None) -> None:
        super().update_all(lr, clip_coef, finite)
        by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}  # (weight, direction), with rows ≤ columns
        for name, p in self.matrices:
            if p.grad is None:
                continue
            gradient = p.grad if clip_coef is None else p.grad * clip_coef
            momentum = self.state["exp_avg"][name]
            new_momentum = momentum.lerp(gradient, 1 - MUON_MOMENTUM)
            direction = gradient.lerp(new_momentum, MUON_MOMENTUM)
            copy_if(finite, momentum, new_momentum)
            parts = 3 if name.endswith("qkv.weight") else 1
            for weight, part in zip(p.chunk(parts), direction.to(self.dtype).chunk(parts), strict=True):
                if weight.shape[0] > weight.shape[1]:
                    weight, part = weight.T, part.T
                by_shape.setdefault(weight.shape, []).append((weight, part))
        for shape, pairs in by_shape.items():  # one batch per shape: half the time for small matrices
            directions = orthogonalize(torch.stack([part for _, part in pairs]))
            for (weight, _), direction in zip(pairs, directions, strict=True):
                decayed = weight * (1 - lr * self.config.weight_decay)
                copy_if(finite, weight, decayed.add_(direction, alpha=-lr * 0.2 * math.sqrt(max(shape))))


def orthogonalize(matrices: Tensor) -> Tensor:  # [n, rows, columns] with rows ≤ columns → the same
    """Approximate the nearest matrices with orthonormal rows: singular values 0.7 to 1.2, by 5 Newton-Schulz steps."""
    a, b, c = 3.4445, -4.7750, 2.0315  # of the released Muon
    x = matrices / torch.linalg.matrix_norm(matrices, keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def copy_if(finite: Tensor | None, target: Tensor, new: Tensor) -> None:
    """Copy `new` into `target`, except if the scalar `finite` is false."""
    target.copy_(new if finite is None else torch.where(finite, new, target))


class SGD(Optimizer):
    """Stochastic gradient descent with momentum β1: b ← β1 · b + g + decay · p;  p ← p − lr · b."""

    slots = ("momentum",)

    @torch.no_grad()
    def update_group(
        self, group: ParameterGroup, lr: float, decay: float, clip_coef: Tensor | None, finite: Tensor | None = None
    ) -> None:
        if finite is not None:
            update_if(finite, group, lambda one: self.update_group(one, lr, decay, clip_coef))
            return
        if clip_coef is not None:
            torch_private.foreach_mul_(group.gradients, clip_coef)
        (momentum,) = group.slots
        torch_private.foreach_mul_(momentum, self.config.beta1)
        torch_private.foreach_add_(momentum, group.gradients)
        if decay:
            torch_private.foreach_add_(momentum, group.parameters, alpha=decay)
        torch_private.foreach_add_(group.parameters, momentum, alpha=-lr)


def update_if(finite: Tensor, group: ParameterGroup, update: Callable[[ParameterGroup], None]) -> None:
    """Update a group in place; if the scalar `finite` is false, restore it.

    Goes parameter by parameter, so that only one is copied at a time.
    """
    for i, parameter in enumerate(group.parameters):
        one = ParameterGroup([parameter], [group.gradients[i]], [[slot[i]] for slot in group.slots])
        changed = [parameter, *(slot[i] for slot in group.slots)]
        before = [tensor.clone() for tensor in changed]
        update(one)
        for tensor, old in zip(changed, before, strict=True):
            tensor.copy_(torch.where(finite, tensor, old))


OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": ReleasedAdam, "adamw": AdamW, "muon": Muon, "sgd": SGD}


def global_norm(parameters: Iterable[Tensor]) -> Tensor:
    """‖g‖ over the gradients of all parameters, a scalar.

    On a CPU it uses dot products, which are twice as fast as torch's norm there and more accurate: for 117 million
    numbers, the relative error is 1e-5 instead of 5e-4.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if all(gradient.device.type == "cpu" for gradient in gradients):
        return torch.stack([torch.dot(g, g) for g in (gradient.reshape(-1) for gradient in gradients)]).sum().sqrt()
    return torch.linalg.vector_norm(torch.stack(torch_private.foreach_norm(gradients)))


def clip_coefficient(norm: Tensor, max_norm: float) -> Tensor | None:
    """Factor that reduces gradients with the global norm `norm` to at most `max_norm`; None if `max_norm` is 0."""
    return torch.clamp(max_norm / (norm + 1e-6), max=1.0) if max_norm else None
