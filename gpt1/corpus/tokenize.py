"""Texts in, a corpus folder out: with a given tokenizer, or with one trained on the same texts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from gpt1.corpus.corpus import Corpus, resolve_output, write_corpus
from gpt1.corpus.readers import Source, list_sources, read_source
from gpt1.errors import ResourceError, UserError
from gpt1.formatting import count_noun
from gpt1.progress import NullProgress, Progress
from gpt1.runs.folder import find_model_folder
from gpt1.tokenization.tokenizer import Tokenizer

DEFAULT_VOCAB_SIZE = 8000
SAMPLE_CHARACTERS = 50_000_000  # of the texts that a vocabulary is learnt from: more changes few merges and takes long


def tokenize(
    corpora: Sequence[str],
    *,
    out: str | Path,
    tokenizer: str | Path | None = None,
    vocab_size: int | None = None,
    pipeline: str = "auto",
    workers: int | None = None,
    progress: Progress | None = None,
) -> Corpus:
    """Tokenize files, folders or URLs into the corpus folder `out`.

    tokenizer: a folder with one (a run or model folder serves). Otherwise one of `vocab_size` tokens is trained on up
    to 50 M characters spread over the texts. workers: processes; as many as there are cores unless given.
    Raises UserError for what cannot be read; then nothing is written.
    """
    progress = progress or NullProgress()
    if tokenizer is not None and vocab_size is not None:
        raise UserError("--tokenizer and --vocab-size contradict each other.", "Give one of them.")
    resolve_output(out)
    sources = list_sources(corpora)
    if tokenizer is not None:
        chosen = Tokenizer.load(find_model_folder(tokenizer))
    else:
        size = DEFAULT_VOCAB_SIZE if vocab_size is None else vocab_size
        default = " (the default; --vocab-size changes it)" if vocab_size is None else ""
        progress.log(f"training a vocabulary of {size:,} tokens{default}")
        chosen = Tokenizer.train(sample_texts(sources), size, pipeline)
        progress.log(f"vocabulary: {chosen.vocab_size:,} tokens, {chosen.pipeline} pipeline")
    if note := chosen.version_warning():
        progress.log(note)
    if workers is None:
        workers = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 8)
    try:
        corpus = write_corpus(corpora, out, chosen, workers=workers, progress=progress)
    except MemoryError:
        fewer = f"Use --workers {workers // 2} (now {workers}): the corpus stays the same."
        raise ResourceError("out of memory.", fewer if workers > 1 else "Close other programs.") from None
    tokens, documents = max(1, corpus.tokens), count_noun(corpus.documents, "document")
    progress.log(
        f"{out}: {corpus.tokens:,} tokens of {documents}, {corpus.n_bytes / 1e6:,.1f} MB "
        f"({corpus.n_bytes / tokens:.2f} bytes a token), {corpus.unknown / tokens:.3%} unknown"
    )
    return corpus


def sample_texts(sources: Sequence[Source]) -> Iterator[str]:
    """Texts from every source, each giving an equal share of the characters, so that no file decides alone. What the
    small ones do not fill is for the larger."""
    left = SAMPLE_CHARACTERS
    for number, source in enumerate(sorted(sources, key=lambda source: source.size)):
        share, taken = left // (len(sources) - number), 0
        for document in read_source(source):
            yield document.text[: share - taken]
            taken += len(document.text)
            if taken >= share:
                break
        left -= min(taken, share)
