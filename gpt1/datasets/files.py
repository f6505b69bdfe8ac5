"""Official files as rows: where they lie in a folder, in which of their layouts, and how each format is read."""

from __future__ import annotations

import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from gpt1.errors import UserError, did_you_mean
from gpt1.files.foreign import Fields, check_regular, parse_json, read_bounded
from gpt1.files.reading import COMPRESSIONS, file_format, max_bytes, open_input, raise_limit
from gpt1.tables.rows import row_unit, stream_rows, tsv_cells

LocatedRow: TypeAlias = tuple[str, Mapping[str, Any]]
"""Where a row stands (`RTE/dev.tsv, line 3`), and its cells."""
ColumnMap: TypeAlias = Mapping[str, str | tuple[str, ...]]
"""Our columns ← theirs. Several of theirs are joined by spaces, or make up the list in `choices`."""


@dataclass(frozen=True)
class FileLayout:
    """One layout in which a data set is handed out.

    splits: the files that make up each split, in their order; each may be compressed.
    header: the columns of files that do not name them in their first line.
    format: how the files are read where their ending does not say it: tsv, csv, jsonl, or a folder of documents: race,
        reviews. Such folders are also read out of one of `archives`.
    skip_ragged: lines with too few or too many cells are left out (and told), because the official files have some.
    counts: rows of each split where they are not the data set's.
    """

    splits: Mapping[str, tuple[str, ...]]
    columns: ColumnMap
    header: tuple[str, ...] | None = None
    format: str = ""
    archives: tuple[str, ...] = ()
    skip_ragged: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)

    def find(self, split: str, places: list[Path], mark: str = "") -> list[tuple[str, Path]]:
        """(official name, path) of the split's files (those with `mark` in their names) in the first of `places` that
        has them all, or nothing."""
        names = [name for name in self.splits.get(split, ()) if mark in name]
        for place in places:
            found = [(name, path) for name in names if (path := self.find_file(place, name))]
            if names and len(found) == len(names):
                return found
        return []

    def find_file(self, place: Path, name: str) -> Path | None:
        spellings = (
            [name, *self.archives] if self.archives else [name, *(f"{name}.{ending}" for ending in COMPRESSIONS)]
        )
        return next((place / spelling for spelling in spellings if (place / spelling).exists()), None)

    def rows_by_file(
        self, found: list[tuple[str, Path]], dropped: dict[str, int]
    ) -> list[tuple[str, Iterator[LocatedRow]]]:
        """(official name, rows) of the files that `find` gave; what is left out is counted in `dropped` by reason."""
        if self.format in DOCUMENT_PARSERS:
            return [(name, document_rows(self.format, name, texts)) for name, texts in read_document_folders(found)]
        return [(name, self.rows(path, dropped)) for name, path in found]

    def rows(self, path: Path, dropped: dict[str, int]) -> Iterator[LocatedRow]:
        kind = self.format or file_format(path)[0]
        with open_input(path, kind) as file:
            whole = skip_ragged_rows(tsv_cells(file), dropped) if self.skip_ragged else stream_rows(file, self.header)
            for number, row in whole:
                yield f"{path}, {row_unit(kind)} {number:,}", row


def skip_ragged_rows(
    lines: Iterator[tuple[int, list[str]]], dropped: dict[str, int]
) -> Iterator[tuple[int, dict[str, str]]]:
    _, header = next(lines, (0, []))
    for number, cells in lines:
        if len(cells) == len(header):
            yield number, dict(zip(header, cells, strict=True))
        else:
            reason = "are broken (a text with line breaks)"
            dropped[reason] = dropped.get(reason, 0) + 1


