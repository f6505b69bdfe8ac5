"""Documents of random words for the tests of the demo."""

from __future__ import annotations

import random

from gpt1.demo import docstrings
from gpt1.demo.docstrings import DocstringDocument


def make_documents(sizes: dict[str, int]) -> list[DocstringDocument]:
    """Documents of random words with two paragraphs; every second document shares all but one word of its second
    paragraph with the previous one."""
    rng = random.Random(0)

    def words(n: int) -> list[str]:
        return ["".join(rng.choices("abcdefghijklmnop", k=5)) for _ in range(n)]

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
