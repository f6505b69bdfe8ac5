"""The LSTM recurrence: values, last cell and gradients equal those of torch's LSTM."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gpt1.kernels.lstm_recurrence import lstm_recurrence


def torch_lstm(gates: Tensor, weight: Tensor, state: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """torch.lstm with the identity as input weight."""
    wide = gates.shape[-1]
    weights = [torch.eye(wide, dtype=gates.dtype), weight, gates.new_zeros(wide), gates.new_zeros(wide)]
    states, _, last = torch.lstm(gates, (state[None], cell[None]), weights, True, 1, 0.0, True, False, False)
    return states, last[0]


def random_inputs(time: int, batch: int, units: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    gates = torch.randn(time, batch, 4 * units, dtype=dtype, requires_grad=True)
    weight = torch.randn(4 * units, units, dtype=torch.promote_types(dtype, torch.float32), requires_grad=True)
    return gates, weight, torch.randn(batch, units, dtype=dtype), torch.randn(batch, units, dtype=dtype)


@given(time=st.integers(1, 7), batch=st.integers(1, 4), units=st.integers(1, 6), fresh=st.booleans())
def test_values_and_gradients_equal_torchs(time, batch, units, fresh):
    gates, weight, *before = random_inputs(time, batch, units)
    if fresh:
        before = [torch.zeros_like(one) for one in before]
    states, last = lstm_recurrence(gates, weight, None if fresh else tuple(before))
    expected, expected_last = torch_lstm(gates, weight, *before)
    torch.testing.assert_close((states, last), (expected, expected_last))
    dy = torch.randn_like(states)
    ours, theirs = (torch.autograd.grad(y, (gates, weight), dy) for y in (states, expected))
    torch.testing.assert_close(ours, theirs)


def test_the_recurrence_in_bfloat16_is_exact_up_to_rounding_even_after_many_steps():
    torch.manual_seed(0)
    gates, weight, *_ = random_inputs(100, 8, 32, torch.bfloat16)
    weight.data.mul_(0.1)
    states, _ = lstm_recurrence(gates, weight)
    wide = [one.detach().bfloat16().double().requires_grad_() for one in (gates, weight)]
    expected, _ = torch_lstm(*wide, *torch.zeros(2, 8, 32, dtype=torch.float64))
    assert states.dtype == torch.bfloat16
    dy = torch.randn_like(states)
    ours = torch.autograd.grad(states, (gates, weight), dy)
    theirs = torch.autograd.grad(expected, wide, dy.double())
    for mine, exact in zip((states, *ours), (expected, *theirs), strict=True):
        assert (mine.double() - exact).norm() < 0.01 * exact.norm()


@pytest.mark.parametrize("trained", [(True, False), (False, True)])
def test_only_trainable_inputs_get_a_gradient(trained):
    gates, weight, *_ = random_inputs(3, 2, 4)
    for one, needed in zip((gates, weight), trained, strict=True):
        one.requires_grad_(needed)
    lstm_recurrence(gates, weight)[0].sum().backward()
    assert (gates.grad is not None, weight.grad is not None) == trained


def test_the_last_cell_has_no_gradient():
    states, last = lstm_recurrence(*random_inputs(3, 2, 4)[:2])
    assert states.requires_grad
    assert not last.requires_grad
