"""4-bit weights against the plain rounding rule."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gpt1.kernels.int4 import QUANTIZE_ROWS, Int4Linear, int4_group_size, int4_is_supported

pytestmark = pytest.mark.skipif(not int4_is_supported([]), reason="this CPU has no 4-bit products")


def round_to_nearest(weight: Tensor) -> Tensor:
    """Each entry rounded to the nearest of sixteen values from its group's min to its max, in float64."""
    result = torch.empty(weight.shape, dtype=torch.float64)
    group = int4_group_size(weight.shape[1])
    for row, entries in enumerate(weight.float()):
        for start in range(0, len(entries), group):
            part = entries[start : start + group]
            step = ((part.max() - part.min()) / 15).clamp(min=1e-30).bfloat16().double()
            middle = (part.min() + 8 * step.float()).bfloat16().double()
            values = middle + (torch.arange(16) - 8) * step
            result[row, start : start + group] = values[(part[:, None] - values).abs().argmin(1)]
    return result


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@given(
    batch=st.lists(st.integers(1, 3), max_size=2),
    n_in=st.sampled_from([32, 64, 96, 192]),
    n_out=st.integers(1, 70),
    with_bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_product_equals_that_with_the_plainly_rounded_weight(batch, n_in, n_out, with_bias, seed):
    torch.manual_seed(seed)
    x, weight = torch.randn(*batch, n_in).bfloat16(), torch.randn(n_out, n_in)
    bias = torch.randn(n_out).bfloat16() if with_bias else None
    y = Int4Linear(weight, bias)(x)
    expected = x.double() @ round_to_nearest(weight).T + (bias.double() if bias is not None else 0)
    assert y.shape == (*batch, n_out)
    assert y.dtype == torch.bfloat16
    assert relative_error(y, expected) < 2**-6
    if batch:
        assert torch.equal(Int4Linear(weight, bias)(x.mT.contiguous().mT), y)  # whatever its memory layout


def test_rounding_block_by_block_equals_rounding_at_once():
    weight, x = torch.randn(2 * QUANTIZE_ROWS + 37, 64), torch.randn(3, 64).bfloat16()
    at_once = torch.cat([Int4Linear(rows)(x) for rows in torch.split(weight, 16 * 7)], dim=1)
    assert torch.equal(Int4Linear(weight)(x), at_once)


def test_a_group_of_equal_entries_keeps_their_value():
    weight = torch.full((5, 64), 0.75)
    torch.testing.assert_close(Int4Linear(weight)(torch.eye(64).bfloat16()), torch.full((64, 5), 0.75).bfloat16())


def test_unsupported_widths_and_devices_are_reported():
    assert int4_is_supported([torch.empty(3, 64), torch.empty(3, 32)])
    assert not int4_is_supported([torch.empty(3, 64), torch.empty(3, 48)])
    assert not int4_is_supported([torch.empty(3, 64, device="meta")])
