"""Model FLOPs utilization, and the micro-batch size that fits a device."""

from __future__ import annotations

import re

import torch

from gpt1.config import GPTConfig
from gpt1.kernels.lm_loss import CHUNK_BYTES

TERA = 1e12
PEAK_BF16_FLOPS = {  # dense bf16, FLOP/s, from the data sheets; the first name that matches counts
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
EXCLUDED_GPU_NAMES = re.compile(r"\b(MIG|Laptop|Max-Q|Ti|D)\b")
"""A partition of a GPU, or a different chip with a similar name."""
CPU_MICRO_BATCH_TOKENS, MPS_MICRO_BATCH_TOKENS = 4096, 8192  # larger micro-batches are not faster there
LSTM_MICRO_BATCH = 32  # windows; an LSTM step has one row per window, and few rows do not pay for reading the weights
ACTIVATION_BYTES = 48
"""Bytes that a block keeps for the backward pass per token and unit of width, in bf16: inputs of four matrix products,
queries, keys and values, the two MLP activations, dropout masks, and what two LayerNorms and residual sums keep."""
TRAINING_BYTES_PER_WEIGHT = 16
"""Bytes to allocate per parameter when a run begins: gradient, two moments, a bf16 copy, and a reserve."""
MEMORY_FRACTION = 0.8  # of the memory that is then free; the rest is for temporary arrays and fragmentation


def flops_per_token(config: GPTConfig) -> float:
    """FLOPs of training on one token (Chowdhery et al. 2022, appendix B).

    6 for each parameter in a matrix product, and 12 · context · n_embd for the attention of each block.
    """
    positions = 0 if config.architecture == "lstm" else config.context * config.n_embd
    attention = 0 if config.architecture == "lstm" else 12 * config.n_layer * config.n_embd * config.context
    return 6.0 * (config.n_parameters - positions) + attention


def peak_flops(device: torch.device, activation_dtype: torch.dtype) -> float:
    """The GPU's peak in FLOP/s for this dtype from its data sheet; 0 if unknown, and on other devices."""
    if device.type != "cuda" or activation_dtype != torch.bfloat16:
        return 0.0
    name = torch.cuda.get_device_name(device)
    if EXCLUDED_GPU_NAMES.search(name):
        return 0.0
    return next((peak for gpu, peak in PEAK_BF16_FLOPS.items() if re.search(rf"\b{gpu}\b", name)), 0.0)


def micro_batch_tokens(config: GPTConfig, device: torch.device, activation_dtype: torch.dtype) -> int:
    """Tokens per forward and backward pass if --micro-batch is 0: on a GPU, as many as fit into its free memory.

    On a GPU it is 1, 2, 4, 8, … windows, so that a resumed run has the same micro-batches although a little more or
    less memory is free.
    """
    if config.architecture == "lstm":
        return LSTM_MICRO_BATCH * config.context
    if device.type != "cuda":
        return MPS_MICRO_BATCH_TOKENS if device.type == "mps" else CPU_MICRO_BATCH_TOKENS
    token_bytes = ACTIVATION_BYTES * config.n_layer * config.n_embd * activation_dtype.itemsize / 2
    free = free_gpu_memory(device) - TRAINING_BYTES_PER_WEIGHT * config.n_parameters - 3 * CHUNK_BYTES
    windows = max(1, int(MEMORY_FRACTION * free / (token_bytes * config.context)))
    return config.context << windows.bit_length() - 1


def free_gpu_memory(device: torch.device) -> int:
    """Free bytes of a GPU, including those that torch has reserved but does not use."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
