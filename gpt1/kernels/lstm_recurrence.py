"""The recurrence of an LSTM, one product per time step, and its gradients.

oneDNN's LSTM, which torch calls, compiles a kernel for every new number of steps and sequences: half a second for 2048
units, as long as ten runs. For the weight gradient it also reads the weights in every backward step; here that is one
product over all steps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gpt1.kernels.buffers import cast_weight, gradient_buffer
from gpt1.kernels.linear import weight_and_bias_gradients

sigmoid_backward, tanh_backward = torch.ops.aten.sigmoid_backward, torch.ops.aten.tanh_backward


def lstm_recurrence(
    gates: Tensor, weight: Tensor, initial_state: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Run an LSTM over time, given the contribution of the inputs to the gates.

    Args:
        gates: [time, batch, 4 · units], order input, forget, cell, output; W_in x + b.
        weight: [4 · units, units], the recurrent weight.
        initial_state: State and cell, each [batch, units]; zeros by default. They get no gradient.

    Returns:
        All states [time, batch, units] in the dtype of the gates, and the last cell [batch, units], which has no
        gradient.
    """
    return LSTMFunction.apply(gates, weight, initial_state)  # type: ignore[no-untyped-call]


class LSTMFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, gates: Tensor, weight: Tensor, initial: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        time, batch, _ = gates.shape
        cast, units = cast_weight(weight, gates.dtype), weight.shape[1]
        exact = torch.promote_types(gates.dtype, torch.float32)  # sums over many steps are not rounded
        activated = torch.empty_like(gates)
        states = gates.new_empty(time + 1, batch, units)
        cells = gates.new_empty(time + 1, batch, units, dtype=exact)
        states[0], cells[0] = initial or (0, 0)
        for t, inputs in enumerate(gates):
            now = torch.addmm(inputs, states[t], cast.T).to(exact)  # [batch, 4 · units]
            now[:, : 2 * units].sigmoid_()
            now[:, 2 * units : 3 * units].tanh_()
            now[:, 3 * units :].sigmoid_()
            input_gate, forget, new, output_gate = now.chunk(4, dim=1)
            torch.addcmul(forget * cells[t], input_gate, new, out=cells[t + 1])
            states[t + 1] = cells[t + 1].tanh() * output_gate
            activated[t] = now
        ctx.save_for_backward(activated, states, cells, cast)
        ctx.weight = weight
        last = cells[-1]  # a separate tensor object, since the object is marked
        ctx.mark_non_differentiable(last)
        return states[1:], last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dstates: Tensor, _: Any) -> tuple[Tensor, Tensor | None, None]:
        activated, states, cells, cast = ctx.saved_tensors
        exact = cells.dtype
        dgates = torch.empty_like(activated)
        dstate, dcell = torch.zeros_like(states[0]), torch.zeros_like(cells[0])
        for t in reversed(range(len(activated))):
            input_gate, forget, new, output_gate = activated[t].to(exact).chunk(4, dim=1)
            cell_tanh = cells[t + 1].tanh()
            dnow = (dstates[t] + dstate).to(exact)
            dcell += tanh_backward(dnow * output_gate, cell_tanh)
            parts = (
                sigmoid_backward(dcell * new, input_gate),
                sigmoid_backward(dcell * cells[t], forget),
                tanh_backward(dcell * input_gate, new),
                sigmoid_backward(dnow * cell_tanh, output_gate),
            )
            dgates[t] = torch.cat(parts, dim=1)
            dstate = dgates[t] @ cast
            dcell *= forget
        dweight = None
        if ctx.needs_input_grad[1]:
            dweight = gradient_buffer(ctx.weight)
            weight_and_bias_gradients(dgates.flatten(0, 1), states[:-1].flatten(0, 1), dweight)
        return dgates, dweight, None
