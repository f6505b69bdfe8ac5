"""Laws of the figures that say how fast a step is, and of the pieces that fit a card."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt1.config import GPTConfig
from gpt1.kernels.lm_loss import PIECE_BYTES
from gpt1.model.gpt import GPT
from gpt1.training import speed
from gpt1.training.speed import flops_per_token, micro_batch_tokens, peak_flops

CUDA, BF16 = torch.device("cuda"), torch.bfloat16


def test_the_papers_model_takes_three_quarters_of_a_gigaflop_a_token():
    assert flops_per_token(GPTConfig()) == pytest.approx(0.753e9, rel=1e-3)


@pytest.mark.parametrize("architecture", ["transformer", "lstm"])
def test_it_is_six_for_every_weight_and_what_attention_takes(architecture: str):
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
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", 0.0),  # a part of one
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 0.0),  # another chip
        ("NVIDIA GeForce RTX 3090 Ti", 0.0),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA RTX A1000", 0.0),  # no A100
        ("NVIDIA L40", 0.0),
        ("NVIDIA A10G", 0.0),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("Some card of tomorrow", 0.0),
    ],
)
def test_a_known_card_has_its_makers_peak_and_no_other_one(card: str, peak: float, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: card)
    assert peak_flops(CUDA, BF16) == peak
    assert peak_flops(CUDA, torch.float32) == 0
    assert peak_flops(torch.device("cpu"), BF16) == 0


def pieces_of(config: GPTConfig, free: int, held: int = 0) -> int:
    """With so many bytes free on the card, besides those that torch holds and does not use."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2 * free))
        patch.setattr(torch.cuda, "memory_reserved", lambda device: held + 1000)
        patch.setattr(torch.cuda, "memory_allocated", lambda device: 1000)
        return micro_batch_tokens(config, CUDA, BF16)


@given(free=st.integers(10**8, 10**12), layers=st.integers(1, 48), width=st.sampled_from([64, 768, 1600]))
def test_pieces_of_a_gpu_fit_what_weights_and_logits_leave_of_its_memory_and_hold_a_window(
    free: int, layers: int, width: int
):
    config = GPTConfig(40000, n_layer=layers, n_head=2, n_embd=width, context=128)
    tokens = pieces_of(config, free)
    weights = (4 + 4 + 4 + 2) * config.n_parameters  # gradient, two moments, in bf16
    kept = tokens * speed.ACTIVATION_BYTES * layers * width
    assert tokens >= config.context
    assert tokens == config.context or weights + kept + 2 * PIECE_BYTES <= free


@pytest.mark.parametrize(
    ("gigabytes", "windows"),
    [(3.2, 2), (5, 8), (7, 16), (15, 32), (23, 64), (139, 256)],  # cards of 4, 6, 8, 16, 24 and 141 GB
)
def test_the_papers_model_takes_pieces_by_the_card_and_an_update_at_once_on_a_large_one(gigabytes: float, windows: int):
    assert pieces_of(GPTConfig(), int(gigabytes * 1e9)) == windows * 512


@given(free=st.integers(10**9, 10**11), held=st.integers(0, 10**11))
def test_memory_that_an_earlier_run_left_with_torch_is_free(free: int, held: int):
    assert pieces_of(GPTConfig(), free, held) == pieces_of(GPTConfig(), free + held)


def test_an_lstm_reads_whole_windows_side_by_side():
    config = GPTConfig(50, n_layer=1, n_head=1, n_embd=8, context=16, architecture="lstm")
    assert micro_batch_tokens(config, torch.device("cpu"), BF16) == 32 * 16


def test_what_a_block_keeps_is_no_more_than_what_is_planned_for():
    """Measured on the plain path in float32, which keeps twice the bytes of bf16."""
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
