"""Packing: sequences of different lengths are concatenated, so that no layer computes padding.

Layers that work position by position (all but attention) do not need to know where a sequence ends. Attention gets
groups of rows of similar length, padded on the right, and its padding is discarded.

A row is one sequence, or several with a common prefix: the prefix comes first, then the suffix of each, and attention
masks the suffixes from one another. So a passage is computed once for all of its answers.
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

MAX_PADDING = 256  # padding tokens that cost less than another call of attention
MAX_PADDING_SHARE = 0.5  # padding per real token; more costs more than another call


@dataclass(frozen=True)
class AttentionGroup:
    """Rows that one call of attention processes: `tokens` packed tokens as `batch` rows, padded to `time`."""

    tokens: int
    batch: int
    time: int
    padded_index: Tensor | None
    """Index of each token in [batch · time]; None without padding."""
    masked_out: Tensor | None = None
    """[batch, time, time], True where a position must not attend to an earlier one; None if it may attend to all."""


class PackedRow(NamedTuple):
    """Lengths of one or more sequences with a common prefix."""

    prefix: int  # tokens of the common prefix; 0 for a single sequence
    suffixes: tuple[int, ...]  # further tokens of each sequence

    @property
    def tokens(self) -> int:
        return self.prefix + sum(self.suffixes)


class Packing:
    """Where the sequences of packed tokens begin and end.

    Args:
        rows: The packed rows, in order.
        device: Where the index tensors are needed.

    Attributes:
        lengths: [sequences], tokens of each sequence.
        positions: [tokens], position of each token in its sequence.
        last_index: [sequences], index of the last token of each sequence.
        tokens: Number of packed tokens.
        max_length: Length of the longest sequence.
    """

    def __init__(self, rows: Sequence[PackedRow], device: torch.device | str = "cpu") -> None:
        self.rows, self.device = rows, device
        self.tokens = sum(row.tokens for row in rows)
        self.padding = pad_rows(self.tokens)
        lengths = torch.tensor(
            [length for row in rows for length in (row.prefix, *row.suffixes)]
        )  # [parts]: prefixes and suffixes
        counts = torch.tensor([1 + len(row.suffixes) for row in rows])  # [rows]: parts of each
        prefix = (counts.cumsum(0) - counts).repeat_interleave(counts)  # [parts]: index of the row's prefix
        is_suffix = torch.arange(len(lengths)) != prefix
        before = torch.where(is_suffix, lengths[prefix], 0)  # [parts]: tokens of the sequence before this part
        part = torch.arange(len(lengths)).repeat_interleave(lengths)  # [tokens]
        ends = lengths.cumsum(0)
        positions = torch.arange(self.tokens) - (ends - lengths - before)[part]
        self.parts, self.max_length = len(lengths), int((lengths + before).max())
        self.positions, self.part_index = to_device(positions, device), to_device(part, device)
        self.lengths = to_device((lengths + before)[is_suffix], device)
        self.last_index = to_device((ends - 1)[is_suffix], device)
        self.prefix_index = to_device(prefix[is_suffix], device)  # [sequences]: part
        self.suffix_index = to_device(is_suffix.nonzero()[:, 0], device)  # [sequences]: part
        bounds = split_groups([row.tokens for row in rows])
        self.groups = [group_to_device(make_group(rows[first:stop]), device) for first, stop in bounds]

    @cached_property
    def single_group(self) -> AttentionGroup:
        """All rows as one group."""
        return self.groups[0] if len(self.groups) == 1 else group_to_device(make_group(self.rows), self.device)

    def to_tokens(self, per_sequence: Tensor) -> Tensor:  # [sequences] → [tokens]
        """Copy the value of each sequence to its tokens; the values of sequences that share a token are added."""
        parts = per_sequence.new_zeros(self.parts).index_add_(0, self.suffix_index, per_sequence)
        return parts.index_add_(0, self.prefix_index, per_sequence)[self.part_index]

    def pad(self, x: Tensor) -> Tensor:
        """[tokens, n] → [tokens + padding, n], the form that `apply_by_group` and `apply_to_all` take and return."""
        return F.pad(x, (0, 0, 0, self.padding)) if self.padding else x

    def unpad(self, x: Tensor) -> Tensor:  # [tokens + padding, n] → [tokens, n]
        return x[: self.tokens]

    def apply_by_group(self, layer: Callable[..., Tensor], x: Tensor) -> Tensor:  # [tokens + padding, n] → […, m]
        """Apply `layer` ([batch, time, n], masked_out= → [batch, time, m]) to each group of rows."""
        parts = torch.split(self.unpad(x), [group.tokens for group in self.groups])
        outputs = [
            apply_padded(partial(layer, masked_out=group.masked_out), part, group)
            for part, group in zip(parts, self.groups, strict=True)
        ]
        if self.padding:
            outputs.append(x.new_zeros(self.padding, outputs[0].shape[1]))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def apply_to_all(self, layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:  # [tokens + padding, n] → […, m]
        """Apply `layer` to all rows at once, each a sequence, padded to the longest."""
        return self.pad(apply_padded(layer, self.unpad(x), self.single_group))


def split_groups(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(first row, row after the last one) of each group: consecutive rows with little padding."""
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
    masked_out = cross_sequence_mask(rows, time) if any(len(row.suffixes) > 1 for row in rows) else None
    if min(lengths) == time:
        return AttentionGroup(tokens, len(rows), time, None, masked_out)
    counts = torch.tensor(lengths)
    row = torch.arange(len(rows)).repeat_interleave(counts)
    padded_index = row * time + torch.arange(tokens) - (counts.cumsum(0) - counts)[row]
    return AttentionGroup(tokens, len(rows), time, padded_index, masked_out)


def cross_sequence_mask(rows: Sequence[PackedRow], time: int) -> Tensor:
    """[rows, time, time], True where two positions are in the suffixes of different sequences."""
    part = torch.zeros(len(rows), time, dtype=torch.int64)  # 0: the prefix
    for own, row in zip(part, rows, strict=True):
        counts = torch.tensor([row.prefix, *row.suffixes])
        own[: row.tokens] = torch.arange(len(counts)).repeat_interleave(counts)
    return (part[:, :, None] != part[:, None]) & (part[:, None] > 0)


def group_to_device(group: AttentionGroup, device: torch.device | str) -> AttentionGroup:
    index, mask = (None if x is None else to_device(x, device) for x in (group.padded_index, group.masked_out))
    return replace(group, padded_index=index, masked_out=mask)


def apply_padded(layer: Callable[[Tensor], Tensor], x: Tensor, group: AttentionGroup) -> Tensor:
    if group.padded_index is None:
        return layer(x.view(group.batch, group.time, -1)).flatten(0, 1)
    padded = ScatterRows.apply(x, group.padded_index, group.batch * group.time)  # type: ignore[no-untyped-call]
    y = layer(padded.view(group.batch, group.time, -1)).flatten(0, 1)
    return GatherRows.apply(y, group.padded_index)  # type: ignore[no-untyped-call]


class ScatterRows(torch.autograd.Function):
    """Copy the rows of x to the indices `rows` of n rows of zeros. Indices are unique, which torch cannot know."""

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
    """The rows `rows` of x; indices are unique."""

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
