"""Write tables in blocks, so that a table of any length needs the memory of one block."""

from __future__ import annotations

import gzip
import json
import lzma
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any, cast

from gpt1.errors import UserError
from gpt1.files.atomic import atomic_file
from gpt1.files.reading import file_format
from gpt1.formatting import escape_controls, printable_json
from gpt1.tables.cells import cell_to_show, plain_value

NEEDS_QUOTES = re.compile('[",;\t\r\n]')
FORMULA_START = re.compile("[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
"""First characters of cells that a spreadsheet interprets as formulas (OWASP, CSV injection)."""
NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")

Rows = Sequence[Mapping[str, Any]]


PIPE_FORMATS = {"csv": "csv", "tsv": "tsv", "xlsx": "csv"}


def output_kind(path: str | Path | None, like: str | Path | None = None) -> str:
    """The format of a file by its extension; for standard output that of `like`, or JSON lines if it has types."""
    if path is not None:
        return file_format(path)[0]
    return PIPE_FORMATS.get(file_format(like or "rows.csv")[0], "jsonl")


def csv_delimiter(source: str | Path, delimiter: str) -> str:
    """The delimiter of a .csv file made from a table: that of the table, if it is one that is detected in .csv."""
    return delimiter if delimiter == ";" or (delimiter == "\t" and file_format(source)[0] == "csv") else ","


@contextmanager
def table_writer(
    path: str | Path | None,
    columns: Sequence[str],
    *,
    like: str | Path | None = None,
    excel_safe: bool = False,
    schema: Any = None,
    delimiter: str = ",",
) -> Iterator[TableWriter]:
    """A writer to a file, which is created atomically at the end, or to standard output, block by block.

    Args:
        path: The file; its extension is the format. None: standard output, in the format of `like`, not compressed.
        columns: The columns of .csv, .tsv and .parquet, in this order.
        excel_safe: Put an apostrophe before cells of .csv and .tsv that a spreadsheet would interpret as formulas.
        schema: Parquet schema; by default that of the first rows.
        delimiter: Of .csv.
    """
    kind = output_kind(path, like)
    if path is None:
        sys.stdout.flush()
        with TableWriter(
            sys.stdout.buffer, kind, columns, excel_safe, schema, sys.stdout.isatty(), delimiter
        ) as writer:
            yield writer
        sys.stdout.flush()
        return
    with (
        atomic_file(Path(path)) as file,
        compress_stream(file, file_format(path)[1]) as stream,
        TableWriter(stream, kind, columns, excel_safe, schema, delimiter=delimiter) as writer,
    ):
        yield writer


class TableWriter:
    """Writes rows to a stream. In .csv and .tsv, None is an empty cell and lists are JSON.

    Attributes:
        formulas: Number of cells written so far that a spreadsheet would interpret as formulas.
    """

    def __init__(
        self,
        stream: IO[bytes],
        kind: str,
        columns: Sequence[str],
        excel_safe: bool = False,
        schema: Any = None,
        terminal: bool = False,
        delimiter: str = ",",
    ) -> None:
        self.stream, self.kind, self.columns = stream, kind, list(columns)
        self.excel_safe, self.schema, self.terminal, self.delimiter = excel_safe, schema, terminal, delimiter
        self.rows = self.formulas = 0
        self.parquet: Any = None

    def __enter__(self) -> TableWriter:
        if self.kind in ("csv", "tsv"):
            self.write_text(self.line(self.columns))
        return self

    def __exit__(self, *_: object) -> None:
        if self.parquet:
            self.parquet.close()

    def write(self, rows: Rows) -> None:
        if self.kind == "parquet":
            self.write_parquet(rows)
        elif self.kind == "jsonl":
            lines = [json.dumps(dict(row), ensure_ascii=False, default=to_json_value) + "\n" for row in rows]
            self.write_text("".join(lines))
        else:
            lines = []
            for row in rows:
                self.rows += 1
                lines.append(self.line([format_cell(row.get(name)) for name in self.columns]))
            self.write_text("".join(lines))

    def line(self, cells: Sequence[str]) -> str:
        formulas = [i for i, text in enumerate(cells) if is_formula(text)]
        self.formulas += len(formulas)
        if self.excel_safe and formulas:
            cells = [f"'{text}" if i in formulas else text for i, text in enumerate(cells)]
        return csv_line(cells, self.delimiter) if self.kind == "csv" else tsv_line(cells, self.rows)

    def write_text(self, text: str) -> None:
        if self.terminal:  # cells must not send escape sequences
            text = printable_json(text) if self.kind == "jsonl" else escape_controls(text)
        self.stream.write(text.encode())
        if self.terminal:
            self.stream.flush()

    def write_parquet(self, rows: Rows) -> None:
        import pyarrow
        from pyarrow import parquet

        with parquet_errors():
            values = {name: [row.get(name) for row in rows] for name in self.columns}
            table = pyarrow.table(values, schema=self.schema)
            if self.parquet is None:
                self.schema = table.schema
                self.parquet = parquet.ParquetWriter(self.stream, self.schema)
            self.parquet.write_table(table)


@contextmanager
def parquet_errors() -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OverflowError) as error:
        raise UserError(
            f"the rows cannot be written as .parquet: {str(error).splitlines()[0]}.", "Use .jsonl instead."
        ) from None


