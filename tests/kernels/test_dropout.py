"""Dropout: the distribution of its masks, and gradients with the same mask."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt1.kernels.dropout import dropout, residual_dropout
from gpt1.kernels.random_bits import INTEGER_DTYPES, keep_mask, random_words

dtypes = st.sampled_from(list(INTEGER_DTYPES))
probabilities = st.sampled_from([0.001, 0.1, 0.25, 0.5, 0.9])
shapes = st.lists(st.integers(1, 40), min_size=1, max_size=3)


def next_mask(shape: list[int], p: float, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """The mask of the next call as numbers."""
    torch.manual_seed(seed)
    mask = keep_mask(shape, p, dtype).to(dtype)
    torch.manual_seed(seed)
    return mask


@given(shape=shapes, p=probabilities, dtype=dtypes, seed=st.integers(0, 1000))
def test_kept_elements_are_scaled_and_the_rest_is_zero(shape, p, dtype, seed):
    x = torch.randn(shape, dtype=dtype)
    mask = next_mask(shape, p, dtype, seed)
    assert torch.equal(dropout(x, p), x * mask * (1 / (1 - p)))


@given(shape=shapes, p=probabilities, seed=st.integers(0, 1000))
def test_the_residual_sum_is_x_plus_dropout_of_y(shape, p, seed):
    x, y = torch.randn(2, *shape, dtype=torch.float64)
    mask = next_mask(shape, p, y.dtype, seed)
    torch.testing.assert_close(residual_dropout(x, y, p), x + y * mask / (1 - p))


@pytest.mark.parametrize("p", [0.1, 0.6])
def test_gradients_use_the_same_mask(p):
    x, y = (torch.randn(3, 17, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def seed_first(f):
        def seeded_function(*inputs):
            torch.manual_seed(5)
            return f(*inputs, p)

        return seeded_function

    assert torch.autograd.gradcheck(seed_first(dropout), x)
    assert torch.autograd.gradcheck(seed_first(residual_dropout), (x, y))


def test_gradients_need_not_be_contiguous():
    x = torch.randn(6, 4, requires_grad=True)
    torch.manual_seed(1)
    y = dropout(x, 0.5)
    (dense,) = torch.autograd.grad(y, x, torch.arange(24.0).view(4, 6).T.contiguous(), retain_graph=True)
    (strided,) = torch.autograd.grad(y, x, torch.arange(24.0).view(4, 6).T, retain_graph=True)
    (expanded,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(dense, strided)
    assert torch.equal(expanded, (y != 0) * 2.0)


def test_probability_0_returns_the_input_itself():
    x, y = torch.randn(2, 3)
    assert dropout(x, 0.0) is x
    assert torch.equal(residual_dropout(x, y, 0.0), x + y)


def test_the_seed_determines_every_bit():
    torch.manual_seed(3)
    first = [keep_mask([100, 7], 0.3, torch.float32) for _ in range(3)]
    torch.manual_seed(3)
    assert all(torch.equal(mask, keep_mask([100, 7], 0.3, torch.float32)) for mask in first)


@pytest.mark.parametrize("p", [0.1, 0.37])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_share_of_dropped_elements_is_p(p, dtype):
    torch.manual_seed(0)
    n = 1 << 22
    dropped = sum(float((keep_mask([n], p, dtype) == 0).double().mean()) for _ in range(4)) / 4
    assert abs(dropped - p) < 4 * math.sqrt(p * (1 - p) / (4 * n)) + 1e-5


def test_dropout_keeps_the_mean_and_adds_bernoulli_variance():
    torch.manual_seed(0)
    p, n = 0.1, 1 << 22
    y = dropout(torch.ones(n), p).double()
    assert abs(float(y.mean()) - 1) < 4 * math.sqrt(p / (1 - p) / n)
    assert float(y.var()) == pytest.approx(p / (1 - p), rel=0.01)


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.double() - a.double().mean(), b.double() - b.double().mean()
    return float((a * b).mean() / (a.std() * b.std()))


def test_masks_of_two_calls_are_independent():
    torch.manual_seed(0)
    masks = [keep_mask([1 << 20], 0.1, torch.bfloat16) for _ in range(4)]
    assert all(abs(correlation(a, b)) < 5 / 1024 for a, b in combinations(masks, 2))


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 5, 63, 64, 256, 257, 1023, 1024, 768, 768 * 2, 768 * 512])
def test_elements_of_a_mask_are_independent_of_later_ones(lag):
    torch.manual_seed(0)
    mask = keep_mask([2048, 768], 0.1, torch.bfloat16).view(-1)
    assert abs(correlation(mask[:-lag], mask[lag:])) < 5 / math.sqrt(mask.numel())


def test_counts_per_row_and_column_are_binomial():
    torch.manual_seed(0)
    p, mask = 0.1, keep_mask([2048, 768], 0.1, torch.bfloat16).double()
    for axis in (0, 1):
        n = mask.shape[axis]
        spread = (mask.mean(axis) - (1 - p)) / math.sqrt(p * (1 - p) / n)  # standard normal
        assert abs(float(spread.mean())) < 5 / math.sqrt(len(spread))
        assert abs(float(spread.var()) - 1) < 5 * math.sqrt(2 / len(spread))
        assert float(spread.abs().max()) < 6


def test_three_and_four_elements_are_dropped_jointly_as_often_as_independent_ones():
    """Pairs could be independent and triples not. These lags are along the faces, where dependence would be visible."""
    torch.manual_seed(0)
    p, n = 0.25, 1 << 22
    dropped = 1 - keep_mask([n], p, torch.bfloat16).double()
    for lags in [(1, 2), (4, 8), (1024, 2048), (4, 1024, 1028), (1, 1024, 1025)]:
        size = n - max(lags)
        together = dropped[:size].clone()
        for lag in lags:
            together *= dropped[lag : lag + size]
        expected = p ** (1 + len(lags))
        assert abs(float(together.mean()) - expected) < 6 * math.sqrt(expected * 2 ** len(lags) / size)


def test_words_use_all_their_64_bits():
    torch.manual_seed(0)
    words = random_words(1 << 16)
    for bit in range(64):
        assert abs(float((words >> bit & 1).double().mean()) - 0.5) < 5 * 0.5 / 256


@given(n=st.integers(0, 3000))
def test_the_number_of_words_is_exact(n):
    assert random_words(n).shape == (n,)
