"""CORPUS → documents: text from files, folders, glob patterns and URLs, streamed in constant memory.

A .txt or .md file is one document. In .jsonl, .csv, .tsv and .parquet each row is a document: its field or column
`text`, or another one. Files may be compressed (.gz, .xz, .zst). The text of a document is not changed.
"""

from __future__ import annotations

import glob
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, TypeAlias

from gpt1.errors import UserError
from gpt1.files.foreign import check_regular
from gpt1.files.names import DOCUMENTS_FILE, MANIFEST
from gpt1.files.reading import (
    InputFile,
    file_format,
    filesystem,
    is_url,
    not_found_error,
    open_input,
    split_chain,
    without_query,
)
from gpt1.tables.rows import SPREADSHEETS, TABLE_FORMATS, stream_rows, text_field

TEXT_FORMATS = ("txt", "md")
DOCUMENT_FORMATS = TEXT_FORMATS + TABLE_FORMATS
DOCUMENT_EXTENSIONS = ", ".join(f".{kind}" for kind in DOCUMENT_FORMATS) + ", each also as .gz, .xz, .zst"
MAX_PART_BYTES = 2**20
"""A longer document (War and Peace has 3.2 MB) is read in parts, so that any file fits in memory: encoding a part needs
about 200 times its size, in every process."""

Boundary: TypeAlias = Literal["document", "line", "word"]


@dataclass(frozen=True)
class DocumentPart:
    """A document, or a part of a long one."""

    text: str
    boundary: Boundary = "document"
    """What begins here: a document, or a further part of one. If the part begins a `line`, the newline before it is in
    neither part; if it begins a `word`, nothing is between the parts."""
    bytes_read: int = 0
    """Bytes of the stored file read so far."""


@dataclass(frozen=True)
class Source:
    """One file of documents."""

    path: str
    size: int
    """Bytes as stored; 0 if a server does not report the size."""
    format: str
    name: str
    """The path relative to the argument's parent: `books/a.txt` for a file in the argument `/data/books`."""
    is_explicit: bool
    """Whether an argument names this file; it must then contain text. Empty files in folders are skipped."""
    text_field: str = "text"
    """The field or column of the texts in a table."""


def read_documents(corpora: Sequence[str], text_field: str = "text") -> Iterator[DocumentPart]:
    """All documents of CORPUS..., in the order of the arguments; in folders, sorted by name."""
    for source in list_sources(corpora, text_field):
        yield from read_source(source)


def list_sources(corpora: Sequence[str], text_field: str = "text") -> list[Source]:
    """The files of CORPUS..., each once; UserError for one that is missing, empty or of an unsupported format."""
    found: dict[str, Source] = {}
    for corpus in [corpora] if isinstance(corpora, str | Path) else corpora:
        if not str(corpus):  # not the current folder: an empty variable of a shell
            raise UserError("the name of a source is empty.", "For the current folder, use a dot: .")
        for source in (remote_sources if is_url(corpus) else local_sources)(str(corpus)):
            key = source.path if is_url(source.path) else os.path.realpath(source.path)
            found.setdefault(key, replace(source, text_field=text_field))
    if not found:
        raise UserError("CORPUS is missing.", f"Use files, folders or URLs with {DOCUMENT_EXTENSIONS}.")
    return list(found.values())


def local_sources(corpus: str) -> list[Source]:
    path = Path(corpus)
    if path.exists() and not path.is_dir():
        return [file_source(path)]
    if not path.exists() and not glob.has_magic(corpus):
        raise not_found_error(corpus)
    try:
        return folder_sources(path) if path.exists() else pattern_sources(corpus)
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}.", "Check its permissions.") from None


def file_source(path: Path) -> Source:
    check_regular(path)  # a pipe has no size, and reading it could block
    kind = document_format(path.name)
    if kind is None:
        fix = f"Supported: {DOCUMENT_EXTENSIONS}."
        if file_format(path)[0] in SPREADSHEETS:
            fix = "Save it as .csv in the spreadsheet (Excel: CSV UTF-8)."
        raise UserError(f"{path} has no supported extension.", fix)
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty.", "Use a file that contains text.")
    return Source(str(path), path.stat().st_size, kind, path.name, True)


def folder_sources(folder: Path) -> list[Source]:
    """The files below `folder` with a supported extension, sorted by path; hidden files are skipped."""
    if is_corpus(folder):
        raise corpus_folder_error(folder)
    parent = folder.resolve().name
    sources = supported_sources(folder, {path: (parent, *path.relative_to(folder).parts) for path in walk(folder)})
    if not any(source.size for source in sources):
        raise UserError(f"{folder}: all text files are empty ({len(sources):,}).", "Use files that contain text.")
    return sources


