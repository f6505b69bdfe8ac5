"""Attention over a KV cache, for parts of several sequences: equal to the formula, independent of the other parts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gpt1.config import GPTConfig
from gpt1.kernels.kv_cache import SPLIT, STRETCH, CachePart, KVCache, attention_of_newest, cached_attention, round_up

BATCH, HEADS, WIDTH, SIZE = 9, 2, 6, 3 * STRETCH + 5
LONG = SPLIT + 100


def new_cache(heads: int = HEADS, width: int = WIDTH, size: int = SIZE, dtype: torch.dtype = torch.float32) -> KVCache:
    """A cache of one block whose buffers are NaN."""
    cache = KVCache(GPTConfig(10, 1, heads, heads * width, size), BATCH, torch.zeros(0, dtype=dtype))
    for buffer in cache.keys + cache.values:
        buffer.fill_(torch.nan)
    return cache


def attend(cache: KVCache, parts: Sequence[CachePart], qkv: Tensor) -> Tensor:
    cache.begin_parts(parts, len(qkv))
    return cached_attention(qkv, cache.keys[0].shape[1], cache.layer(0))


def formula(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """softmax(q kᵀ / √width) v in float64: q [heads, width], keys and values [heads, n, width] → [heads, width]."""
    scores = (keys.double() @ q.double()[..., None])[..., 0] / math.sqrt(q.shape[-1])  # [heads, n]
    return (scores.softmax(-1)[:, None] @ values.double())[:, 0]


@contextmanager
def threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@st.composite
def cache_parts(draw: st.DrawFn, size: int = SIZE) -> list[CachePart]:
    """Parts of different rows in any order; most of them of one token."""
    rows = draw(st.permutations(range(BATCH)))[: draw(st.integers(1, BATCH))]
    if draw(st.booleans()):
        rows.sort()
    parts = []
    for row in rows:
        past = draw(st.integers(0, size - 1) | st.sampled_from([STRETCH - 1, STRETCH, 2 * STRETCH]))
        parts.append(CachePart(row, past, draw(st.just(1) | st.integers(1, min(5, size - past)))))
    return parts


def fill_pasts(cache: KVCache, parts: Sequence[CachePart]) -> None:
    """The positions before those of the parts, as an earlier pass leaves them."""
    earlier = [CachePart(part.row, 0, part.past) for part in parts if part.past]
    _, heads, _, width = cache.keys[0].shape
    if earlier:
        attend(cache, earlier, torch.randn(sum(part.time for part in earlier), 1, 3 * heads * width))


@pytest.mark.parametrize("gathers", [False, True])
@settings(max_examples=30)
@given(parts=cache_parts(), seed=st.integers(0, 99))
def test_a_pass_over_several_sequences_follows_the_formula(gathers: bool, parts: list[CachePart], seed: int):
    torch.manual_seed(seed)
    cache = new_cache()
    cache.gathers = gathers
    if gathers:  # the caller that creates such a cache clears it
        for buffer in cache.keys + cache.values:
            buffer.zero_()
    fill_pasts(cache, parts)
    used = sum(part.time for part in parts)
    qkv = torch.randn(used + 3, 1, 3 * HEADS * WIDTH)
    found = attend(cache, parts, qkv).view(-1, HEADS, WIDTH)
    q, k, v = qkv.view(-1, 3, HEADS, WIDTH).unbind(1)
    expected = []
    for row, past, time in parts:
        for position in range(past, past + time):
            token, end = len(expected), position + 1
            assert torch.equal(cache.keys[0][row, :, position], k[token])
            assert torch.equal(cache.values[0][row, :, position], v[token])
            expected.append(formula(q[token], cache.keys[0][row, :, :end], cache.values[0][row, :, :end]))
    torch.testing.assert_close(found[:used].double(), torch.stack(expected), rtol=1e-4, atol=1e-5)
    assert not found[used:].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("heads", "width"), [(2, 32), (3, 64), (12, 64), (2, 16), (1, 8)])
@settings(max_examples=15)
@given(parts=cache_parts(LONG), seed=st.integers(0, 99))
def test_a_part_has_the_same_bits_alone_and_in_a_batch_with_any_number_of_threads(
    heads: int, width: int, dtype: torch.dtype, parts: list[CachePart], seed: int
):
    torch.manual_seed(seed)
    cache = new_cache(heads, width, LONG)
    for buffer in cache.keys + cache.values:
        buffer.normal_()
    qkv = torch.randn(sum(part.time for part in parts), 1, 3 * heads * width).to(dtype)
    for n in (1, 2, 3):
        with threads(n):
            together, first = attend(cache, parts, qkv), 0
            for part in parts:
                own = slice(first, first + part.time)
                assert torch.equal(attend(cache, [part], qkv[own]), together[own])
                first += part.time


@pytest.mark.parametrize("width", [8, 32, 64])
def test_neighboring_rows_share_a_call_and_its_bits(width: int):
    """Many sequences of one length, whose heads are divided among the threads differently from those of one."""
    for past in (0, 40, 300, SPLIT - 1, SPLIT, SPLIT + 90):
        cache = new_cache(2, width, LONG)
        for buffer in cache.keys + cache.values:
            buffer.normal_()
        qkv = torch.randn(BATCH, 1, 3 * 2 * width)
        for n in range(1, BATCH + 1):
            with threads(2):
                together = attend(cache, [CachePart(row, past, 1) for row in range(n)], qkv[:n])
                assert len(cache.newest) == (1 if cache.read_length(past + 1) <= SPLIT else n)
                alone = [attend(cache, [CachePart(row, past, 1)], qkv[row : row + 1]) for row in range(n)]
                assert torch.equal(torch.cat(alone), together)


def continue_row(cache: KVCache, row: int, prompt: int, qkv: Tensor, kept: int = 0) -> Tensor:
    """Attention of a prompt after its `kept` first tokens in blocks, then of single tokens: qkv [tokens, 1, …]."""
    starts = [*range(kept, prompt, STRETCH), *range(prompt, len(qkv))]
    ends = [*starts[1:], len(qkv)]
    return torch.cat([attend(cache, [CachePart(row, a, b - a)], qkv[a:b]) for a, b in zip(starts, ends, strict=True)])


@settings(max_examples=20)
@given(prompt=st.integers(1, SIZE), row=st.integers(0, BATCH - 1), seed=st.integers(0, 99))
def test_values_left_by_an_earlier_sequence_do_not_matter_even_if_they_are_nan(prompt: int, row: int, seed: int):
    torch.manual_seed(seed)
    qkv = torch.randn(SIZE, 1, 3 * HEADS * WIDTH)
    stale, clear = new_cache(), new_cache()
    for buffer in clear.keys + clear.values:
        buffer.zero_()
    expected = continue_row(clear, row, prompt, qkv)
    assert torch.equal(continue_row(stale, row, prompt, qkv), expected)
    kept = STRETCH * ((prompt - 1) // STRETCH)  # the next sequence keeps the beginning of the row
    for buffer in stale.keys + stale.values:
        buffer[row, :, kept:] = torch.nan
    assert torch.equal(continue_row(stale, row, prompt, qkv, kept), expected[kept:])


@settings(max_examples=30)
@given(parts=cache_parts())
def test_positions_that_no_sequence_comes_near_are_not_touched(parts: list[CachePart]):
    cache = new_cache()
    fill_pasts(cache, parts)
    attend(cache, parts, torch.randn(sum(part.time for part in parts), 1, 3 * HEADS * WIDTH))
    ends = dict.fromkeys(range(BATCH), 0) | {part.row: part.past + part.time for part in parts}
    for buffer in cache.keys + cache.values:
        for row, end in ends.items():
            near = round_up(end) + STRETCH if end else 0
            assert not buffer[row, :, :near].isnan().any()
            assert buffer[row, :, near:].isnan().all()


@settings(max_examples=20)
@given(n=st.integers(1, BATCH), start=st.integers(0, 2), seed=st.integers(0, 99))
def test_views_of_rows_give_the_bits_of_copies(n: int, start: int, seed: int):
    torch.manual_seed(seed)
    cache = new_cache()
    for buffer in cache.keys + cache.values:
        buffer.normal_()
    rows = range(min(start, BATCH - n), min(start, BATCH - n) + n)
    cache.begin_parts([CachePart(row, STRETCH, 1) for row in rows], n)
    (call,) = cache.newest
    assert isinstance(call.rows, slice)
    q, copied = torch.randn(n, HEADS, WIDTH), torch.tensor(rows)
    views, copies = (attention_of_newest(q, cache.keys[0], cache.values[0], r, call.mask) for r in (call.rows, copied))
    assert torch.equal(views, copies)
