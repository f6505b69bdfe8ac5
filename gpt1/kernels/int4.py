"""Linear layer with 4-bit weights, an eighth of the bytes of float32, for draft models (generation/inference_model.py).

Each row of the weight is split into groups of neighboring entries, which are rounded to sixteen evenly spaced values
from the group's min to its max.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt1.kernels import torch_private

GROUPS = (64, 32)  # entries that share a scale; larger groups mean fewer bytes to read
LEVELS = 16
KERNEL_ROWS = 16  # the kernel takes whole blocks of rows
QUANTIZE_ROWS = 1024  # rows rounded at a time, which limits temporary memory; a multiple of the kernel's 64
MIN_STEP = 1e-30  # between levels; a group of equal entries would have 0


class Int4Linear(nn.Module):
    """x Wᵀ + b with W rounded to 4 bits: x [..., n_in] in bfloat16 → [..., n_out].

    Args:
        weight: [n_out, n_in]; n_in must be a multiple of a group size.
        bias: [n_out] in bfloat16.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.n_out, n_in = weight.shape
        self.group_size = int4_group_size(n_in)
        self.bias = bias
        blocks = [quantize_weight(rows, self.group_size) for rows in torch.split(weight, QUANTIZE_ROWS)]
        self.packed = torch.cat([packed for packed, _ in blocks])  # [rows, n_in / 2]
        self.scales = torch.cat([scales for _, scales in blocks], dim=1)  # [groups of a row, rows, 2]

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1]).contiguous()
        y = torch_private.int4_matmul(flat, self.packed, self.group_size, self.scales)
        y = y[:, : self.n_out].view(*x.shape[:-1], self.n_out)
        return y if self.bias is None else y + self.bias


def quantize_weight(weight: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    """The entries of weight [n_out, n_in] packed for the kernel, and the scale and offset of each group."""
    n_in = weight.shape[1]
    whole = F.pad(weight.float(), (0, 0, 0, -len(weight) % KERNEL_ROWS)).view(-1, n_in // group_size, group_size)
    low, high = whole.aminmax(dim=-1, keepdim=True)  # [rows, groups, 1]
    # rounded to bfloat16 first, as the kernel reads them
    step = ((high - low) / (LEVELS - 1)).clamp(min=MIN_STEP).bfloat16().float()
    middle = (low + LEVELS // 2 * step).bfloat16().float()
    entries = ((whole - middle) / step).round_().add_(LEVELS // 2).clamp_(0, LEVELS - 1).int()
    scales = torch.cat([step, middle], dim=-1).bfloat16().transpose(0, 1)
    return torch_private.int4_pack(entries.view(-1, n_in), 1), scales


def int4_group_size(n_in: int) -> int:
    """Entries of a row that share a scale; 0 if the kernel does not support this width."""
    return next((group for group in GROUPS if n_in % group == 0), 0)


def int4_is_supported(matrices: Iterable[Tensor]) -> bool:
    """Whether weights [n_out, n_in] can be rounded to 4 bits with fast products: on x86 with AVX."""
    has_avx = torch.backends.cpu.get_cpu_capability().startswith("AVX")
    return (has_avx and torch_private.HAS_INT4) and all(
        w.device.type == "cpu" and int4_group_size(w.shape[1]) for w in matrices
    )
