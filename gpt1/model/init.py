"""Standard deviation of initial weights: the paper's 0.02, adapted to the width of the model."""

from __future__ import annotations

import math

import torch
from torch import nn

from gpt1.config import GPTConfig

INIT_STD = 0.02  # N(0, 0.02) for all weights except biases and LayerNorm parameters (paper, section 4.1)
INIT_WIDTH = 768  # the width of the paper's model, for which INIT_STD was chosen


def resolve_init_std(config: GPTConfig, init_std: float) -> float:
    """The standard deviation of new weights: `init_std` or, if it is 0, INIT_STD · √(INIT_WIDTH / n_embd).

    A sum of n_embd products grows with √n_embd. With this factor, the residual branches and the logits of a narrow
    model are as large, relative to their inputs, as at the paper's width. An LSTM keeps INIT_STD: the sums of its
    recurrence have lstm_units terms, whatever its width.
    """
    return init_std or INIT_STD * (1.0 if config.architecture == "lstm" else math.sqrt(INIT_WIDTH / config.n_embd))


def rescale_weights(model: nn.Module, std: float) -> None:
    """Scale weights drawn from N(0, INIT_STD) to N(0, std), so that the random draws do not depend on `std`."""
    if std != INIT_STD:
        with torch.no_grad():
            for p in model.parameters():
                if p.dim() > 1:
                    p.mul_(std / INIT_STD)
