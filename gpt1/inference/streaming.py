"""Text while it is generated: what is certain so far, stop strings, log-probabilities of the tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gpt1.errors import UserError
from gpt1.generation.sampling import Sampler

INCOMPLETE = "�"
"""What a decoded text ends with if the bytes of its last character are not complete yet."""


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
        self.recorded: dict[int, tuple[float, list[tuple[int, float]]]] = {}

    def __call__(self, logits: Tensor, first: int) -> Tensor:  # [1, time, vocab] → [1, time]
        chosen = super().__call__(logits, first)
        if self.k:
            log_probabilities = logits[0].log_softmax(-1)
            top = log_probabilities.topk(min(self.k, logits.shape[-1]))
            values = log_probabilities.gather(1, chosen[0, :, None])[:, 0].tolist()
            rows = zip(values, top.indices.tolist(), top.values.tolist(), strict=True)
            for number, (value, ids, likely) in enumerate(rows, first):
                self.recorded[number] = value, list(zip(ids, likely, strict=True))
        return chosen


def check_stop_strings(stop: str | Sequence[str]) -> tuple[str, ...]:
    """The stop strings as a tuple; UserError for one that is empty or not a text."""
    strings = (stop,) if isinstance(stop, str) else tuple(stop)
    for string in strings:
        if not isinstance(string, str) or not string:
            raise UserError(f"the stop string {string!r} is not a text of at least one character.", "Leave it out.")
    return strings


class TextStream:
    """Turns the tokens of a continuation into text as they come, up to the first stop string.

    Text is held back while it could still change: the beginning of a stop string, or a character whose bytes are
    incomplete.

    Args:
        decode: Token ids of the continuation → its text.
        stop: Text at which the continuation ends; it is not part of it.

    Attributes:
        ids: The tokens of the text, without those that begin at or after the stop string.
        stopped: Whether a stop string was found.
    """

    def __init__(self, decode: Callable[[list[int]], str], stop: Sequence[str] = ()) -> None:
        self.decode, self.stop = decode, stop
        self.ids: list[int] = []
        self.starts: list[int] = []  # position in the text at which each token begins
        self.text = ""  # everything decoded so far
        self.written = 0  # characters that `add` has returned
        self.stopped = False

    def add(self, id: int) -> str:
        """The text that is certain after one more token and was not before; nothing after a stop string."""
        if self.stopped:
            return ""
        self.starts.append(len(self.text.rstrip(INCOMPLETE)))
        self.ids.append(id)
        self.text = self.decode(self.ids)
        positions = [at for string in self.stop if (at := self.text.find(string, self.written)) >= 0]
        if positions:
            self.stopped = True
            self.text = self.text[: min(positions)]
            self.ids = self.ids[: sum(start < len(self.text) for start in self.starts)]
            return self.finish()
        return self._write(len(self.text.rstrip(INCOMPLETE)) - self._possible_stop())

    def finish(self) -> str:
        """The text that was held back, once no more tokens come."""
        return self._write(len(self.text))

    def _write(self, end: int) -> str:
        begin, self.written = self.written, max(self.written, end)
        return self.text[begin : self.written]

    def _possible_stop(self) -> int:
        """Length of the longest end of the text that is the beginning of a stop string."""
        text = self.text.rstrip(INCOMPLETE)
        lengths = (n for string in self.stop for n in range(1, len(string)) if text.endswith(string[:n]))
        return max(lengths, default=0)


def token_details(
    ids: Sequence[int],
    recorded: dict[int, tuple[float, list[tuple[int, float]]]],
    display: Callable[[int], str],
    begin: int = 0,
) -> list[dict[str, Any]]:
    """`token`, `id`, `log_probability` and `top` (the most likely tokens) of the new tokens number `begin`, … ."""
    details = []
    for number, id in enumerate(ids, begin):
        value, top = recorded[number]
        likely = [{"token": display(i), "id": i, "log_probability": p} for i, p in top]
        details.append({"token": display(id), "id": id, "log_probability": value, "top": likely})
    return details


def make_sampler(
    temperature: float, top_k: int, top_p: float, seed: int | None, device: torch.device, logprobs: int = 0
) -> RecordingSampler:
    """A sampler with a random generator of its own, or torch's if `seed` is None."""
    generator = None if seed is None else torch.Generator(device).manual_seed(seed)
    return RecordingSampler(temperature, top_k, top_p, generator, logprobs)
