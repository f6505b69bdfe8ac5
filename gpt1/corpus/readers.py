"""CORPUS → documents: text out of files, folders, patterns and URLs, streamed, so that memory stays flat.

.txt and .md are one document a file; .jsonl, .csv, .tsv and .parquet one document a row, its field or column `text`.
Each may be compressed (.gz, .xz, .zst). A document is kept as it stands in the file.
"""

from __future__ import annotations

import glob
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from gpt1.errors import UserError
from gpt1.files.reading import InputFile, file_format, filesystem, is_url, not_found_error, open_input
from gpt1.tables.rows import TABLE_FORMATS, stream_rows, text_field

TEXT_FORMATS = ("txt", "md")
DOCUMENT_FORMATS = TEXT_FORMATS + TABLE_FORMATS
DOCUMENT_EXTENSIONS = ", ".join(f".{kind}" for kind in DOCUMENT_FORMATS) + ", each also as .gz, .xz, .zst"
MAX_PART_BYTES = 2**20
"""Bytes. A longer document (War and Peace has 3.2 MB) is handed on in parts, so that any file fits in memory: while the
ids of a part are made, they take some 200 times as much, in every process."""

Boundary: TypeAlias = Literal["document", "line", "word"]


@dataclass(frozen=True)
class DocumentPart:
    """A text, or a part of a very long one."""

    text: str
    source: str
    boundary: Boundary = "document"
    """What begins here. A part begins a `line` of the document before (the line end between the two is in neither) or,
    in lines without an end, a `word` (nothing is left out)."""
    bytes_read: int = 0
    """Bytes of the stored file that were read to get here."""


@dataclass(frozen=True)
class Source:
    """One file of documents."""

    path: str
    size: int
    """Bytes as stored; 0 where a server does not tell."""
    format: str
    name: str
    """The path from the argument on: `books/a.txt` for the file found in the argument `/data/books`."""
    is_explicit: bool
    """Whether an argument names this very file; it must then hold text. Empty files inside folders are passed over."""


def read_documents(corpora: Sequence[str]) -> Iterator[DocumentPart]:
    """All documents of CORPUS..., in the order of the arguments and, in folders, of the names."""
    for source in list_sources(corpora):
        yield from read_source(source)


def list_sources(corpora: Sequence[str]) -> list[Source]:
    """The files of CORPUS..., every one once. Raises UserError for what is missing, empty or of no known format."""
    found: dict[str, Source] = {}
    for corpus in [corpora] if isinstance(corpora, str | Path) else corpora:
        for source in (remote_sources if is_url(corpus) else local_sources)(str(corpus)):
            found.setdefault(source.path if is_url(source.path) else os.path.realpath(source.path), source)
    if not found:
        raise UserError("no CORPUS is given.", f"Give files, folders or URLs with {DOCUMENT_EXTENSIONS}.")
    return list(found.values())


def local_sources(corpus: str) -> list[Source]:
    path = Path(corpus)
    if path.is_dir():
        try:
            return folder_sources(path)
        except OSError as error:
            raise UserError(f"{error.filename} cannot be read: {error.strerror}.", "Check its access rights.") from None
    if path.exists():
        return [file_source(path)]
    if not glob.has_magic(corpus):
        raise not_found_error(corpus)
    matches = [Path(match) for match in sorted(glob.glob(corpus, recursive=True))]
    if not matches:
        raise UserError(f"no file matches {corpus}.", "Check the pattern.")
    sources = [
        Source(str(m), m.stat().st_size, kind, m.name, False) for m in matches if (kind := document_format(m.name))
    ]
    if not sources:
        raise no_documents_error(corpus, [match.name for match in matches])
    return sources


def file_source(path: Path) -> Source:
    kind = document_format(path.name)
    if kind is None:
        raise UserError(f"{path} has no known ending.", f"Text is read from {DOCUMENT_EXTENSIONS}.")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty.", "Give a file that holds text.")
    return Source(str(path), path.stat().st_size, kind, path.name, True)


def folder_sources(folder: Path) -> list[Source]:
    """The files below `folder` with a known ending, sorted by their path; names with a leading dot are passed over."""
    if is_corpus(folder):
        raise UserError(f"{folder} is a corpus folder: it is tokenized already.", "Give the texts it was made from.")
    sources = []
    others = []
    for path in sorted(walk(folder, set()), key=lambda path: path.relative_to(folder).parts):
        if kind := document_format(path.name):
            name = "/".join((folder.resolve().name, *path.relative_to(folder).parts))
            sources.append(Source(str(path), path.stat().st_size, kind, name, False))
        else:
            others.append(path.name)
    if not sources:
        raise no_documents_error(folder, others)
    if not any(source.size for source in sources):
        raise UserError(f"{folder}: all of its {len(sources):,} files are empty.", "Give files that hold text.")
    return sources


