"""The files of a corpus folder, and how they are written.

    shard-00000.npy, …   token ids, uint16 (uint32 past 65,536 ids); `shard_tokens` each, fewer in the last
    documents.npy        int64 [2, documents]: position of the first token of each document, its UTF-8 bytes
    tokenizer/           the tokenizer of the ids
    manifest.json        counts, sources, and size and SHA-256 of every file above; written last

There is one newline token between two documents.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Mapping
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from gpt1.corpus.encoding import EncodedTexts, smallest_id_dtype
from gpt1.corpus.readers import Boundary, Source
from gpt1.errors import UserError
from gpt1.files.foreign import DAMAGED, Fields, check_name
from gpt1.files.manifest import content_sha256, file_entry
from gpt1.files.names import DOCUMENTS_FILE, MANIFEST
from gpt1.formatting import printable_line
from gpt1.tokenization.tokenizer import Tokenizer

CORPUS_FORMAT = 1
TOKENIZER_FOLDER = "tokenizer"


def shard_name(index: int) -> str:
    return f"shard-{index:05d}.npy"


class ShardWriter:
    """Concatenates ids and writes a shard file every `shard_tokens` ids, into a folder of `atomic_dir`, which syncs."""

    def __init__(self, folder: Path, tokenizer: Tokenizer, shard_tokens: int) -> None:
        self.folder = folder
        self.tokenizer = tokenizer
        self.shard = np.empty(shard_tokens, smallest_id_dtype(tokenizer.vocab_size))
        self.filled = 0  # ids in the current shard
        self.shards = 0
        self.tokens = 0
        self.unknown = 0
        self.n_documents_seen = 0  # including documents without a token
        self.document_has_tokens = False  # whether an earlier part of the current document had a token
        self.document_starts = array("q")
        self.n_bytes = array("q")
        self.files: dict[str, dict[str, int | str]] = {}

    def add(self, encoded: EncodedTexts, boundary: Boundary) -> None:
        if boundary == "document":
            self.n_documents_seen += encoded.texts
            self.document_has_tokens = False
        if not len(encoded.ids):
            return
        starts, n_bytes = encoded.document_starts, encoded.n_bytes
        if self.document_has_tokens:  # continues a long document
            if boundary == "line":
                self.append(np.array([self.tokenizer.newline_id]))
                self.n_bytes[-1] += 1
            self.n_bytes[-1] += int(n_bytes[0])
        else:
            if self.tokens:
                self.append(np.array([self.tokenizer.newline_id]))
            self.document_starts.extend((starts + self.tokens).tolist())
            self.n_bytes.extend(n_bytes.tolist())
            self.document_has_tokens = encoded.last_has_tokens
        self.unknown += encoded.unknown
        self.append(encoded.ids)

    def append(self, ids: npt.NDArray[Any]) -> None:
        self.tokens += len(ids)
        while len(ids):
            head = ids[: len(self.shard) - self.filled]
            self.shard[self.filled : self.filled + len(head)] = head
            self.filled += len(head)
            ids = ids[len(head) :]
            if self.filled == len(self.shard):
                self.finish_shard()

    def finish_shard(self) -> None:
        self.write_array(shard_name(self.shards), self.shard[: self.filled])
        self.shards += 1
        self.filled = 0

    def write_array(self, name: str, values: npt.NDArray[Any]) -> None:
        with open(self.folder / name, "wb") as file:
            hashing = HashingWriter(file)
            np.save(hashing, values, allow_pickle=False)
        self.files[name] = {"size": hashing.size, "sha256": hashing.sha256.hexdigest()}

    @property
    def empty_documents(self) -> int:
        return self.n_documents_seen - len(self.document_starts)

    def finish(self, sources: list[Source]) -> None:
        """Write the last shard, documents.npy and the manifest of all files, including the tokenizer's."""
        if self.filled:
            self.finish_shard()
        self.write_array(DOCUMENTS_FILE, np.array([self.document_starts, self.n_bytes], np.int64).reshape(2, -1))
        for path in sorted((self.folder / TOKENIZER_FOLDER).rglob("*")):
            if path.is_file():
                self.files[path.relative_to(self.folder).as_posix()] = file_entry(path)
        manifest = {
            "format": CORPUS_FORMAT,
            "tokens": self.tokens,
            "documents": len(self.document_starts),
            "empty_documents": self.empty_documents,
            "bytes": sum(self.n_bytes),
            "unknown": self.unknown,
            "vocab_size": self.tokenizer.vocab_size,
            "newline_id": self.tokenizer.newline_id,
            "tokenizer": self.tokenizer.fingerprint,
            "shard_tokens": len(self.shard),
            "files": self.files,
            "sources": [{"name": printable_line(source.name), "size": source.size} for source in sources],
        }
        text = json.dumps({**manifest, "fingerprint": manifest_fingerprint(manifest)}, indent=1, ensure_ascii=False)
        (self.folder / MANIFEST).write_bytes(text.encode("utf-8"))


