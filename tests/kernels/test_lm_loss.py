"""The chunked loss equals the plain cross-entropy and its gradients, for chunks of any size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gpt1.kernels import lm_loss as module
from gpt1.kernels.lm_loss import lm_loss


def plain_loss(states: Tensor, embedding: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    return F.cross_entropy(states @ embedding.T, targets, reduction="none") @ weights


def make_example(
    n: int, width: int, vocab: int, scale: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    states = (scale * torch.randn(n, width, dtype=dtype)).requires_grad_()
    embedding = torch.randn(vocab, width, dtype=dtype, requires_grad=True)
    return states, embedding, torch.randint(vocab, (n,)), torch.rand(n, dtype=dtype) * (torch.rand(n) < 0.7)


def relative_error(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().norm() / b.detach().norm().clamp(min=1e-12))


@given(
    n=st.integers(1, 12),
    width=st.integers(1, 9),
    vocab=st.integers(1, 30),
    scale=st.sampled_from([0.1, 1.0, 30.0]),
    sizes=st.tuples(st.integers(1, 2000), st.integers(1, 40), st.integers(1, 40), st.integers(1, 16)),
    as_on_gpu=st.booleans(),
)
def test_loss_and_gradients_equal_the_plain_ones_for_any_chunk_size(n, width, vocab, scale, sizes, as_on_gpu):
    inputs = make_example(n, width, vocab, scale, torch.float64)
    expected = plain_loss(*inputs)
    with pytest.MonkeyPatch.context() as patch:
        for name, size in zip(("CHUNK_BYTES", "VOCAB_CHUNK", "GRADIENT_ROWS", "ALIGNED"), sizes, strict=True):
            patch.setattr(module, name, size)
        if as_on_gpu:
            patch.setattr(module, "on_cpu", lambda x: False)
        loss = lm_loss(*inputs)
        ours, theirs = (torch.autograd.grad(3 * value, inputs[:2]) for value in (loss, expected))
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("scale", [0.05, 1.0])
def test_the_loss_and_its_gradients_in_float32_are_exact_within_1e_5(scale):
    torch.manual_seed(0)
    inputs = make_example(300, 64, 5000, scale, torch.float32)
    loss, expected = lm_loss(*inputs), plain_loss(*inputs)
    assert relative_error(loss, expected) < 1e-5
    for ours, theirs in zip(*(torch.autograd.grad(value, inputs[:2]) for value in (loss, expected)), strict=True):
        assert relative_error(ours, theirs) < 1e-5


def test_the_loss_and_its_gradients_in_bfloat16_are_exact_up_to_rounding():
    torch.manual_seed(0)
    states, embedding, targets, weights = make_example(300, 64, 5000, 0.5, torch.float32)
    loss = lm_loss(states.bfloat16(), embedding, targets, weights)
    expected = plain_loss(states.bfloat16().float(), embedding.bfloat16().float(), targets, weights)
    assert loss.dtype == torch.float32
    assert relative_error(loss, expected) < 1e-3
    ours, theirs = (torch.autograd.grad(value, (states, embedding)) for value in (loss, expected))
    assert all(relative_error(a, b) < 0.01 for a, b in zip(ours, theirs, strict=True))


def test_a_common_weight_scales_gradients_in_bfloat16_without_a_bias():
    """1 / 1234 is off by 0.2% in bfloat16, and so would every gradient be if weights were rounded to it."""
    torch.manual_seed(0)
    states, embedding, targets, _ = make_example(200, 16, 50, 1.0, torch.float32)
    states = states.detach().bfloat16().requires_grad_()
    whole, part = (torch.autograd.grad(lm_loss(states, embedding, targets, torch.full((200,), w)), embedding)[0]
                   for w in (1.0, 1 / 1234))  # fmt: skip
    assert float(part.norm() / whole.norm()) == pytest.approx(1 / 1234, rel=2e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_target_whose_probability_underflows_has_a_finite_loss(dtype):
    states = torch.tensor([[200.0, 0.0]], dtype=dtype, requires_grad=True)
    embedding = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    loss = lm_loss(states, embedding, torch.tensor([1]), torch.ones(1))
    loss.backward()
    assert loss.item() == 400.0
    assert embedding.grad.tolist() == [[200.0, 0.0], [-200.0, 0.0], [0.0, 0.0]]


def test_rows_with_weight_0_are_ignored_even_if_they_are_nan():
    torch.manual_seed(0)
    states, embedding, targets, weights = make_example(8, 4, 11, 1.0, torch.float64)
    weights = torch.where(torch.arange(8) < 5, weights + 0.1, 0.0)
    spoiled = torch.where(weights[:, None] > 0, states, torch.nan)
    assert torch.equal(lm_loss(spoiled, embedding, targets, weights), lm_loss(states, embedding, targets, weights))


def test_without_weighted_rows_loss_and_gradients_are_0():
    states, embedding, targets, weights = make_example(3, 4, 11, 1.0, torch.float32)
    loss = lm_loss(states, embedding, targets, 0 * weights)
    loss.backward()
    assert loss.item() == 0
    assert not states.grad.any()
    assert not embedding.grad.any()


def test_only_trainable_inputs_get_a_gradient():
    states, embedding, targets, weights = make_example(3, 4, 11, 1.0, torch.float32)
    lm_loss(states, embedding.detach(), targets, weights).backward()
    assert states.grad is not None
    with torch.no_grad():
        assert not lm_loss(states, embedding, targets, weights).requires_grad


def test_a_second_backward_pass_over_a_kept_graph_gives_the_same():
    states, embedding, targets, weights = make_example(5, 4, 11, 1.0, torch.float64)
    loss = lm_loss(states, embedding, targets, weights)
    first = torch.autograd.grad(loss, (states, embedding), retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(loss, (states, embedding)), first)


def test_the_logits_of_all_rows_never_exist_at_once(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_BYTES", 4 * 11 * 16)  # 16 rows of float32 logits over 11 tokens
    largest = []
    softmax = torch.softmax

    def record_softmax(x, *args, **kwargs):
        largest.append(x.numel())
        return softmax(x, *args, **kwargs)

    monkeypatch.setattr(torch, "softmax", record_softmax)
    states, embedding, targets, weights = make_example(100, 4, 11, 1.0, torch.float32)
    lm_loss(states, embedding, targets, weights + 1)
    assert max(largest) == 16 * 11
