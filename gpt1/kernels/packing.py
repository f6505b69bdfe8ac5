"""Sequences of different lengths one after another, so that no layer computes padding.

A layer that looks at one position at a time (all but attention) does not care where a sequence ends. Attention gets
sequences of like length side by side, padded on the right, and its padding is thrown away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from gpt1.kernels.linear import spare_rows

SPARE = 256  # padding that costs attention less than another call of it
SHARE = 0.5  # of the real tokens: padding beyond it costs more


@dataclass(frozen=True)
class Group:
    """Sequences that attention sees together: `tokens` of the packed ones, as `batch` sequences padded to `time`."""

    tokens: int
    batch: int
    time: int
    rows: Tensor | None
    """Where in [batch · time] each token stands; None where nothing is padded."""


class Packing:
    """Where the sequences of packed tokens begin and end.

    lengths [sequences]; sequence [tokens]: the one a token belongs to; position [tokens]: its place there; last
    [sequences]: the last token of each. All on the device.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.most, self.tokens = max(lengths), sum(lengths)
        self.spare = spare_rows(self.tokens)
        counts = torch.tensor(lengths)
        ends = counts.cumsum(0)
        sequence = torch.arange(len(lengths)).repeat_interleave(counts)
        position = torch.arange(len(sequence)) - (ends - counts)[sequence]
        self.groups = [group_of(lengths[first:stop]) for first, stop in groups(lengths)]
        self.groups = [on(group, device) for group in self.groups]
        self.one = self.groups[0] if len(self.groups) == 1 else on(group_of(lengths), device)
        self.lengths, self.sequence, self.position = counts.to(device), sequence.to(device), position.to(device)
        self.last = (ends - 1).to(device)

    def begin(self, x: Tensor) -> Tensor:
        """[tokens, n] → [tokens + spare, n]: what `grouped` and `together` take and give."""
        return F.pad(x, (0, 0, 0, self.spare)) if self.spare else x

    def end(self, x: Tensor) -> Tensor:  # [tokens + spare, n] → [tokens, n]
        return x[: self.tokens]

    def grouped(self, layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:  # [tokens + spare, n] → […, m]
        """`layer` ([batch, time, n] → [batch, time, m]) on every group of sequences of like length."""
        parts = torch.split(self.end(x), [group.tokens for group in self.groups])
        found = [padded(layer, part, group) for part, group in zip(parts, self.groups, strict=True)]
        if self.spare:
            found.append(x.new_zeros(self.spare, found[0].shape[1]))
        return found[0] if len(found) == 1 else torch.cat(found)

    def together(self, layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:  # [tokens + spare, n] → […, m]
        """`layer` on all the sequences at once, padded to the longest."""
        return self.begin(padded(layer, self.end(x), self.one))


def groups(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(first sequence, sequence after the last one) of each group: neighbours, with little padding."""
    first = real = width = 0
    for i, length in enumerate(lengths):
        wider = max(width, length)
        padding = (i + 1 - first) * wider - real - length
        if i > first and padding > SPARE + SHARE * (real + length):
            yield first, i
            first, real, wider = i, 0, length
        real, width = real + length, wider
    yield first, len(lengths)


def group_of(lengths: Sequence[int]) -> Group:
    time = max(lengths)
    if min(lengths) == time:
        return Group(len(lengths) * time, len(lengths), time, None)
    counts = torch.tensor(lengths)
    before = torch.tensor([0, *accumulate(lengths)][:-1])  # tokens before each sequence
    sequence = torch.arange(len(lengths)).repeat_interleave(counts)
    rows = sequence * time + torch.arange(len(sequence)) - before[sequence]
    return Group(len(rows), len(lengths), time, rows)


def on(group: Group, device: torch.device | str) -> Group:
    return Group(group.tokens, group.batch, group.time, None if group.rows is None else group.rows.to(device))


def padded(layer: Callable[[Tensor], Tensor], x: Tensor, group: Group) -> Tensor:
    if group.rows is None:
        return layer(x.view(group.batch, group.time, -1)).flatten(0, 1)
    spread = Spread.apply(x, group.rows, group.batch * group.time)  # type: ignore[no-untyped-call]
    y = layer(spread.view(group.batch, group.time, -1)).flatten(0, 1)
    return Gather.apply(y, group.rows)  # type: ignore[no-untyped-call]


class Spread(torch.autograd.Function):
    """Rows of x to the places `rows` of n rows of zeros. Each is taken once, which torch's indexing cannot know."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, n: int) -> Tensor:
        ctx.save_for_backward(rows)
        return x.new_zeros(n, x.shape[1]).index_copy_(0, rows, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        (rows,) = ctx.saved_tensors
        return dy.index_select(0, rows), None, None


class Gather(torch.autograd.Function):
    """The rows `rows` of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.n = len(x)
        return x.index_select(0, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        return dy.new_zeros(ctx.n, dy.shape[1]).index_copy_(0, rows, dy), None
