"""The recurrent layer that stands in for the Transformer blocks in table 5 of the paper: one LSTM of 2048 units."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gpt1.config import GPTConfig
from gpt1.kernels.dropout import dropout
from gpt1.kernels.linear import linear
from gpt1.kernels.packing import Packing
from gpt1.kernels.recurrence import recurrence

INIT_STD = 0.02  # as the blocks have it
FORGET_BIAS = 1.0  # a fresh LSTM remembers (Jozefowicz et al. 2015)


class LSTM(nn.Module):
    """An LSTM, and a linear map of its state to the embedding width, which the tied softmax needs.

    It has the face of a Block, so that all the rest (embedding, objectives, loop, heads, folders) stays what it is. A
    recurrence knows where it is: the model adds no positions.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        units, width = config.lstm_units, config.n_embd
        self.p = config.dropout
        self.units = units
        self.weight_in = nn.Parameter(torch.empty(4 * units, width))  # gates: input, forget, cell, output
        self.weight_state = nn.Parameter(torch.empty(4 * units, units))
        self.bias = nn.Parameter(torch.zeros(4 * units))
        self.out = nn.Parameter(torch.empty(width, units))
        self.out_bias = nn.Parameter(torch.zeros(width))
        for weight in (self.weight_in, self.weight_state, self.out):
            nn.init.normal_(weight, std=INIT_STD)
        with torch.no_grad():
            self.bias[units : 2 * units] = FORGET_BIAS

    def forward(
        self, x: Tensor, beside: list[tuple[Tensor, Tensor]] | Packing | None = None, layer: int = 0
    ) -> Tensor:  # [batch, time, n_embd] → the same; with a packing [tokens, n_embd]
        """`beside` holds the state and the cell of each layer that has been here, and is brought up to date."""
        if isinstance(beside, Packing):
            return beside.together(self, x)
        memory = beside
        before = memory[layer] if memory is not None and len(memory) > layer else None
        inputs = x.transpose(0, 1).contiguous()  # [time, batch, n_embd]
        through = self.steps if x.device.type == "cpu" else self.fused_steps
        states, cell = through(inputs, before)  # [time, batch, units], [batch, units]
        if memory is not None:
            memory[layer : layer + 1] = [(states[-1], cell)]
        y = linear(states, self.out, self.out_bias)  # [time, batch, n_embd]
        return (dropout(y, self.p) if self.training else y).transpose(0, 1)

    def steps(self, x: Tensor, before: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        gates = linear(x, self.weight_in, self.bias)  # [time, batch, 4 · units]
        return recurrence(gates, self.weight_state, before)

    def fused_steps(self, x: Tensor, before: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """The same by torch's own, which has them in one call where there is a GPU."""
        zeros = x.new_zeros(1, x.shape[1], self.units)
        state, cell = (one.to(x.dtype)[None] for one in before) if before else (zeros, zeros)  # [layers, batch, units]
        weights = [self.weight_in, self.weight_state, self.bias, torch.zeros_like(self.bias)]
        cast = [weight.to(x.dtype) for weight in weights]
        states, _, cell = torch.lstm(x, (state, cell), cast, True, 1, 0.0, self.training, False, False)
        return states, cell[0]
