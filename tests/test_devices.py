"""Where a run computes and in what type, on devices that need not be there."""

from __future__ import annotations

import pytest
import torch

from gpt1.config import GPTConfig
from gpt1.errors import ResourceError, UserError
from gpt1.model import GPT
from gpt1.training.devices import activations_of, device_of, limits_explained, place

CUDA, MPS = torch.device("cuda"), torch.device("mps")


@pytest.mark.parametrize(
    ("card", "capability", "expected"),
    [
        ("T4", (7, 5), torch.float32),  # torch.cuda.is_bf16_supported() says yes of it
        ("V100", (7, 0), torch.float32),
        ("A100", (8, 0), torch.bfloat16),
        ("RTX 4090", (8, 9), torch.bfloat16),
        ("H200", (9, 0), torch.bfloat16),
    ],
)
def test_a_card_computes_in_bf16_by_itself_where_it_has_it(
    card: str, capability: tuple[int, int], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    assert activations_of("auto", CUDA)[0] == expected
    asked, told = activations_of("bf16", CUDA)
    assert asked == torch.bfloat16
    assert ("faster in fp32" in told) == (expected == torch.float32)


def test_an_apple_gpu_computes_in_fp32_unless_bf16_is_asked_for():
    assert activations_of("auto", MPS)[0] == torch.float32
    assert activations_of("bf16", MPS) == (torch.bfloat16, "bf16")


def test_processes_on_one_machine_do_not_share_a_named_gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)  # as if it were there
    assert device_of("cuda:1").index == 1
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert device_of("cuda").index is None
    with pytest.raises(UserError, match=r"--device cuda:1: torchrun started 2 processes here"):
        device_of("cuda:1")


def test_several_processes_do_not_take_an_apple_gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of("auto") == device_of("mps") == MPS
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert device_of("auto").type == "cpu"
    with pytest.raises(UserError, match="--device mps: torchrun started 2 processes"):
        device_of("mps")


def test_what_would_drop_other_numbers_in_the_second_pass_is_refused_before_anything_is_moved():
    model = GPT(GPTConfig(40, n_layer=1, n_head=2, n_embd=16, context=16, dropout=0.1))
    with pytest.raises(UserError, match=r"--recompute with --dropout 0\.1 on mps"):
        place(model, MPS, torch.float32, recompute=True)
    assert model.tokens.weight.device.type == "cpu"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8 GiB)"),
        MemoryError(),
    ],
)
def test_whoever_lacks_memory_says_what_to_lower(error: BaseException):
    with pytest.raises(ResourceError, match="out of memory") as told, limits_explained("Lower it."):
        raise error
    assert told.value.fix == "Lower it."
