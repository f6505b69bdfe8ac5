"""Texts → ids, in one or more processes. The ids depend only on the texts and the vocabulary."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gpt1.corpus.readers import Boundary, Source, read_source
from gpt1.errors import ResourceError
from gpt1.tokenization.tokenizer import Tokenizer

BATCH_CHARACTERS = 2**20
"""Characters sent to a worker at a time: encoding takes much longer than sending, and memory stays small."""
TokenIds = npt.NDArray[np.unsignedinteger[Any]]


def smallest_id_dtype(vocab_size: int) -> type[np.uint16] | type[np.uint32]:
    """The smallest type that holds the ids 0 … vocab_size - 1."""
    return np.uint16 if vocab_size <= 2**16 else np.uint32


@dataclass(frozen=True)
class EncodedTexts:
    """A batch of documents as ids. `document_starts` and `n_bytes` have no entry for documents without a token."""

    ids: TokenIds  # [tokens] with a newline token between the documents
    document_starts: npt.NDArray[np.int64]  # [documents] position of the first token in `ids`
    n_bytes: npt.NDArray[np.int64]  # [documents] UTF-8 bytes
    last_has_tokens: bool  # whether the last text has a token: its next part continues it
    unknown: int
    texts: int  # number of all texts
    text_bytes: int  # UTF-8 bytes of all texts


def encode_texts(tokenizer: Tokenizer, texts: list[str]) -> EncodedTexts:
    """A pure function of the vocabulary and the texts."""
    dtype = smallest_id_dtype(tokenizer.vocab_size)
    newline: TokenIds = np.array([tokenizer.newline_id], dtype)
    parts: list[TokenIds] = [newline[:0]]
    starts = []
    n_bytes = []
    tokens = text_bytes = 0
    last_has_tokens = False
    for text, ids in zip(texts, tokenizer.encode_arrays(texts), strict=True):
        size = len(text) if text.isascii() else len(text.encode("utf-8"))
        text_bytes += size
        last_has_tokens = len(ids) > 0
        if not last_has_tokens:
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
    documents = np.array(starts, np.int64), np.array(n_bytes, np.int64)
    return EncodedTexts(array, *documents, last_has_tokens, unknown, len(texts), text_bytes)


@dataclass(frozen=True)
class TextBatch:
    """Whole documents, or one part of a long document, in the order of the sources."""

    texts: list[str]
    boundary: Boundary
    bytes_read: int  # bytes of all sources read so far


def make_text_batches(sources: Iterable[Source]) -> Iterator[TextBatch]:
    """Batches of about BATCH_CHARACTERS. They depend only on the texts, not on the number of workers."""
    texts: list[str] = []
    length = 0
    before = 0  # bytes of the sources before the current one
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
    batches: Iterable[TextBatch], tokenizer: Tokenizer, tokenizer_folder: Path, workers: int
) -> Generator[tuple[TextBatch, EncodedTexts], None, None]:
    """Every batch with its ids, in order. Each worker process loads the tokenizer from `tokenizer_folder`."""
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
            with block_signals():  # the first call starts the worker processes
                future = pool.submit(encode_in_worker, batch.texts)
            waiting.append((batch, future))
            if len(waiting) > 2 * workers:  # limits memory and keeps every worker busy
                yield next_result(waiting)
        while waiting:
            yield next_result(waiting)
        finished = True
    except BrokenProcessPool:
        raise ResourceError(
            "a worker process died. See its message above; if there is none, it probably ran out of memory.",
            f"Use fewer than --workers {workers}.",
        ) from None
    finally:
        if not finished:  # after Ctrl-C or an error: the current batches would take many more seconds
            for worker in list((pool._processes or {}).values()):
                worker.kill()
        pool.shutdown(cancel_futures=True)


@contextmanager
def block_signals() -> Iterator[None]:
    """Delay Ctrl-C and SIGTERM in this process until the end of the block; processes started in it never get them.

    A terminal sends Ctrl-C to all processes, but only the parent stops the workers. The mask alone does not delay the
    parent's handlers: a signal that another thread receives (a library's, started earlier) runs them in this one.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    received: list[int] = []
    numbers = [signal.SIGINT, signal.SIGTERM]
    in_main_thread = threading.current_thread() is threading.main_thread()  # only there can handlers be set, and run
    handlers = {n: signal.signal(n, lambda n, _: received.append(n)) for n in numbers if in_main_thread}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)  # a pending signal is received here
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])


def next_result(waiting: deque[tuple[TextBatch, Future[EncodedTexts]]]) -> tuple[TextBatch, EncodedTexts]:
    batch, future = waiting.popleft()
    return batch, future.result()


worker_tokenizer: Tokenizer | None = None
"""Set once in each worker process, before its first batch."""


def start_worker(tokenizer_class: type[Tokenizer], tokenizer_folder: str) -> None:
    global worker_tokenizer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent stops its workers
    threading.Thread(target=exit_with_parent, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread per worker
    worker_tokenizer = tokenizer_class.load(tokenizer_folder)


def exit_with_parent() -> None:
    """Exit when the parent is killed. The pipe to it never closes, because the workers hold both of its ends."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def encode_in_worker(texts: list[str]) -> EncodedTexts:
    assert worker_tokenizer is not None
    return encode_texts(worker_tokenizer, texts)
