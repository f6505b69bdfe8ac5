"""What a corpus folder holds, and how its shards are written.

    shard-00000.npy, …   token ids, uint16 (uint32 past 65,536 ids); every shard but the last holds `shard_tokens`
    documents.npy        int64 [2, documents]: the first token of each document, its UTF-8 bytes
    tokenizer/           the tokenizer that made the ids
    manifest.json        counts, sources, and size and SHA-256 of every file above; written last

One newline token stands between documents.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gpt1.corpus.encoding import Encoded, TokenizerLike, ids_type
from gpt1.corpus.readers import Begins, Source
from gpt1.files.atomic import fsync_dir, fsync_file

FORMAT = 1
MANIFEST = "manifest.json"
DOCUMENTS = "documents.npy"
TOKENIZER = "tokenizer"


def shard_name(index: int) -> str:
    return f"shard-{index:05d}.npy"


class ShardWriter:
    """Lays ids end to end and cuts them every `shard_tokens`, wherever that falls."""

    def __init__(self, folder: Path, tokenizer: TokenizerLike, shard_tokens: int) -> None:
        self.folder = folder
        self.tokenizer = tokenizer
        self.shard = np.empty(shard_tokens, ids_type(tokenizer.vocab_size))
        self.filled = 0  # of this shard
        self.shards = 0
        self.tokens = 0
        self.unknown = 0
        self.seen = 0  # documents, those without a token too
        self.in_document = False  # whether the document that is being read has given a token yet
        self.starts = array("q")
        self.n_bytes = array("q")
        self.files: dict[str, dict[str, int | str]] = {}

    def add(self, encoded: Encoded, begins: Begins) -> None:
        if begins == "document":
            self.seen += encoded.texts
            self.in_document = False
        if not len(encoded.ids):
            return
        starts, n_bytes = encoded.starts, encoded.n_bytes
        if self.in_document:  # a further part of a long document
            if begins == "line":
                self.append(np.array([self.tokenizer.newline_id]))
                self.n_bytes[-1] += 1
            self.n_bytes[-1] += int(n_bytes[0])
        else:
            if self.tokens:
                self.append(np.array([self.tokenizer.newline_id]))
            self.starts.extend((starts + self.tokens).tolist())
            self.n_bytes.extend(n_bytes.tolist())
            self.in_document = True
        self.unknown += encoded.unknown
        self.append(encoded.ids)

    def append(self, ids: npt.NDArray[Any]) -> None:
        self.tokens += len(ids)
        while len(ids):
            taken = ids[: len(self.shard) - self.filled]
            self.shard[self.filled : self.filled + len(taken)] = taken
            self.filled += len(taken)
            ids = ids[len(taken) :]
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
            fsync_file(file)
        self.files[name] = {"size": hashing.size, "sha256": hashing.sha256.hexdigest()}

    @property
    def empty_documents(self) -> int:
        return self.seen - len(self.starts)

    def finish(self, sources: list[Source]) -> None:
        """The last shard, the documents, and then the manifest over all files, those of the tokenizer too."""
        if self.filled:
            self.finish_shard()
        self.write_array(DOCUMENTS, np.array([self.starts, self.n_bytes], np.int64).reshape(2, -1))
        for path in sorted((self.folder / TOKENIZER).rglob("*")):
            if path.is_file():
                with open(path, "rb+") as file:
                    fsync_file(file)
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                name = path.relative_to(self.folder).as_posix()
                self.files[name] = {"size": path.stat().st_size, "sha256": digest}
        fsync_dir(self.folder / TOKENIZER)
        manifest = {
            "format": FORMAT,
            "tokens": self.tokens,
            "documents": len(self.starts),
            "empty_documents": self.empty_documents,
            "bytes": sum(self.n_bytes),
            "unknown": self.unknown,
            "vocab_size": self.tokenizer.vocab_size,
            "newline_id": self.tokenizer.newline_id,
            "tokenizer": self.tokenizer.fingerprint,
            "shard_tokens": len(self.shard),
            "files": self.files,
            "sources": [{"name": source.name, "size": source.size} for source in sources],
        }
        with open(self.folder / MANIFEST, "wb") as file:
            text = json.dumps({**manifest, "fingerprint": fingerprint(manifest)}, indent=1, ensure_ascii=False)
            file.write(text.encode("utf-8"))
            fsync_file(file)
        fsync_dir(self.folder)


def fingerprint(manifest: Mapping[str, Any]) -> str:
    """SHA-256 over everything that a manifest says but its own fingerprint."""
    said = {key: value for key, value in manifest.items() if key != "fingerprint"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode("ascii")).hexdigest()


class HashingWriter:
    """Hashes what is meant to be written, on its way: reading it back could hash what the disk made of it."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.sha256 = hashlib.sha256()
        self.size = 0

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        self.size += memoryview(data).nbytes
        return int(self.file.write(data))
