"""Stage 2: the one new layer, and the model with it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gpt1.kernels.dropout import dropout
from gpt1.kernels.packing import Packing
from gpt1.kernels.to_device import to_device
from gpt1.model.gpt import GPT, Linear


class Head(nn.Module):
    """P(y | x_1..x_m) = softmax(h_l^m W_y): dropout and a linear map of the state at the extract token (paper, eq. 3).

    Args:
        n_embd: Width of the states.
        outputs: Numbers per example, or per sequence if `each` is set.
        each: Multiple choice: one output for each sequence, the sequences of an example side by side. Otherwise the
            states of an example's sequences (one, or both orders of a pair) are added and mapped to `outputs`.
        p: Dropout on the states.
    """

    def __init__(self, n_embd: int, outputs: int, each: bool, p: float = 0.1) -> None:
        super().__init__()
        self.each = each
        self.p = p
        self.linear = Linear(n_embd, outputs)

    def forward(self, states: Tensor, example: Tensor) -> Tensor:
        """Logits of each example.

        Args:
            states: [sequences, n_embd].
            example: [sequences], the example of each sequence, ascending from 0. Shapes are taken from it: on the CPU,
                so that nothing has to wait for a GPU's states.

        Returns:
            [examples, outputs]; with `each` [examples, most answers], −∞ where an example has fewer.
        """
        states = states.float()
        counts = torch.bincount(example)  # sequences of each example
        n, place = len(counts), to_device(example, states.device)
        if self.each:
            if self.training and self.p:  # one mask for all the answers of an example, as in the release
                states = states * dropout(states.new_ones(n, states.shape[1]), self.p)[place]
            first = counts.cumsum(0) - counts
            answer = torch.arange(len(example), device=example.device) - first[example]
            logits = states.new_full((n, int(counts.max())), -torch.inf)
            return logits.index_put((place, to_device(answer, states.device)), self.linear(states)[:, 0])
        summed = states.new_zeros(n, states.shape[1]).index_add(0, place, states)
        return self.linear(dropout(summed, self.p) if self.training else summed)


class TaskModel(nn.Module):
    """A GPT and a head."""

    def __init__(self, gpt: GPT, head: Head) -> None:
        super().__init__()
        self.gpt = gpt
        self.head = head

    def features(self, ids: Tensor, packing: Packing) -> Tensor:  # [tokens] → [sequences, n_embd]
        """h_l^m: the states at the extract tokens, the last of each sequence."""
        return self.gpt.hidden_states(ids, packing=packing)[packing.last_index]

    def forward(self, ids: Tensor, packing: Packing, example: Tensor) -> Tensor:  # → as the head
        return self.head(self.features(ids, packing), example)
