"""Documents of random words for the tests of the demo."""

from __future__ import annotations

import random

from gpt1.demo import material
from gpt1.demo.material import Document


def documents_of(sizes: dict[str, int]) -> list[Document]:
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
            paragraphs = (sentence(words(40)), sentence(shared))
            found.append(Document(library, f"{library}/{i}", paragraphs))
    return found


def sentence(words: list[str]) -> str:
    return " ".join(words).capitalize() + "."


SIZES = {library: 240 + 10 * k for k, library in enumerate(material.LIBRARIES)}
