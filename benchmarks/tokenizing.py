"""Tokenizing novels with the released vocabulary: gpt1, a plain version of OpenAI's algorithm, transformers' tokenizer.

In every round each gets the same books and a new tokenizer object with an empty cache. Loading is not measured. Each
uses one thread, and CPU time is compared.
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

from benchmarks.measure import BenchmarkResult, comparison_table, format_number, interleave
from benchmarks.models_and_data import find_data_dir
from gpt1.tokenization.tokenizer import Tokenizer

Encode = Callable[[list[str]], list[list[int]]]
ROUNDS = 3
BOOKS = "data/books/train-01.jsonl.xz"


def missing_requirement(quick: bool) -> str:
    return (
        ""
        if find_data_dir(BOOKS, "openai")
        else f"it needs {BOOKS} and openai/ of the public data: set GPT1_DATA to its folder"
    )


def run(rounds: int, quick: bool) -> BenchmarkResult:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    texts = read_books(0.02 if quick else 6.0)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    makers = {
        "gpt1": gpt1_encoder,
        "released algorithm": reference_encoder,
        "transformers (other ids)": transformers_encoder,
    }
    cold = {name: ColdTokenizer(make, texts) for name, make in makers.items()}
    fresh = {name: one.reset for name, one in cold.items()}
    seconds = interleave(cold, rounds, warm_up=fresh, setup=fresh, clock=time.process_time)
    table, ratios = comparison_table(
        f"{format_number(megabytes)} MB of novels, CPU time", seconds, ["gpt1"], megabytes, "MB"
    )
    same = cold["gpt1"].ids == cold["released algorithm"].ids
    return BenchmarkResult([table], ratios, {"gpt1's ids equal those of the released algorithm": same})


class ColdTokenizer:
    """Tokenizes the texts with a tokenizer that `reset` creates again."""

    def __init__(self, make: Callable[[Path], Encode], texts: list[str]) -> None:
        self.make, self.texts = make, texts
        self.ids: list[list[int]] = []

    def reset(self) -> None:
        folder = find_data_dir()
        assert folder
        self.encode = self.make(folder)

    def __call__(self) -> None:
        self.ids = self.encode(self.texts)


def read_books(megabytes: float) -> list[str]:
    """The first `megabytes` of UTF-8 of train-01."""
    folder = find_data_dir()
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


def gpt1_encoder(folder: Path) -> Encode:
    tokenizer = Tokenizer.load(folder / "openai")
    tokenizer.encode("é")  # imports spaCy, ftfy and tokenizers
    return tokenizer.encode_batch


def reference_encoder(folder: Path) -> Encode:
    tests = str(Path(__file__).parents[1] / "tests")  # the reference is in the tests
    if tests not in sys.path:
        sys.path.append(tests)
    from reference_tokenizer import ReferenceTokenizer

    tokenizer = ReferenceTokenizer.load(folder / "openai")
    tokenizer.encode("é")
    return lambda texts: [tokenizer.encode(text) for text in texts]


def transformers_encoder(folder: Path) -> Encode:
    """Line by line, which is faster than whole books; the line breaks are dropped in both cases."""
    from transformers import OpenAIGPTTokenizer

    with tempfile.TemporaryDirectory() as copy:
        for source, name in (("encoder_bpe_40000.json", "vocab.json"), ("vocab_40000.bpe", "merges.txt")):
            (Path(copy) / name).write_bytes((folder / "openai" / source).read_bytes())
        tokenizer = OpenAIGPTTokenizer.from_pretrained(copy)
    tokenizer("é")
    backend = tokenizer.backend_tokenizer
    return lambda texts: [[id for line in text.split("\n") for id in backend.encode(line).ids] for text in texts]
