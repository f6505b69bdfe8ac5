"""Corpus folders: text tokenized once, then read by position. shards.py describes the files of the folder."""

from __future__ import annotations

import hashlib
import io
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gpt1.corpus.encoding import encode_batches, make_text_batches, smallest_id_dtype
from gpt1.corpus.readers import list_sources
from gpt1.corpus.shards import (
    CORPUS_FORMAT,
    TOKENIZER_FOLDER,
    ShardWriter,
    array_shape,
    check_array,
    check_manifest,
    manifest_fingerprint,
    read_npy_header,
    shard_name,
)
from gpt1.errors import UserError, require_count, require_path
from gpt1.files.atomic import atomic_dir, disk_errors
from gpt1.files.foreign import check_name, check_regular, parse_json, path_inside, short
from gpt1.files.manifest import file_entry
from gpt1.files.names import DOCUMENTS_FILE, MANIFEST
from gpt1.files.output import check_new_folder
from gpt1.files.reading import filesystem, is_url, network_errors, not_found_error
from gpt1.formatting import count_noun, shell_quote
from gpt1.progress import Progress
from gpt1.tokenization.tokenizer import Tokenizer

MAX_MANIFEST_BYTES = 2**28
"""Maximum size of a manifest.json; with a million sources it has about 2**27."""
MAX_MEMORY_MAPS = 100
"""Maximum number of mapped files: each map keeps a file open, and macOS allows 256 open files per process."""


