"""Pre-training batches: contiguous windows of a corpus in random order, each once per epoch; the end is validation."""

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
    """Windows of `context` + 1 tokens over the tokens start … stop - 1 of a corpus; all but the first are predicted.

    The windows leave about one window of text unused. Each epoch shifts them by a different number of tokens into that
    slack, so that the window boundaries differ between epochs.
    """

    corpus: Corpus
    start: int
    stop: int
    context: int

    @property
    def n(self) -> int:
        """Number of windows."""
        return max(1, (self.stop - self.start - 1) // self.context - 1)

    @property
    def slack(self) -> int:
        """Unused tokens: the largest shift."""
        return self.stop - self.start - 1 - self.n * self.context

    def read(self, windows: NDArray[np.int64], shift: int = 0) -> NDArray[np.int64]:  # → [windows, context + 1]
        firsts = self.start + shift + windows * self.context
        return np.stack([self.corpus.read(int(first), int(first) + self.context + 1) for first in firsts])

    def training_batch(self, step: int, batch_size: int, seed: int) -> tuple[int, NDArray[np.int64]]:
        """(epoch, ids [windows, context + 1]) of step `step`: a pure function of (seed, step)."""
        epoch, windows = batch_indices(step, self.n, batch_size, seed)
        return epoch, self.read(windows, shift=derive_seed(seed, epoch) % (self.slack + 1))

    def count_steps(self, epochs: float, batch_size: int) -> int:
        return max(1, math.ceil(epochs * steps_per_epoch(self.n, batch_size)))

    def loss_metrics(self, loss: float) -> dict[str, float]:
        """`loss` (nats per token), perplexity, and bits per byte of text, which is comparable across vocabularies."""
        n_bytes = max(1.0, self.corpus.count_bytes(self.start, self.stop))
        bits = loss / math.log(2) * (self.stop - self.start)
        return {"loss": loss, "perplexity": math.exp(min(loss, 700)), "bits_per_byte": bits / n_bytes}

    def evenly_spaced(self, count: int) -> NDArray[np.int64]:
        """Indices of `count` windows (or all, if fewer) at even distances, for validation."""
        return np.unique(np.linspace(0, self.n - 1, min(count, self.n)).round().astype(np.int64))


def split_corpus(corpus: Corpus, context: int, valid_fraction: float) -> tuple[CorpusWindows, CorpusWindows | None]:
    """Split a corpus into training windows and, from its end, validation windows.

    Args:
        context: Predicted tokens per window.
        valid_fraction: Share of the windows for validation; if positive, at least one window if the corpus has two.

    Returns:
        (training windows, validation windows or None).

    Raises:
        UserError: If the corpus is shorter than one window.
    """
    possible = (corpus.tokens - 1) // context
    if possible < 1:
        raise UserError(
            f"the corpus has {corpus.tokens:,} tokens, but one window of --context {context} needs {context + 1:,}.",
            f"Add text, or use --context {corpus.tokens - 1} or less." if corpus.tokens > 2 else "Add text.",
        )
    available = max(0, (corpus.tokens - 2) // context - 1)  # all but one window, which is left for training
    n_valid = min(available, max(1, round(valid_fraction * possible))) if valid_fraction else 0
    boundary = corpus.tokens - n_valid * context - (1 if n_valid else 0)
    train = CorpusWindows(corpus, 0, boundary, context)
    return train, (CorpusWindows(corpus, boundary, corpus.tokens, context) if n_valid else None)


def unigram_loss(
    train: CorpusWindows, validation: CorpusWindows, count: int, vocab_size: int, max_tokens: int = 16_777_216
) -> float:
    """Validation loss (nats per token) of the unigram model with add-one smoothing: a baseline for any trained model.

    Args:
        count: Number of validation windows.
        max_tokens: Training tokens that the frequencies are counted on.
    """
    frequencies = np.ones(vocab_size)
    stop = min(train.stop, train.start + max_tokens)
    for first in range(train.start, stop, 1_048_576):
        frequencies += np.bincount(train.corpus.read(first, min(stop, first + 1_048_576)), minlength=vocab_size)
    predicted = validation.read(validation.evenly_spaced(count))[:, 1:]
    return float(-np.log(frequencies / frequencies.sum())[predicted].mean())
