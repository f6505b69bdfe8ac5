"""Attention over a KV cache: what a GPU computes at once is what a CPU computes part by part."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt1.config import GPTConfig
from gpt1.kernels.kv_cache import CachePart, KVCache, attention_of_newest, cached_attention

BATCH, HEADS, WIDTH, SIZE = 4, 2, 6, 9


@given(pasts=st.lists(st.integers(0, SIZE - 1), min_size=1, max_size=BATCH), seed=st.integers(0, 99))
def test_the_newest_tokens_of_several_sequences_attend_alike_one_by_one_and_at_once(pasts: list[int], seed: int):
    torch.manual_seed(seed)
    rows = torch.randperm(BATCH)[: len(pasts)]
    cache = KVCache(GPTConfig(10, 1, HEADS, HEADS * WIDTH, SIZE), BATCH, torch.zeros(0))
    for buffer in cache.keys + cache.values:
        buffer.normal_()
    cache.begin_parts([CachePart(int(row), past, 1) for row, past in zip(rows, pasts, strict=True)], len(pasts))
    qkv = torch.randn(len(pasts), 1, 3 * HEADS * WIDTH)
    expected = cached_attention(qkv, HEADS, cache.layer(0))  # which also puts the new keys and values into the cache
    q = qkv.view(len(pasts), 3, HEADS, WIDTH)[:, 0]
    found = attention_of_newest(q, cache.keys[0], cache.values[0], rows, torch.tensor(pasts), max(pasts) + 1)
    torch.testing.assert_close(found.reshape(len(pasts), 1, -1), expected)
