"""A product with a weight of four bits an entry: an eighth of the bytes of float32, for guesses that exact products
check (`GPT.writer`).

Each row of the weight is taken in groups of neighbours; sixteen steps from a group's least entry to its greatest are
what its entries are rounded to.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = (64, 32)  # entries that share a scale; larger is less to read
STEPS = 16
KERNEL_ROWS = 16  # the kernel takes whole blocks of rows
QUANTIZE_ROWS = (
    1024  # rows rounded at a time, so that what they need in between stays small; a multiple of the kernel's 64
)
TINY = 1e-30  # the least step: a group of equal entries has none


class Int4Linear(nn.Module):
    """x Wᵀ + b, W [n_out, n_in] rounded: x [..., n_in] in bfloat16 → [..., n_out]."""

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
        y = torch._weight_int4pack_mm_for_cpu(flat, self.packed, self.group_size, self.scales)
        y = y[:, : self.n_out].view(*x.shape[:-1], self.n_out)
        return y if self.bias is None else y + self.bias


def quantize_weight(weight: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    """The entries of weight [n_out, n_in] as the kernel reads them, two a byte, and each group's step and middle."""
    n_in = weight.shape[1]
    whole = F.pad(weight.float(), (0, 0, 0, -len(weight) % KERNEL_ROWS)).view(-1, n_in // group_size, group_size)
    least, most = whole.aminmax(dim=-1, keepdim=True)  # [rows, groups, 1]
    # in bfloat16, as the kernel reads them, before anything is rounded with them
    step = ((most - least) / (STEPS - 1)).clamp(min=TINY).bfloat16().float()
    middle = (least + STEPS // 2 * step).bfloat16().float()
    entries = ((whole - middle) / step).round_().add_(STEPS // 2).clamp_(0, STEPS - 1).int()
    scales = torch.cat([step, middle], dim=-1).bfloat16().transpose(0, 1)
    return torch._convert_weight_to_int4pack_for_cpu(entries.view(-1, n_in), 1), scales


def int4_group_size(n_in: int) -> int:
    """How many entries of a row share a scale; 0 where the kernel has no such group."""
    return next((group for group in GROUPS if n_in % group == 0), 0)


def int4_is_supported(matrices: Iterable[Tensor]) -> bool:
    """Whether weights [n_out, n_in] can be rounded, and products with them are fast: x86 with vector instructions."""
    has_avx = torch.backends.cpu.get_cpu_capability().startswith("AVX")
    if not has_avx or not hasattr(torch, "_weight_int4pack_mm_for_cpu"):
        return False
    return all(w.device.type == "cpu" and int4_group_size(w.shape[1]) for w in matrices)
