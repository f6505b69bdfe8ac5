"""Texts → ids, on as many processes as are wanted. The ids depend on the texts and the vocabulary, on nothing else."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from gpt1.corpus.readers import Boundary, Source, read_source
from gpt1.errors import ResourceError

BATCH_CHARACTERS = 2**20
"""What a worker gets at a time: long beside the cost of sending it, small in memory."""
TokenIds = npt.NDArray[np.unsignedinteger[Any]]


class TokenizerLike(Protocol):
    """What the data floor needs of gpt1.tokenization.tokenizer.Tokenizer."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def newline_id(self) -> int: ...

    @property
    def unknown_id(self) -> int | None: ...

    @classmethod
    def load(cls, folder: Any) -> Any: ...

    def save(self, folder: Any) -> None: ...

    def encode_arrays(self, texts: list[str]) -> Sequence[TokenIds]: ...


def smallest_id_dtype(vocab_size: int) -> type[np.uint16] | type[np.uint32]:
    """The smallest type that holds the ids 0 … vocab_size - 1."""
    return np.uint16 if vocab_size <= 2**16 else np.uint32


@dataclass(frozen=True)
class EncodedTexts:
    """Documents as ids, on their way from a worker to the shards; documents without a token are in no array."""

    ids: TokenIds  # with a newline token between the documents
    document_starts: npt.NDArray[np.int64]  # [documents] where each begins in `ids`
    n_bytes: npt.NDArray[np.int64]  # [documents] UTF-8 bytes of each
    unknown: int
    texts: int
    text_bytes: int  # of all texts


def encode_texts(tokenizer: TokenizerLike, texts: list[str]) -> EncodedTexts:
    """A pure function of the vocabulary and the texts: which process calls it, and when, changes nothing."""
    dtype = smallest_id_dtype(tokenizer.vocab_size)
    newline: TokenIds = np.array([tokenizer.newline_id], dtype)
    parts: list[TokenIds] = [newline[:0]]
    starts = []
    n_bytes = []
    tokens = text_bytes = 0
    for text, ids in zip(texts, tokenizer.encode_arrays(texts), strict=True):
        size = len(text) if text.isascii() else len(text.encode("utf-8"))
        text_bytes += size
        if not len(ids):
            continue
        if tokens:
            parts.append(newline)
            tokens += 1
        starts.append(tokens)
        n_bytes.append(size)
        parts.append(ids)
        tokens += len(ids)
    array: TokenIds = np.concatenate(parts, dtype=dtype, casting="same_kind")
    unknown = 0 if tokenizer.unknown_id is None else int(np.count_nonzero(array == tokenizer.unknown_id))
    return EncodedTexts(array, np.array(starts, np.int64), np.array(n_bytes, np.int64), unknown, len(texts), text_bytes)


@dataclass(frozen=True)
class TextBatch:
    """Whole documents, or one part of a long document, in the order of the sources."""

    texts: list[str]
    boundary: Boundary
    bytes_read: int  # bytes of all sources that were read to get here


def make_text_batches(sources: Iterable[Source]) -> Iterator[TextBatch]:
    """The texts of the sources in pieces of about BATCH_CHARACTERS, cut by nothing but the texts."""
    texts: list[str] = []
    length = 0
    before = 0  # bytes of the sources before this one
    done = 0
    for source in sources:
        for document in read_source(source):
            if texts and (document.boundary != "document" or length + len(document.text) > BATCH_CHARACTERS):
                yield TextBatch(texts, "document", done)
                texts, length = [], 0
            done = before + document.bytes_read
            if document.boundary == "document":
                texts.append(document.text)
                length += len(document.text)
            else:
                yield TextBatch([document.text], document.boundary, done)
        before += source.size
    if texts:
        yield TextBatch(texts, "document", done)


def encode_batches(
    batches: Iterable[TextBatch], tokenizer: TokenizerLike, tokenizer_folder: Path, workers: int
) -> Generator[tuple[TextBatch, EncodedTexts], None, None]:
    """Every batch with its ids, in order. `tokenizer_folder` is the tokenizer's folder, from which each worker loads its own."""
    if workers == 1:
        for batch in batches:
            yield batch, encode_texts(tokenizer, batch.texts)
        return
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), start_worker, (type(tokenizer), str(tokenizer_folder))
    )
    waiting: deque[tuple[TextBatch, Future[EncodedTexts]]] = deque()
    finished = False
    try:
        for batch in batches:
            with signals_held():  # the first one starts the workers
                future = pool.submit(encode_in_worker, batch.texts)
            waiting.append((batch, future))
            if len(waiting) > 2 * workers:  # bounds the memory, and keeps every worker busy
                yield next_result(waiting)
        while waiting:
            yield next_result(waiting)
        finished = True
    except BrokenProcessPool:
        raise ResourceError(
            "a worker process ended before its work was done: its message stands above, or the memory ran out.",
            f"Use fewer than --workers {workers}.",
        ) from None
    finally:
        if not finished:  # after Ctrl-C or an error nobody wants what they are at, which takes many seconds
            for worker in list((pool._processes or {}).values()):
                worker.kill()
        pool.shutdown(cancel_futures=True)


@contextmanager
def signals_held() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait, in this process until the end of the block; those that are started in it never see
    them. A terminal sends Ctrl-C to all, but it is the parent that ends its workers."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def next_result(waiting: deque[tuple[TextBatch, Future[EncodedTexts]]]) -> tuple[TextBatch, EncodedTexts]:
    batch, future = waiting.popleft()
    return batch, future.result()


worker_tokenizer: TokenizerLike | None = None
"""The tokenizer of this process; set in worker processes only, once, before their first batch."""


def start_worker(tokenizer_class: type[TokenizerLike], tokenizer_folder: str) -> None:
    global worker_tokenizer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the parent ends its workers
    threading.Thread(target=exit_with_parent, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread a worker
    worker_tokenizer = cast(TokenizerLike, tokenizer_class.load(tokenizer_folder))


def exit_with_parent() -> None:
    """A killed parent cannot end its workers, and their pipe to it never closes: they hold its other end themselves."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def encode_in_worker(texts: list[str]) -> EncodedTexts:
    assert worker_tokenizer is not None
    return encode_texts(worker_tokenizer, texts)
