"""The LSTM with 2048 units that replaces the Transformer blocks in table 5 of the paper."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gpt1.config import GPTConfig
from gpt1.kernels.dropout import dropout
from gpt1.kernels.kv_cache import LayerCache
from gpt1.kernels.linear import linear
from gpt1.kernels.lstm_recurrence import lstm_recurrence
from gpt1.kernels.packing import Packing
from gpt1.model.init import INIT_STD

FORGET_BIAS = 1.0  # Jozefowicz et al. 2015


class LSTM(nn.Module):
    """An LSTM and a linear map of its state to the embedding width, as the tied output matrix needs.

    Same interface as Block. The model adds no position embeddings to it.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        units, width = config.lstm_units, config.n_embd
        self.dropout_p = config.dropout
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

    def forward(self, x: Tensor, *, kv_cache: LayerCache | None = None, packing: Packing | None = None) -> Tensor:
        """[batch, time, n_embd] → the same; with a packing [tokens, n_embd]. The cache holds state and cell."""
        if packing:
            return packing.apply_to_all(self, x)
        initial_state = kv_cache.recurrent_state if kv_cache else None
        inputs = x.transpose(0, 1).contiguous()  # [time, batch, n_embd]
        run = self.run_recurrence if x.device.type == "cpu" else self.run_fused
        states, cell = run(inputs, initial_state)  # [time, batch, units], [batch, units]
        if kv_cache:
            kv_cache.set_recurrent_state(states[-1], cell)
        y = linear(states, self.out, self.out_bias)  # [time, batch, n_embd]
        return (dropout(y, self.dropout_p) if self.training else y).transpose(0, 1)

    def run_recurrence(self, x: Tensor, initial_state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        gates = linear(x, self.weight_in, self.bias)  # [time, batch, 4 · units]
        return lstm_recurrence(gates, self.weight_state, initial_state)

    def run_fused(self, x: Tensor, initial_state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """The same with torch.lstm, one fused call on a GPU."""
        zeros = x.new_zeros(1, x.shape[1], self.units)
        state, cell = (t.to(x.dtype)[None] for t in initial_state) if initial_state else (zeros, zeros)
        weights = [self.weight_in, self.weight_state, self.bias, torch.zeros_like(self.bias)]
        cast = [weight.to(x.dtype) for weight in weights]
        states, _, cell = torch.lstm(x, (state, cell), cast, True, 1, 0.0, self.training, False, False)
        return states, cell[0]
