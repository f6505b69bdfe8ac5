"""OpenAI's encoder of 2018, written plainly and without the package: the slow reference for the fast tokenizer."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import ftfy
import spacy

PUNCTUATION = re.compile(r"""(-+|~+|!+|"+|;+|\?+|\++|,+|\)+|\(+|/+|\*+|\[+|\]+|}+|{+|\|+|_+)""")


def standardize(text: str) -> str:
    text = text.replace("—", "-").replace("–", "-").replace("―", "-").replace("…", "...").replace("´", "'")
    text = PUNCTUATION.sub(r" \1 ", text)
    text = re.sub(r"\s*\n\s*", " \n ", text)
    text = re.sub(r"[^\S\n]+", " ", text)
    return text.strip()


def merge_pairs(token: str, ranks: dict[tuple[str, str], int]) -> tuple[str, ...]:
    word = (*token[:-1], token[-1] + "</w>")
    while len(word) > 1:
        pair = min(pairwise(word), key=lambda pair: ranks.get(pair, float("inf")))
        if pair not in ranks:
            break
        first, second = pair
        merged: list[str] = []
        i = 0
        while i < len(word):
            if word[i] == first and word[i + 1 : i + 2] == (second,):
                merged.append(first + second)
                i += 2
            else:
                merged.append(word[i])
                i += 1
        word = tuple(merged)
    return word


class ReferenceTokenizer:
    def __init__(self, vocabulary: dict[str, int], merges: Sequence[tuple[str, str]]) -> None:
        self.nlp = spacy.blank("en")
        self.nlp.max_length = 1 << 30
        self.vocabulary = vocabulary
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}
        self.cache: dict[str, str] = {}

    @classmethod
    def load(cls, folder: Path, vocabulary: str = "encoder_bpe_40000.json", merges: str = "vocab_40000.bpe"):
        lines = (folder / merges).read_text("utf-8").split("\n")[1:-1]
        pairs = [tuple(line.split(" ")) for line in lines]
        return cls(json.loads((folder / vocabulary).read_text("utf-8")), pairs)  # type: ignore[arg-type]

    def words(self, text: str) -> list[str]:
        return [token.text.lower() for token in self.nlp(standardize(ftfy.fix_text(text)))]

    def encode(self, text: str) -> list[int]:
        return [self.vocabulary.get(part, 0) for word in self.words(text) for part in self.bpe(word).split(" ")]

    def bpe(self, token: str) -> str:
        if token not in self.cache:
            parts = " ".join(merge_pairs(token, self.ranks))
            # spaCy returns a line break together with the space after it.
            self.cache[token] = "\n</w>" if parts == "\n  </w>" else parts
        return self.cache[token]