def read_npy_header(file: IO[bytes], where: str) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """(shape, dtype, offset of the values) of a .npy file in C order; UserError naming `where` for any other file."""
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran_order, dtype = read(file)
        if fortran_order and len(shape) > 1:
            raise ValueError("the values are in Fortran order")
    except (ValueError, TypeError, KeyError, EOFError, SyntaxError, TokenError, RecursionError, MemoryError) as error:
        problem = f"{where} is not a .npy array: {str(error).splitlines()[0][:100] if str(error) else 'damaged'}."
        raise UserError(problem, DAMAGED) from None
    return shape, dtype, file.tell()


def check_array(values: npt.NDArray[Any], name: str, manifest: Mapping[str, Any], where: str) -> None:
    """UserError unless the values of the file `name` are valid for a corpus. Reads all of them once."""
    if name != DOCUMENTS_FILE:
        if (largest := int(values.max())) >= manifest["vocab_size"]:
            problem = (
                f"{where} contains token id {largest:,}, but the vocabulary has {manifest['vocab_size']:,} tokens."
            )
            raise UserError(problem, DAMAGED)
        return
    starts, n_bytes = values
    distances = np.diff(starts, append=manifest["tokens"] + 1)  # at least one token and a newline token
    if starts[0] != 0 or distances.min() < 2 or (starts < 0).any():
        raise UserError(f"{where}: the document starts are not ascending.", DAMAGED)
    if n_bytes.min() < 0 or int(n_bytes.sum()) != manifest["bytes"]:
        raise UserError(f"{where}: the document sizes do not match the manifest.", DAMAGED)


def array_shape(name: str, manifest: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape that the array `name` must have."""
    if name == DOCUMENTS_FILE:
        return 2, manifest["documents"]
    rest = manifest["tokens"] - int(name.removeprefix("shard-").removesuffix(".npy")) * manifest["shard_tokens"]
    return (min(rest, manifest["shard_tokens"]),)


def check_manifest(manifest: Any, where: str, fix: str) -> None:
    """UserError naming the key unless the content of the manifest `where` is valid."""
    fields = Fields(manifest, where, fix)
    tokens = fields.integer("tokens", 1)
    fields.integer("documents", 1, tokens)
    fields.integer("unknown", 0, tokens)
    fields.integer("empty_documents")
    fields.integer("bytes")
    fields.integer("newline_id", 0, fields.integer("vocab_size", 1, 2**32) - 1)
    shards = -(-tokens // fields.integer("shard_tokens", 1))
    fields.text("tokenizer")
    for source in fields.items("sources", dict):
        Fields(source, where, fix).text("name")
        Fields(source, where, fix).integer("size")
    files = fields.object("files")
    arrays = [name for name in files.values if not name.startswith(TOKENIZER_FOLDER + "/")]
    if len(arrays) != shards + 1 or {*arrays} != {DOCUMENTS_FILE, *map(shard_name, range(shards))}:
        fields.refuse(f"'files' must contain {DOCUMENTS_FILE}, {shards:,} shards and the tokenizer's files")
    for name in files.values:
        check_name(name, where)
        file = files.object(name)
        file.integer("size")
        file.text("sha256")


def manifest_fingerprint(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest's content without the fingerprint itself."""
    return content_sha256({key: value for key, value in manifest.items() if key != "fingerprint"})


class HashingWriter:
    """Hashes the data as it is written: reading the file back could hash data already damaged on the disk."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.sha256 = hashlib.sha256()
        self.size = 0

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        self.size += memoryview(data).nbytes
        return int(self.file.write(data))