def read_document_folders(found: list[tuple[str, Path]]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(folder, {place: text}) of each folder of documents, by name: its path is that folder, or an archive with it."""
    archives: dict[Path, dict[str, bytes]] = {}  # an archive is read once, whatever the number of its folders
    for folder, path in found:
        if path.is_dir():
            yield folder, {str(file): read_bounded(file) for file in sorted(path.iterdir()) if file.suffix == ".txt"}
            continue
        if path not in archives:
            archives[path] = read_archive(path, tuple(f"/{name}/" for name, its_path in found if its_path == path))
        texts = archives[path]
        inside = {f"{path}: {name}": texts[name] for name in sorted(texts) if f"/{folder}/" in f"/{name}"}
        if not inside:
            raise UserError(f"{path} has no folder {folder}.", "Is it the official archive?")
        yield folder, inside


NUMBERS = (ValueError, OverflowError)  # a size in the header of a member that is none, or is larger than any file


def read_archive(path: Path, folders: tuple[str, ...]) -> dict[str, bytes]:
    """The .txt files below `folders` in a tar archive."""
    texts: dict[str, bytes] = {}
    size, limit = 0, max_bytes()
    check_regular(path)
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                size += max(0, member.size) + 512
                if size > limit:
                    raise UserError(
                        f"{path} holds more than {limit:,} bytes: {member.name[:80]} is one file too many.",
                        raise_limit(limit),
                    )
                inside = member.name.endswith(".txt") and any(folder in f"/{member.name}" for folder in folders)
                if inside and (file := archive.extractfile(member)):
                    texts[member.name] = file.read()
    except (tarfile.TarError, EOFError, OSError, lzma.LZMAError, zlib.error, LookupError, *NUMBERS) as error:
        raise UserError(f"{path} is damaged or cut short ({error}).", "Copy or download it again.") from None
    return texts


def document_rows(format: str, folder: str, texts: Mapping[str, bytes]) -> Iterator[LocatedRow]:
    for place, data in texts.items():
        yield from DOCUMENT_PARSERS[format](place, folder, decode_utf8(place, data))


def decode_utf8(place: str, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{place} is not UTF-8: byte {error.start + 1:,}.", "Copy or download it again.") from None


def race_rows(place: str, folder: str, text: str) -> Iterator[LocatedRow]:
    """One row a question. A passage is a JSON object: article, and for each question its text, options and answer."""
    fix = "It has to be one JSON object with article, and as many questions as options and answers."
    passage = Fields(parse_json(text, place, fix=fix), f"{place} is not a passage of RACE", fix)
    article = passage.get("article", "a text", lambda value: True)  # cells are checked with their question's number
    parts = [passage.items(name, object) for name in ("questions", "options", "answers")]
    if len({len(part) for part in parts}) > 1:
        passage.refuse("it has not as many questions as options and answers")
    for number, (question, options, answer) in enumerate(zip(*parts, strict=True), 1):
        row = {"article": article, "question": question, "options": options, "answer": answer}
        yield f"{place}, question {number}", row


def review_rows(place: str, folder: str, text: str) -> Iterator[LocatedRow]:
    yield place, {"text": text, "folder": folder.rpartition("/")[2]}


DOCUMENT_PARSERS: dict[str, Callable[[str, str, str], Iterator[LocatedRow]]] = {
    "race": race_rows,
    "reviews": review_rows,
}


def candidate_folders(folder: Path, names: tuple[str, ...]) -> list[Path]:
    """Where the files of a data set may lie: in folders of its name (`names`, however written) and their subfolders, in
    `folder` or in its usual homes for data; then in those themselves."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder.", "Name the folder of the official files with --data-dir.")
    roots = [root for root in (folder, *(folder / home for home in DATA_FOLDERS)) if root.is_dir()]
    own = [
        entry
        for root in roots
        for entry in sorted(root.iterdir())
        if entry.is_dir() and matches_name(entry.name, names)
    ]
    if matches_name(folder.resolve().name, names):
        own.insert(0, folder)
    below = [entry for one in own for entry in sorted(one.iterdir()) if entry.is_dir()]
    return [*own, *below, *roots]


DATA_FOLDERS = ("tasks", "data", "data/tasks", "glue_data", "glue", "GLUE")


def matches_name(folder: str, names: tuple[str, ...]) -> bool:
    """Whether a folder's name is one of `names`, but for case and signs, or one of them with an addition after a sign:
    SNLI-devtest is a folder of SNLI, SNLIx is not."""
    plain, first = normalize_name(folder), normalize_name(folder.replace("_", "-").partition("-")[0])
    return any(normalize_name(name) in (plain, first) for name in names)


def normalize_name(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def missing_columns_error(place: str, columns: ColumnMap, present: list[str]) -> UserError | None:
    """The error for a file that lacks a column of `columns`, or None."""
    wanted = [name for theirs in columns.values() for name in ((theirs,) if isinstance(theirs, str) else theirs)]
    absent = next((name for name in wanted if name not in present), None)
    if absent is None:
        return None
    shown = ", ".join(repr(name[:40]) for name in present[:12])
    return UserError(
        f"{place}: there is no column '{absent}'; the columns are: {shown}.{did_you_mean(absent, present)}",
        f"The official file has: {', '.join(wanted)}. Is this the folder of another data set?",
    )
