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

from gpt1.kernels.linear import pad_rows
from gpt1.kernels.to_device import to_device

MAX_PADDING = 256  # padding that costs attention less than another call of it
MAX_PADDING_SHARE = 0.5  # of the real tokens: padding beyond it costs more


@dataclass(frozen=True)
class AttentionGroup:
    """Rows that attention sees together: `tokens` of the packed ones, as `batch` rows padded to `time`."""

    tokens: int
    batch: int
    time: int
    padded_index: Tensor | None
    """Where in [batch · time] each token stands; None where nothing is padded."""
    masked_out: Tensor | None = None
    """[batch, time, time]: True where a position must not see an earlier one; None where it may see all of them."""


class PackedRow(NamedTuple):
    """Tokens that one or more sequences consist of."""

    prefix: int  # the tokens with which all of them begin; 0 for one sequence
    suffixes: tuple[int, ...]  # how many more each has, one after another

    @property
    def tokens(self) -> int:
        return self.prefix + sum(self.suffixes)


class Packing:
    """Where the sequences of packed tokens begin and end.

    lengths [sequences]; position [tokens]: the place of a token in its sequence; last [sequences]: the last token of
    each. All on the device.
    """

    def __init__(self, rows: Sequence[PackedRow], device: torch.device | str = "cpu") -> None:
        self.rows, self.device = rows, device
        self.tokens = sum(row.tokens for row in rows)
        self.padding = pad_rows(self.tokens)
        lengths = torch.tensor([length for row in rows for length in (row.prefix, *row.suffixes)])  # [parts]
        counts = torch.tensor([1 + len(row.suffixes) for row in rows])  # [rows]: parts of each
        shared = (counts.cumsum(0) - counts).repeat_interleave(counts)  # [parts]: the first part of the row
        rest = torch.arange(len(lengths)) != shared
        before = torch.where(rest, lengths[shared], 0)  # [parts]: tokens that a sequence has before this part of it
        part = torch.arange(len(lengths)).repeat_interleave(lengths)  # [tokens]
        ends = lengths.cumsum(0)
        place = torch.arange(self.tokens) - (ends - lengths - before)[part]
        self.parts, self.max_length = len(lengths), int((lengths + before).max())
        self.positions, self.part_index = to_device(place, device), to_device(part, device)
        self.lengths, self.last_index = to_device((lengths + before)[rest], device), to_device((ends - 1)[rest], device)
        self.prefix_index, self.suffix_index = (
            to_device(shared[rest], device),
            to_device(rest.nonzero()[:, 0], device),
        )  # [sequences]: parts
        found = split_groups([row.tokens for row in rows])
        self.groups = [group_to_device(make_group(rows[first:stop]), device) for first, stop in found]

    @cached_property
    def single_group(self) -> AttentionGroup:
        """All rows as one group."""
        return self.groups[0] if len(self.groups) == 1 else group_to_device(make_group(self.rows), self.device)

    def to_tokens(self, per_sequence: Tensor) -> Tensor:  # [sequences] → [tokens]
        """What belongs to each sequence, at each of its tokens; added up where sequences share a token."""
        parts = per_sequence.new_zeros(self.parts)
        return parts.index_add_(0, self.suffix_index, per_sequence).index_add_(0, self.prefix_index, per_sequence)[
            self.part_index
        ]

    def pad(self, x: Tensor) -> Tensor:
        """[tokens, n] → [tokens + spare, n]: what `grouped` and `together` take and give."""
        return F.pad(x, (0, 0, 0, self.padding)) if self.padding else x

    def unpad(self, x: Tensor) -> Tensor:  # [tokens + spare, n] → [tokens, n]
        return x[: self.tokens]

    def apply_by_group(self, layer: Callable[..., Tensor], x: Tensor) -> Tensor:  # [tokens + spare, n] → […, m]
        """`layer` ([batch, time, n] and what is hidden → [batch, time, m]) on every group of rows of like length."""
        parts = torch.split(self.unpad(x), [group.tokens for group in self.groups])
        found = [
            apply_padded(partial(layer, masked_out=group.masked_out), part, group)
            for part, group in zip(parts, self.groups, strict=True)
        ]
        if self.padding:
            found.append(x.new_zeros(self.padding, found[0].shape[1]))
        return found[0] if len(found) == 1 else torch.cat(found)

    def apply_to_all(self, layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:  # [tokens + spare, n] → […, m]
        """`layer` on all the rows at once, each a sequence, padded to the longest."""
        return self.pad(apply_padded(layer, self.unpad(x), self.single_group))


def split_groups(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(first row, row after the last one) of each group: neighbours, with little padding."""
    first = real = width = 0
    for i, length in enumerate(lengths):
        wider = max(width, length)
        padding = (i + 1 - first) * wider - real - length
        if i > first and padding > MAX_PADDING + MAX_PADDING_SHARE * (real + length):
            yield first, i
            first, real, wider = i, 0, length
        real, width = real + length, wider
    yield first, len(lengths)


def make_group(rows: Sequence[PackedRow]) -> AttentionGroup:
    lengths = [row.tokens for row in rows]
    time, tokens = max(lengths), sum(lengths)
    hidden = cross_sequence_mask(rows, time) if any(len(row.suffixes) > 1 for row in rows) else None
    if min(lengths) == time:
        return AttentionGroup(tokens, len(rows), time, None, hidden)
    counts = torch.tensor(lengths)
    row = torch.arange(len(rows)).repeat_interleave(counts)
    places = row * time + torch.arange(tokens) - (counts.cumsum(0) - counts)[row]
    return AttentionGroup(tokens, len(rows), time, places, hidden)


def cross_sequence_mask(rows: Sequence[PackedRow], time: int) -> Tensor:
    """[rows, time, time]: True where one position is in the rest of one sequence and the other in that of another."""
    part = torch.zeros(len(rows), time, dtype=torch.int64)  # 0: shared
    for own, row in zip(part, rows, strict=True):
        counts = torch.tensor([row.prefix, *row.suffixes])
        own[: row.tokens] = torch.arange(len(counts)).repeat_interleave(counts)
    return (part[:, :, None] != part[:, None]) & (part[:, None] > 0)


def group_to_device(group: AttentionGroup, device: torch.device | str) -> AttentionGroup:
    places, hidden = (None if one is None else to_device(one, device) for one in (group.padded_index, group.masked_out))
    return replace(group, padded_index=places, masked_out=hidden)


def apply_padded(layer: Callable[[Tensor], Tensor], x: Tensor, group: AttentionGroup) -> Tensor:
    if group.padded_index is None:
        return layer(x.view(group.batch, group.time, -1)).flatten(0, 1)
    spread = ScatterRows.apply(x, group.padded_index, group.batch * group.time)  # type: ignore[no-untyped-call]
    y = layer(spread.view(group.batch, group.time, -1)).flatten(0, 1)
    return GatherRows.apply(y, group.padded_index)  # type: ignore[no-untyped-call]


class ScatterRows(torch.autograd.Function):
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


class GatherRows(torch.autograd.Function):
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
