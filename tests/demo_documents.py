"""Documents of random words for the tests of the demo."""

from __future__ import annotations

import random

from gpt1.demo import docstrings
from gpt1.demo.docstrings import DocstringDocument


def make_documents(sizes: dict[str, int]) -> list[DocstringDocument]:
    """Documents of drawn words: a paragraph of their own, and one that every second shares with the one before it, but
    for a word."""
    draw = random.Random(0)

    def words(n: int) -> list[str]:
        return ["".join(draw.choices("abcdefghijklmnop", k=5)) for _ in range(n)]

    found = []
    shared: list[str] = []
    for library, n in sizes.items():
        for i in range(n):
            shared = words(14) if i % 2 == 0 else [*shared[:-1], *words(1)]
            paragraphs = (to_sentence(words(40)), to_sentence(shared))
            found.append(DocstringDocument(library, f"{library}/{i}", paragraphs))
    return found


def to_sentence(words: list[str]) -> str:
    return " ".join(words).capitalize() + "."


DOCUMENT_COUNTS = {library: 240 + 10 * k for k, library in enumerate(docstrings.LIBRARIES)}