def pattern_sources(pattern: str) -> list[Source]:
    """The files that a glob pattern matches, and those below the folders that it matches."""
    fixed = len(fixed_parts(Path(pattern).parts))
    is_known_corpus = cache(is_corpus)
    files = {}
    for match in map(Path, sorted(glob.glob(pattern, recursive=True))):
        if not any(map(is_known_corpus, match.parents[: len(match.parts) - fixed])):
            files.update({path: path.parts[fixed:] for path in walk(match)})
    if not files:
        raise UserError(f"no file matches {pattern}.", "Check the pattern.")
    return supported_sources(pattern, files)


def fixed_parts(parts: Sequence[str]) -> list[str]:
    """The parts of a glob pattern before the first with a wildcard."""
    return list(takewhile(lambda part: not glob.has_magic(part), parts))


def supported_sources(place: str | Path, files: Mapping[Path, Sequence[str]]) -> list[Source]:
    """Those of `files` (path: parts of its name) with a supported extension; UserError naming `place` without any."""
    sources = [
        Source(str(path), path.stat().st_size, kind, "/".join(parts), False)
        for path, parts in files.items()
        if (kind := document_format(path.name))
    ]
    if not sources:
        raise no_documents_error(place, [path.name for path in files])
    return sources


def walk(path: Path, seen: set[str] | None = None) -> Iterator[Path]:
    """`path` if it is a file, else every file below it, sorted. Links are followed; each folder is visited once."""
    if not path.is_dir():
        yield from [path] * path.exists()  # a link may lead nowhere
        return
    seen = set() if seen is None else seen
    if (real := os.path.realpath(path)) in seen or is_corpus(path):
        return
    seen.add(real)
    for entry in sorted(path.iterdir(), key=lambda entry: entry.name):
        if not entry.name.startswith("."):
            yield from walk(entry, seen)


def is_corpus(folder: Path) -> bool:
    """Whether this is a corpus folder of gpt1: its merges.txt is not text to train on."""
    return (folder / MANIFEST).exists() and (folder / DOCUMENTS_FILE).exists()


def corpus_folder_error(folder: str | Path) -> UserError:
    return UserError(f"{folder} is a corpus folder: it is already tokenized.", "Use the texts it was made from.")


def remote_sources(url: str) -> list[Source]:
    """The files of an fsspec URL of a file, a folder or a glob pattern, as those of a local one."""
    try:
        system, path = filesystem(url)
        names, parent = [path], without_query(path).rstrip("/").rpartition("/")[0]
        if system.isdir(path):
            names = visible_files(system.find(path), path)
            if not names and is_remote_corpus(system, path):
                raise corpus_folder_error(url)
        elif glob.has_magic(path):
            parent = "/".join(fixed_parts(path.split("/")))
            names = visible_files(remote_matches(system, path), parent)
            if names != [path]:  # not of a web address with a question mark
                names = outside_corpora(system, names, parent)
            if not names:
                raise UserError(f"no file matches {url}.", "Check the pattern.")
        infos = [system.info(name) for name in names]
    except FileNotFoundError:
        raise not_found_error(url) from None
    except (ImportError, ValueError, OSError) as error:
        raise UserError(f"{url} cannot be read: {error}.", "Check the URL and its permissions.") from None
    files = [(str(info["name"]), int(info.get("size") or 0)) for info in infos if info["type"] == "file"]
    sources = [
        Source(file_url(system, url, path, name), size, kind, shown, len(files) == 1)
        for name, size in files
        for shown in [without_query(name).removeprefix(parent).strip("/")]  # a corpus stores it: no token of the query
        if (kind := document_format(name))
    ]
    if not sources:
        raise no_documents_error(url, [name.rpartition("/")[2] for name, _ in files])
    return sources


def file_url(system: Any, url: str, path: str, name: str) -> str:
    """`url` with the file `name` in place of `path`: it keeps the server, and the archive of a chain."""
    before, link, after = split_chain(url)
    inside = path.strip("/")
    link = link.rstrip("/") if inside else link
    server = link.removesuffix(inside)
    server += "/" if server and not server.endswith("/") else ""
    own = f"{server}{name.strip('/')}" if link.endswith(inside) else system.unstrip_protocol(name)
    return "::".join([*before, own, *after])


def remote_matches(system: Any, pattern: str) -> list[str]:
    """The files that a glob pattern matches, and those below the folders that it matches."""
    found = system.glob(pattern, detail=True)
    folders = [name for name, info in found.items() if info["type"] == "directory"]
    return list({*found, *(name for folder in folders for name in system.find(folder))} - {*folders})