def walk(folder: Path, seen: set[str]) -> Iterator[Path]:
    """Every file below `folder`. Links are followed, but never in a circle."""
    if (real := os.path.realpath(folder)) in seen:
        return
    seen.add(real)
    for entry in folder.iterdir():
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if not is_corpus(entry):
                yield from walk(entry, seen)
        elif entry.exists():
            yield entry


def is_corpus(folder: Path) -> bool:
    """Whether gpt1 made this folder: the merges.txt in it is no text to learn from."""
    return (folder / "manifest.json").exists() and (folder / "documents.npy").exists()


def remote_sources(url: str) -> list[Source]:
    """The files behind an fsspec URL: of a file, a folder, or a pattern."""
    try:
        system, path = filesystem(url)
        if system.isdir(path):
            paths = sorted(system.find(path))
        else:
            paths = sorted(system.glob(path)) if glob.has_magic(path) else [path]
        infos = [system.info(path) for path in paths]
    except FileNotFoundError:
        raise not_found_error(url) from None
    except (ImportError, ValueError, OSError) as error:
        raise UserError(f"{url} cannot be read: {error}.", "Check the address and its access rights.") from None
    files = [(str(info["name"]), int(info.get("size") or 0)) for info in infos if info["type"] == "file"]
    sources = [
        Source(system.unstrip_protocol(name), size, kind, name.rpartition("/")[2], len(files) == 1)
        for name, size in files
        if (kind := document_format(name))
    ]
    if not sources:
        raise no_documents_error(url, [name.rpartition("/")[2] for name, _ in files])
    return sources


def document_format(name: str) -> str | None:
    kind, _ = file_format(name)
    return kind if kind in DOCUMENT_FORMATS else None


def no_documents_error(place: str | Path, names: Sequence[str]) -> UserError:
    if not names:
        return UserError(f"{place} is empty.", f"Put text files into it: {DOCUMENT_EXTENSIONS}.")
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")
    return UserError(
        f"{place} has no file with a known ending; it has: {shown}.", f"Text is read from {DOCUMENT_EXTENSIONS}."
    )


def read_source(source: Source) -> Iterator[DocumentPart]:
    """The documents of one file. Raises UserError with file and line for what is not as its ending says."""
    documents = 0
    with open_input(source.path) as file:
        for text, begins in read_texts(file):
            documents += 1
            yield DocumentPart(text, source.path, begins, file.position())
    if source.is_explicit and not documents:
        raise UserError(f"{source.path} is empty: it has no {'text' if source.format in TEXT_FORMATS else 'rows'}.")


def read_texts(file: InputFile) -> Iterator[tuple[str, Boundary]]:
    if file.format in TEXT_FORMATS:
        file.check_is_text()
        yield from split_parts(file.stream.read, file.decode, byte_order_mark=True)
        return
    for number, row in stream_rows(file, column="text"):
        text = text_field(file, number, row)
        if len(text) <= MAX_PART_BYTES // 4:  # at most four bytes a character
            yield text, "document"
        else:
            yield from split_parts(io.BytesIO(text.encode("utf-8")).read, lambda data, *_: data.decode("utf-8"))


def split_parts(
    read: Callable[[int], bytes], decode: Callable[[bytes, int, int], str], byte_order_mark: bool = False
) -> Iterator[tuple[str, Boundary]]:
    """A text cut after at most LARGEST_PART bytes: at the last line end, else before the last space, else anywhere."""
    begins: Boundary = "document"
    line, offset = 1, 0  # where `block` begins
    block = b""
    while True:
        more = read(MAX_PART_BYTES + 1 - len(block))
        block += more
        if len(block) <= MAX_PART_BYTES and more:
            continue  # a read may give less than was asked for
        if not block:
            return
        end, begins_next, skip = find_cut(block) if more else (len(block), begins, 0)
        text = decode(block[:end], line, offset)
        yield text.removeprefix("\ufeff") if byte_order_mark and not offset else text, begins
        line += block.count(b"\n", 0, end + skip)
        offset += end + skip
        block, begins = block[end + skip :], begins_next


def find_cut(block: bytes) -> tuple[int, Boundary, int]:
    """(where the part ends, what begins after it, bytes between the two)."""
    half = len(block) // 2  # no small parts
    if (end := block.rfind(b"\n", half)) > 0:
        return end, "line", 1
    if (end := block.rfind(b" ", half)) > 0:
        return end, "word", 0
    end = len(block) - 1
    while end > 1 and block[end] & 0b1100_0000 == 0b1000_0000:  # inside of a character
        end -= 1
    return end, "word", 0
