"""Tokenizing novels: ours, OpenAI's algorithm written plainly, and transformers' tokenizer with the same vocabulary.

    python -m benchmarks.tokenizing [--megabytes 6] [--rounds 3]

Every round runs each of them once on the same books, with a tokenizer object that has seen no text before. Loading is
not measured. Processor time is what is compared (one thread each); the clock is shown beside it.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpt1.tokenizer import Tokenizer

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # the reference is the tests' own

Encode = Callable[[list[str]], list[list[int]]]


def data() -> Path:
    return Path(os.environ.get("GPT1_DATA", Path(__file__).parents[2] / "shared"))


def books(megabytes: float) -> list[str]:
    """The first books of train-01, the last one cut, in all `megabytes` of UTF-8."""
    texts: list[str] = []
    left = int(megabytes * 1e6)
    with lzma.open(data() / "data/books/train-01.jsonl.xz", "rt", encoding="utf-8") as lines:
        for line in lines:
            text = json.loads(line)["text"].encode()[:left].decode(errors="ignore")
            texts.append(text)
            left -= len(text.encode())
            if left < 4:
                break
    return texts


def ours() -> Encode:
    tokenizer = Tokenizer.load(data() / "openai")
    tokenizer.encode("é")  # imports spaCy, ftfy and tokenizers
    return tokenizer.encode_batch


def released() -> Encode:
    from reference_tokenizer import ReferenceTokenizer

    tokenizer = ReferenceTokenizer.load(data() / "openai")
    tokenizer.encode("é")
    return lambda texts: [tokenizer.encode(text) for text in texts]


def transformers() -> Encode:
    """By lines, which it takes faster than whole books; it drops the line breaks, as it would in the book."""
    from transformers import OpenAIGPTTokenizer

    with tempfile.TemporaryDirectory() as folder:
        for source, name in (("encoder_bpe_40000.json", "vocab.json"), ("vocab_40000.bpe", "merges.txt")):
            (Path(folder) / name).write_bytes((data() / "openai" / source).read_bytes())
        tokenizer = OpenAIGPTTokenizer.from_pretrained(folder)
    tokenizer("é")
    backend = tokenizer.backend_tokenizer
    return lambda texts: [[id for line in text.split("\n") for id in backend.encode(line).ids] for text in texts]


def run(megabytes: float = 6.0, rounds: int = 3) -> dict[str, Any]:
    """MB/s of each (medians of `rounds`), ratios of ours to each of the others by round, and whether the ids agree."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    texts = books(megabytes)
    size = sum(len(text.encode()) for text in texts) / 1e6
    makers = {"ours": ours, "released": released, "transformers": transformers}
    cpu: dict[str, list[float]] = {name: [] for name in makers}
    clock: dict[str, list[float]] = {name: [] for name in makers}
    ids: dict[str, list[list[int]]] = {}
    for _ in range(rounds):
        for name, make in makers.items():
            encode = make()
            started, started_cpu = time.perf_counter(), time.process_time()
            ids[name] = encode(texts)
            cpu[name].append(size / (time.process_time() - started_cpu))
            clock[name].append(size / (time.perf_counter() - started))
    ratios = {
        name: [ours / other for ours, other in zip(cpu["ours"], cpu[name], strict=True)]
        for name in makers
        if name != "ours"
    }
    return {
        "megabytes": size,
        "mb_per_s": {name: statistics.median(values) for name, values in cpu.items()},
        "mb_per_s_clock": {name: statistics.median(values) for name, values in clock.items()},
        "ratio": {name: statistics.median(values) for name, values in ratios.items()},
        "ratio_range": {name: (min(values), max(values)) for name, values in ratios.items()},
        "same_ids_as_released": ids["ours"] == ids["released"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=6.0, help="how much of books/train-01 (40 is all)")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    result = run(options.megabytes, options.rounds)
    print(
        f"{result['megabytes']:.1f} MB, {options.rounds} rounds; same ids as released: {result['same_ids_as_released']}"
    )
    print(f"{'':14}{'MB/s (cpu)':>12}{'MB/s (clock)':>14}{'ours is':>12}")
    for name, speed in result["mb_per_s"].items():
        ratio = f"{result['ratio'][name]:.1f} ×" if name in result["ratio"] else ""
        spread = "[{:.1f}, {:.1f}]".format(*result["ratio_range"][name]) if name in result["ratio"] else ""
        print(f"{name:14}{speed:12.2f}{result['mb_per_s_clock'][name]:14.2f}{ratio:>12} {spread}")


if __name__ == "__main__":
    main()
