"""The language-modelling loss together with the output head."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def lm_loss(states: Tensor, embedding: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """sum_i weights_i · -log softmax(states_i @ embeddingᵀ)[targets_i], a scalar in fp32.

    states [n, n_embd], embedding [vocab, n_embd] (fp32 parameter), targets [n] int64, weights [n] fp32.
    """
    logits = (states @ embedding.to(states.dtype).T).float()  # [n, vocab]
    return F.cross_entropy(logits, targets, reduction="none") @ weights