def visible_files(names: Sequence[str], root: str) -> list[str]:
    """The files below `root`, sorted by path, without hidden ones and those of corpus folders (see `walk`)."""
    parts = {name: tuple(name.removeprefix(root).strip("/").split("/")) for name in names}
    known = {*parts.values()}
    corpora = {path[:-1] for path in known if path[-1] == MANIFEST and (*path[:-1], DOCUMENTS_FILE) in known}

    def is_visible(name: str) -> bool:
        path = parts[name]
        return not any(part.startswith(".") or path[:i] in corpora for i, part in enumerate(path))

    return sorted(filter(is_visible, names), key=parts.__getitem__)


def outside_corpora(system: Any, names: Sequence[str], root: str) -> list[str]:
    """The files below `root` that are in no corpus folder: of one, a pattern may match the merges.txt alone."""
    is_known_corpus = cache(partial(is_remote_corpus, system))

    def is_outside(name: str) -> bool:
        folders = name.removeprefix(root).strip("/").split("/")[:-1]
        return not any(is_known_corpus("/".join([root, *folders[:i]])) for i in range(len(folders) + 1))

    return [name for name in names if not document_format(name) or is_outside(name)]


def is_remote_corpus(system: Any, folder: str) -> bool:
    return bool(system.exists(f"{folder}/{MANIFEST}") and system.exists(f"{folder}/{DOCUMENTS_FILE}"))


def document_format(name: str) -> str | None:
    kind, _ = file_format(name)
    return kind if kind in DOCUMENT_FORMATS else None


def no_documents_error(place: str | Path, names: Sequence[str]) -> UserError:
    if not names:
        return UserError(f"{place} is empty.", f"Add text files: {DOCUMENT_EXTENSIONS}.")
    first = ", ".join(names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")
    return UserError(
        f"{place} has no file with a supported extension; found: {first}.", f"Supported: {DOCUMENT_EXTENSIONS}."
    )


def read_source(source: Source) -> Iterator[DocumentPart]:
    """The documents of one file; UserError with file and line for content that does not match its extension."""
    documents = 0
    if not source.size and not source.is_explicit and not is_url(source.path):  # not even the header of its format
        return
    with open_input(source.path) as file:
        for text, boundary in stream_texts(file, source.text_field):
            documents += 1
            yield DocumentPart(text, boundary, file.position())
    if source.is_explicit and not documents:
        raise UserError(f"{source.path} is empty: it has no {'text' if source.format in TEXT_FORMATS else 'rows'}.")


def stream_texts(file: InputFile, field: str) -> Iterator[tuple[str, Boundary]]:
    if file.format in TEXT_FORMATS:
        file.check_is_text()
        yield from split_parts(file.stream.read, file.decode, byte_order_mark=True)
        return
    for number, row in stream_rows(file, column=field):
        text = text_field(file, number, row, field)
        if len(text) <= MAX_PART_BYTES // 4:  # UTF-8: at most four bytes per character
            yield text, "document"
        else:
            yield from split_parts(io.BytesIO(text.encode("utf-8")).read, lambda data, *_: data.decode("utf-8"))


def split_parts(
    read: Callable[[int], bytes], decode: Callable[[bytes, int, int], str], byte_order_mark: bool = False
) -> Iterator[tuple[str, Boundary]]:
    """Parts of at most MAX_PART_BYTES: split at the last newline, else before the last space, else anywhere."""
    boundary: Boundary = "document"
    line, offset = 1, 0  # position of `block` in the file
    block = b""
    while True:
        more = read(MAX_PART_BYTES + 1 - len(block))
        block += more
        if len(block) <= MAX_PART_BYTES and more:
            continue  # a read may return fewer bytes than requested
        if not block:
            if boundary == "line":  # the part before this one ended at the last newline of the document
                yield "\n", "word"
            return
        end, next_boundary, skip = find_split(block) if more else (len(block), "word", 0)
        text = decode(block[:end], line, offset)
        yield text.removeprefix("\ufeff") if byte_order_mark and not offset else text, boundary
        line += block.count(b"\n", 0, end + skip)
        offset += end + skip
        block, boundary = block[end + skip :], next_boundary


def find_split(block: bytes) -> tuple[int, Boundary, int]:
    """(end of the part, what begins after it, bytes between the two)."""
    half = len(block) // 2  # avoids small parts
    if (end := block.rfind(b"\n", half)) > 0:
        return end, "line", 1
    if (end := block.rfind(b" ", half)) > 0:
        return end, "word", 0
    end = len(block) - 1
    while end > 1 and block[end] & 0b1100_0000 == 0b1000_0000:  # inside a UTF-8 character
        end -= 1
    return end, "word", 0
