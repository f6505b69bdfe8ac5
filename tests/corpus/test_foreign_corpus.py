"""An untrusted corpus: whatever its manifest and arrays contain, nothing outside its folder is read or written."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt1.corpus.corpus import Corpus, write_corpus
from gpt1.corpus.shards import manifest_fingerprint
from gpt1.errors import UserError
from gpt1.tokenization.tokenizer import Tokenizer

SHARD = 50


@pytest.fixture(scope="module")
def valid_corpus(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("foreign")
    for i in range(12):
        (folder / f"{i}.txt").write_text(f"some words of the document {i}")
    write_corpus([str(folder)], folder / "corpus", tokenizer, shard_tokens=SHARD)
    return folder / "corpus"


@pytest.fixture
def corpus(valid_corpus: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(valid_corpus, tmp_path / "corpus"))


def rewrite(folder: Path, **changes: Any) -> None:
    """Change a manifest and recompute its fingerprint, as an attacker would. `...` removes a key."""
    manifest = json.loads((folder / "manifest.json").read_text()) | changes
    manifest = {name: value for name, value in manifest.items() if value is not ...}
    (folder / "manifest.json").write_text(json.dumps(manifest | {"fingerprint": manifest_fingerprint(manifest)}))


def replace_file(folder: Path, name: str, data: bytes, place: str | None = None) -> None:
    """Replace the file `name` of a corpus and update its size and SHA-256 in the manifest."""
    (folder / (place or name)).write_bytes(data)
    files = json.loads((folder / "manifest.json").read_text())["files"]
    files[name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    rewrite(folder, files=files)


def replace_array(folder: Path, name: str, values: Any) -> None:
    with open(folder / "new.npy", "wb") as file:
        np.save(file, values)
    data = (folder / "new.npy").read_bytes()
    (folder / "new.npy").unlink()
    replace_file(folder, name, data)


def read_all(folder: Path, url: bool) -> Corpus:
    """Open a corpus by its path or by a URL and read all of it."""
    corpus = Corpus.open(f"file://{folder}" if url else folder)
    corpus.read(0, corpus.tokens)
    corpus.count_bytes(0, corpus.tokens)
    corpus.load_tokenizer()
    return corpus


from_disk_and_url = pytest.mark.parametrize("url", [False, True], ids=["disk", "url"])


@from_disk_and_url
@pytest.mark.parametrize("name", ["tokenizer/../../../escaped", "tokenizer/../escaped", "/escaped", "tokenizer/a\\b"])
def test_a_file_name_outside_the_corpus_is_an_error_and_writes_nothing(corpus: Path, name: str, url: bool):
    replace_file(corpus, name, b"evil", place="tokenizer/harmless")
    before = sorted(corpus.parent.rglob("*"))
    with pytest.raises(UserError, match=r"manifest\.json"):
        read_all(corpus, url)
    assert sorted(corpus.parent.rglob("*")) == before


def test_a_link_out_of_the_corpus_is_an_error(corpus: Path):
    (corpus.parent / "secret").write_bytes((corpus / "shard-00000.npy").read_bytes())
    (corpus / "shard-00000.npy").unlink()
    (corpus / "shard-00000.npy").symlink_to(corpus.parent / "secret")
    with pytest.raises(UserError, match="is a link out of its folder"):
        Corpus.open(corpus)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no FIFO")
@pytest.mark.parametrize("name", ["manifest.json", "shard-00000.npy", "tokenizer/vocab.json"])
def test_a_pipe_among_the_files_is_an_error_and_does_not_block(corpus: Path, name: str):
    (corpus / name).unlink()
    os.mkfifo(corpus / name)
    with pytest.raises(UserError, match="is a pipe"):
        Corpus.open(corpus)


INVALID_VALUES: list[tuple[str, Any]] = [
    *((name, value) for name in ("tokens", "documents", "vocab_size", "shard_tokens") for value in ("7", 0, 1.5, None)),
    *((name, value) for name in ("bytes", "unknown", "empty_documents", "newline_id") for value in ("7", -1, [])),
    *((name, ...) for name in ("tokens", "bytes", "files", "sources", "tokenizer", "newline_id", "shard_tokens")),
    *(("files", value) for value in ([], None, {}, {"documents.npy": 7}, {"documents.npy": {"size": "7"}})),
    *(("sources", value) for value in ({}, [1], [{"name": 7, "size": 7}], [{"name": "a"}])),
    ("tokens", 10**18),
    ("documents", 10**6),
    ("newline_id", 300),
    ("vocab_size", 2**40),
    ("tokenizer", 7),
    ("format", "1"),
    ("format", [1]),
]


@pytest.mark.parametrize(("name", "value"), INVALID_VALUES)
def test_an_invalid_value_in_the_manifest_is_an_error_that_names_the_file(corpus: Path, name: str, value: Any):
    rewrite(corpus, **{name: value})
    with pytest.raises(UserError, match=r"manifest\.json"):
        Corpus.open(corpus)


@pytest.mark.parametrize("text", ["[" * 2000, "[]", "7", "{", "9" * 5000, '{"format": 1}', '{"format": 1e999}', "\xff"])
def test_an_invalid_manifest_is_an_error_that_names_the_file(corpus: Path, text: str):
    (corpus / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"manifest\.json"):
        Corpus.open(corpus)


def change_shard(change: Any) -> Any:
    return lambda folder: replace_array(folder, "shard-00000.npy", change(np.load(folder / "shard-00000.npy")))


def change_documents(change: Any) -> Any:
    return lambda folder: replace_array(folder, "documents.npy", change(np.load(folder / "documents.npy")))


def set_value(place: Any, value: int) -> Any:
    def change(values: Any) -> Any:
        values[place] = value
        return values

    return change


INVALID_ARRAYS: dict[str, tuple[Any, str]] = {
    "an id outside the vocabulary": (
        change_shard(set_value(7, 300)),
        "contains token id 300, but the vocabulary has 300 tokens",
    ),
    "objects": (change_shard(lambda ids: np.array([None] * len(ids), object)), "shard-00000.npy contains object"),
    "wider ids": (change_shard(lambda ids: ids.astype(np.uint32)), "shard-00000.npy contains uint32"),
    "signed ids": (change_shard(lambda ids: ids.astype(np.int16)), "shard-00000.npy contains int16"),
    "ids in another byte order": (change_shard(lambda ids: ids.astype(">u2")), "shard-00000.npy contains >u2"),
    "fewer ids": (change_shard(lambda ids: ids[:-1]), r"shard-00000.npy contains uint16 \(49,\)"),
    "ids in two dimensions": (
        change_shard(lambda ids: ids.reshape(2, -1)),
        r"shard-00000.npy contains uint16 \(2, 25\)",
    ),
    "documents as floats": (change_documents(lambda d: d.astype(np.float64)), "documents.npy contains float64"),
    "documents in Fortran order": (change_documents(np.asfortranarray), "documents.npy is not a .npy array"),
    "starts that do not ascend": (change_documents(lambda d: np.stack([d[0][::-1], d[1]])), "starts are not ascending"),
    "a start below zero": (change_documents(set_value((0, 0), -1)), "starts are not ascending"),
    "a start beyond the tokens": (change_documents(set_value((0, -1), 10**9)), "starts are not ascending"),
    "starts that overflow": (change_documents(set_value((0, 1), -(2**63))), "starts are not ascending"),
    "other sizes": (change_documents(set_value((1, 0), 10**9)), "document sizes do not match"),
    "a zip": (lambda folder: replace_file(folder, "shard-00000.npy", b"PK\3\4" + bytes(200)), "is not a .npy array"),
    "an empty file": (lambda folder: replace_file(folder, "shard-00000.npy", b""), "is not a .npy array"),
    "only a header": (
        lambda folder: replace_file(folder, "shard-00000.npy", (folder / "shard-00000.npy").read_bytes()[:128]),
        "shard-00000.npy contains uint16",
    ),
}


@from_disk_and_url
@pytest.mark.parametrize("kind", INVALID_ARRAYS)
def test_an_invalid_array_with_a_valid_checksum_is_an_error(corpus: Path, kind: str, url: bool):
    change, problem = INVALID_ARRAYS[kind]
    change(corpus)
    with pytest.raises(UserError, match=problem):
        read_all(corpus, url)


@pytest.mark.parametrize("kind", ["an id outside the vocabulary", "starts that do not ascend"])
def test_verify_also_checks_the_values(corpus: Path, kind: str):
    change, problem = INVALID_ARRAYS[kind]
    change(corpus)
    with pytest.raises(UserError, match=problem):
        Corpus.open(corpus).verify()


@from_disk_and_url
def test_a_changed_but_valid_corpus_is_read(corpus: Path, url: bool):
    rewrite(corpus, unknown=1)
    assert read_all(corpus, url).unknown == 1
