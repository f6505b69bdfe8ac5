"""Reused buffers change no number: copies follow the weights, gradients start from 0."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gpt1.config import GPTConfig, PretrainConfig
from gpt1.kernels.buffers import cast_weight, get_buffers, gradient_buffer, refresh_buffers, reuse_buffers
from gpt1.model.gpt import GPT
from gpt1.model.losses import PretrainMicroBatch, l1
from gpt1.training.optimizers import OPTIMIZERS

CONFIG = GPTConfig(50, n_layer=2, n_head=2, n_embd=16, context=12)


def train(reuse: bool, micro_batches: int) -> tuple[dict[str, Tensor], list[float]]:
    """Weights and losses of five steps in bf16 with some micro-batches each."""
    torch.manual_seed(0)
    model = GPT(CONFIG).train()
    model.activation_dtype = torch.bfloat16
    optimizer = OPTIMIZERS["adamw"](list(model.named_parameters()), PretrainConfig())
    losses = []

    def run_steps() -> None:
        for step in range(5):
            torch.manual_seed(step)
            ids = torch.randint(0, 50, (4, 13))
            for part in torch.chunk(ids, micro_batches):
                loss = l1(model, PretrainMicroBatch(part, 48)).total
                loss.backward()
                losses.append(loss.item())
            optimizer.step(0.01)
            refresh_buffers(model.parameters())

    if reuse:
        with reuse_buffers(model):
            run_steps()
    else:
        run_steps()
    return {name: p.detach() for name, p in model.named_parameters()}, losses


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_training_with_reused_buffers_gives_the_same_bits(micro_batches):
    (mine, mine_losses), (plain, plain_losses) = train(True, micro_batches), train(False, micro_batches)
    assert mine_losses == plain_losses
    assert all(torch.equal(mine[name], plain[name]) for name in plain)


def test_gradients_reuse_the_memory_of_the_previous_step():
    model = GPT(CONFIG).train()
    model.activation_dtype = torch.bfloat16
    places = []
    with reuse_buffers(model):
        for _ in range(3):
            l1(model, PretrainMicroBatch(torch.randint(0, 50, (2, 13)), 24)).total.backward()
            places.append({n: p.grad.data_ptr() for n, p in model.named_parameters() if n.endswith("widen.weight")})
            refresh_buffers(model.parameters())
    assert places[0] == places[1] == places[2]


def test_no_buffers_are_left_afterwards_even_after_an_error():
    model = GPT(CONFIG)

    def stop_inside() -> None:
        with reuse_buffers(model):
            assert all(get_buffers(p) for p in model.parameters())
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        stop_inside()
    assert not any(get_buffers(p) for p in model.parameters())


def test_a_cast_copy_is_made_once_and_follows_the_weight():
    layer = torch.nn.Linear(3, 4)
    with reuse_buffers(layer):
        first = cast_weight(layer.weight, torch.bfloat16)
        assert cast_weight(layer.weight, torch.bfloat16) is first
        with torch.no_grad():
            layer.weight.mul_(2)
        refresh_buffers([layer.weight])
        assert torch.equal(cast_weight(layer.weight, torch.bfloat16), layer.weight.detach().bfloat16())
        assert cast_weight(layer.weight, torch.float32) is layer.weight


def test_copies_cast_in_inference_mode_are_not_reused_in_training():
    layer = torch.nn.Linear(3, 4)
    with reuse_buffers(layer):
        with torch.inference_mode():
            cast_weight(layer.weight, torch.bfloat16)
        assert not cast_weight(layer.weight, torch.bfloat16).is_inference()


def test_a_gradient_buffer_is_handed_out_once():
    layer = torch.nn.Linear(3, 4)
    with reuse_buffers(layer):
        layer.weight.grad = torch.ones(4, 3)
        given = layer.weight.grad
        refresh_buffers([layer.weight])
        assert layer.weight.grad is None
        assert gradient_buffer(layer.weight) is given
        assert gradient_buffer(layer.weight) is not given
