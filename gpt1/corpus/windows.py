"""Pre-training batches: random contiguous windows of a corpus, every window once an epoch; the tail is held out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpt1.corpus.corpus import Corpus
from gpt1.corpus.order import batch_indices, derive_seed, steps_per_epoch
from gpt1.errors import UserError


@dataclass(frozen=True)
class CorpusWindows:
    """Windows of `context` + 1 tokens (each token after the first is predicted) over tokens start..stop of a corpus.

    One window's worth of text is left over on purpose: by how much the grid is shifted into it changes every epoch, so
    that the windows of two epochs are cut at different places.
    """

    corpus: Corpus
    start: int
    stop: int
    context: int

    @property
    def n(self) -> int:
        return max(1, (self.stop - self.start - 1) // self.context - 1)

    @property
    def slack(self) -> int:
        return self.stop - self.start - 1 - self.n * self.context

    def read(self, windows: NDArray[np.int64], shift: int = 0) -> NDArray[np.int64]:  # → [windows, context + 1]
        firsts = self.start + shift + windows * self.context
        return np.stack([self.corpus.read(int(first), int(first) + self.context + 1) for first in firsts])

    def training_batch(self, step: int, batch_size: int, seed: int) -> tuple[int, NDArray[np.int64]]:
        """(epoch, ids [windows, context + 1]) of update `step`."""
        epoch, windows = batch_indices(step, self.n, batch_size, seed)
        return epoch, self.read(windows, shift=derive_seed(seed, epoch) % (self.slack + 1))

    def count_steps(self, epochs: float, batch_size: int) -> int:
        return max(1, math.ceil(epochs * steps_per_epoch(self.n, batch_size)))

    def loss_metrics(self, loss: float) -> dict[str, float]:
        """A loss in nats a token beside what it means: perplexity, and bits per byte of the text, which compares across
        vocabularies."""
        n_bytes = max(1.0, self.corpus.count_bytes(self.start, self.stop))
        bits = loss / math.log(2) * (self.stop - self.start)
        return {"loss": loss, "perplexity": math.exp(min(loss, 700)), "bits_per_byte": bits / n_bytes}

    def evenly_spaced(self, count: int) -> NDArray[np.int64]:
        """`count` windows (or all, if there are fewer) at even distances: what held-out figures are measured on."""
        return np.unique(np.linspace(0, self.n - 1, min(count, self.n)).round().astype(np.int64))


def split_corpus(corpus: Corpus, context: int, valid_fraction: float) -> tuple[CorpusWindows, CorpusWindows | None]:
    """(training windows, held-out windows off the end of the corpus or None)."""
    possible = (corpus.tokens - 1) // context
    if possible < 1:
        raise UserError(
            f"the corpus has {corpus.tokens:,} tokens: fewer than one window of --context {context} and one more.",
            f"Add text, or use --context {corpus.tokens - 1} or less." if corpus.tokens > 2 else "Add text.",
        )
    spared = max(0, (corpus.tokens - 2) // context - 1)  # windows that can go and leave one to train on
    held_out = min(spared, max(1, round(valid_fraction * possible))) if valid_fraction else 0
    boundary = corpus.tokens - held_out * context - (1 if held_out else 0)
    train = CorpusWindows(corpus, 0, boundary, context)
    return train, (CorpusWindows(corpus, boundary, corpus.tokens, context) if held_out else None)


def unigram_loss(
    train: CorpusWindows, validation: CorpusWindows, count: int, vocab_size: int, max_tokens: int = 16_777_216
) -> float:
    """Nats a token of the model that knows only how frequent each token is, add-one smoothed, on the held-out windows:
    what any trained model has to beat. Frequencies come from the first `max_tokens` training tokens."""
    frequencies = np.ones(vocab_size)
    stop = min(train.stop, train.start + max_tokens)
    for first in range(train.start, stop, 1_048_576):
        frequencies += np.bincount(train.corpus.read(first, min(stop, first + 1_048_576)), minlength=vocab_size)
    predicted = validation.read(validation.evenly_spaced(count))[:, 1:]
    return float(-np.log(frequencies / frequencies.sum())[predicted].mean())
