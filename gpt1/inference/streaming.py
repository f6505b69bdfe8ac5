"""Streaming of generated text: complete characters, stop strings, log-probabilities of the tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gpt1.errors import UserError
from gpt1.generation.continuous import Continuation, ContinuousBatch, TokenScore, continue_all
from gpt1.generation.sampling import Sampler
from gpt1.tokenization.incremental import IncrementalDecoder
from gpt1.tokenization.tokenizer import Tokenizer


class RecordingSampler(Sampler):
    """A `Sampler` of one text that keeps the log-probability of each token and of the k most likely ones.

    They are those of the model, before temperature, top-k and top-p. With a draft model a token is sampled more than
    once; the model itself is the last to sample it.
    """

    def __init__(
        self, temperature: float, top_k: int, top_p: float, generator: torch.Generator | None, k: int = 0
    ) -> None:
        super().__init__(temperature, top_k, top_p, generator)
        self.k = k  # 0: nothing is recorded
        self.recorded: dict[int, tuple[float, tuple[tuple[int, float], ...]]] = {}

    def __call__(self, logits: Tensor, first: int) -> Tensor:  # [1, time, vocab] → [1, time]
        chosen = super().__call__(logits, first)
        if self.k:
            log_probabilities = logits[0].log_softmax(-1)
            top = log_probabilities.topk(min(self.k, logits.shape[-1]))
            values = log_probabilities.gather(1, chosen[0, :, None])[:, 0].tolist()
            rows = zip(values, top.indices.tolist(), top.values.tolist(), strict=True)
            for number, (value, ids, likely) in enumerate(rows, first):
                self.recorded[number] = value, tuple(zip(ids, likely, strict=True))
        return chosen

    def score(self, number: int, id: int) -> TokenScore:
        """The new token number `number`, with what was recorded of it."""
        return TokenScore(id, *self.recorded.pop(number)) if self.k else TokenScore(id)


def check_stop_strings(stop: str | Sequence[str]) -> tuple[str, ...]:
    """The stop strings as a tuple; UserError for one that is empty or not a text."""
    strings = tuple(stop) if isinstance(stop, Iterable) and not isinstance(stop, str) else (stop,)
    for string in strings:
        if not isinstance(string, str) or not string:
            raise UserError(f"the stop string {string!r} is not a text of at least one character.", "Leave it out.")
    return strings


class PlacedToken(NamedTuple):
    """A token and the position of its text."""

    score: TokenScore
    offset: int


class TextPart(NamedTuple):
    """Text that a new token has completed and that cannot change any more, and the tokens that begin in it."""

    text: str
    tokens: list[PlacedToken]


class ContinuationText:
    """Collects the tokens of a prompt and its continuation as text.

    Text is held back while it may be the beginning of a stop string. The text of the continuation follows that of the
    prompt directly: prompt + continuation can be joined.

    Args:
        tokenizer: The tokenizer.
        prompt: The ids of the prompt.
        stop: The continuation ends before the first of these strings.
        ends_with_space: The prompt was a text that ends with white space.

    Attributes:
        prompt_text: The decoded prompt.
        stopped: Whether a stop string was found.
    """

    def __init__(
        self, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str] = (), ends_with_space: bool = False
    ) -> None:
        self.decoder, self.stop, self.stopped = IncrementalDecoder(tokenizer), tuple(stop), False
        pieces = [self.decoder.push(id) for id in prompt]
        self.prompt_text = "".join(pieces)
        self.prompt_offsets = offsets(pieces)
        self.length = len(self.prompt_text)
        """Characters so far, of prompt and continuation."""
        if ends_with_space:
            self.decoder.space = ""
        self.held = ""
        self.waiting: list[PlacedToken] = []

    def push(self, score: TokenScore, last: bool = False) -> TextPart:
        """Add a new token; `last` if no other follows."""
        if self.stopped:
            return TextPart("", [])
        self.waiting.append(PlacedToken(score, self.length))
        new = self.decoder.push(score.id) + (self.decoder.finish() if last else "")
        self.length += len(new)
        self.held += new
        found = [at for string in self.stop if (at := self.held.find(string)) >= 0]
        if found:
            self.stopped = True
            return self.release(min(found))
        if last:
            tokens, self.waiting = self.waiting, []
            return TextPart(self.held, tokens)
        return self.release(len(self.held) - self.possible_stop())

    def release(self, n: int) -> TextPart:
        """The first `n` characters that were held back, and the tokens that begin in them."""
        end = self.length - len(self.held) + n
        text, self.held = self.held[:n], self.held[n:]
        tokens = [token for token in self.waiting if token.offset < end]
        self.waiting = self.waiting[len(tokens) :]
        return TextPart(text, tokens)

    def possible_stop(self) -> int:
        """Length of the longest end of the held text that is the beginning of a stop string."""
        lengths = (n for string in self.stop for n in range(1, len(string)) if self.held.endswith(string[:n]))
        return max(lengths, default=0)


def offsets(pieces: Sequence[str]) -> list[int]:
    """Where each piece begins in the joined text."""
    found, position = [], 0
    for piece in pieces:
        found.append(position)
        position += len(piece)
    return found


def continue_texts(
    batch: ContinuousBatch, sequences: Sequence[Continuation], texts: Sequence[ContinuationText]
) -> Iterator[tuple[int, TextPart, bool]]:
    """Continue sequences up to their stop strings.

    Yields:
        (index, the text that a new token of that sequence has completed, whether it was the last).

    Raises:
        UserError: The model's logits are not finite.
    """
    index = {id(sequence): i for i, sequence in enumerate(sequences)}
    for result in continue_all(batch, sequences):
        if result.error:
            raise result.error
        i = index[id(result.sequence)]
        part = texts[i].push(result.token, result.finished) if result.token else TextPart("", [])
        if texts[i].stopped:
            batch.remove(result.sequence)
        yield i, part, texts[i].stopped or result.finished


def make_sampler(
    temperature: float, top_k: int, top_p: float, seed: int | None, device: torch.device, logprobs: int = 0
) -> RecordingSampler:
    """A sampler with its own random generator; torch's if `seed` is None."""
    generator = None if seed is None else torch.Generator(device).manual_seed(seed)
    return RecordingSampler(temperature, top_k, top_p, generator, logprobs)
