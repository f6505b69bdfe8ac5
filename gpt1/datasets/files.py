"""Rows of the official files: find them in a folder in one of their layouts, and read each format."""

from __future__ import annotations

import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from gpt1.errors import UserError, did_you_mean
from gpt1.files.decompression import max_bytes, raise_limit
from gpt1.files.foreign import Fields, check_regular, parse_json, read_bounded
from gpt1.files.reading import COMPRESSIONS, InputFile, file_format, open_input
from gpt1.tables.rows import row_unit, stream_rows, tsv_cells

LocatedRow: TypeAlias = tuple[str, Mapping[str, Any]]
"""The location of a row (`RTE/dev.tsv, line 3`) and its cells."""
ColumnMap: TypeAlias = Mapping[str, str | tuple[str, ...]]
"""gpt1's column → official columns. Several are joined by spaces, or form the list `choices`."""


@dataclass(frozen=True)
class FileLayout:
    """One official layout of a data set's files.

    Attributes:
        splits: The files of each split, in order; each may be compressed.
        columns: gpt1's columns and the official ones.
        header: Column names of files without a header.
        format: tsv, csv or jsonl if the extension is misleading, or a folder of documents: race, reviews.
        archives: Archives that may contain the files or the folders of documents.
        skip_ragged: Skip (and count) lines with too few or too many cells, because the official files have some.
        counts: Rows of each split if they differ from the data set's.
        constants: Official columns that the files lack: every row has the same value.
    """

    splits: Mapping[str, tuple[str, ...]]
    columns: ColumnMap
    header: tuple[str, ...] | None = None
    format: str = ""
    archives: tuple[str, ...] = ()
    skip_ragged: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)
    constants: Mapping[str, str] = field(default_factory=dict)

    def find(self, split: str, folders: list[Path], marker: str = "") -> list[tuple[str, Path]]:
        """(official name, path) of the split's files with `marker` in their names.

        The result is from the first folder that contains all of them; it is empty if there is none.
        """
        names = [name for name in self.splits.get(split, ()) if marker in name]
        for folder in folders:
            found = [(name, path) for name in names if (path := self.find_file(folder, name))]
            if names and len(found) == len(names):
                return found
        return []

    def find_file(self, folder: Path, name: str) -> Path | None:
        alternatives = self.archives or [f"{name}.{extension}" for extension in COMPRESSIONS]
        return next((path for path in (folder / option for option in (name, *alternatives)) if path.exists()), None)

    def rows_by_file(
        self, found: list[tuple[str, Path]], dropped: dict[str, int]
    ) -> list[tuple[str, Iterator[LocatedRow]]]:
        """(official name, rows) of the files from `find`; skipped rows are counted in `dropped` by reason."""
        if self.format in DOCUMENT_PARSERS:
            return [(name, document_rows(self.format, name, texts)) for name, texts in read_document_folders(found)]
        archives = {path: [name for name, other in found if other == path] for _, path in found}
        members = {path: read_files(path, names) for path, names in archives.items() if path.name in self.archives}
        return [
            (name, self.rows(members[path][name], dropped) if path in members else self.rows_at(path, dropped))
            for name, path in found
        ]

    def rows_at(self, path: Path, dropped: dict[str, int]) -> Iterator[LocatedRow]:
        with open_input(path, self.format or None) as file:
            yield from self.rows(file, dropped)

    def rows(self, file: InputFile, dropped: dict[str, int]) -> Iterator[LocatedRow]:
        rows = skip_ragged_rows(tsv_cells(file), dropped) if self.skip_ragged else stream_rows(file, self.header)
        for number, row in rows:
            yield f"{file.name}, {row_unit(file.format)} {number:,}", {**row, **self.constants}


def skip_ragged_rows(
    lines: Iterator[tuple[int, list[str]]], dropped: dict[str, int]
) -> Iterator[tuple[int, dict[str, str]]]:
    _, header = next(lines, (0, []))
    for number, cells in lines:
        if len(cells) == len(header):
            yield number, dict(zip(header, cells, strict=True))
        else:
            reason = "are malformed (line breaks in a text)"
            dropped[reason] = dropped.get(reason, 0) + 1


