"""Copies to a device keep values, shape and dtype."""

from __future__ import annotations

import pytest
import torch

from gpt1.kernels.to_device import to_device

X = torch.arange(6).view(2, 3)


def test_a_tensor_on_the_device_is_returned_unchanged():
    assert to_device(X, "cpu") is X
    assert to_device(X, torch.device("cpu")) is X


def test_shape_and_dtype_are_kept_on_meta():
    there = to_device(X, "meta")
    assert (there.device.type, there.shape, there.dtype) == ("meta", X.shape, X.dtype)


@pytest.mark.parametrize("x", [X, X.T, X[:, ::2], X[1::2]])
def test_a_copy_to_a_gpu_uses_contiguous_pinned_memory(x: torch.Tensor, monkeypatch: pytest.MonkeyPatch):
    """A tensor with gaps would be copied once more, to memory that is not pinned."""
    pinned: list[torch.Tensor] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor)
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device, non_blocking: tensor)
    assert torch.equal(to_device(x, "cuda"), x)
    assert pinned[0].is_contiguous()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_tensor_has_the_same_values():
    there = to_device(X, "cuda")
    assert there.device.type == "cuda"
    assert torch.equal(there.cpu(), X)
    assert to_device(there, "cuda") is there
