"""Decoding token by token, for texts that are shown while they are generated."""

from __future__ import annotations

import codecs

from gpt1.tokenization.tokenizer import Tokenizer


class IncrementalDecoder:
    """Decodes one token at a time; the parts join to `Tokenizer.decode` of all the ids.

    A character whose bytes are not complete, and the space after the last word (original pipeline), wait for the next
    token. Bytes that are no UTF-8 become U+FFFD, and so do surrogates, which JSON cannot hold.

    Args:
        tokenizer: The tokenizer.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.characters = codecs.getincrementaldecoder("utf-8")("replace")
        self.space = ""
        """A space that the next word needs (original pipeline)."""
        self.after_newline = False

    def push(self, id: int) -> str:
        """The text that the next token adds."""
        return self.join_words(self.characters.decode(self.tokenizer.token_bytes(id)))

    def finish(self) -> str:
        """The text after the last token: U+FFFD if a character is incomplete."""
        return self.join_words(self.characters.decode(b"", final=True))

    def join_words(self, text: str) -> str:
        """Drop the spaces around line breaks and at the end (original pipeline)."""
        if self.tokenizer.pipeline != "original":
            return text
        parts = []
        for character in text:
            if character == "\n":
                self.space, self.after_newline = "", True
                parts.append(character)
            elif character == " ":
                parts.append(self.space)
                self.space, self.after_newline = "" if self.after_newline else " ", False
            else:
                parts += (self.space, character)
                self.space, self.after_newline = "", False
        return "".join(parts)
