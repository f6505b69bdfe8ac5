"""Rows by number: values and gradients are torch's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from gpt1.kernels.embedding import embedding


@given(shape=st.lists(st.integers(1, 6), min_size=1, max_size=2), rows=st.integers(1, 9), width=st.integers(1, 5))
def test_values_and_gradients_are_torchs(shape, rows, width):
    ids = torch.randint(0, rows, shape)
    weight = torch.randn(rows, width, dtype=torch.float64, requires_grad=True)
    dy = torch.randn(*shape, width, dtype=torch.float64)
    y, expected = embedding(ids, weight), F.embedding(ids, weight)
    assert torch.equal(y, expected)
    torch.testing.assert_close(*(torch.autograd.grad(out, weight, dy)[0] for out in (y, expected)))
