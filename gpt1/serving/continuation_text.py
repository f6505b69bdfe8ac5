"""The text of a continuation while it grows: whole characters, up to the first stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gpt1.generation.continuous import TokenScore
from gpt1.tokenization.incremental import IncrementalDecoder
from gpt1.tokenization.tokenizer import Tokenizer


class PlacedToken(NamedTuple):
    """A token and the position of its text."""

    score: TokenScore
    offset: int


class TextPart(NamedTuple):
    """What a token has made certain: text that cannot change any more, and the tokens that begin in it."""

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


def token_string(tokenizer: Tokenizer, id: int) -> str:
    """A token as OpenAI's API writes it: its text, or `bytes:\\xe2` if it is a part of a character."""
    data = tokenizer.token_bytes(id)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
