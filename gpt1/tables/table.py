"""Labeled tables: read .csv, .tsv, .jsonl, .parquet, .json and .xlsx, also compressed; write the first four.

rows.py and whole_files.py describe the formats.

A `Table` is in memory, because labeled data is small compared to corpora. `read_blocks` reads tables of any length.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Self

from gpt1.errors import UserError, closest_name
from gpt1.files.atomic import ensure_writable
from gpt1.files.decompression import max_bytes, raise_limit
from gpt1.files.foreign import check_regular
from gpt1.files.reading import file_format, is_url, open_input
from gpt1.formatting import shell_quote
from gpt1.tables.rows import (
    INPUT_FORMATS,
    SPREADSHEETS,
    TABLE_FORMATS,
    check_column_count,
    row_memory,
    row_unit,
    stream_rows,
)
from gpt1.tables.writer import table_writer

OUTPUT_EXTENSIONS = ", ".join(f".{kind}" for kind in TABLE_FORMATS) + ", each also as .gz, .xz, .zst"
TABLE_EXTENSIONS = ", ".join(f".{kind}" for kind in INPUT_FORMATS) + ", each also as .gz, .xz, .zst"

BLOCK_ROWS, BLOCK_BYTES = 4096, 2**23
"""A block of rows ends when it reaches one of these."""


@dataclass(frozen=True)
class Table:
    """Rows by column. Cells of .csv and .tsv are strings; .jsonl and .parquet keep their types."""

    name: str
    columns: list[str]
    rows: list[dict[str, Any]]
    row_numbers: list[int] = field(default_factory=list, repr=False)
    """Number of each row in its file, counted in `unit`s. Empty: they count from 1, from 0 for `position`."""
    unit: str = "row"
    delimiter: str = ""
    """Delimiter of its file, for .csv and .tsv."""

    def locate_row(self, i: int) -> str:
        """The place of row i in its file, such as `reviews.csv, line 12`."""
        return (
            f"{self.name}, {self.unit} {self.row_numbers[i] if self.row_numbers else i + (self.unit != 'position'):,}"
        )

    def select(self, positions: Sequence[int]) -> Self:
        """The rows at these positions, which keep their numbers."""
        first = 0 if self.unit == "position" else 1
        numbers = [self.row_numbers[i] if self.row_numbers else first + i for i in positions]
        return replace(self, rows=[self.rows[i] for i in positions], row_numbers=numbers)

    def __len__(self) -> int:
        return len(self.rows)


def read_table(path: str | Path, *, name: str | None = None) -> Table:
    """Read a table into memory.

    Args:
        path: A file or fsspec URL. In .jsonl the columns are all fields that occur; missing values become None.
        name: Its name in messages, if it is not the path.

    Raises:
        UserError: If the file is missing, empty, too large, not UTF-8 or not in its format, or a row is invalid.
    """
    format = table_format(path)
    rows: list[dict[str, Any]] = []
    numbers: list[int] = []
    columns: dict[str, None] = {}
    size, limit, delimiter = 0, max_bytes(), ""
    name = name or str(path)
    for block in read_blocks(path, name=name):
        columns, delimiter = columns | dict.fromkeys(block.columns), block.delimiter
        check_column_count(name, len(columns))
        size += sum(map(row_memory, block.rows))
        rows += block.rows
        numbers += block.row_numbers
        if size > limit or 64 * len(rows) * len(columns) > limit:  # missing fields become None
            raise table_too_large_error(name, numbers[-1], format, limit)
    return fill_missing(Table(name, list(columns), rows, numbers, row_unit(format), delimiter), columns)


def table_format(path: str | Path) -> str:
    """The format by the extension of `path`; UserError if it is not a table format."""
    format = file_format(path)[0]
    if format not in INPUT_FORMATS:
        if Path(path).is_dir():
            has_tables = any(file_format(entry)[0] in TABLE_FORMATS for entry in Path(path).iterdir())
            fix = f"Use a file in it: {TABLE_EXTENSIONS}."
            if not has_tables:
                fix = "Write its texts to a .csv or .jsonl file with one row per text and a label column."
            raise UserError(f"{path} is a folder, not a table.", fix)
        if not is_url(path) and Path(path).exists():
            check_regular(path)
        fix = f"Supported: {TABLE_EXTENSIONS}."
        if format in SPREADSHEETS:
            fix = "Save it as .xlsx or .csv in the spreadsheet (Excel: CSV UTF-8)."
        raise UserError(f"{path} has no supported table extension.", fix)
    return format


def read_blocks(
    path: str | Path, *, name: str | None = None, advance: Callable[[int], None] | None = None
) -> Iterator[Table]:
    """Read a table in blocks of bounded memory; otherwise like `read_table`.

    In .jsonl the columns of a block are those that occur in it.

    Args:
        advance: Called after each block with the bytes of the file read so far.
    """
    format, name = table_format(path), name or str(path)
    with open_input(path, format, name) as file:
        if not file.peek():
            raise UserError(f"{name} is empty.", "Use a file with rows.")
        rows: list[dict[str, Any]] = []
        numbers: list[int] = []
        block_bytes, n = 0, 0

        def block() -> Table:
            names = (name for row in rows for name in row) if format in ("json", "jsonl") else rows[0]
            columns = list(dict.fromkeys(names))
            return Table(name, columns, rows, numbers, row_unit(format), file.delimiter)

        for number, row in stream_rows(file):
            rows.append(row)
            numbers.append(number)
            block_bytes += row_memory(row)
            n += 1
            if len(rows) == BLOCK_ROWS or block_bytes >= BLOCK_BYTES:
                yield block()
                rows, numbers, block_bytes = [], [], 0
                if advance:
                    advance(file.position())
        if rows:
            yield block()
    if not n:
        raise UserError(f"{name} has no rows.", "Use a file with rows below its header.")


def fill_missing(table: Table, columns: Iterable[str]) -> Table:
    """`table` with all of `columns` in every row; missing values are None."""
    full = dict.fromkeys(columns)
    if all(len(row) == len(full) for row in table.rows):
        return table
    return replace(table, columns=list(full), rows=[full | row for row in table.rows])


def table_too_large_error(path: str | Path, number: int, format: str, limit: int) -> UserError:
    """The error for a table that exceeds the memory limit at row `number`."""
    return UserError(
        f"{path}, {row_unit(format)} {number:,}: the rows up to here need more than {limit:,} bytes of memory.",
        f"{raise_limit(limit)}\nOr split the table.",
    )


def missing_column_error(
    table: str,
    missing: Mapping[str, str],
    columns: Sequence[str],
    delimiter: str = "",
    likely: Mapping[str, str] | None = None,
) -> UserError:
    """The error for missing columns, with the existing ones and the closest ones.

    Args:
        table: Its name.
        missing: Column -> the flag that chooses another one. Without a flag the column has to be renamed.
        columns: The existing columns. Names that would be ambiguous in a list (outer spaces, commas) are in quotes.
        delimiter: Delimiter of the file; shown unless it is a comma between several columns.
        likely: Flag -> the column that is probably meant, if no name is similar.
    """
    names = [repr(column) if column != column.strip() or "," in column else column for column in columns]
    split = {"": "", "\t": " (delimiter: tab)"}.get(delimiter, f" (delimiter: {delimiter})")
    split = "" if delimiter == "," and len(columns) > 1 else split
    what = " and ".join(f"'{name}'" for name in missing)
    problem = f"{table} has no column{'s' * (len(missing) > 1)} {what}. Columns{split}: {', '.join(names)}."
    flags, others = [], []
    for name, flag in missing.items():
        closest = closest_name(name, columns)
        if not flag:
            other = closest or (columns[0] if len(columns) == 1 else "")
            fix = f"Rename {other!r} to {name!r}." if other else f"Give the column with this input the name {name!r}."
            return UserError(problem, fix)
        if other := closest or (likely or {}).get(flag, ""):
            flags.append(f"{flag} {shell_quote(other)}")
        else:
            others.append(flag)
    fixes = [f"Did you mean {' '.join(flags)}?"] * bool(flags)
    return UserError(problem, " ".join([*fixes, *(f"Choose one of them with {flag}." for flag in others)]))


def write_table(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows to a file atomically; its extension is the format.

    The columns are those that occur in the rows, in order of appearance. In .csv and .tsv, None is an empty cell and
    lists are JSON.
    """
    check_table_output(path)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with table_writer(path, columns) as writer:
        writer.write(rows)


