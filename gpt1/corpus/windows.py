"""Pre-training batches: contiguous windows of a text in random order, each once per epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpt1.config import ValidationSplit
from gpt1.corpus.corpus import Corpus
from gpt1.corpus.order import batch_indices, count_steps, derive_seed, steps_per_epoch
from gpt1.corpus.split import CorpusPart, split_text
from gpt1.errors import UserError
from gpt1.formatting import count_noun

UNIGRAM_BLOCK = 1_048_576  # tokens


@dataclass(frozen=True)
class CorpusWindows:
    """Windows of `context` + 1 tokens over a part of a corpus; all but the first are predicted.

    With `shifted`, they leave about one window of text unused. Each epoch shifts them by a different number of tokens
    into that text, so that the window boundaries differ between epochs.
    """

    text: CorpusPart
    context: int
    shifted: bool = True

    @property
    def n(self) -> int:
        """Number of windows."""
        return max(1, (self.text.tokens - 1) // self.context - (1 if self.shifted else 0))

    @property
    def max_shift(self) -> int:
        """Largest shift: the number of unused tokens."""
        return self.text.tokens - 1 - self.n * self.context

    def read(self, windows: NDArray[np.int64], shift: int = 0) -> NDArray[np.int64]:  # → [windows, context + 1]
        firsts = shift + windows * self.context
        return np.stack([self.text.read(int(first), int(first) + self.context + 1) for first in firsts])

    def training_batch(self, step: int, batch_size: int, seed: int) -> tuple[int, NDArray[np.int64]]:
        """(epoch, ids [windows, context + 1]) of step `step`: a pure function of (seed, step)."""
        epoch, windows = batch_indices(step, self.n, batch_size, seed)
        return epoch, self.read(windows, shift=derive_seed(seed, epoch) % (self.max_shift + 1))

    def count_steps(self, epochs: float, batch_size: int) -> int:
        return count_steps(epochs, steps_per_epoch(self.n, batch_size))

    def loss_metrics(self, loss: float) -> dict[str, float]:
        """`loss` (nats per token), perplexity, and bits per byte of text, which is comparable across vocabularies."""
        bits = loss / math.log(2) * self.text.tokens
        perplexity = math.exp(min(loss, 700))
        return {"loss": loss, "perplexity": perplexity, "bits_per_byte": bits / max(1.0, self.text.n_bytes)}

    def evenly_spaced(self, count: int) -> NDArray[np.int64]:
        """Indices of `count` windows (or all, if fewer) at even distances, for validation."""
        return evenly_spaced(count, self.n)


def split_corpus(
    corpus: Corpus, context: int, valid_fraction: float, split: ValidationSplit = "documents"
) -> tuple[CorpusWindows, CorpusWindows | None]:
    """Split a corpus into training and validation windows.

    Args:
        corpus: The corpus.
        context: Predicted tokens per window.
        valid_fraction: Share of the corpus for validation; if positive, at least one window if the corpus has two.
        split: Where the validation text is: in whole `documents` from everywhere, or at the `end`. Earlier versions had
            only the `end`, and left its last window out; that is kept, so that their runs can be resumed and compared.

    Returns:
        (training windows, validation windows or None).

    Raises:
        UserError: If the corpus is shorter than one window.
    """
    if corpus.tokens <= context:
        raise UserError(
            f"the corpus has {count_noun(corpus.tokens, 'token')}, "
            f"but one window of --context {context} needs {context + 1:,}.",
            f"Add text, or use --context {corpus.tokens - 1} or less." if corpus.tokens > 2 else "Add text.",
        )
    training, validation = split_text(corpus, context, valid_fraction, split)
    windows = CorpusWindows(validation, context, shifted=split == "end") if validation else None
    return CorpusWindows(training, context), windows


def unigram_loss(
    train: CorpusWindows, validation: CorpusWindows, count: int, vocab_size: int, max_tokens: int = 16_777_216
) -> float:
    """Validation loss (nats per token) of the unigram model with add-one smoothing: a baseline for any trained model.

    Args:
        train: The windows whose text the frequencies are counted on.
        validation: The windows to predict.
        count: Number of validation windows.
        vocab_size: Number of tokens in the vocabulary.
        max_tokens: Training tokens that the frequencies are counted on, spread over the text.
    """
    log_p = unigram_log_probabilities(train.text, vocab_size, max_tokens)
    return float(-log_p[validation.read(validation.evenly_spaced(count))[:, 1:]].mean())


def unigram_log_probabilities(
    text: CorpusPart | Corpus, vocab_size: int, max_tokens: int = 16_777_216
) -> NDArray[np.float64]:  # [vocab_size]
    """log P of every token by its frequency, with add-one smoothing; `max_tokens` of the text are counted."""
    frequencies = np.ones(vocab_size)
    blocks = -(-text.tokens // UNIGRAM_BLOCK)
    for block in evenly_spaced(-(-max_tokens // UNIGRAM_BLOCK), blocks):
        first = int(block) * UNIGRAM_BLOCK
        frequencies += np.bincount(text.read(first, min(text.tokens, first + UNIGRAM_BLOCK)), minlength=vocab_size)
    return np.log(frequencies / frequencies.sum())


def evenly_spaced(count: int, n: int) -> NDArray[np.int64]:
    """`count` of the numbers 0 … n - 1 (or all, if fewer) at even distances."""
    return np.unique(np.linspace(0, n - 1, min(count, n)).round().astype(np.int64))
