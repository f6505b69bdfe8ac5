"""Embedding lookup: values and gradients equal torch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from gpt1.kernels.buffers import refresh_buffers, reuse_buffers
from gpt1.kernels.embedding import embedding, offer_gradient
from gpt1.kernels.lm_loss import lm_loss


@given(shape=st.lists(st.integers(1, 6), min_size=1, max_size=2), rows=st.integers(1, 9), width=st.integers(1, 5))
def test_values_and_gradients_equal_torchs(shape, rows, width):
    ids = torch.randint(0, rows, shape)
    weight = torch.randn(rows, width, dtype=torch.float64, requires_grad=True)
    dy = torch.randn(*shape, width, dtype=torch.float64)
    y, expected = embedding(ids, weight), F.embedding(ids, weight)
    assert torch.equal(y, expected)
    torch.testing.assert_close(*(torch.autograd.grad(out, weight, dy)[0] for out in (y, expected)))


def tied_loss(weight, ids, plainly):
    """One matrix as embedding and output matrix."""
    rows, predicted = (F.embedding if plainly else embedding)(ids, weight), ids.roll(-1)
    states = rows.tanh()
    if plainly:
        return 0.5 * F.cross_entropy(states @ weight.T, predicted, reduction="sum")
    return lm_loss(states, weight, predicted, torch.full(ids.shape, 0.5, dtype=weight.dtype))


@pytest.mark.parametrize("times", [1.0, 3.0])
@pytest.mark.parametrize("kept", [False, True])
def test_a_tied_matrix_gets_the_sum_of_both_gradients_over_micro_batches_and_steps(times, kept):
    ids = torch.randint(0, 9, (3, 2, 7))  # steps, micro-batches, tokens
    weight, reference = (torch.nn.Linear(4, 9, bias=False, dtype=torch.float64) for _ in range(2))
    reference.load_state_dict(weight.state_dict())
    for step_ids in ids:
        reference.zero_grad()
        for part in step_ids:
            (times * tied_loss(reference.weight, part, plainly=True)).backward()
        with reuse_buffers(weight if kept else torch.nn.Identity()):
            for part in step_ids:
                (times * tied_loss(weight.weight, part, plainly=False)).backward()
            torch.testing.assert_close(weight.weight.grad, reference.weight.grad)
            refresh_buffers(weight.parameters())


def test_gradients_of_another_backward_pass_are_not_changed():
    weight, sent = torch.randn(9, 4, requires_grad=True), torch.ones(9, 4)
    offer_gradient(weight, sent)
    embedding(torch.tensor([1, 1]), weight).sum().backward()
    assert torch.equal(weight.grad, F.one_hot(torch.tensor(1), 9)[:, None].expand(9, 4) * 2.0)
    assert torch.equal(sent, torch.ones(9, 4))


@pytest.mark.parametrize("between", [False, True])
def test_several_losses_in_one_pass_add_up(between):
    """All losses over one lookup, or each over its own."""
    ids = torch.randint(0, 9, (3, 7))
    weight, gradients = torch.randn(9, 4, dtype=torch.float64, requires_grad=True), []
    for plainly in (True, False):
        look_up = F.embedding if plainly else embedding
        whole, total = look_up(ids, weight), 0.0
        for k, own in enumerate(ids):
            states = (look_up(own, weight) if between else whole[k]).tanh()
            predicted = own.roll(-1)
            if plainly:
                total = total + F.cross_entropy(states @ weight.T, predicted, reduction="sum")
            else:
                total = total + lm_loss(states, weight, predicted, torch.ones(len(own), dtype=weight.dtype))
        gradients += torch.autograd.grad(total, weight)
    torch.testing.assert_close(*gradients)
