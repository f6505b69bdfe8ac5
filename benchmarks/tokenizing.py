"""Tokenizing novels, the released vocabulary: gpt1, OpenAI's algorithm written plainly, and transformers' tokenizer.

Every round gives each of them the same books and a tokenizer object that has seen no text. Loading is not measured.
One thread each: what is compared is processor time.
"""

from __future__ import annotations

import json
import lzma
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.material import data
from benchmarks.measure import Result, compared, in_turn, short
from gpt1.tokenization.tokenizer import Tokenizer

Encode = Callable[[list[str]], list[list[int]]]
ROUNDS = 3
BOOKS = "data/books/train-01.jsonl.xz"


def lacking() -> str:
    return "" if data(BOOKS, "openai") else f"it needs {BOOKS} and openai/ of the public data: GPT1_DATA is its folder"


def run(rounds: int, quick: bool) -> Result:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    texts = books(0.02 if quick else 6.0)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    makers = {"gpt1": ours, "released algorithm": released, "transformers (other ids)": transformers}
    cold = {name: Cold(make, texts) for name, make in makers.items()}
    fresh = {name: one.make_anew for name, one in cold.items()}
    seconds = in_turn(cold, rounds, warm_up=fresh, before=fresh, clock=time.process_time)
    table, ratios = compared(f"{short(megabytes)} MB of novels, processor time", seconds, ["gpt1"], megabytes, "MB")
    same = cold["gpt1"].ids == cold["released algorithm"].ids
    return Result([table], ratios, {"gpt1's ids are those of the released algorithm": same})


class Cold:
    """A tokenizer that `make_anew` makes anew; calling it tokenizes the texts."""

    def __init__(self, make: Callable[[Path], Encode], texts: list[str]) -> None:
        self.make, self.texts = make, texts
        self.ids: list[list[int]] = []

    def make_anew(self) -> None:
        folder = data()
        assert folder
        self.encode = self.make(folder)

    def __call__(self) -> None:
        self.ids = self.encode(self.texts)


def books(megabytes: float) -> list[str]:
    """The first books of train-01, the last one cut, in all `megabytes` of UTF-8."""
    folder = data()
    assert folder
    texts: list[str] = []
    left = int(megabytes * 1e6)
    with lzma.open(folder / BOOKS, "rt", encoding="utf-8") as lines:
        for line in lines:
            text = json.loads(line)["text"].encode()[:left].decode(errors="ignore")
            texts.append(text)
            left -= len(text.encode())
            if left < 4:
                break
    return texts


def ours(folder: Path) -> Encode:
    tokenizer = Tokenizer.load(folder / "openai")
    tokenizer.encode("é")  # imports spaCy, ftfy and tokenizers
    return tokenizer.encode_batch


def released(folder: Path) -> Encode:
    tests = str(Path(__file__).parents[1] / "tests")  # the reference is the tests' own
    if tests not in sys.path:
        sys.path.append(tests)
    from reference_tokenizer import ReferenceTokenizer

    tokenizer = ReferenceTokenizer.load(folder / "openai")
    tokenizer.encode("é")
    return lambda texts: [tokenizer.encode(text) for text in texts]


def transformers(folder: Path) -> Encode:
    """By lines, which it takes faster than whole books; it drops the line breaks, as it would in the book."""
    from transformers import OpenAIGPTTokenizer

    with tempfile.TemporaryDirectory() as copy:
        for source, name in (("encoder_bpe_40000.json", "vocab.json"), ("vocab_40000.bpe", "merges.txt")):
            (Path(copy) / name).write_bytes((folder / "openai" / source).read_bytes())
        tokenizer = OpenAIGPTTokenizer.from_pretrained(copy)
    tokenizer("é")
    backend = tokenizer.backend_tokenizer
    return lambda texts: [[id for line in text.split("\n") for id in backend.encode(line).ids] for text in texts]
