"""Every private PyTorch function that gpt1 calls, checked against the installed version when this module is imported.

A function that this version lacks is replaced by the plain fallback named beside it, or reported as unsupported. Names
are bound once, so that a call costs the same as calling torch directly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def softmax_backward_plain(dy: Tensor, y: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    """Gradient of softmax: y ∘ (dy − Σ dy ∘ y)."""
    return (y * (dy - (dy * y).sum(dim, keepdim=True))).to(dtype)


def foreach_mul_plain(tensors: Sequence[Tensor], factor: float | Tensor) -> None:
    for tensor in tensors:
        tensor.mul_(factor)


def foreach_add_plain(tensors: Sequence[Tensor], others: Sequence[Tensor], alpha: float = 1.0) -> None:
    for tensor, other in zip(tensors, others, strict=True):
        tensor.add_(other, alpha=alpha)


def foreach_norm_plain(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [torch.linalg.vector_norm(tensor) for tensor in tensors]


def fused_adamw_plain(
    parameters: list[Tensor],
    gradients: list[Tensor],
    exp_avg: list[Tensor],
    exp_avg_sq: list[Tensor],
    _: list[Tensor],
    steps: list[Tensor],
    *,
    lr: float,
    beta1: float,
    beta2: float,
    weight_decay: float,
    eps: float,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    **options: bool,
) -> None:
    """AdamW in place, tensor by tensor; nothing changes if `found_inf` is 1."""
    if found_inf is not None and bool(found_inf):
        return
    for p, g, m, v, step in zip(parameters, gradients, exp_avg, exp_avg_sq, steps, strict=True):
        t, g = float(step), g if grad_scale is None else g / grad_scale
        p.mul_(1 - lr * weight_decay)
        m.lerp_(g, 1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        p.addcdiv_(m, (v / (1 - beta2**t)).sqrt_().add_(eps), value=-lr / (1 - beta1**t))


softmax_backward: Any = getattr(torch, "_softmax_backward_data", softmax_backward_plain)
foreach_mul_: Any = getattr(torch, "_foreach_mul_", foreach_mul_plain)
foreach_add_: Any = getattr(torch, "_foreach_add_", foreach_add_plain)
foreach_norm: Any = getattr(torch, "_foreach_norm", foreach_norm_plain)
fused_adamw_: Any = getattr(torch, "_fused_adamw_", fused_adamw_plain)

# The id of the running backward pass. Fallback: a new object, which equals no other, so no gradient is shared.
backward_pass_id: Any = getattr(torch._C, "_current_graph_task_id", object)

# Products with 4-bit weights on a CPU. Without them there is no draft model: `int4_is_supported` is false.
int4_matmul: Any = getattr(torch, "_weight_int4pack_mm_for_cpu", None)
int4_pack: Any = getattr(torch, "_convert_weight_to_int4pack_for_cpu", None)
HAS_INT4 = bool(int4_matmul and int4_pack)

# Products with weights that oneDNN has packed. Without them weights stay unpacked, and `linear` is F.linear.
packed_linear: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
pack_linear_weight: Any = getattr(torch.ops.mkldnn, "_reorder_linear_weight", None)
mkldnn_bf16_is_supported: Any = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
HAS_PACKED_LINEAR = bool(packed_linear and pack_linear_weight)