def write_corpus(
    corpora: Sequence[str],
    out: str | Path,
    tokenizer: Tokenizer,
    *,
    workers: int = 1,
    shard_tokens: int = 2**24,
    text_field: str = "text",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Corpus:
    """Tokenize texts into the new corpus folder `out` and open it.

    The folder is bit-identical for any number of workers. It is created atomically at the end: an error, Ctrl-C or a
    kill leaves no folder. Temporary files are removed by the next run at the latest.

    Args:
        corpora: Files, folders, glob patterns or URLs with text (readers.py).
        out: A local folder that does not exist or is empty.
        tokenizer: A copy of it is saved in the folder.
        workers: Number of processes.
        shard_tokens: Tokens per shard file.
        text_field: Field or column of the texts in .jsonl, .csv, .tsv and .parquet.
        overwrite: Replace a corpus that is there.

    Raises:
        UserError: If a source cannot be read, or `out` exists and is not empty.
    """
    require_count(workers, "--workers", 1)
    target = resolve_output(out, overwrite, corpora)
    sources = list_sources(corpora, text_field)
    start = time.monotonic()
    text_bytes = 0
    if progress:
        progress.begin("tokenizing", sum(source.size for source in sources), unit="bytes")
    with atomic_dir(target, replace=overwrite, name=f"--out {target}") as folder:
        tokenizer.save(folder / TOKENIZER_FOLDER)
        writer = ShardWriter(folder, tokenizer, shard_tokens)
        with closing(  # after an error: stops the workers at once
            encode_batches(make_text_batches(sources), tokenizer, folder / TOKENIZER_FOLDER, workers)
        ) as encoding:
            for batch, encoded in encoding:
                writer.add(encoded, batch.boundary)
                text_bytes += encoded.text_bytes
                if progress:
                    progress.advance(batch.bytes_read, MB_per_s=text_bytes / 1e6 / (time.monotonic() - start))
        if not writer.tokens:
            raise UserError("the sources contain only white space.", "Use files that contain text.")
        writer.finish(sources)
    if progress:
        progress.end()
        if writer.empty_documents:
            progress.log(f"{count_noun(writer.empty_documents, 'empty document')} skipped")
    return Corpus.open(out)


def resolve_output(out: str | Path, overwrite: bool = False, inputs: Sequence[str | Path] = ()) -> Path:
    """The absolute path of `out`; UserError unless a corpus folder can be created there.

    With `overwrite` it may be a folder that gpt1 wrote and that holds none of `inputs`.
    """
    require_path(out, "--out", "Use the path of a new folder.")
    if is_url(out):
        raise UserError(f"--out {out} is a URL, not a local folder.", "Write to a local folder, then copy it.")
    sources = [inputs] if isinstance(inputs, str | Path) else inputs
    return check_new_folder(Path(out).resolve(), overwrite, sources, f"--out {out}", "corpus")


class Corpus:
    """A corpus folder, opened for reading. The SHA-256 of each file is checked before its first use.

    Attributes:
        tokens: Number of tokens, including the newline tokens between documents.
        documents: Number of documents with at least one token.
        empty_documents: Number of source documents without a token.
        n_bytes: UTF-8 bytes of the documents, without the newlines between them.
        unknown: Number of `<unk>` tokens.
        vocab_size: Size of the tokenizer's vocabulary, without special tokens.
        newline_id: Token between two documents.
        tokenizer_fingerprint: SHA-256 of the tokenizer.
        fingerprint: SHA-256 of the manifest's content: equal for equal folders at any location.
        sources: Name and size of each source file.
        shard_tokens: Tokens per shard file.
    """

    def __init__(self, folder: str, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest
        self.tokens: int = manifest["tokens"]
        self.documents: int = manifest["documents"]
        self.empty_documents: int = manifest["empty_documents"]
        self.n_bytes: int = manifest["bytes"]
        self.unknown: int = manifest["unknown"]
        self.vocab_size: int = manifest["vocab_size"]
        self.newline_id: int = manifest["newline_id"]
        self.tokenizer_fingerprint: str = manifest["tokenizer"]
        self.fingerprint: str = manifest["fingerprint"]
        self.sources: list[dict[str, Any]] = manifest["sources"]
        self.shard_tokens: int = manifest["shard_tokens"]
        self.arrays: dict[str, npt.NDArray[Any]] = {}  # verified; least recently used first
        self._verified_files: set[str] = set()

    @classmethod
    def open(cls, folder: str | Path) -> Corpus:
        """Open a corpus: read the manifest and compare the file sizes with it. The time does not depend on the tokens.

        Raises:
            UserError: If the folder is not a corpus, or a file is missing or has another size.
        """
        corpus = cls(str(folder), read_corpus_manifest(str(folder)))
        for name, file in corpus.manifest["files"].items():
            size = file_size(corpus.path(name))
            if size is None:
                raise UserError(f"{corpus.path(name)} is missing.", corpus.rebuild_hint())
            if size != file["size"]:
                raise UserError(
                    f"{corpus.path(name)} does not match its manifest ({size:,} bytes instead of {file['size']:,}): "
                    "the file was changed or damaged.",
                    corpus.rebuild_hint(),
                )
        return corpus

    def read(self, start: int, stop: int) -> npt.NDArray[np.int64]:  # → [stop - start]
        """The ids of the tokens start … stop - 1, which may span several shards."""
        if not 0 <= start <= stop <= self.tokens:
            raise IndexError(f"tokens {start} to {stop} are out of range: the corpus has {self.tokens} tokens")
        ids = np.empty(stop - start, np.int64)
        for index in range(start // self.shard_tokens, -(-stop // self.shard_tokens)):
            first = index * self.shard_tokens
            low, high = max(start, first), min(stop, first + self.shard_tokens)
            ids[low - start : high - start] = self.array(shard_name(index))[low - first : high - first]
        return ids

    def document_starts(self) -> npt.NDArray[np.int64]:  # → [documents], ascending from 0
        return self.array(DOCUMENTS_FILE)[0]

    def count_bytes(self, start: int, stop: int) -> float:
        """UTF-8 bytes of the text of the tokens start … stop - 1, including the newlines between documents.

        Exact if the range begins and ends at document boundaries. A document that is only partly inside the range
        counts in proportion to its tokens inside.
        """
        if start >= stop:
            return 0.0
        starts, n_bytes = self.array(DOCUMENTS_FILE)
        first = int(np.searchsorted(starts, start, "right")) - 1
        last = int(np.searchsorted(starts, stop, "left"))
        begin = starts[first:last]
        following = starts[last] if last < self.documents else self.tokens + 1
        end = np.append(begin[1:], following) - 1  # position of the newline token; none after the last document
        inside = np.minimum(end, stop) - np.maximum(begin, start)
        newlines = np.count_nonzero((end >= start) & (end < min(stop, self.tokens)))
        return float((n_bytes[first:last] * np.maximum(inside, 0) / (end - begin)).sum() + newlines)

    def load_tokenizer(self) -> Tokenizer:
        """The tokenizer of the folder, which produced the ids."""
        # Load a verified copy: the original could change between check and use.
        with tempfile.TemporaryDirectory() as copy, disk_errors(copy):
            for name in self.manifest["files"]:
                if name.startswith(TOKENIZER_FOLDER + "/"):
                    target = Path(copy, check_name(name, self.path(MANIFEST)))
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(self.read_verified(name))
            tokenizer = Tokenizer.load(Path(copy, TOKENIZER_FOLDER))
        if tokenizer.fingerprint != self.tokenizer_fingerprint:
            raise UserError(
                f"{self.path(TOKENIZER_FOLDER)} is not the tokenizer named in the manifest.", self.rebuild_hint()
            )
        return tokenizer

    def verify(self, advance: Callable[[int], None] | None = None) -> None:
        """Check every file against its SHA-256 now; UserError for the first that differs.

        Args:
            advance: Called with the number of files checked so far.
        """
        for number, name in enumerate(self.manifest["files"], 1):
            if name.endswith(".npy"):
                self.load_array(name, verified=False)
            else:
                self.check_digest(name, file_digest(self.path(name)))
            if advance:
                advance(number)

    def array(self, name: str) -> npt.NDArray[Any]:
        """A verified array: memory-mapped from a local file, in memory from a URL."""
        values = self.arrays.pop(name, None)
        if values is None:
            if len(self.arrays) >= MAX_MEMORY_MAPS and not is_url(self.folder):
                del self.arrays[next(iter(self.arrays))]
            values = self.load_array(name, name in self._verified_files)
            self._verified_files.add(name)
        self.arrays[name] = values
        return values

    def load_array(self, name: str, verified: bool) -> npt.NDArray[Any]:
        """The array `name`. Type and shape are always checked; SHA-256 and values unless `verified`."""
        path, shape = self.path(name), array_shape(name, self.manifest)
        dtype = np.dtype(np.int64 if name == DOCUMENTS_FILE else smallest_id_dtype(self.vocab_size))
        data = self.read_verified(name) if is_url(self.folder) else None
        if data is None and not verified:
            self.check_digest(name, file_digest(path))
        with io.BytesIO(data) if data is not None else open(path, "rb") as file:
            actual_shape, actual_dtype, offset = read_npy_header(file, path)
        size = self.manifest["files"][name]["size"]
        if (actual_shape, actual_dtype) != (shape, dtype) or size != offset + math.prod(shape) * dtype.itemsize:
            problem = f"{path} contains {actual_dtype} {actual_shape}, expected {dtype} {shape}."
            raise UserError(problem, self.rebuild_hint())
        if data is None:
            values: npt.NDArray[Any] = np.memmap(path, dtype, "r", offset, shape)
        else:
            values = np.frombuffer(data, dtype, offset=offset).reshape(shape)
        if not verified:
            check_array(values, name, self.manifest, path)
        return values

    def read_verified(self, name: str) -> bytes:
        data = read_bytes(self.path(name))
        self.check_digest(name, hashlib.sha256(data).hexdigest())
        return data

    def check_digest(self, name: str, sha256: str) -> None:
        if sha256 != self.manifest["files"][name]["sha256"]:
            raise UserError(
                f"{self.path(name)} does not match its manifest (SHA-256 differs): the file was changed or damaged.",
                self.rebuild_hint(),
            )

    @property
    def name(self) -> str:
        """The corpus in messages."""
        return self.folder

    def path(self, name: str) -> str:
        if is_url(self.folder):
            return join_path(self.folder, name)
        return str(path_inside(Path(self.folder), name, Path(self.folder, MANIFEST)))

    def rebuild_hint(self) -> str:
        return f"Delete {self.folder} and create it again with: gpt1 tokenize CORPUS --out {self.folder}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "arrays": {}}  # another process maps the files itself

    def __len__(self) -> int:
        return self.tokens


def join_path(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}" if is_url(folder) else str(Path(folder, name))


def read_corpus_manifest(folder: str) -> dict[str, Any]:
    """The checked content of the folder's manifest.json; UserError if the folder is not a corpus."""
    path = join_path(folder, MANIFEST)
    fix = f"Delete {folder} and create it again with: gpt1 tokenize CORPUS --out DIR"
    try:
        size = file_size(path)
    except NotADirectoryError:
        size = None
    if size is None:
        if not is_url(folder) and not Path(folder).exists():
            raise not_found_error(folder)
        raise UserError(
            f"{folder} is not a corpus folder: no {MANIFEST} found.",
            f"Create one with: gpt1 tokenize {shell_quote(folder)} --out DIR",
        )
    if size > MAX_MANIFEST_BYTES:
        raise UserError(f"{path} has {size:,} bytes, more than the limit of {MAX_MANIFEST_BYTES:,}.", fix)
    try:
        manifest = parse_json(read_bytes(path), path, fix=fix)
    except UserError as error:
        raise UserError(f"{path} was changed or damaged: {error.problem}", fix) from None
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if isinstance(version, bool) or not isinstance(version, int):  # of a run, a model or another program: not to delete
        what = "was written by another program" if version is None else f"has format {short(version)}"
        raise UserError(
            f"{folder} is not a corpus folder: its {MANIFEST} {what}.",
            "Use a corpus folder. To create one: gpt1 tokenize CORPUS --out DIR",
        )
    if version != CORPUS_FORMAT:
        raise UserError(
            f"{path} has format {version}; this version of gpt1 reads format {CORPUS_FORMAT}.", "Update gpt1."
        )
    if manifest.get("fingerprint") != manifest_fingerprint(manifest):
        raise UserError(f"{path} was changed or damaged.", fix)
    check_manifest(manifest, path, fix)
    return dict(manifest)


def read_bytes(path: str) -> bytes:
    if not is_url(path):
        check_regular(path)
        return Path(path).read_bytes()
    with network_errors(path):
        system, inner = filesystem(path)
        return bytes(system.cat_file(inner))


def file_size(path: str) -> int | None:
    try:
        if not is_url(path):
            return check_regular(path)
        with network_errors(path):
            system, inner = filesystem(path)
            size = system.info(inner)["size"]
    except FileNotFoundError:
        return None
    if size is None:
        raise UserError(f"the server does not say the size of {path}.", "Download the corpus first.")
    return int(size)


def file_digest(path: str) -> str:
    if is_url(path):
        return hashlib.sha256(read_bytes(path)).hexdigest()
    return str(file_entry(Path(path))["sha256"])
