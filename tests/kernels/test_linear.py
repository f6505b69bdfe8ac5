"""The linear layer: values and gradients in bfloat16 are exact up to rounding."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gpt1.kernels import linear as module
from gpt1.kernels.linear import linear, pack_weight


def relative_error(a: Tensor, b: Tensor) -> float:
    return float((a.detach().double() - b.detach()).norm() / b.detach().norm().clamp(min=1e-9))


widths = st.one_of(st.integers(1, 20), st.sampled_from([64, 769]))


@given(
    batch=st.lists(st.integers(1, 5), min_size=1, max_size=2),
    n_in=widths,
    n_out=widths,
    many=st.sampled_from([1, module.MANY_ROWS]),
)
def test_values_and_gradients_are_exact_up_to_rounding(batch, n_in, n_out, many):
    x = torch.randn(*batch, n_in).bfloat16().requires_grad_()
    weight = torch.randn(n_out, n_in).bfloat16().float().requires_grad_()  # exact in bfloat16: only results are rounded
    bias = torch.randn(n_out).bfloat16().float().requires_grad_()
    dy = torch.randn(*batch, n_out).bfloat16()
    y, expected = linear(x, weight, bias), F.linear(x.double(), weight.double(), bias.double())
    assert y.dtype == torch.bfloat16
    assert relative_error(y, expected) < 2**-8
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MANY_ROWS", many)
        ours = torch.autograd.grad(y, (x, weight, bias), dy)
    theirs = torch.autograd.grad(expected, (x, weight, bias), dy.double())
    for mine, exact, parameter in zip(ours, theirs, (x, weight, bias), strict=True):
        assert mine.dtype == parameter.dtype
        assert mine.shape == parameter.shape
        assert relative_error(mine, exact.double()) < 2**-8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_linear_in_float32_and_float64_equals_torchs(dtype):
    x, weight, bias = torch.randn(2, 3, 4, dtype=dtype), torch.randn(5, 4), torch.randn(5)
    assert torch.equal(linear(x, weight, bias), F.linear(x, weight.to(dtype), bias.to(dtype)))


def test_only_trainable_inputs_get_a_gradient():
    x, bias = torch.randn(3, 4).bfloat16(), torch.randn(5)
    weight = torch.randn(5, 4, requires_grad=True)
    linear(x, weight, bias).sum().backward()
    assert weight.grad is not None
    assert x.grad is None
    assert bias.grad is None


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2**-8), (torch.float32, 1e-6)], ids=str)
@given(batch=st.lists(st.integers(1, 5), max_size=2), n_in=widths, n_out=widths, with_bias=st.booleans())
def test_a_packed_weight_is_exact_up_to_rounding_and_unpacks_to_itself(dtype, tolerance, batch, n_in, n_out, with_bias):
    x, weight = torch.randn(*batch, n_in, dtype=dtype), torch.randn(n_out, n_in, dtype=dtype)
    bias = torch.randn(n_out, dtype=dtype) if with_bias else None
    again = pack_weight(weight)
    with torch.inference_mode():
        y = linear(x, again, bias)
        expected = F.linear(x.double(), weight.double(), bias.double() if bias is not None else None)
    assert y.shape == expected.shape
    assert y.dtype == dtype
    assert relative_error(y, expected) < tolerance
    assert torch.equal(again.to_dense(), weight)


def test_a_dtype_without_packed_products_is_not_packed():
    weight = torch.randn(3, 4, dtype=torch.float64)
    assert pack_weight(weight) is weight