def read_document_folders(found: list[tuple[str, Path]]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(folder name, {location: text}) of each folder of documents; its path is that folder or an archive."""
    archives: dict[Path, dict[str, bytes]] = {}  # each archive is read only once
    for folder, path in found:
        if path.is_dir():
            yield folder, {str(file): read_bounded(file) for file in sorted(path.iterdir()) if file.suffix == ".txt"}
            continue
        if path not in archives:
            archives[path] = read_archive(path, is_document_in([name for name, other in found if other == path]))
        texts = archives[path]
        inside = {f"{path}: {name}": texts[name] for name in sorted(texts) if f"/{folder}/" in f"/{name}"}
        if not inside:
            raise UserError(f"{path} has no folder {folder}.", "Check that it is the official archive.")
        yield folder, inside


def is_document_in(folders: list[str]) -> Callable[[str], bool]:
    return lambda member: member.endswith(".txt") and any(f"/{folder}/" in member for folder in folders)


NUMBERS = (ValueError, OverflowError)  # the size in the header of a member is not a number, or too large


def read_files(path: Path, names: list[str]) -> dict[str, InputFile]:
    """The files of a tar archive by their official names."""
    members = read_archive(path, lambda member: any(member.endswith(f"/{name}") for name in names))
    files: dict[str, InputFile] = {}
    for name in names:
        member = next((member for member in members if f"/{member}".endswith(f"/{name}")), None)
        if member is None:
            raise UserError(f"{path} has no file {name}.", "Check that it is the official archive.")
        stream = io.BufferedReader(io.BytesIO(members[member]))
        files[name] = InputFile(f"{path}: {member}", file_format(member)[0], stream, stream, len(members[member]))
    return files


def read_archive(path: Path, is_wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """The files of a tar archive whose `/path/in/it` is wanted."""
    texts: dict[str, bytes] = {}
    size, limit = 0, max_bytes()
    check_regular(path)
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                size += max(0, member.size) + 512
                if size > limit:
                    raise UserError(
                        f"{path} contains more than {limit:,} bytes: the limit is reached at {member.name[:80]}.",
                        raise_limit(limit),
                    )
                if is_wanted(f"/{member.name}") and (file := archive.extractfile(member)):
                    texts[member.name] = file.read()
    except (tarfile.TarError, EOFError, OSError, lzma.LZMAError, zlib.error, LookupError, *NUMBERS) as error:
        raise UserError(f"{path} is damaged or truncated ({error}).", "Copy or download it again.") from None
    return texts


def document_rows(format: str, folder: str, texts: Mapping[str, bytes]) -> Iterator[LocatedRow]:
    for location, data in texts.items():
        yield from DOCUMENT_PARSERS[format](location, folder, decode_utf8(location, data))


def decode_utf8(location: str, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{location} is not UTF-8: byte {error.start + 1:,}.", "Copy or download it again.") from None


def race_rows(location: str, folder: str, text: str) -> Iterator[LocatedRow]:
    """One row per question. A passage is a JSON object: article, and for each question its text, options and answer."""
    fix = "Expected one JSON object with an article and equal numbers of questions, options and answers."
    passage = Fields(parse_json(text, location, fix=fix), f"{location} is not a passage of RACE", fix)
    article = passage.get("article", "a text", lambda value: True)  # convert_cell checks the type, for each question
    parts = [passage.items(name, object) for name in ("questions", "options", "answers")]
    if len({len(part) for part in parts}) > 1:
        passage.refuse("the numbers of questions, options and answers differ")
    for number, (question, options, answer) in enumerate(zip(*parts, strict=True), 1):
        row = {"article": article, "question": question, "options": options, "answer": answer}
        yield f"{location}, question {number}", row


def review_rows(location: str, folder: str, text: str) -> Iterator[LocatedRow]:
    yield location, {"text": text, "folder": folder.rpartition("/")[2]}


DOCUMENT_PARSERS: dict[str, Callable[[str, str, str], Iterator[LocatedRow]]] = {
    "race": race_rows,
    "reviews": review_rows,
}


def candidate_folders(folder: Path, names: tuple[str, ...]) -> list[Path]:
    """Folders that may contain the files of a data set.

    These are folders named like the data set in `folder` or in one of its DATA_FOLDERS, then their subfolders, then
    `folder` and its DATA_FOLDERS themselves.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder.", "Set the folder of the official files with --data-dir.")
    roots = [root for root in (folder, *(folder / name for name in DATA_FOLDERS)) if root.is_dir()]
    named = [
        entry
        for root in roots
        for entry in sorted(root.iterdir())
        if entry.is_dir() and matches_name(entry.name, names)
    ]
    if matches_name(folder.resolve().name, names):
        named.insert(0, folder)
    subfolders = [entry for parent in named for entry in sorted(parent.iterdir()) if entry.is_dir()]
    return [*named, *subfolders, *roots]


DATA_FOLDERS = ("tasks", "data", "data/tasks", "glue_data", "glue", "GLUE")


def matches_name(folder: str, names: tuple[str, ...]) -> bool:
    """Whether a folder has one of `names`, ignoring case and punctuation, or one with a suffix after - or _.

    SNLI-devtest is a folder of SNLI, SNLIx is not.
    """
    whole, first = normalize_name(folder), normalize_name(folder.replace("_", "-").partition("-")[0])
    return any(normalize_name(name) in (whole, first) for name in names)


def normalize_name(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def missing_columns_error(location: str, columns: ColumnMap, present: list[str]) -> UserError | None:
    """The error for a file without one of `columns`, or None."""
    required = [name for theirs in columns.values() for name in ((theirs,) if isinstance(theirs, str) else theirs)]
    missing = next((name for name in required if name not in present), None)
    if missing is None:
        return None
    names = ", ".join(repr(name[:40]) for name in present[:12])
    return UserError(
        f"{location}: no column '{missing}'. Columns: {names}.{did_you_mean(missing, present)}",
        f"The official file has: {', '.join(required)}. Check that this is the folder of the right data set.",
    )
