"""Models prepared for inference: weights cast once, packed for decoding, or quantized for a draft model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from gpt1.kernels.int4 import Int4Linear, int4_is_supported
from gpt1.kernels.linear import linear, pack_weight, unpack_weight
from gpt1.kernels.meta_init import meta_init
from gpt1.model.gpt import GPT, Linear

M = TypeVar("M", bound=GPT)
MEMORY_BOUND_WEIGHTS = 20_000_000  # from here on, decoding is bound by reading the weights


class InferenceGPT(GPT):
    """A GPT whose output matrix is stored in another form than its embedding. Created by the functions below."""

    output: nn.Module

    def logits(self, hidden_states: Tensor) -> Tensor:  # [..., n_embd] → [..., rows], float32
        return self.output(hidden_states).float()


class PackedOutput(nn.Module):
    """x Wᵀ with a packed W."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.packed = weight

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.packed)


def for_inference(model: GPT) -> GPT:
    """The model in eval mode, with its weights cast to the dtype of its activations once.

    Returns:
        `model` itself if its weights have that dtype and it is in eval mode.
    """
    if model.tokens.weight.dtype != model.activation_dtype:
        return pack_weights(model)
    return with_weights(model, model.state_dict()) if model.training else model


def pack_weights(model: GPT) -> GPT:
    """The model in the dtype of its activations, with its matrices packed for products with few vectors.

    Vectors that already have that dtype are shared with `model`.
    """
    if isinstance(model, InferenceGPT):
        return model
    weights = {name: w.to(model.activation_dtype) for name, w in model.state_dict().items()}
    ready = with_weights(model, weights, InferenceGPT)
    for module in ready.modules():
        if isinstance(module, Linear):
            module.weight = nn.Parameter(pack_weight(module.weight), requires_grad=False)
    ready.activation_dtype, ready.output = model.activation_dtype, PackedOutput(pack_weight(ready.tokens.weight))
    return ready


def quantize_int4(model: GPT) -> GPT:
    """A draft model: the model with 4-bit matrices and activations in bfloat16."""
    weights = {name: w.bfloat16() if w.dim() == 1 else w for name, w in model.state_dict().items()}
    draft = with_weights(model, weights, InferenceGPT)
    for parent in [*draft.modules()]:
        for name, child in parent.named_children():
            if isinstance(child, Linear):
                setattr(parent, name, Int4Linear(unpack_weight(child.weight), child.bias))
    draft.activation_dtype, draft.output = torch.bfloat16, Int4Linear(draft.tokens.weight)
    return draft


def prepare_for_decoding(model: GPT) -> tuple[GPT, GPT | None]:
    """Prepare a model for decoding one text.

    If decoding is bound by reading the weights, this is the packed model and a 4-bit copy, which nearly always chooses
    the same token. Otherwise it is `for_inference(model)` alone.

    Returns:
        (model for decoding, draft model or None).
    """
    matrices = [w for w in model.parameters() if w.dim() == 2]
    if model.recurrent or sum(w.numel() for w in matrices) < MEMORY_BOUND_WEIGHTS or not int4_is_supported(matrices):
        return for_inference(model), None
    return pack_weights(model), quantize_int4(model)


def with_weights(model: GPT, weights: Mapping[str, Tensor], model_class: type[M] = GPT) -> M:  # type: ignore[assignment]
    """A model for inference with the shape of `model` and the given weights, which are not copied."""
    with meta_init():
        ready = model_class(model.config)
    ready.load_state_dict(weights, assign=True)
    return ready.requires_grad_(False).eval()
