"""Sequences of different lengths one after another, so that no layer computes padding.

A layer that looks at one position at a time (all but attention) does not care where a sequence ends. Attention gets
rows of like length side by side, padded on the right, and its padding is thrown away.

A row is one sequence, or several that begin alike: what they share stands first, the rest of each follows, and
attention hides the rests from one another. So a passage is computed once for all of its answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from gpt1.kernels.linear import spare_rows
from gpt1.kernels.to_device import moved

SPARE = 256  # padding that costs attention less than another call of it
SHARE = 0.5  # of the real tokens: padding beyond it costs more


@dataclass(frozen=True)
class Group:
    """Rows that attention sees together: `tokens` of the packed ones, as `batch` rows padded to `time`."""

    tokens: int
    batch: int
    time: int
    places: Tensor | None
    """Where in [batch · time] each token stands; None where nothing is padded."""
    hidden: Tensor | None = None
    """[batch, time, time]: True where a position must not see an earlier one; None where it may see all of them."""


class Row(NamedTuple):
    """Tokens that one or more sequences consist of."""

    shared: int  # the tokens with which all of them begin; 0 for one sequence
    rests: tuple[int, ...]  # how many more each has, one after another

    @property
    def tokens(self) -> int:
        return self.shared + sum(self.rests)


class Packing:
    """Where the sequences of packed tokens begin and end.

    lengths [sequences]; position [tokens]: the place of a token in its sequence; last [sequences]: the last token of
    each. All on the device.
    """

    def __init__(self, rows: Sequence[Row], device: torch.device | str = "cpu") -> None:
        self.rows, self.device = rows, device
        self.tokens = sum(row.tokens for row in rows)
        self.spare = spare_rows(self.tokens)
        lengths = torch.tensor([length for row in rows for length in (row.shared, *row.rests)])  # [parts]
        counts = torch.tensor([1 + len(row.rests) for row in rows])  # [rows]: parts of each
        shared = (counts.cumsum(0) - counts).repeat_interleave(counts)  # [parts]: the first part of the row
        rest = torch.arange(len(lengths)) != shared
        before = torch.where(rest, lengths[shared], 0)  # [parts]: tokens that a sequence has before this part of it
        part = torch.arange(len(lengths)).repeat_interleave(lengths)  # [tokens]
        ends = lengths.cumsum(0)
        place = torch.arange(self.tokens) - (ends - lengths - before)[part]
        self.parts, self.most = len(lengths), int((lengths + before).max())
        self.position, self.part = moved(place, device), moved(part, device)
        self.lengths, self.last = moved((lengths + before)[rest], device), moved((ends - 1)[rest], device)
        self.shared, self.rest = moved(shared[rest], device), moved(rest.nonzero()[:, 0], device)  # [sequences]: parts
        found = groups([row.tokens for row in rows])
        self.groups = [on(group_of(rows[first:stop]), device) for first, stop in found]

    @cached_property
    def one(self) -> Group:
        """All rows as one group."""
        return self.groups[0] if len(self.groups) == 1 else on(group_of(self.rows), self.device)

    def spread(self, each: Tensor) -> Tensor:  # [sequences] → [tokens]
        """What belongs to each sequence, at each of its tokens; added up where sequences share a token."""
        parts = each.new_zeros(self.parts)
        return parts.index_add_(0, self.rest, each).index_add_(0, self.shared, each)[self.part]

    def begin(self, x: Tensor) -> Tensor:
        """[tokens, n] → [tokens + spare, n]: what `grouped` and `together` take and give."""
        return F.pad(x, (0, 0, 0, self.spare)) if self.spare else x

    def end(self, x: Tensor) -> Tensor:  # [tokens + spare, n] → [tokens, n]
        return x[: self.tokens]

    def grouped(self, layer: Callable[..., Tensor], x: Tensor) -> Tensor:  # [tokens + spare, n] → […, m]
        """`layer` ([batch, time, n] and what is hidden → [batch, time, m]) on every group of rows of like length."""
        parts = torch.split(self.end(x), [group.tokens for group in self.groups])
        found = [
            padded(partial(layer, hidden=group.hidden), part, group)
            for part, group in zip(parts, self.groups, strict=True)
        ]
        if self.spare:
            found.append(x.new_zeros(self.spare, found[0].shape[1]))
        return found[0] if len(found) == 1 else torch.cat(found)

    def together(self, layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:  # [tokens + spare, n] → […, m]
        """`layer` on all the rows at once, each a sequence, padded to the longest."""
        return self.begin(padded(layer, self.end(x), self.one))


def groups(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(first row, row after the last one) of each group: neighbours, with little padding."""
    first = real = width = 0
    for i, length in enumerate(lengths):
        wider = max(width, length)
        padding = (i + 1 - first) * wider - real - length
        if i > first and padding > SPARE + SHARE * (real + length):
            yield first, i
            first, real, wider = i, 0, length
        real, width = real + length, wider
    yield first, len(lengths)


def group_of(rows: Sequence[Row]) -> Group:
    lengths = [row.tokens for row in rows]
    time, tokens = max(lengths), sum(lengths)
    hidden = hidden_between(rows, time) if any(len(row.rests) > 1 for row in rows) else None
    if min(lengths) == time:
        return Group(tokens, len(rows), time, None, hidden)
    counts = torch.tensor(lengths)
    row = torch.arange(len(rows)).repeat_interleave(counts)
    places = row * time + torch.arange(tokens) - (counts.cumsum(0) - counts)[row]
    return Group(tokens, len(rows), time, places, hidden)


def hidden_between(rows: Sequence[Row], time: int) -> Tensor:
    """[rows, time, time]: True where one position is in the rest of one sequence and the other in that of another."""
    part = torch.zeros(len(rows), time, dtype=torch.int64)  # 0: shared
    for own, row in zip(part, rows, strict=True):
        counts = torch.tensor([row.shared, *row.rests])
        own[: row.tokens] = torch.arange(len(counts)).repeat_interleave(counts)
    return (part[:, :, None] != part[:, None]) & (part[:, None] > 0)


def on(group: Group, device: torch.device | str) -> Group:
    places, hidden = (None if one is None else moved(one, device) for one in (group.places, group.hidden))
    return replace(group, places=places, hidden=hidden)


def padded(layer: Callable[[Tensor], Tensor], x: Tensor, group: Group) -> Tensor:
    if group.places is None:
        return layer(x.view(group.batch, group.time, -1)).flatten(0, 1)
    spread = Spread.apply(x, group.places, group.batch * group.time)  # type: ignore[no-untyped-call]
    y = layer(spread.view(group.batch, group.time, -1)).flatten(0, 1)
    return Gather.apply(y, group.places)  # type: ignore[no-untyped-call]


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
