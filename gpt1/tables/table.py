"""Labelled tables: .csv, .tsv, .jsonl and .parquet in and out, each also compressed. rows.py says how each is read.

A `ResultTable` is held in memory: labelled sets are small beside corpora. `read_blocks` is for those of any length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gpt1.errors import UserError, did_you_mean
from gpt1.files.atomic import ensure_writable
from gpt1.files.reading import file_format, max_bytes, open_input, raise_limit
from gpt1.formatting import shell_quote
from gpt1.tables.rows import TABLE_FORMATS, check_columns, row_unit, size_of, stream_rows
from gpt1.tables.writer import table_writer

TABLE_EXTENSIONS = ", ".join(f".{kind}" for kind in TABLE_FORMATS) + ", each also as .gz, .xz, .zst"

CONVERSION_HINTS = dict.fromkeys(("xlsx", "xls", "ods"), "Save it from the spreadsheet as .csv (in Excel: CSV UTF-8).")
CONVERSION_HINTS["json"] = "Write it as .jsonl: one object a line."
BLOCK_ROWS, BLOCK_BYTES = 4096, 2**23
"""A block of rows ends with the first of these that is reached."""


@dataclass(frozen=True)
class Table:
    """Rows by column. Cells of .csv and .tsv are strings; .jsonl and .parquet keep their types."""

    name: str
    columns: list[str]
    rows: list[dict[str, Any]]
    row_numbers: list[int] = field(default_factory=list, repr=False)
    """Where each row stands in its file."""
    unit: str = "row"

    def locate_row(self, i: int) -> str:
        """`reviews.csv, line 12` for row i."""
        return f"{self.name}, {self.unit} {self.row_numbers[i] if self.row_numbers else i + 1:,}"

    def __len__(self) -> int:
        return len(self.rows)


def read_table(path: str | Path, *, column_names: Sequence[str] | None = None, format: str | None = None) -> Table:
    """The table in a file.

    `column_names` are the columns of a .csv or .tsv file that has no header; cells beyond them are left out.
    `format` says how the file is read where its ending does not (GLUE has tab-separated files named .txt and .csv).
    In .jsonl the columns are all fields that occur; a row that lacks one has None there.
    Raises UserError for a file that is missing, empty, not UTF-8 or not of its kind, and for a broken row by its line.
    """
    format = table_kind(path, format)
    rows: list[dict[str, Any]] = []
    numbers: list[int] = []
    columns: dict[str, None] = {}
    size, limit = 0, max_bytes()
    for block in read_blocks(path, names=column_names, kind=format):
        columns |= dict.fromkeys(block.columns)
        check_columns(str(path), len(columns))
        size += sum(map(size_of, block.rows))
        rows += block.rows
        numbers += block.row_numbers
        if size > limit or 64 * len(rows) * len(columns) > limit:  # a field that a row lacks is None there
            raise too_large(path, numbers[-1], format, limit)
    return padded(Table(str(path), list(columns), rows, numbers, row_unit(format)), columns)


def table_kind(path: str | Path, kind: str | None = None) -> str:
    """How the table at `path` is read: as `kind`, or by its ending; UserError where that is none of a table."""
    kind = kind or file_format(path)[0]
    if kind not in TABLE_FORMATS:
        if Path(path).is_dir():
            held = any(file_format(entry)[0] in TABLE_FORMATS for entry in Path(path).iterdir())
            texts = "Write its texts into one, a row each with its label: .csv, .jsonl."
            raise UserError(
                f"{path} is a folder, not a table.", f"Name a file in it: {TABLE_EXTENSIONS}." if held else texts
            )
        fix = CONVERSION_HINTS.get(kind, f"Tables are read from {TABLE_EXTENSIONS}.")
        raise UserError(f"{path} has no ending of a table.", fix)
    return kind


def read_blocks(
    path: str | Path,
    *,
    names: Sequence[str] | None = None,
    kind: str | None = None,
    advance: Callable[[int], None] | None = None,
) -> Iterator[Table]:
    """The table in a file, in blocks that take bounded memory; otherwise as `read_table`.

    In .jsonl the columns of a block are those that occur in it. `advance` gets the bytes of the file behind a block.
    """
    kind = table_kind(path, kind)
    with open_input(path, kind) as file:
        if not file.peek():
            raise UserError(f"{path} is empty.", "Give a file with rows.")
        rows: list[dict[str, Any]] = []
        numbers: list[int] = []
        held, n = 0, 0

        def block() -> Table:
            columns = list(dict.fromkeys(name for row in rows for name in row)) if kind == "jsonl" else list(rows[0])
            return Table(str(path), columns, rows, numbers, row_unit(kind))

        for number, row in stream_rows(file, names):
            rows.append(row)
            numbers.append(number)
            held += size_of(row)
            n += 1
            if len(rows) == BLOCK_ROWS or held >= BLOCK_BYTES:
                yield block()
                rows, numbers, held = [], [], 0
                if advance:
                    advance(file.position())
        if rows:
            yield block()
    if not n:
        raise UserError(f"{path} has no rows.", "Give a file with rows below its header.")


def padded(table: Table, columns: Iterable[str]) -> Table:
    """`table` with all of `columns` in every row, None where a row has nothing there."""
    full = dict.fromkeys(columns)
    if all(len(row) == len(full) for row in table.rows):
        return table
    return replace(table, columns=list(full), rows=[full | row for row in table.rows])


def too_large(path: str | Path, number: int, kind: str, limit: int) -> UserError:
    """The error for a table that needs more memory than the limit when row `number` is read."""
    return UserError(
        f"{path}, {row_unit(kind)} {number:,}: the rows up to here need more than {limit:,} bytes of memory.",
        f"{raise_limit(limit)}\nOr split the table.",
    )


def missing_column_error(table: str, name: str, columns: Sequence[str], flag: str) -> UserError:
    """The error for a column that is not there: those that are, and the one that was meant. Names that cannot be read
    off a list (outer spaces, commas) are shown in quotes."""
    shown = [repr(one) if one != one.strip() or "," in one else one for one in columns]
    meant = did_you_mean(name, columns).removeprefix(" Did you mean ").removesuffix("?")
    return UserError(
        f"{table} has no column '{name}'; it has: {', '.join(shown)}.",
        f"Did you mean {flag} {shell_quote(meant)}?" if meant else f"Name the one that is meant with {flag}.",
    )


def write_table(
    path: str | Path | None, rows: Sequence[Mapping[str, Any]], *, format_of: str | Path | None = None
) -> None:
    """Writes rows to a file, in the format of its ending, all at once; or to standard output, in the format of `format_of`.

    The columns are all that occur, in the order in which they do. In .csv and .tsv, None is an empty cell and lists are
    JSON. Standard output is never compressed, and is JSON lines where `format_of` is Parquet.
    """
    if path is not None:
        check_table_output(path)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with table_writer(path, columns, like=format_of) as writer:
        writer.write(rows)


def check_table_output(path: str | Path) -> None:
    """UserError unless `write_table` can write to `path`; to be asked before the work whose result it takes."""
    if file_format(path)[0] not in TABLE_FORMATS:
        raise UserError(f"{path} has no ending of a table.", f"Tables are written to {TABLE_EXTENSIONS}.")
    if Path(path).is_dir():
        raise UserError(f"{path} is a folder.", "Name a file in it.")
    ensure_writable(Path(path).absolute().parent)
