"""GELU: equal to torch's tanh form in value and derivative for all dtypes, shapes and strides."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from gpt1.kernels import gelu as module
from gpt1.kernels.gelu import CHUNK_ELEMENTS, gelu, invariant_gelu


@given(shape=st.lists(st.integers(1, 9), min_size=1, max_size=3), chunk=st.integers(1, 70))
def test_values_and_derivatives_equal_torchs_for_any_chunk_size(shape, chunk):
    x = (3 * torch.randn(shape, dtype=torch.float64)).requires_grad_()
    dy = torch.randn(shape, dtype=torch.float64)
    expected = F.gelu(x, approximate="tanh")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK_ELEMENTS", chunk)
        y = gelu(x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(*(torch.autograd.grad(out, x, dy)[0] for out in (y, expected)))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-8)])
def test_every_number_of_a_wide_range_is_exact_up_to_rounding(dtype, tolerance):
    x = torch.linspace(-12, 12, 20_001).to(dtype).requires_grad_()
    exact = x.detach().double().requires_grad_()
    y, expected = gelu(x), F.gelu(exact, approximate="tanh")
    torch.testing.assert_close(y.double(), expected, rtol=tolerance, atol=1e-6)
    ours, theirs = (torch.autograd.grad(out.sum(), at)[0] for out, at in ((y, x), (expected, exact)))
    torch.testing.assert_close(ours.double(), theirs, rtol=tolerance, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [128, 512, 1536, 3072])
def test_the_invariant_form_gives_a_row_the_same_bits_among_few_rows_and_among_many(dtype, width):
    x = (3 * torch.randn(16 + 2 * CHUNK_ELEMENTS // width, width)).to(dtype)
    x = x[: len(x) // 8 * 8]  # passes have a multiple of 8 rows
    many = invariant_gelu(x)
    torch.testing.assert_close(many, F.gelu(x, approximate="tanh"))
    for rows in (8, 16, 24):
        assert torch.equal(torch.cat([invariant_gelu(part) for part in torch.split(x, rows)]), many)


def test_strides_do_not_matter():
    x = torch.randn(6, 5)
    assert torch.equal(gelu(x.T), gelu(x).T)
    assert torch.equal(gelu(x[:, 1:4]), gelu(x)[:, 1:4])


def test_gelu_is_0_for_large_negative_and_the_identity_for_large_positive_numbers():
    assert gelu(torch.tensor([-1e4, 0.0, 1e4])).tolist() == [0.0, 0.0, 1e4]
