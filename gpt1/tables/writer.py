"""Tables out: rows are written in blocks, so that a table of any length takes the memory of one block."""

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
from gpt1.tables.rows import TABLE_FORMATS

QUOTED = re.compile('[",;\r\n]')
FORMULA = re.compile("[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
"""What a cell begins with that a spreadsheet takes for a formula (OWASP, CSV injection)."""
NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")

Rows = Sequence[Mapping[str, Any]]


def output_kind(path: str | Path | None, like: str | Path | None = None) -> str:
    """The format of a file by its ending; of standard output that of `like`, JSON lines where it is Parquet."""
    if path is not None:
        return file_format(path)[0]
    kind = file_format(like or "rows.csv")[0]
    return "jsonl" if kind == "parquet" or kind not in TABLE_FORMATS else kind


@contextmanager
def table_writer(
    path: str | Path | None,
    columns: Sequence[str],
    *,
    like: str | Path | None = None,
    excel_safe: bool = False,
    schema: Any = None,
) -> Iterator[TableWriter]:
    """A writer into a file, which appears whole at the end; or to standard output, block by block.

    Args:
        path: The file; its ending is the format. None: standard output, in the format of `like`, never compressed.
        columns: The columns of .csv, .tsv and .parquet, in this order.
        excel_safe: Put an apostrophe before cells of .csv and .tsv that a spreadsheet would take for formulas.
        schema: Of .parquet; by default that of the first rows.
    """
    kind = output_kind(path, like)
    if path is None:
        sys.stdout.flush()
        with TableWriter(sys.stdout.buffer, kind, columns, excel_safe, schema, sys.stdout.isatty()) as writer:
            yield writer
        sys.stdout.flush()
        return
    with (
        atomic_file(Path(path)) as file,
        compressed(file, file_format(path)[1]) as stream,
        TableWriter(stream, kind, columns, excel_safe, schema) as writer,
    ):
        yield writer


class TableWriter:
    """Writes rows to a stream. In .csv and .tsv, None is an empty cell and lists are JSON.

    Attributes:
        formulas: Cells written so far that a spreadsheet would take for formulas.
    """

    def __init__(
        self,
        stream: IO[bytes],
        kind: str,
        columns: Sequence[str],
        excel_safe: bool = False,
        schema: Any = None,
        terminal: bool = False,
    ) -> None:
        self.stream, self.kind, self.columns = stream, kind, list(columns)
        self.excel_safe, self.schema, self.terminal = excel_safe, schema, terminal
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
            self.write_text("".join(json.dumps(dict(row), ensure_ascii=False, default=plain) + "\n" for row in rows))
        else:
            lines = []
            for row in rows:
                self.rows += 1
                lines.append(self.line([cell(row.get(name)) for name in self.columns]))
            self.write_text("".join(lines))

    def line(self, cells: Sequence[str]) -> str:
        formulas = [i for i, text in enumerate(cells) if is_formula(text)]
        self.formulas += len(formulas)
        if self.excel_safe and formulas:
            cells = [f"'{text}" if i in formulas else text for i, text in enumerate(cells)]
        return csv_line(cells) if self.kind == "csv" else tsv_line(cells, self.rows)

    def write_text(self, text: str) -> None:
        if self.terminal:  # a cell must not give it orders
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
            f"the rows do not fit in .parquet: {str(error).splitlines()[0]}.", "Write .jsonl instead."
        ) from None


def widened(schema: Any, columns: Sequence[str], rows: Rows) -> Any:
    """The Parquet schema that holds both what `schema` (None: nothing yet) describes and these rows.

    Raises:
        UserError: for a column that holds values of types that do not go together.
    """
    import pyarrow

    with parquet_errors():
        own = pyarrow.table({name: [row.get(name) for row in rows] for name in columns}).schema
        return own if schema is None else pyarrow.unify_schemas([schema, own], promote_options="permissive")


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


def is_formula(text: str) -> bool:
    """Whether a spreadsheet may take a cell for a formula; numbers are only numbers."""
    return bool(FORMULA.match(text)) and not NUMBER.fullmatch(text)


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


def csv_line(cells: Sequence[str]) -> str:
    """Not csv.writer: Python 3.11's leaves a lone carriage return unquoted, and its reader then refuses the line."""
    quoted = ['"' + text.replace('"', '""') + '"' if QUOTED.search(text) else text for text in cells]
    return (",".join(quoted) or '""') + "\n"  # a line without a character would be no row


def tsv_line(cells: Sequence[str], i: int) -> str:
    line = "\t".join(cells)
    if "\n" in line or "\r" in line or line.count("\t") >= len(cells) or not line:
        rule = "a cell holds a tab or a line break" if line else "it is empty"
        raise not_in_tsv(f"row {i:,}" if i else "the header", rule)
    return line + "\n"


def not_in_tsv(what: str, rule: str) -> UserError:
    return UserError(f"{what} does not fit in .tsv: {rule}.", "Write .csv or .jsonl instead.")
