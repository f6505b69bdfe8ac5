"""Labelled tables: .csv, .tsv, .jsonl and .parquet in and out, each also compressed. rows.py says how each is read.

A table is held in memory: labelled sets are small beside corpora.
"""

from __future__ import annotations

import gzip
import io
import json
import lzma
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from gpt1.errors import UserError, did_you_mean
from gpt1.files.atomic import atomic_file, ensure_writable
from gpt1.files.reading import kind_of, max_bytes, opened, raise_limit
from gpt1.tables.rows import ROW_KINDS, check_columns, size_of, stream_rows, unit

ENDINGS = ", ".join(f".{kind}" for kind in ROW_KINDS) + ", each also as .gz, .xz, .zst"

SAVED_AS = dict.fromkeys(("xlsx", "xls", "ods"), "Save it from the spreadsheet as .csv (in Excel: CSV UTF-8).")
SAVED_AS["json"] = "Write it as .jsonl: one object a line."
QUOTED = re.compile('[",;\r\n]')


@dataclass(frozen=True)
class Table:
    """Rows by column. Cells of .csv and .tsv are strings; .jsonl and .parquet keep their types."""

    name: str
    columns: list[str]
    rows: list[dict[str, Any]]
    numbers: list[int] = field(default_factory=list, repr=False)
    """Where each row stands in its file."""
    unit: str = "row"

    def where(self, i: int) -> str:
        """`reviews.csv, line 12` for row i."""
        return f"{self.name}, {self.unit} {self.numbers[i] if self.numbers else i + 1:,}"

    def __len__(self) -> int:
        return len(self.rows)


def read_table(path: str | Path, *, names: Sequence[str] | None = None, kind: str | None = None) -> Table:
    """The table in a file.

    `names` are the columns of a .csv or .tsv file that has no header; cells beyond them are left out.
    `kind` says how the file is read where its ending does not (GLUE has tab-separated files named .txt and .csv).
    In .jsonl the columns are all fields that occur; a row that lacks one has None there.
    Raises UserError for a file that is missing, empty, not UTF-8 or not of its kind, and for a broken row by its line.
    """
    kind = kind or kind_of(path)[0]
    if kind not in ROW_KINDS:
        if Path(path).is_dir():
            held = any(kind_of(entry)[0] in ROW_KINDS for entry in Path(path).iterdir())
            texts = "Write its texts into one, a row each with its label: .csv, .jsonl."
            raise UserError(f"{path} is a folder, not a table.", f"Name a file in it: {ENDINGS}." if held else texts)
        fix = SAVED_AS.get(kind, f"Tables are read from {ENDINGS}.")
        raise UserError(f"{path} has no ending of a table.", fix)
    rows: list[dict[str, Any]] = []
    numbers = []
    columns: dict[str, None] = {}
    size, limit = 0, max_bytes()
    with opened(path, kind) as file:
        if not file.peek():
            raise UserError(f"{path} is empty.", "Give a file with rows.")
        for number, row in stream_rows(file, names):
            rows.append(row)
            numbers.append(number)
            if len(rows) == 1 or kind == "jsonl":
                columns.update(dict.fromkeys(row))
                check_columns(file, len(columns))
            size += size_of(row) + 64 * (len(columns) - len(row))  # a field that a row lacks is None there
            if size > limit:
                raise too_large(path, number, kind, limit)
    if not rows:
        raise UserError(f"{path} has no rows.", "Give a file with rows below its header.")
    if 64 * len(rows) * len(columns) > limit:
        raise too_large(path, numbers[-1], kind, limit)
    if kind == "jsonl":
        rows = [row if len(row) == len(columns) else dict.fromkeys(columns) | row for row in rows]
    return Table(str(path), list(columns), rows, numbers, unit(kind))


def too_large(path: str | Path, number: int, kind: str, limit: int) -> UserError:
    """The error for a table that needs more memory than the limit when row `number` is read."""
    return UserError(
        f"{path}, {unit(kind)} {number:,}: the rows up to here need more than {limit:,} bytes of memory.",
        f"{raise_limit(limit)}\nOr split the table.",
    )


def no_column(table: str, name: str, columns: Sequence[str], flag: str) -> UserError:
    """The error for a column that is not there: those that are, and the one that was meant. Names that cannot be read
    off a list (outer spaces, commas) are shown in quotes."""
    shown = [repr(one) if one != one.strip() or "," in one else one for one in columns]
    meant = did_you_mean(name, columns).removeprefix(" Did you mean ").removesuffix("?")
    return UserError(
        f"{table} has no column '{name}'; it has: {', '.join(shown)}.",
        f"Did you mean {flag} {shlex.quote(meant)}?" if meant else f"Name the one that is meant with {flag}.",
    )


