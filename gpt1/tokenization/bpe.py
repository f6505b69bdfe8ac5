"""Byte-pair encoding over characters: which pairs to merge, and a word cut into tokens by merging them.

A word is its characters, the last one marked as the end: `low` → `l o w</w>`. The pair that was learned first is merged
wherever it stands, then the next, until no pair of neighbours is one that was learned.
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
    """`symbols` with every occurrence of `pair` joined, from the left."""
    first, second = pair
    joined, at, end = [], 0, len(symbols)
    while at < end:
        if at + 1 < end and symbols[at] == first and symbols[at + 1] == second:
            joined.append(first + second)
            at += 2
        else:
            joined.append(symbols[at])
            at += 1
    return joined


def learn_merges(counts: Mapping[str, int], limit: int) -> list[Pair]:
    """At most `limit` pairs, each the most frequent at its time, the first in code point order where several are.

    `counts`: how often each word occurs. A pair whose token another pair makes already is passed over, so that each
    merge brings a new token.
    """
    words = [word_symbols(word) for word in sorted(counts)]
    times = [counts[word] for word in sorted(counts)]
    total: Counter[Pair] = Counter()  # pair → how often it stands in the words
    places: defaultdict[Pair, set[int]] = defaultdict(set)  # pair → words it stands in, or stood in once
    for number, symbols in enumerate(words):
        for pair in pairwise(symbols):
            total[pair] += times[number]
            places[pair].add(number)
    queue = [(-count, pair) for pair, count in total.items()]
    heapq.heapify(queue)
    merges: dict[str, Pair] = {}
    while queue and len(merges) < limit:
        count, pair = heapq.heappop(queue)
        if total[pair] != -count or "".join(pair) in merges:
            continue  # counted again since, or nothing new
        merges["".join(pair)] = pair
        changed: set[Pair] = set()
        for number in places.pop(pair):
            old, new = words[number], merge_pair(words[number], pair)
            if len(new) == len(old):
                continue
            words[number] = new
            for gone in pairwise(old):
                total[gone] -= times[number]
                changed.add(gone)
            for came in pairwise(new):
                total[came] += times[number]
                places[came].add(number)
                changed.add(came)
        for pair in changed:
            if total[pair] > 0:
                heapq.heappush(queue, (-total[pair], pair))
    return list(merges.values())


def ids_to_bytes(ids: Iterable[int]) -> bytes:
    """Ids as 32-bit numbers in a row: small, fast to join, and nothing that the garbage collector has to walk over."""
    return array("I", ids).tobytes()


class WordEncoder:
    """Words to packed ids; what is not in the vocabulary is `unknown`. Remembers up to LIMIT words."""

    MAX_CACHED_WORDS = 1 << 18

    def __init__(self, vocabulary: Mapping[str, int], merges: Sequence[Pair], unknown_id: int) -> None:
        self._vocabulary = vocabulary
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._unknown = unknown_id
        self._library = _in_rust(vocabulary, merges) if merges_are_ordered(merges) else None
        self._ids: dict[str, bytes] = {}

    def __call__(self, words: Iterable[str]) -> dict[str, bytes]:
        """ids of every word, by word; may hold more words than were asked for."""
        if len(self._ids) > self.MAX_CACHED_WORDS:
            self._ids = {}
        new = list(set(words).difference(self._ids))
        if self._library is None:
            self._ids.update((word, ids_to_bytes(self._merge(word))) for word in new)
        else:
            cut = self._library.tokenize
            self._ids.update((word, ids_to_bytes([token.id for token in cut(word)])) for word in new)
        return self._ids

    def _merge(self, word: str) -> list[int]:
        symbols = word_symbols(word)
        while len(symbols) > 1:
            pair = min(pairwise(symbols), key=lambda pair: self._ranks.get(pair, len(self._ranks)))
            if pair not in self._ranks:
                break
            symbols = merge_pair(symbols, pair)
        return [self._vocabulary.get(symbol, self._unknown) for symbol in symbols]


def merges_are_ordered(merges: Sequence[Pair]) -> bool:
    """Whether every merge makes a new token, out of characters or tokens of earlier merges.

    Then no merge can give rise to a pair that comes before it, and the `tokenizers` library, which merges one place at
    a time, agrees with merging everywhere at once.
    """
    made: set[str] = set()
    for first, second in merges:
        for part in (first, second):
            if len(part.removesuffix(END_OF_WORD)) > 1 and part not in made:
                return False
        if first + second in made:
            return False
        made.add(first + second)
    return True


def _in_rust(vocabulary: Mapping[str, int], merges: Sequence[Pair]) -> Any:
    from tokenizers.models import BPE

    return BPE(
        vocab=dict(vocabulary),
        merges=list(merges),
        unk_token=UNKNOWN,
        end_of_word_suffix=END_OF_WORD,
        fuse_unk=False,
        cache_capacity=0,  # no word is asked for twice
    )
