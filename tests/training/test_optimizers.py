"""The optimizers against independent implementations with the same gradients."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gpt1.config import FinetuneConfig, GPTConfig
from gpt1.model.gpt import GPT
from gpt1.model.head import Head, TaskModel
from gpt1.training import optimizers
from gpt1.training.optimizers import (
    OPTIMIZERS,
    SGD,
    AdamW,
    Muon,
    Optimizer,
    ReleasedAdam,
    clip_coefficient,
    global_norm,
    orthogonalize,
)
from gpt1.training.schedules import lr_factor

SHAPES = {"tokens.weight": (50, 8), "linear.weight": (8, 24), "linear.bias": (24,), "norm.weight": (8,)}
STEPS = 10


def initial_weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def make_gradients(step: int) -> dict[str, Tensor]:
    """Gradients of very different magnitudes, some of them zero."""
    generator = torch.Generator().manual_seed(1 + step)
    found = {}
    for i, (name, shape) in enumerate(SHAPES.items()):
        found[name] = torch.randn(shape, generator=generator) * 10.0 ** (-2 * i)
        found[name][torch.rand(shape, generator=generator) < 0.2] = 0
    return found


def learning_rate(step: int) -> float:
    return 1e-2 * lr_factor("linear", 3, step, STEPS)


def run_our_optimizer(kind: Any, config: FinetuneConfig, steps: range = range(STEPS)) -> dict[str, Tensor]:
    parameters = {name: tensor.requires_grad_() for name, tensor in initial_weights().items()}
    optimizer = kind(list(parameters.items()), config)
    for step in steps:
        set_gradients(parameters, make_gradients(step))
        optimizer.step(learning_rate(step))
    return {name: p.detach() for name, p in parameters.items()}


def run_torch_optimizer(kind: Any, decay: float, **settings: Any) -> dict[str, Tensor]:
    parameters = {name: tensor.requires_grad_() for name, tensor in initial_weights().items()}
    vectors = {name: p for name, p in parameters.items() if p.dim() < 2}
    matrices = {name: p for name, p in parameters.items() if p.dim() > 1}
    groups = [
        {"params": list(matrices.values()), "weight_decay": decay},
        {"params": list(vectors.values()), "weight_decay": 0.0},
    ]
    optimizer = kind(groups, lr=1.0, **settings)
    for step in range(STEPS):
        set_gradients(parameters, make_gradients(step))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        optimizer.step()
    return {name: p.detach() for name, p in parameters.items()}


def set_gradients(parameters: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    for name, p in parameters.items():
        p.grad = found[name]


def released_adam_in_numpy(decay: float, beta1: float, beta2: float, eps: float) -> dict[str, np.ndarray]:
    """PAPER: p ← p − lr_t · (m / (√v + ε) + decay · p), lr_t = lr · √(1 − β2^t) / (1 − β1^t), in float64."""
    parameters = {name: tensor.double().numpy().copy() for name, tensor in initial_weights().items()}
    m = {name: np.zeros_like(p) for name, p in parameters.items()}
    v = {name: np.zeros_like(p) for name, p in parameters.items()}
    for step in range(STEPS):
        t = step + 1
        lr_t = learning_rate(step) * np.sqrt(1 - beta2**t) / (1 - beta1**t)
        for name, g in make_gradients(step).items():
            g = g.double().numpy()
            m[name] = beta1 * m[name] + (1 - beta1) * g
            v[name] = beta2 * v[name] + (1 - beta2) * g * g
            change = m[name] / (np.sqrt(v[name]) + eps)
            if parameters[name].ndim > 1:
                change = change + decay * parameters[name]
            parameters[name] = parameters[name] - lr_t * change
    return parameters


@pytest.mark.parametrize("decay", [0.01, 0.3])
@pytest.mark.parametrize("eps", [1e-8, 1e-3])
def test_ten_steps_match_the_released_adam_written_in_numpy(decay: float, eps: float):
    config = FinetuneConfig(weight_decay=decay, eps=eps)
    expected = released_adam_in_numpy(decay, config.beta1, config.beta2, eps)
    for name, p in run_our_optimizer(ReleasedAdam, config).items():
        np.testing.assert_allclose(p.double().numpy(), expected[name], rtol=0, atol=1e-6)


def test_the_released_adam_is_not_adamw():
    config = FinetuneConfig(weight_decay=0.3, eps=1e-3)
    ours_, other = run_our_optimizer(ReleasedAdam, config), run_our_optimizer(AdamW, config)
    assert (ours_["linear.weight"] - other["linear.weight"]).abs().max() > 1e-4


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_adamw_equals_torchs(decay: float):
    expected = run_torch_optimizer(torch.optim.AdamW, decay, betas=(0.8, 0.95), eps=1e-6)
    found = run_our_optimizer(AdamW, FinetuneConfig(weight_decay=decay, beta1=0.8, beta2=0.95, eps=1e-6))
    for name in SHAPES:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-7)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_equals_torchs(momentum: float):
    expected = run_torch_optimizer(torch.optim.SGD, 0.3, momentum=momentum)
    found = run_our_optimizer(SGD, FinetuneConfig(weight_decay=0.3, beta1=momentum))
    for name in SHAPES:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-7)


MATRICES = {"blocks.0.mlp.widen.weight": (96, 24), "blocks.0.mlp.narrow.weight": (24, 96)}
QKV = "blocks.1.attention.qkv.weight"


def block_weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    shapes = {**MATRICES, QKV: (72, 24), "tokens.weight": (50, 24)}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def test_muon_equals_torchs_on_the_matrices_of_blocks_and_adamw_elsewhere():
    weights = block_weights()
    found = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
    muon = Muon([*found.items()], FinetuneConfig(weight_decay=0.3))
    separate = [weights[name].clone() for name in MATRICES] + [*weights[QKV].clone().chunk(3)]
    expected = [weight.clone().requires_grad_() for weight in separate]
    tokens = weights["tokens.weight"].clone().requires_grad_()
    settings: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.3}
    theirs = torch.optim.Muon(expected, momentum=0.95, adjust_lr_fn="match_rms_adamw", **settings)
    adamw = torch.optim.AdamW([tokens], **settings)
    for _ in range(3):
        drawn = {name: torch.randn_like(weight) for name, weight in weights.items()}
        set_gradients(found, drawn)
        for weight, gradient in zip(expected, [drawn[n] for n in MATRICES] + [*drawn[QKV].chunk(3)], strict=True):
            weight.grad = gradient.clone()
        tokens.grad = drawn["tokens.weight"].clone()
        muon.step(0.01)
        theirs.step()
        adamw.step()
    ours_ = [found[name] for name in MATRICES] + [*found[QKV].chunk(3)]
    for weight, reference in zip(ours_, expected, strict=True):
        torch.testing.assert_close(weight, reference, rtol=0, atol=1e-4)
    torch.testing.assert_close(found["tokens.weight"], tokens)
    second_moments = [name for name in muon.state_tensors() if name.startswith("exp_avg_sq")]
    assert second_moments == ["exp_avg_sq.tokens.weight"]


@pytest.mark.parametrize("finite", [True, False])
def test_muon_skips_matrices_on_the_device_with_the_bits_of_a_step_or_of_none(finite: bool):
    found = []
    for on_device in (True, False):
        parameters = {name: weight.requires_grad_() for name, weight in block_weights().items()}
        muon = Muon([*parameters.items()], FinetuneConfig(weight_decay=0.3))
        set_gradients(parameters, {name: torch.ones_like(p) for name, p in parameters.items()})
        muon.step(0.01)
        set_gradients(
            parameters, {name: p.detach() if finite else p.detach() * math.nan for name, p in parameters.items()}
        )
        muon.steps_taken += 1
        if on_device or finite:
            muon.update_all(0.01, torch.tensor(0.5), torch.tensor(finite) if on_device else None)
        found.append({name: tensor.detach() for name, tensor in (parameters | muon.state_tensors()).items()})
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())


@pytest.mark.parametrize("shape", [(8, 8), (16, 64)])
def test_an_orthogonalized_matrix_keeps_its_singular_vectors_and_evens_its_singular_values(shape: tuple[int, int]):
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    values = torch.linspace(1, 5, min(shape))
    found = u.T @ orthogonalize((u * values @ v)[None].bfloat16())[0].float() @ v.T
    assert ((found.diagonal() > 0.6) & (found.diagonal() < 1.3)).all()
    assert (found - found.diagonal().diag()).abs().max() < 0.05


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_decay_applies_to_matrices_and_not_to_layer_norm_and_biases(name: str):
    parameters = {name: tensor.requires_grad_() for name, tensor in initial_weights().items()}
    set_gradients(parameters, {name: torch.zeros(shape) for name, shape in SHAPES.items()})
    OPTIMIZERS[name](list(parameters.items()), FinetuneConfig(weight_decay=0.1)).step(0.1)
    for name, before in initial_weights().items():
        if before.dim() == 1:
            assert torch.equal(parameters[name], before)
        else:
            assert (parameters[name].abs() <= before.abs()).all()
            assert parameters[name].norm() < before.norm()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("cut", [1, 5, 9])
def test_a_saved_and_loaded_optimizer_continues_with_the_same_bits(name: str, cut: int):
    config = FinetuneConfig(weight_decay=0.1)
    expected = run_our_optimizer(OPTIMIZERS[name], config)
    parameters = {name: tensor.requires_grad_() for name, tensor in initial_weights().items()}
    optimizer = OPTIMIZERS[name](list(parameters.items()), config)
    for step in range(STEPS):
        if step == cut:
            stored = {name: tensor.clone() for name, tensor in optimizer.state_tensors().items()}
            optimizer = OPTIMIZERS[name](list(parameters.items()), config)
            optimizer.load_state_tensors(stored, step)
        set_gradients(parameters, make_gradients(step))
        optimizer.step(learning_rate(step))
    assert all(torch.equal(parameters[name], expected[name]) for name in SHAPES)


@given(largest=st.floats(1e-3, 1e3))
def test_clipping_keeps_the_direction_and_bounds_the_norm(largest: float):
    parameters = initial_weights()
    set_gradients(parameters, make_gradients(0))
    before = torch.cat([g.flatten() for g in make_gradients(0).values()])
    norm = global_norm(parameters.values())
    torch.testing.assert_close(norm, before.norm())
    torch.testing.assert_close(clip_coefficient(norm, largest), torch.tensor(min(1.0, largest / float(before.norm()))))


def test_the_norm_of_many_gradients_is_close_to_the_exact_one():
    parameters = [torch.zeros(n, 300, requires_grad=True) for n in (5000, 7, 1)] + [torch.zeros((), requires_grad=True)]
    for p in parameters:
        p.grad = torch.randn_like(p)
    exact = torch.stack([p.grad.double().square().sum() for p in parameters if p.grad is not None]).sum().sqrt()
    assert abs(float(global_norm(parameters)) - float(exact)) < 1e-5 * float(exact)


def test_a_clip_norm_of_0_does_not_clip():
    assert clip_coefficient(torch.tensor(100.0), 0) is None


@pytest.mark.parametrize("name", OPTIMIZERS)
@given(shrink=st.floats(1e-3, 1))
def test_a_clip_coefficient_equals_scaled_gradients(name: str, shrink: float):
    found = []
    for before, after in ((shrink, None), (1.0, torch.tensor(shrink))):
        parameters = {name: tensor.requires_grad_() for name, tensor in initial_weights().items()}
        optimizer = OPTIMIZERS[name](list(parameters.items()), FinetuneConfig(weight_decay=0.1))
        for step in range(3):
            set_gradients(parameters, {key: g * before for key, g in make_gradients(step).items()})
            optimizer.step(learning_rate(step), after)
        found.append(parameters)
    for key in SHAPES:
        torch.testing.assert_close(*(parameters[key].detach() for parameters in found))


@pytest.mark.parametrize("kind", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_skipped_step_changes_no_bit_and_is_counted(kind: type[Optimizer]):
    parameters = {name: tensor.requires_grad_() for name, tensor in initial_weights().items()}
    optimizer = kind(list(parameters.items()), FinetuneConfig(weight_decay=0.1))
    set_gradients(parameters, make_gradients(0))
    optimizer.step(0.01, torch.tensor(0.5), torch.tensor(True))
    before = {name: tensor.clone() for name, tensor in (parameters | optimizer.state_tensors()).items()}
    set_gradients(parameters, {name: tensor * math.nan for name, tensor in make_gradients(1).items()})
    optimizer.step(0.01, torch.tensor(math.nan), torch.tensor(False))
    assert all(torch.equal(tensor, before[name]) for name, tensor in (parameters | optimizer.state_tensors()).items())
    assert optimizer.steps_taken == 2


@pytest.mark.parametrize("in_kernel", [True, False], ids=["found_inf", "torch.where"])
@pytest.mark.parametrize("finite", [True, False])
@pytest.mark.parametrize("kind", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_skipping_on_the_device_gives_the_bits_of_a_step_or_of_none(
    kind: type[Optimizer], finite: bool, in_kernel: bool, monkeypatch: pytest.MonkeyPatch
):
    if not in_kernel:  # as on an Apple GPU
        monkeypatch.setattr(optimizers, "GRAD_SCALE_DEVICES", ())
    found = []
    for on_device in (True, False):
        parameters = {name: tensor.requires_grad_() for name, tensor in initial_weights().items()}
        optimizer = kind(list(parameters.items()), FinetuneConfig(weight_decay=0.1))
        set_gradients(parameters, make_gradients(0))
        optimizer.step(0.01)
        set_gradients(
            parameters, {name: tensor if finite else tensor * math.nan for name, tensor in make_gradients(1).items()}
        )
        optimizer.steps_taken += 1
        if on_device or finite:
            shrink = torch.tensor(0.5 if finite else math.nan)
            optimizer.update_all(0.01, shrink, torch.tensor(finite) if on_device else None)
        found.append({name: tensor.detach() for name, tensor in (parameters | optimizer.state_tensors()).items()})
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())


@pytest.mark.parametrize("kind", [ReleasedAdam, AdamW, Muon, SGD])
def test_the_token_embedding_has_its_own_learning_rate(kind: Any):
    """Each tensor is updated on its own, so the embedding is that of a run with the larger rate, the rest is not."""

    def weights(factor: float, times: float) -> dict[str, Tensor]:
        parameters = {name: tensor.requires_grad_() for name, tensor in initial_weights().items()}
        config = FinetuneConfig(weight_decay=0.3, embedding_lr_factor=factor, precision="fp32")
        optimizer = kind(list(parameters.items()), config)
        for step in range(STEPS):
            set_gradients(parameters, make_gradients(step))
            optimizer.step(times * learning_rate(step))
        return {name: p.detach() for name, p in parameters.items()}

    found, slow, fast = weights(10, 1), weights(1, 1), weights(1, 10)
    for name in SHAPES:
        assert torch.equal(found[name], (fast if name == "tokens.weight" else slow)[name]), name
    assert not torch.equal(fast["tokens.weight"], slow["tokens.weight"])


def test_the_token_embedding_of_every_model_is_found():
    config, shape = FinetuneConfig(embedding_lr_factor=3), GPTConfig(vocab_size=20, n_layer=1, n_head=1, n_embd=8)
    lstm = GPTConfig(vocab_size=20, n_layer=1, n_head=1, n_embd=8, architecture="lstm", lstm_units=8)
    for model in (GPT(shape), GPT(lstm), TaskModel(GPT(shape), Head(8, 2, False))):
        groups = AdamW(model.named_parameters(), config).groups
        (named,) = [group.named for group in groups if group.lr_factor == 3]
        assert [p for _, p in named] == [getattr(model, "gpt", model).tokens.weight]
