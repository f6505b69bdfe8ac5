"""How fast a step is, as a share of what the card can do; and how many tokens a card takes at a time."""

from __future__ import annotations

import re

import torch

from gpt1.config import GPTConfig
from gpt1.kernels.lm_loss import PIECE_BYTES

TERA = 1e12
PEAK_BF16_FLOPS = {  # dense bf16 products as the makers state them, in operations a second; the first name that fits counts
    "H200 NVL": 835 * TERA,
    "H200": 989 * TERA,
    "H100 NVL": 835 * TERA,
    "H100 PCIe": 756 * TERA,
    "H100": 989 * TERA,
    "A100": 312 * TERA,
    "L40S": 362 * TERA,
    "L4": 121 * TERA,
    "A10": 125 * TERA,
    "RTX 4090": 165 * TERA,
    "RTX 3090": 71 * TERA,
}
EXCLUDED_GPU_NAMES = re.compile(
    r"\b(MIG|Laptop|Max-Q|Ti|D)\b"
)  # a part of a card, or another chip under the name of one
CPU_MICRO_BATCH_TOKENS, MPS_MICRO_BATCH_TOKENS = 4096, 8192  # of one forward pass: more is no faster there
LSTM_MICRO_BATCH = 32  # of one forward pass: its products have a row a window: fewer read the weights in vain
ACTIVATION_BYTES = 48
"""Bytes that a block keeps for the backward pass, for each token and each unit of its width, in bf16: inputs of four
matrix products, queries, keys and values, the two feed-forward activations, masks, and what two norms and sums keep."""
TRAINING_BYTES_PER_WEIGHT = 16
"""Bytes that a weight has yet to get when a run begins: its gradient, two moments, a copy in bf16, some to spare."""
MEMORY_FRACTION = (
    0.8  # of what is then free; the rest is for what one layer computes in between, and lost between arrays
)


def flops_per_token(config: GPTConfig) -> float:
    """Operations of training on one token: 6 for every weight in a matrix product, 12 · context · width in a block's
    attention (Chowdhery et al. 2022, appendix B)."""
    positions = 0 if config.architecture == "lstm" else config.context * config.n_embd
    attention = 0 if config.architecture == "lstm" else 12 * config.n_layer * config.n_embd * config.context
    return 6.0 * (config.n_parameters - positions) + attention


def peak_flops(device: torch.device, activation_dtype: torch.dtype) -> float:
    """What the maker says that the card does in a second; 0 where the card is not known."""
    if device.type != "cuda" or activation_dtype != torch.bfloat16:
        return 0.0
    name = torch.cuda.get_device_name(device)
    if EXCLUDED_GPU_NAMES.search(name):
        return 0.0
    return next((peak for known, peak in PEAK_BF16_FLOPS.items() if re.search(rf"\b{known}\b", name)), 0.0)


def micro_batch_tokens(config: GPTConfig, device: torch.device, activation_dtype: torch.dtype) -> int:
    """Tokens of one forward and backward pass where --micro-batch is 0: on a GPU as many as its free memory takes.

    These are 1, 2, 4, 8, … windows: a run goes on with the same pieces where a little more or less is free."""
    if config.architecture == "lstm":
        return LSTM_MICRO_BATCH * config.context
    if device.type != "cuda":
        return MPS_MICRO_BATCH_TOKENS if device.type == "mps" else CPU_MICRO_BATCH_TOKENS
    a_token = ACTIVATION_BYTES * config.n_layer * config.n_embd * activation_dtype.itemsize / 2
    free = free_gpu_memory(device) - TRAINING_BYTES_PER_WEIGHT * config.n_parameters - 3 * PIECE_BYTES
    windows = max(1, int(MEMORY_FRACTION * free / (a_token * config.context)))
    return config.context << windows.bit_length() - 1


def free_gpu_memory(device: torch.device) -> int:
    """Bytes that a card has free, those among them that an earlier run of this process left with torch."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
