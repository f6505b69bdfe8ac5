"""A tensor that was moved is the same one, wherever it went."""

from __future__ import annotations

import pytest
import torch

from gpt1.kernels.moving import moved

X = torch.arange(6).view(2, 3)


def test_what_is_there_already_stays_as_it_is():
    assert moved(X, "cpu") is X
    assert moved(X, torch.device("cpu")) is X


def test_it_has_the_shape_and_the_type_where_there_are_no_numbers():
    there = moved(X, "meta")
    assert (there.device.type, there.shape, there.dtype) == ("meta", X.shape, X.dtype)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gets_the_same_numbers():
    there = moved(X, "cuda")
    assert there.device.type == "cuda"
    assert torch.equal(there.cpu(), X)
    assert moved(there, "cuda") is there
