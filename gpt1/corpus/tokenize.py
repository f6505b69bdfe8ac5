"""From texts to a corpus folder, with a given tokenizer or one trained on the same texts."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from gpt1.console import default_progress
from gpt1.corpus.corpus import Corpus, resolve_output, write_corpus
from gpt1.corpus.readers import Source, list_sources, read_source
from gpt1.errors import ResourceError, UserError, require_count, require_path
from gpt1.formatting import count_noun, format_size
from gpt1.progress import Progress
from gpt1.tokenization.tokenizer import Tokenizer

DEFAULT_VOCAB_SIZE = 8000
SAMPLE_CHARACTERS = 50_000_000
"""Characters that a vocabulary is trained on: more would take long and change few merges."""


def tokenize(
    corpora: Sequence[str],
    *,
    out: str | Path,
    tokenizer: str | Path | None = None,
    vocab_size: int | None = None,
    pipeline: str = "auto",
    workers: int | None = None,
    text_field: str = "text",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Corpus:
    """Tokenize texts into the corpus folder `out`.

    Args:
        corpora: Files, folders, glob patterns or URLs: .txt, .md, .csv, .tsv, .jsonl, .parquet, also compressed.
        out: Folder to create.
        tokenizer: Folder of a trained tokenizer, or of a run or model that contains one. Default: train a new one on up
            to 50 million characters of the texts.
        vocab_size: Number of tokens of a new vocabulary (default 8,000).
        pipeline: Of a new tokenizer: "original" for English, "lossless" for anything else, or "auto".
        workers: Number of processes (default: one per core, at most 8). The result does not depend on it.
        text_field: Field or column of the texts in .jsonl, .csv, .tsv and .parquet.
        overwrite: Replace a corpus that is there.
        progress: Receives messages and progress.

    Returns:
        The opened corpus.

    Raises:
        UserError: If a text cannot be read or a setting is invalid; then nothing is written.
    """
    progress = progress or default_progress()
    if tokenizer is not None and vocab_size is not None:
        raise UserError("--tokenizer and --vocab-size cannot be combined.", "Use one of them.")
    if not isinstance(corpora, Sequence | Path):
        require_path(corpora, "a source of texts", "Write the texts to a file, for example .jsonl.")
    require_count(1 if workers is None else workers, "--workers", 1)
    require_count(0 if vocab_size is None else vocab_size, "--vocab-size")
    check_worker_import()
    resolve_output(out, overwrite, corpora)
    sources = list_sources(corpora, text_field)
    if tokenizer is not None:
        chosen = Tokenizer.load(tokenizer)
        if pipeline not in ("auto", chosen.pipeline):
            raise UserError(
                f"--pipeline {pipeline}: the pipeline of --tokenizer {tokenizer} is {chosen.pipeline}.",
                f"Omit --pipeline, or omit --tokenizer to train a new one with --pipeline {pipeline}.",
            )
    else:
        chosen = train_tokenizer(sources, vocab_size, pipeline, progress)
    if warning := chosen.version_warning():
        progress.log(warning)
    if workers is None:
        workers = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 8)
    try:
        corpus = write_corpus(
            corpora, out, chosen, workers=workers, text_field=text_field, overwrite=overwrite, progress=progress
        )
    except MemoryError:
        fewer = f"Use --workers {workers // 2} (now {workers}); the corpus will be the same."
        raise ResourceError("out of memory.", fewer if workers > 1 else "Close other programs.") from None
    tokens, documents = max(1, corpus.tokens), count_noun(corpus.documents, "document")
    progress.log(
        f"{out}: {corpus.tokens:,} tokens in {documents}, {format_size(corpus.n_bytes)} "
        f"({corpus.n_bytes / tokens:.2f} bytes per token), {corpus.unknown / tokens:.3%} unknown"
    )
    return corpus


def check_worker_import() -> None:
    """Raise UserError in a worker process that imports the script which started it."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # as multiprocessing itself finds out
        problem = "a worker process runs the script that started it."
        raise UserError(problem, "Put the call of tokenize below `if __name__ == '__main__':`, or use workers=1.")


def train_tokenizer(sources: Sequence[Source], vocab_size: int | None, pipeline: str, progress: Progress) -> Tokenizer:
    """A tokenizer trained on a sample of the texts."""
    size = DEFAULT_VOCAB_SIZE if vocab_size is None else vocab_size
    default = " (default; change it with --vocab-size)" if vocab_size is None else ""
    progress.log(f"training a vocabulary of {size:,} tokens{default}")
    tokenizer = Tokenizer.train(sample_texts(sources), size, pipeline)
    progress.log(f"vocabulary: {tokenizer.vocab_size:,} tokens, {tokenizer.pipeline} pipeline")
    return tokenizer


def sample_texts(sources: Sequence[Source]) -> Iterator[str]:
    """At most SAMPLE_CHARACTERS of text, in equal shares of all sources so that no file dominates.

    Larger files get the share that small files leave unused.
    """
    remaining = SAMPLE_CHARACTERS
    for i, source in enumerate(sorted(sources, key=lambda source: source.size)):
        share, used = remaining // (len(sources) - i), 0
        for document in read_source(source):
            yield document.text[: share - used]
            used += len(document.text)
            if used >= share:
                break
        remaining -= min(used, share)
