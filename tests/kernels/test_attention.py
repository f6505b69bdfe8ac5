"""Attention equals the plain formula with the same dropout mask, in values and gradients, for all shapes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gpt1.kernels import attention as module
from gpt1.kernels.attention import STRIP, causal_attention, sequences_at_a_time, strips
from gpt1.kernels.random_bits import keep_mask

times = st.one_of(st.integers(1, 12), st.sampled_from([STRIP - 1, STRIP, STRIP + 1, 2 * STRIP + 5]))
shapes = st.tuples(st.integers(1, 3), times, st.integers(1, 7), st.sampled_from([1, 5, 8, 32, 64]))
probabilities = st.sampled_from([0.0, 0.1, 0.5])


def plain_attention(qkv: Tensor, n_head: int, keep: Tensor) -> Tensor:
    """The formula, line by line; `keep` [batch, n_head, time, time] multiplies the probabilities."""
    batch, time, width = qkv.shape
    q, k, v = (part.view(batch, time, n_head, -1).transpose(1, 2) for part in qkv.split(width // 3, dim=-1))
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    scores = scores.masked_fill(torch.ones(time, time, dtype=torch.bool).triu(1), -torch.inf)
    y = (scores.softmax(-1) * keep) @ v
    return y.transpose(1, 2).reshape(batch, time, width // 3)


def dropout_mask(batch: int, time: int, n_head: int, p: float, dtype: torch.dtype, seed: int) -> Tensor:
    """The dropout mask / (1 − p) that causal_attention will use for this seed."""
    torch.manual_seed(seed)
    keep = torch.ones(batch * n_head, time, time, dtype=dtype)
    at_a_time = sequences_at_a_time(n_head, time)
    for heads in torch.split(keep, at_a_time * n_head):
        for top, end in strips(time) if p else []:
            heads[:, top:end, :end] = keep_mask((len(heads), end - top, end), p, dtype).to(dtype) / (1 - p)
    torch.manual_seed(seed)
    return keep.view(batch, n_head, time, time)


def relative_error(a: Tensor, b: Tensor) -> float:
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm() / b.norm().clamp(min=1e-12))


@given(shape=shapes, p=probabilities, seed=st.integers(0, 99), scores=st.integers(1, 1 << 18))
def test_values_and_gradients_equal_the_plain_formula(shape, p, seed, scores):
    batch, time, n_head, head_width = shape
    qkv = torch.randn(batch, time, 3 * n_head * head_width, dtype=torch.float64, requires_grad=True)
    dy = torch.randn(batch, time, n_head * head_width, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_SCORES", scores)  # one, some or all sequences at a time
        expected = plain_attention(qkv, n_head, dropout_mask(batch, time, n_head, p, qkv.dtype, seed))
        y = causal_attention(qkv, n_head, p)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(*(torch.autograd.grad(out, qkv, dy)[0] for out in (y, expected)))


@pytest.mark.parametrize("p", [0.0, 0.1])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 0.01)])
def test_attention_in_lower_precision_equals_the_formula_up_to_rounding(p, dtype, tolerance):
    torch.manual_seed(0)
    qkv = torch.randn(2, 300, 3 * 2 * 64).to(dtype).requires_grad_()
    dy = torch.randn(2, 300, 2 * 64).to(dtype)
    keep = dropout_mask(2, 300, 2, p, dtype, seed=1).double()
    y = causal_attention(qkv, 2, p)
    exact = qkv.detach().double().requires_grad_()
    expected = plain_attention(exact, 2, keep)
    assert y.dtype == dtype
    assert relative_error(y, expected) < tolerance
    ours, theirs = torch.autograd.grad(y, qkv, dy)[0], torch.autograd.grad(expected, exact, dy.double())[0]
    assert relative_error(ours, theirs) < tolerance


@given(shape=shapes, p=probabilities)
def test_a_later_position_never_changes_an_earlier_one(shape, p):
    batch, time, n_head, head_width = shape
    qkv = torch.randn(batch, time, 3 * n_head * head_width, requires_grad=True)
    cut = time // 2
    other = torch.cat([qkv[:, :cut], torch.randn_like(qkv[:, cut:])], dim=1)
    outputs = []
    for x in (qkv, other):
        torch.manual_seed(0)
        outputs.append(causal_attention(x, n_head, p)[:, :cut])
    assert torch.equal(*outputs)


@pytest.mark.parametrize("time", [1, 7, STRIP + 3])
def test_torchs_kernel_gives_the_same_without_gradients_and_dropout(time):
    qkv = torch.randn(2, time, 3 * 32, requires_grad=True)
    with torch.no_grad():
        fused = causal_attention(qkv, 4)
    torch.testing.assert_close(fused, causal_attention(qkv, 4), rtol=1e-5, atol=1e-6)


def test_the_mean_over_many_dropout_masks_is_the_output_without_dropout():
    torch.manual_seed(0)
    qkv = torch.randn(1, 16, 3 * 8)
    y, many = causal_attention(qkv, 2), torch.stack([causal_attention(qkv, 2, 0.2) for _ in range(2000)])
    error = (many.mean(0) - y) / (many.std(0) / 2000**0.5 + 1e-9)
    assert float(error.abs().max()) < 5


def test_extreme_scores_give_finite_values_and_gradients():
    qkv = 100 * torch.randn(1, 20, 3 * 8)
    qkv.requires_grad_()
    y = causal_attention(qkv, 1, 0.1)
    y.sum().backward()
    assert bool(y.isfinite().all())
    assert bool(qkv.grad.isfinite().all())
