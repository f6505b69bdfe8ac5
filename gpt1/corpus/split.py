"""Split a corpus into training and validation text: whole documents from everywhere in it, or its end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gpt1.config import ValidationSplit
from gpt1.corpus.corpus import Corpus
from gpt1.corpus.order import shuffled_indices

SPLIT_SEED = 1018  # not the seed of the run, so that all runs on a corpus are measured on the same text
DOCUMENTS_AT_ONCE = 1024
MAX_PIECES, MIN_PIECE_TOKENS = 16, 1024  # of documents that are too long to be taken whole


@dataclass(frozen=True, eq=False)
class CorpusPart:
    """Ranges of a corpus, in order, read as one text. A window may begin in one range and end in the next."""

    corpus: Corpus
    starts: NDArray[np.int64]  # [ranges]
    stops: NDArray[np.int64]  # [ranges]

    @classmethod
    def from_ranges(cls, corpus: Corpus, ranges: list[tuple[int, int]]) -> CorpusPart:
        """The ranges in their order in the corpus; adjacent ones become one."""
        starts, stops = np.array(sorted(ranges), np.int64).T
        gaps = starts[1:] > stops[:-1]
        return cls(corpus, starts[np.append(True, gaps)], stops[np.append(gaps, True)])

    @cached_property
    def offsets(self) -> NDArray[np.int64]:  # [ranges + 1]
        """Position of each range in the part, and the length of the part."""
        return np.concatenate([[0], np.cumsum(self.stops - self.starts)])

    @property
    def tokens(self) -> int:
        return int(self.offsets[-1])

    @cached_property
    def n_bytes(self) -> float:
        """UTF-8 bytes of the text."""
        return sum(self.corpus.count_bytes(*one) for one in self.locate(0, self.tokens))

    def locate(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """The ranges of the corpus that are the tokens start … stop - 1 of the part; `start` is below `stop`."""
        first, last = np.searchsorted(self.offsets, [start, stop - 1], "right") - 1
        for i in range(int(first), int(last) + 1):
            shift = int(self.starts[i] - self.offsets[i])
            yield max(start + shift, int(self.starts[i])), min(stop + shift, int(self.stops[i]))

    def read(self, start: int, stop: int) -> NDArray[np.int64]:  # → [stop - start]
        """The ids of the tokens start … stop - 1 of the part."""
        found = [self.corpus.read(*one) for one in self.locate(start, stop)]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def complement(self) -> CorpusPart:
        """The rest of the corpus."""
        starts, stops = np.concatenate([[0], self.stops]), np.concatenate([self.starts, [self.corpus.tokens]])
        return CorpusPart(self.corpus, starts[stops > starts], stops[stops > starts])


def split_text(
    corpus: Corpus, context: int, valid_fraction: float, split: ValidationSplit
) -> tuple[CorpusPart, CorpusPart | None]:
    """(text for training, text for validation or None): together the corpus, with no token in common.

    Args:
        corpus: A corpus of at least one window.
        context: Predicted tokens per window. Each text has at least one window, or there is no text for validation.
        valid_fraction: Share of the tokens for validation.
        split: See `--valid-split`. A corpus of only a few windows is always split at its end.
    """
    if valid_fraction and split == "documents" and corpus.tokens >= 2 * (context + 1):
        validation = choose_documents(corpus, max(context + 1, round(valid_fraction * corpus.tokens)))
        training = validation.complement()
        if min(training.tokens, validation.tokens) > context:
            return training, validation
    possible = (corpus.tokens - 1) // context
    available = max(0, (corpus.tokens - 2) // context - 1)  # all but one window, which is left for training
    n_valid = min(available, max(1, round(valid_fraction * possible))) if valid_fraction else 0
    boundary = corpus.tokens - n_valid * context - (1 if n_valid else 0)
    training = CorpusPart.from_ranges(corpus, [(0, boundary)])
    return training, training.complement() if n_valid else None


def choose_documents(corpus: Corpus, wanted: int) -> CorpusPart:
    """Documents with about `wanted` tokens in total, each with the newline token after it.

    They are drawn in a pseudo-random order. The last one is taken only if that brings the total nearer to `wanted`.
    Documents longer than `wanted` are left out; if the others are not enough, pieces of them are added.
    """
    starts = corpus.document_starts()
    chosen: list[tuple[int, int]] = []
    too_long: list[tuple[int, int]] = []
    missing = wanted
    for first in range(0, len(starts), DOCUMENTS_AT_ONCE):
        positions = np.arange(first, min(len(starts), first + DOCUMENTS_AT_ONCE))
        for i in shuffled_indices(positions, len(starts), SPLIT_SEED, 0).tolist():
            document = int(starts[i]), int(starts[i + 1]) if i + 1 < len(starts) else corpus.tokens
            length = document[1] - document[0]
            if length > wanted:
                too_long.append(document)
                continue
            if length >= 2 * missing:  # without it, the total is nearer
                return CorpusPart.from_ranges(corpus, chosen)
            chosen.append(document)
            missing -= length
            if missing <= 0:
                return CorpusPart.from_ranges(corpus, chosen)
    pieces = choose_pieces(CorpusPart.from_ranges(corpus, too_long), missing)
    return CorpusPart.from_ranges(corpus, chosen + pieces)


def choose_pieces(text: CorpusPart, wanted: int) -> list[tuple[int, int]]:
    """Ranges of the corpus with `wanted` tokens in total, spread over `text`: the end of each of its equal parts."""
    count = min(MAX_PIECES, max(1, wanted // MIN_PIECE_TOKENS))
    found: list[tuple[int, int]] = []
    for k in range(1, count + 1):
        end, size = text.tokens * k // count, wanted * k // count - wanted * (k - 1) // count
        found += text.locate(max(0, end - size), end)
    return found