def write_table(path: str | Path | None, rows: Sequence[Mapping[str, Any]], *, like: str | Path | None = None) -> None:
    """Writes rows to a file, in the format of its ending, all at once; or to standard output, in the format of `like`.

    The columns are all that occur, in the order in which they do. In .csv and .tsv, None is an empty cell and lists are
    JSON. Standard output is never compressed, and is JSON lines where `like` is Parquet.
    """
    kind, compression = kind_of(path if path is not None else like or "rows.csv")
    if path is not None:
        check_output(path)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if path is None:
        kind = "jsonl" if kind == "parquet" or kind not in ROW_KINDS else kind
        data = io.BytesIO()
        write_rows(data, kind, columns, rows)
        sys.stdout.flush()
        sys.stdout.buffer.write(data.getvalue())
        sys.stdout.flush()
        return
    with atomic_file(Path(path)) as file, compressed(file, compression) as stream:
        write_rows(stream, kind, columns, rows)


def check_output(path: str | Path) -> None:
    """UserError unless `write_table` can write to `path`; to be asked before the work whose result it takes."""
    if kind_of(path)[0] not in ROW_KINDS:
        raise UserError(f"{path} has no ending of a table.", f"Tables are written to {ENDINGS}.")
    if Path(path).is_dir():
        raise UserError(f"{path} is a folder.", "Name a file in it.")
    ensure_writable(Path(path).absolute().parent)


def write_rows(stream: IO[bytes], kind: str, columns: list[str], rows: Sequence[Mapping[str, Any]]) -> None:
    if kind == "parquet":
        write_parquet(stream, columns, rows)
        return
    text = io.TextIOWrapper(cast(Any, stream), encoding="utf-8", newline="", write_through=True)
    if kind == "jsonl":
        text.writelines(json.dumps(dict(row), ensure_ascii=False, default=plain) + "\n" for row in rows)
    else:
        line = csv_line if kind == "csv" else tsv_line
        text.write(line(columns, 0))
        text.writelines(line([cell(row.get(name)) for name in columns], i) for i, row in enumerate(rows, 1))
    text.detach()


@contextmanager
def compressed(file: IO[bytes], compression: str) -> Iterator[IO[bytes]]:
    if compression == "zst":
        import zstandard

        with zstandard.ZstdCompressor().stream_writer(file, closefd=False) as stream:
            yield stream
    elif compression == "gz":  # no name and no time inside: the same rows give the same bytes
        with gzip.GzipFile("", "wb", fileobj=cast(Any, file), mtime=0) as stream:
            yield cast(IO[bytes], stream)
    elif compression == "xz":
        with lzma.LZMAFile(file, "wb") as stream:
            yield cast(IO[bytes], stream)
    else:
        with nullcontext(file) as stream:
            yield stream


def cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=plain) if isinstance(value, list | dict) else str(plain(value))


def plain(value: Any) -> Any:
    """A NumPy number as Python's, anything else (dates out of Parquet) as text."""
    if hasattr(value, "item"):
        return value.item()
    return value if isinstance(value, int | float) else str(value)


def csv_line(cells: list[str], i: int) -> str:
    """Not csv.writer: Python 3.11's leaves a lone carriage return unquoted, and its reader then refuses the line."""
    quoted = ['"' + text.replace('"', '""') + '"' if QUOTED.search(text) else text for text in cells]
    return (",".join(quoted) or '""') + "\n"  # a line without a character would be no row


def tsv_line(cells: list[str], i: int) -> str:
    line = "\t".join(cells)
    if "\n" in line or "\r" in line or line.count("\t") >= len(cells) or not line:
        what = f"row {i:,}" if i else "the header"
        rule = "a cell holds a tab or a line break" if line else "it is empty"
        raise UserError(f"{what} does not fit in .tsv: {rule}.", "Write .csv or .jsonl instead.")
    return line + "\n"


def write_parquet(stream: IO[bytes], columns: list[str], rows: Sequence[Mapping[str, Any]]) -> None:
    import pyarrow
    from pyarrow import parquet

    data = io.BytesIO()
    try:
        parquet.write_table(pyarrow.table({name: [row.get(name) for row in rows] for name in columns}), data)
    except pyarrow.ArrowException as error:
        raise UserError(
            f"the rows do not fit in .parquet: {str(error).splitlines()[0]}.", "Write .jsonl instead."
        ) from None
    stream.write(data.getbuffer())
