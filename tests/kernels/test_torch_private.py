"""The plain fallbacks of private PyTorch functions equal the functions that they replace."""

from __future__ import annotations

import pytest
import torch

from gpt1.kernels import torch_private


def tensors(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(shape, generator=generator) + 0.1 for shape in ((3, 4), (5,))]


def test_the_fallback_of_the_softmax_gradient_equals_it():
    dy, y = torch.randn(3, 7), torch.randn(3, 7).softmax(-1)
    expected = torch_private.softmax_backward(dy, y, -1, y.dtype)
    torch.testing.assert_close(torch_private.softmax_backward_plain(dy, y, -1, y.dtype), expected)


@pytest.mark.parametrize("found_inf", [None, 0.0, 1.0])
@pytest.mark.parametrize("grad_scale", [None, 2.0])
def test_the_fallback_of_fused_adamw_equals_it(found_inf: float | None, grad_scale: float | None):
    options = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.1, "eps": 1e-6, "amsgrad": False}
    flags = {"grad_scale": grad_scale, "found_inf": found_inf}
    scalars = {name: None if value is None else torch.tensor(value) for name, value in flags.items()}
    results = []
    for adamw in (torch_private.fused_adamw_, torch_private.fused_adamw_plain):
        state = [tensors(seed) for seed in range(4)]
        steps = [torch.tensor(3.0)] * 2
        adamw(*state, [], steps, maximize=False, **options, **scalars)
        results.append([state[0], *state[2:]])
    torch.testing.assert_close(*results)


def test_the_foreach_fallbacks_equal_torchs():
    for name, arguments in (("mul", [0.5]), ("add", [tensors(1)])):
        found, expected = tensors(0), tensors(0)
        getattr(torch_private, f"foreach_{name}_plain")(found, *arguments)
        getattr(torch_private, f"foreach_{name}_")(expected, *arguments)
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch_private.foreach_norm_plain(tensors(0)), list(torch_private.foreach_norm(tensors(0)))
    )
