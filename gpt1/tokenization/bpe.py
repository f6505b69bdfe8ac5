"""Byte-pair encoding over characters: learning merges from words, and splitting words into tokens by merging.

A word is a sequence of characters, the last one with an end-of-word mark: `low` → `l o w</w>`. The adjacent pair that
was learned first is merged at all its positions, then the next, until no adjacent pair is among the learned merges.
"""

from __future__ import annotations

import heapq
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

END_OF_WORD = "</w>"
UNKNOWN = "<unk>"

Pair = tuple[str, str]


def word_symbols(word: str) -> list[str]:
    return [*word[:-1], word[-1] + END_OF_WORD]


def merge_pair(symbols: list[str], pair: Pair) -> list[str]:
    """`symbols` with every occurrence of `pair` merged, from the left."""
    first, second = pair
    merged, i, end = [], 0, len(symbols)
    while i < end:
        if i + 1 < end and symbols[i] == first and symbols[i + 1] == second:
            merged.append(first + second)
            i += 2
        else:
            merged.append(symbols[i])
            i += 1
    return merged


def learn_merges(counts: Mapping[str, int], limit: int) -> list[Pair]:
    """Learn at most `limit` merges: repeatedly the most frequent pair; ties go to the first in code point order.

    A pair that would produce an existing token is skipped, so that every merge adds a token.

    Args:
        counts: Number of occurrences of each word.
    """
    words = [word_symbols(word) for word in sorted(counts)]
    word_counts = [counts[word] for word in sorted(counts)]
    pair_counts: Counter[Pair] = Counter()
    pair_words: defaultdict[Pair, set[int]] = defaultdict(set)  # pair → words that contain it, or did earlier
    for i, symbols in enumerate(words):
        for pair in pairwise(symbols):
            pair_counts[pair] += word_counts[i]
            pair_words[pair].add(i)
    queue = [(-count, pair) for pair, count in pair_counts.items()]
    heapq.heapify(queue)
    merges: dict[str, Pair] = {}
    while queue and len(merges) < limit:
        count, pair = heapq.heappop(queue)
        if pair_counts[pair] != -count or "".join(pair) in merges:
            continue  # an outdated entry, or not a new token
        merges["".join(pair)] = pair
        changed: set[Pair] = set()
        for i in pair_words.pop(pair):
            old, new = words[i], merge_pair(words[i], pair)
            if len(new) == len(old):
                continue
            words[i] = new
            for removed in pairwise(old):
                pair_counts[removed] -= word_counts[i]
                changed.add(removed)
            for added in pairwise(new):
                pair_counts[added] += word_counts[i]
                pair_words[added].add(i)
                changed.add(added)
        for pair in changed:
            if pair_counts[pair] > 0:
                heapq.heappush(queue, (-pair_counts[pair], pair))
    return list(merges.values())


def ids_to_bytes(ids: Iterable[int]) -> bytes:
    """Ids packed as 32-bit integers: small, fast to concatenate, and no work for the garbage collector."""
    return array("I", ids).tobytes()


class WordEncoder:
    """Words to packed ids; symbols outside the vocabulary become `unknown_id`. Caches up to MAX_CACHED_WORDS words."""

    MAX_CACHED_WORDS = 1 << 18

    def __init__(self, vocabulary: Mapping[str, int], merges: Sequence[Pair], unknown_id: int) -> None:
        self._vocabulary = vocabulary
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._unknown_id = unknown_id
        self._library = _rust_bpe(vocabulary, merges) if merges_are_ordered(merges) else None
        self._ids: dict[str, bytes] = {}

    def __call__(self, words: Iterable[str]) -> dict[str, bytes]:
        """The packed ids by word; the result may contain other words as well."""
        if len(self._ids) > self.MAX_CACHED_WORDS:
            self._ids = {}
        new = list(set(words).difference(self._ids))
        if self._library is None:
            self._ids.update((word, ids_to_bytes(self._merge(word))) for word in new)
        else:
            encode = self._library.tokenize
            self._ids.update((word, ids_to_bytes([token.id for token in encode(word)])) for word in new)
        return self._ids

    def _merge(self, word: str) -> list[int]:
        symbols = word_symbols(word)
        while len(symbols) > 1:
            pair = min(pairwise(symbols), key=lambda pair: self._ranks.get(pair, len(self._ranks)))
            if pair not in self._ranks:
                break
            symbols = merge_pair(symbols, pair)
        return [self._vocabulary.get(symbol, self._unknown_id) for symbol in symbols]


def merges_are_ordered(merges: Sequence[Pair]) -> bool:
    """Whether every merge produces a new token from characters or tokens of earlier merges.

    Then no merge creates a pair with a lower rank, and the `tokenizers` library, which merges one position at a time,
    gives the same result as merging all positions at once.
    """
    tokens: set[str] = set()
    for first, second in merges:
        for part in (first, second):
            if len(part.removesuffix(END_OF_WORD)) > 1 and part not in tokens:
                return False
        if first + second in tokens:
            return False
        tokens.add(first + second)
    return True


def _rust_bpe(vocabulary: Mapping[str, int], merges: Sequence[Pair]) -> Any:
    from tokenizers.models import BPE

    return BPE(
        vocab=dict(vocabulary),
        merges=list(merges),
        unk_token=UNKNOWN,
        end_of_word_suffix=END_OF_WORD,
        fuse_unk=False,
        cache_capacity=0,  # WordEncoder has its own cache
    )