def check_table_output(
    path: str | Path, overwrite: bool = True, source: str | Path = "", written: Sequence[str] = ()
) -> None:
    """UserError unless `write_table` can write to `path`, which is not the file `source` that is read.

    Call it before the work whose result is written. A file is replaced only if it has one of the columns `written`,
    which gpt1 adds to a table: the name of another table, such as the training rows, is a mistake.
    """
    if os.path.exists(source) and os.path.exists(path) and os.path.samefile(path, source):
        raise UserError(f"--out {path} is also the input table.", "Choose another --out.")
    if file_format(path)[0] not in TABLE_FORMATS:
        raise UserError(f"{path} has no supported table extension.", f"Supported: {OUTPUT_EXTENSIONS}.")
    if Path(path).is_dir():
        raise UserError(f"{path} is a folder.", "Use the path of a file in that folder.")
    if Path(path).exists() and not overwrite:
        raise UserError(f"{path} exists.", "Choose another --out, or replace it with --overwrite.")
    if written and Path(path).exists() and not has_any_column(path, written):
        problem = f"--overwrite replaces only what gpt1 wrote, and {path} has no column {' or '.join(written)}."
        raise UserError(problem, "Choose another --out, or delete the file.")
    ensure_writable(Path(path).absolute().parent)


def has_any_column(path: str | Path, columns: Sequence[str]) -> bool:
    """Whether a table has one of the columns, or is an empty file; no if it cannot be read."""
    if not os.path.getsize(path):
        return True
    with suppress(UserError):
        return any(name in block.columns for block in islice(read_blocks(path), 1) for name in columns)
    return False
