"""A small GPT whose weights are so large that every part of it affects the output."""

from __future__ import annotations

import torch

from gpt1.config import GPTConfig
from gpt1.model.gpt import GPT


def random_gpt(config: GPTConfig, seed: int = 0, noise: float = 0.2) -> GPT:
    """Also its biases and its LayerNorm weights: their initial values would hide errors."""
    torch.manual_seed(seed)
    return add_noise(GPT(config), noise).eval()


def add_noise(model: GPT, scale: float) -> GPT:
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * scale)
    return model