def merge_schema(schema: Any, columns: Sequence[str], rows: Rows) -> Any:
    """The Parquet schema for both `schema` (None: nothing yet) and these rows.

    Raises:
        UserError: If a column has values of incompatible types.
    """
    import pyarrow

    with parquet_errors():
        new = pyarrow.table({name: [row.get(name) for row in rows] for name in columns}).schema
        return new if schema is None else pyarrow.unify_schemas([schema, new], promote_options="permissive")


@contextmanager
def compress_stream(file: IO[bytes], compression: str) -> Iterator[IO[bytes]]:
    if compression == "zst":
        import zstandard

        with zstandard.ZstdCompressor().stream_writer(file, closefd=False) as stream:
            yield stream
    elif compression == "gz":  # no file name or time in the header: the same rows give the same bytes
        with gzip.GzipFile("", "wb", fileobj=cast(Any, file), mtime=0) as stream:
            yield cast(IO[bytes], stream)
    elif compression == "xz":
        with lzma.LZMAFile(file, "wb") as stream:
            yield cast(IO[bytes], stream)
    else:
        with nullcontext(file) as stream:
            yield stream


def is_formula(text: str) -> bool:
    """Whether a spreadsheet could interpret a cell as a formula. Numbers such as -1 are not formulas."""
    return bool(FORMULA_START.match(text)) and not NUMBER.fullmatch(text)


def format_cell(value: Any) -> str:
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=to_json_value)
    return cell_to_show(value)


def to_json_value(value: Any) -> Any:
    """A NumPy number as a Python number; other types (dates and bytes from Parquet) as text."""
    value = plain_value(value)
    return value if isinstance(value, int | float | None) else cell_to_show(value)


def has_lossy_bytes(value: Any) -> bool:
    """Whether a cell holds bytes that are not UTF-8, which only .parquet can store."""
    if isinstance(value, list | tuple):
        return any(map(has_lossy_bytes, value))
    if isinstance(value, dict):
        return any(map(has_lossy_bytes, value.values()))
    return isinstance(value, bytes) and cell_to_show(value) == str(value)


def csv_line(cells: Sequence[str], delimiter: str = ",") -> str:
    """Not csv.writer: in Python 3.11 it does not quote a lone carriage return, which csv.reader then rejects."""
    quoted = ['"' + text.replace('"', '""') + '"' if NEEDS_QUOTES.search(text) else text for text in cells]
    return (delimiter.join(quoted) or '""') + "\n"  # an empty line would be skipped when reading


def tsv_line(cells: Sequence[str], i: int) -> str:
    line = "\t".join(cells)
    if "\n" in line or "\r" in line or line.count("\t") >= len(cells) or not line:
        reason = "a cell contains a tab or a line break" if line else "it is empty"
        raise tsv_error(f"row {i:,}" if i else "the header", reason)
    return line + "\n"


def tsv_error(what: str, reason: str) -> UserError:
    return UserError(f"{what} cannot be written as .tsv: {reason}.", "Use .csv or .jsonl instead.")
