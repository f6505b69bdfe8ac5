"""The steps of an LSTM through time, one product each, and their gradients.

oneDNN's LSTM, which torch calls, compiles itself anew for every number of steps and of sequences that it meets: half a
second for 2048 units, in which it could have run ten times. It also reads the weights once more in each step backwards
for their gradient, which here is one product over all steps.
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
    """All states, and the last cell, of an LSTM: what the inputs give to the gates is added up already.

    gates [time, batch, 4 · units] (input, forget, cell, output), weight [4 · units, units], before: state and cell
    [batch, units] to go on from, else zeros → [time, batch, units] in the type of the gates, [batch, units]. Gradients
    reach the gates and the weight, not what was before.
    """
    return LSTMFunction.apply(gates, weight, initial_state)  # type: ignore[no-untyped-call]


class LSTMFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gates: Tensor, weight: Tensor, before: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        time, batch, _ = gates.shape
        same, units = cast_weight(weight, gates.dtype), weight.shape[1]
        exact = torch.promote_types(gates.dtype, torch.float32)  # what is added up over many steps is not rounded
        opened = torch.empty_like(gates)
        states = gates.new_empty(time + 1, batch, units)
        cells = gates.new_empty(time + 1, batch, units, dtype=exact)
        states[0], cells[0] = before or (0, 0)
        for t, summed in enumerate(gates):
            now = torch.addmm(summed, states[t], same.T).to(exact)  # [batch, 4 · units]
            now[:, : 2 * units].sigmoid_()
            now[:, 2 * units : 3 * units].tanh_()
            now[:, 3 * units :].sigmoid_()
            enter, forget, new, leave = now.chunk(4, dim=1)
            torch.addcmul(forget * cells[t], enter, new, out=cells[t + 1])
            states[t + 1] = cells[t + 1].tanh() * leave
            opened[t] = now
        ctx.save_for_backward(opened, states, cells, same)
        ctx.weight = weight
        last = cells[-1]  # an object of its own: it is marked, not its values
        ctx.mark_non_differentiable(last)
        return states[1:], last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dstates: Tensor, _: Any) -> tuple[Tensor, Tensor | None, None]:
        opened, states, cells, same = ctx.saved_tensors
        exact = cells.dtype
        dgates = torch.empty_like(opened)
        dstate, dcell = torch.zeros_like(states[0]), torch.zeros_like(cells[0])
        for t in reversed(range(len(opened))):
            enter, forget, new, leave = opened[t].to(exact).chunk(4, dim=1)
            squashed = cells[t + 1].tanh()
            dnow = (dstates[t] + dstate).to(exact)
            dcell += tanh_backward(dnow * leave, squashed)
            parts = (
                sigmoid_backward(dcell * new, enter),
                sigmoid_backward(dcell * cells[t], forget),
                tanh_backward(dcell * enter, new),
                sigmoid_backward(dnow * squashed, leave),
            )
            dgates[t] = torch.cat(parts, dim=1)
            dstate = dgates[t] @ same
            dcell *= forget
        dweight = None
        if ctx.needs_input_grad[1]:
            dweight = gradient_buffer(ctx.weight)
            weight_and_bias_gradients(dgates.flatten(0, 1), states[:-1].flatten(0, 1), dweight)
        return dgates, dweight, None
