"""FLOPs per token, peaks of GPUs, and micro-batch sizes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt1.config import GPTConfig
from gpt1.kernels.lm_loss import CHUNK_BYTES
from gpt1.model.gpt import GPT
from gpt1.training import speed
from gpt1.training.speed import flops_per_token, micro_batch_tokens, peak_flops

CUDA, BF16 = torch.device("cuda"), torch.bfloat16


def test_the_papers_model_takes_three_quarters_of_a_gigaflop_a_token():
    assert flops_per_token(GPTConfig()) == pytest.approx(0.753e9, rel=1e-3)


@pytest.mark.parametrize("architecture", ["transformer", "lstm"])
def test_flops_are_six_per_parameter_plus_attention(architecture: str):
    config = GPTConfig(50, n_layer=2, n_head=2, n_embd=8, context=16, architecture=architecture, lstm_units=12)
    weights = sum(p.numel() for name, p in GPT(config).named_parameters() if not name.startswith("positions"))
    attention = 0 if architecture == "lstm" else 2 * 2 * 2 * 3 * 16 * 8  # blocks · products · (2 · 3 passes) · time · n
    assert flops_per_token(config) == 6 * weights + attention


@pytest.mark.parametrize(
    ("card", "peak"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", 0.0),  # a partition
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 0.0),  # another chip
        ("NVIDIA GeForce RTX 3090 Ti", 0.0),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA RTX A1000", 0.0),  # no A100
        ("NVIDIA L40", 0.0),
        ("NVIDIA A10G", 0.0),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("Some GPU of tomorrow", 0.0),
    ],
)
def test_known_gpus_have_the_peak_of_their_data_sheet_and_others_none(
    card: str, peak: float, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: card)
    assert peak_flops(CUDA, BF16) == peak
    assert peak_flops(CUDA, torch.float32) == 0
    assert peak_flops(torch.device("cpu"), BF16) == 0


def micro_batch(config: GPTConfig, free: int, held: int = 0) -> int:
    """With `free` bytes on the GPU, and `held` bytes that torch has reserved and does not use."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2 * free))
        patch.setattr(torch.cuda, "memory_reserved", lambda device: held + 1000)
        patch.setattr(torch.cuda, "memory_allocated", lambda device: 1000)
        return micro_batch_tokens(config, CUDA, BF16)


@given(free=st.integers(10**8, 10**12), layers=st.integers(1, 48), width=st.sampled_from([64, 768, 1600]))
def test_micro_batches_on_a_gpu_fit_its_free_memory_and_have_at_least_one_window(free: int, layers: int, width: int):
    config = GPTConfig(40000, n_layer=layers, n_head=2, n_embd=width, context=128)
    tokens = micro_batch(config, free)
    weights = (4 + 4 + 4 + 2) * config.n_parameters  # gradient, two moments, in bf16
    kept = tokens * speed.ACTIVATION_BYTES * layers * width
    assert tokens >= config.context
    assert tokens == config.context or weights + kept + 2 * CHUNK_BYTES <= free


@pytest.mark.parametrize(
    ("gigabytes", "windows"),
    [(3.2, 2), (5, 8), (7, 16), (15, 32), (23, 64), (139, 256)],  # GPUs of 4, 6, 8, 16, 24 and 141 GB
)
def test_the_papers_model_has_micro_batches_by_gpu_memory(gigabytes: float, windows: int):
    assert micro_batch(GPTConfig(), int(gigabytes * 1e9)) == windows * 512


@given(free=st.integers(10**9, 10**11), held=st.integers(0, 10**11))
def test_memory_that_torch_has_cached_counts_as_free(free: int, held: int):
    assert micro_batch(GPTConfig(), free, held) == micro_batch(GPTConfig(), free + held)


def test_an_lstm_takes_32_windows_at_a_time():
    config = GPTConfig(50, n_layer=1, n_head=1, n_embd=8, context=16, architecture="lstm")
    assert micro_batch_tokens(config, torch.device("cpu"), BF16) == 32 * 16


def test_a_block_keeps_at_most_the_planned_memory():
    """Measured in float32, which keeps twice the bytes of bf16."""
    config = GPTConfig(100, n_layer=4, n_head=4, n_embd=64, context=64, dropout=0.1)
    model, kept = GPT(config).train(), 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        if tensor.shape[:1] != (100,) and tensor.dim() > 2:
            kept += tensor.numel() * tensor.element_size()
        return tensor

    ids = torch.randint(0, 100, (8, 64))
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        model.hidden_states(ids)
    assert kept / ids.numel() <= 2 * speed.ACTIVATION_BYTES * config.n_layer * config.n_embd
