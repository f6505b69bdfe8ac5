"""Tokenizers without a vocabulary, some of which fail in worker processes."""

from __future__ import annotations

import hashlib
import json
import os
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


class HashTokenizer:
    """A stateless tokenizer whose ids are hashes of the words, from 0 to vocab_size - 1."""

    newline_id = 1
    unknown_id = 0

    def __init__(self, vocab_size: int = 50) -> None:
        self.vocab_size = vocab_size
        self.fingerprint = hashlib.sha256(str(vocab_size).encode()).hexdigest()

    @classmethod
    def load(cls, folder: Any) -> HashTokenizer:
        return cls(json.loads(Path(folder, "words.json").read_text()))

    def save(self, folder: Any) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, "words.json").write_text(json.dumps(self.vocab_size))

    def encode(self, text: str) -> list[int]:
        """A line break between words is the newline token, as in both real pipelines."""
        lines = [[zlib.crc32(word.encode()) % self.vocab_size for word in line.split()] for line in text.split("\n")]
        ids: list[int] = []
        for line in filter(None, lines):
            ids += [self.newline_id, *line] if ids else line
        return ids

    def encode_arrays(self, texts: list[str]) -> list[npt.NDArray[np.uint32]]:
        return [np.array(self.encode(text), np.uint32) for text in texts]


class LastIdTokenizer(HashTokenizer):
    def encode(self, text: str) -> list[int]:
        return [self.vocab_size - 1] * len(text.split())


class CrashingTokenizer(HashTokenizer):
    """Its worker processes exit at their first text, as if the system killed them."""

    def encode_arrays(self, texts: list[str]) -> list[npt.NDArray[np.uint32]]:
        os._exit(9)


class HangingTokenizer(HashTokenizer):
    """Every process that uses it holds the lock `working` in the folder HELD and never ends."""

    def encode_arrays(self, texts: list[str]) -> list[npt.NDArray[np.uint32]]:
        import fcntl

        with open(Path(os.environ["HELD"], "working"), "w") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            Path(os.environ["HELD"], "started").touch()
            time.sleep(600)
        return []


class InterruptingProgress:
    """A progress that records its calls and may raise at the first step."""

    def __init__(self, stop: BaseException | None = None) -> None:
        self.stop = stop
        self.total = 0
        self.advances: list[int] = []
        self.messages: list[str] = []

    def log(self, line: str) -> None:
        self.messages.append(line)

    def begin(self, title: str, total: int, done: int = 0, unit: str = "steps") -> None:
        self.total = total

    def advance(self, done: int, **values: float) -> None:
        if self.stop:
            raise self.stop
        self.advances.append(done)

    def end(self) -> None: ...
