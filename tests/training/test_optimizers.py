"""The optimisers against independent ones that are fed the same gradients."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gpt1.config import FinetuneConfig
from gpt1.training import optimizers
from gpt1.training.optimizers import OPTIMIZERS, SGD, AdamW, Optimizer, ReleasedAdam, clip_coefficient, global_norm
from gpt1.training.schedules import lr_factor

SHAPES = {"tokens.weight": (50, 8), "linear.weight": (8, 24), "linear.bias": (24,), "norm.weight": (8,)}
UPDATES = 10


def start() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def gradients(update: int) -> dict[str, Tensor]:
    """Of very different sizes, some of them zero."""
    generator = torch.Generator().manual_seed(1 + update)
    found = {}
    for i, (name, shape) in enumerate(SHAPES.items()):
        found[name] = torch.randn(shape, generator=generator) * 10.0 ** (-2 * i)
        found[name][torch.rand(shape, generator=generator) < 0.2] = 0
    return found


def lr(update: int) -> float:
    return 1e-2 * lr_factor("linear", 3, update, UPDATES)


def ours(kind: Any, config: FinetuneConfig, updates: range = range(UPDATES)) -> dict[str, Tensor]:
    parameters = {name: tensor.requires_grad_() for name, tensor in start().items()}
    optimizer = kind(list(parameters.items()), config)
    for update in updates:
        give(parameters, gradients(update))
        optimizer.step(lr(update))
    return {name: p.detach() for name, p in parameters.items()}


def theirs(kind: Any, decay: float, **settings: Any) -> dict[str, Tensor]:
    parameters = {name: tensor.requires_grad_() for name, tensor in start().items()}
    spared = {name: p for name, p in parameters.items() if p.dim() < 2}
    decayed = {name: p for name, p in parameters.items() if p.dim() > 1}
    groups = [
        {"params": list(decayed.values()), "weight_decay": decay},
        {"params": list(spared.values()), "weight_decay": 0.0},
    ]
    optimizer = kind(groups, lr=1.0, **settings)
    for update in range(UPDATES):
        give(parameters, gradients(update))
        for group in optimizer.param_groups:
            group["lr"] = lr(update)
        optimizer.step()
    return {name: p.detach() for name, p in parameters.items()}


def give(parameters: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    for name, p in parameters.items():
        p.grad = found[name]


def released_adam_in_numpy(decay: float, beta1: float, beta2: float, eps: float) -> dict[str, np.ndarray]:
    """PAPER: p ← p − lr_t · (m / (√v + ε) + decay · p), lr_t = lr · √(1 − β2^t) / (1 − β1^t), in float64."""
    parameters = {name: tensor.double().numpy().copy() for name, tensor in start().items()}
    m = {name: np.zeros_like(p) for name, p in parameters.items()}
    v = {name: np.zeros_like(p) for name, p in parameters.items()}
    for update in range(UPDATES):
        t = update + 1
        lr_t = lr(update) * np.sqrt(1 - beta2**t) / (1 - beta1**t)
        for name, g in gradients(update).items():
            g = g.double().numpy()
            m[name] = beta1 * m[name] + (1 - beta1) * g
            v[name] = beta2 * v[name] + (1 - beta2) * g * g
            step = m[name] / (np.sqrt(v[name]) + eps)
            if parameters[name].ndim > 1:
                step = step + decay * parameters[name]
            parameters[name] = parameters[name] - lr_t * step
    return parameters


@pytest.mark.parametrize("decay", [0.01, 0.3])
@pytest.mark.parametrize("eps", [1e-8, 1e-3])
def test_ten_updates_match_the_released_adam_written_in_numpy(decay: float, eps: float):
    config = FinetuneConfig(weight_decay=decay, eps=eps)
    expected = released_adam_in_numpy(decay, config.beta1, config.beta2, eps)
    for name, p in ours(ReleasedAdam, config).items():
        np.testing.assert_allclose(p.double().numpy(), expected[name], rtol=0, atol=1e-6)


def test_the_released_adam_is_not_adamw():
    config = FinetuneConfig(weight_decay=0.3, eps=1e-3)
    ours_, other = ours(ReleasedAdam, config), ours(AdamW, config)
    assert (ours_["linear.weight"] - other["linear.weight"]).abs().max() > 1e-4


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_adamw_is_torchs(decay: float):
    expected = theirs(torch.optim.AdamW, decay, betas=(0.8, 0.95), eps=1e-6)
    found = ours(AdamW, FinetuneConfig(weight_decay=decay, beta1=0.8, beta2=0.95, eps=1e-6))
    for name in SHAPES:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-7)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_is_torchs(momentum: float):
    expected = theirs(torch.optim.SGD, 0.3, momentum=momentum)
    found = ours(SGD, FinetuneConfig(weight_decay=0.3, beta1=momentum))
    for name in SHAPES:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_decay_shrinks_matrices_and_spares_gains_and_biases(name: str):
    parameters = {name: tensor.requires_grad_() for name, tensor in start().items()}
    give(parameters, {name: torch.zeros(shape) for name, shape in SHAPES.items()})
    OPTIMIZERS[name](list(parameters.items()), FinetuneConfig(weight_decay=0.1)).step(0.1)
    for name, before in start().items():
        if before.dim() == 1:
            assert torch.equal(parameters[name], before)
        else:
            assert (parameters[name].abs() <= before.abs()).all()
            assert parameters[name].norm() < before.norm()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("cut", [1, 5, 9])
def test_an_optimiser_that_is_stored_and_loaded_goes_on_with_the_same_bits(name: str, cut: int):
    config = FinetuneConfig(weight_decay=0.1)
    expected = ours(OPTIMIZERS[name], config)
    parameters = {name: tensor.requires_grad_() for name, tensor in start().items()}
    optimizer = OPTIMIZERS[name](list(parameters.items()), config)
    for update in range(UPDATES):
        if update == cut:
            stored = {name: tensor.clone() for name, tensor in optimizer.state_tensors().items()}
            optimizer = OPTIMIZERS[name](list(parameters.items()), config)
            optimizer.load_state_tensors(stored, update)
        give(parameters, gradients(update))
        optimizer.step(lr(update))
    assert all(torch.equal(parameters[name], expected[name]) for name in SHAPES)


@given(largest=st.floats(1e-3, 1e3))
def test_clipping_keeps_the_direction_and_bounds_the_norm(largest: float):
    parameters = start()
    give(parameters, gradients(0))
    before = torch.cat([g.flatten() for g in gradients(0).values()])
    norm = global_norm(parameters.values())
    torch.testing.assert_close(norm, before.norm())
    torch.testing.assert_close(clip_coefficient(norm, largest), torch.tensor(min(1.0, largest / float(before.norm()))))


def test_the_norm_of_many_gradients_is_close_to_the_exact_one():
    parameters = [torch.zeros(n, 300, requires_grad=True) for n in (5000, 7, 1)] + [torch.zeros((), requires_grad=True)]
    for p in parameters:
        p.grad = torch.randn_like(p)
    exact = torch.stack([p.grad.double().square().sum() for p in parameters if p.grad is not None]).sum().sqrt()
    assert abs(float(global_norm(parameters)) - float(exact)) < 1e-5 * float(exact)


def test_clipping_at_0_leaves_the_gradients_alone():
    assert clip_coefficient(torch.tensor(100.0), 0) is None


@pytest.mark.parametrize("name", OPTIMIZERS)
@given(shrink=st.floats(1e-3, 1))
def test_a_step_with_shrunk_gradients_is_the_step_with_those(name: str, shrink: float):
    found = []
    for before, after in ((shrink, None), (1.0, torch.tensor(shrink))):
        parameters = {name: tensor.requires_grad_() for name, tensor in start().items()}
        optimizer = OPTIMIZERS[name](list(parameters.items()), FinetuneConfig(weight_decay=0.1))
        for update in range(3):
            give(parameters, {key: g * before for key, g in gradients(update).items()})
            optimizer.step(lr(update), after)
        found.append(parameters)
    for key in SHAPES:
        torch.testing.assert_close(*(parameters[key].detach() for parameters in found))


@pytest.mark.parametrize("kind", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_skipped_step_keeps_every_bit_and_counts(kind: type[Optimizer]):
    parameters = {name: tensor.requires_grad_() for name, tensor in start().items()}
    optimizer = kind(list(parameters.items()), FinetuneConfig(weight_decay=0.1))
    give(parameters, gradients(0))
    optimizer.step(0.01, torch.tensor(0.5), torch.tensor(True))
    before = {name: tensor.clone() for name, tensor in (parameters | optimizer.state_tensors()).items()}
    give(parameters, {name: tensor * math.nan for name, tensor in gradients(1).items()})
    optimizer.step(0.01, torch.tensor(math.nan), torch.tensor(False))
    assert all(torch.equal(tensor, before[name]) for name, tensor in (parameters | optimizer.state_tensors()).items())
    assert optimizer.steps_taken == 2


@pytest.mark.parametrize("in_kernel", [True, False], ids=["found_inf", "torch.where"])
@pytest.mark.parametrize("finite", [True, False])
@pytest.mark.parametrize("kind", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_the_choice_made_on_a_device_gives_the_bits_of_a_step_or_of_none(
    kind: type[Optimizer], finite: bool, in_kernel: bool, monkeypatch: pytest.MonkeyPatch
):
    if not in_kernel:  # as on an Apple GPU
        monkeypatch.setattr(optimizers, "GRAD_SCALE_DEVICES", ())
    found = []
    for on_device in (True, False):
        parameters = {name: tensor.requires_grad_() for name, tensor in start().items()}
        optimizer = kind(list(parameters.items()), FinetuneConfig(weight_decay=0.1))
        give(parameters, gradients(0))
        optimizer.step(0.01)
        give(parameters, {name: tensor if finite else tensor * math.nan for name, tensor in gradients(1).items()})
        optimizer.steps_taken += 1
        if on_device or finite:
            shrink = torch.tensor(0.5 if finite else math.nan)
            optimizer.update_all(0.01, shrink, torch.tensor(finite) if on_device else None)
        found.append({name: tensor.detach() for name, tensor in (parameters | optimizer.state_tensors()).items()})
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())
