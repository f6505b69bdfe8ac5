"""The head of fine-tuning, and a GPT with a head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gpt1.kernels.dropout import dropout
from gpt1.kernels.packing import Packing
from gpt1.kernels.to_device import to_device
from gpt1.model.gpt import GPT, Linear


class Head(nn.Module):
    """P(y | x_1..x_m) = softmax(h_l^m W_y): dropout and a linear map of the hidden state at the extract token (eq. 3).

    Args:
        n_embd: Width of the hidden states.
        outputs: Outputs per example, or per sequence if `each` is set.
        each: Multiple choice: every sequence of an example gets its own logit. Otherwise the states of an example's
            sequences (one, or both orders of a pair) are added and mapped to `outputs`.
        p: Dropout probability.
        independent: Every output is the logit of a separate label, instead of one distribution over all labels.
    """

    def __init__(self, n_embd: int, outputs: int, each: bool, p: float = 0.1, independent: bool = False) -> None:
        super().__init__()
        self.each = each
        self.independent = independent
        self.p = p
        self.linear = Linear(n_embd, outputs)

    def forward(self, states: Tensor, example_index: Tensor) -> Tensor:
        """Logits of each example.

        Args:
            states: [sequences, n_embd].
            example_index: [sequences], the example of each sequence, ascending from 0. On the CPU, so that shapes are
                known without waiting for a GPU.

        Returns:
            [examples, outputs]; with `each` [examples, max answers], −∞ if an example has fewer.
        """
        states = states.float()
        counts = torch.bincount(example_index)  # sequences of each example
        n, index = len(counts), to_device(example_index, states.device)
        if self.each:
            if self.training and self.p:  # one mask for all answers of an example, as in the release
                states = states * dropout(states.new_ones(n, states.shape[1]), self.p)[index]
            first = counts.cumsum(0) - counts
            answer = torch.arange(len(example_index), device=example_index.device) - first[example_index]
            logits = states.new_full((n, int(counts.max())), -torch.inf)
            return logits.index_put((index, to_device(answer, states.device)), self.linear(states)[:, 0])
        summed = states.new_zeros(n, states.shape[1]).index_add(0, index, states)
        return self.linear(dropout(summed, self.p) if self.training else summed)


class TaskModel(nn.Module):
    """A GPT with a head."""

    def __init__(self, gpt: GPT, head: Head) -> None:
        super().__init__()
        self.gpt = gpt
        self.head = head

    def features(self, ids: Tensor, packing: Packing) -> Tensor:  # [tokens] → [sequences, n_embd]
        """h_l^m, the hidden states at the extract tokens (the last of each sequence)."""
        return self.gpt.hidden_states(ids, packing=packing)[packing.last_index]

    def forward(self, ids: Tensor, packing: Packing, example_index: Tensor) -> Tensor:
        """Logits of each example, as `Head` returns them."""
        return self.head(self.features(ids, packing), example_index)
