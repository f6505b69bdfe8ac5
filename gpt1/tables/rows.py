"""Rows out of .csv, .tsv, .jsonl and .parquet, one at a time: what labelled tables and corpora have in common.

.csv    a header, then cells by RFC 4180: quoted where they hold a comma, a quote or a line break. Where the header has
        semicolons and no comma, cells are cut at semicolons, as Excel writes them in much of Europe.
.tsv    a header, then lines cut at tabs and nothing else: quotes are text, as in GLUE's files.
.jsonl  one JSON object a line; values keep their types.
.parquet  values keep their types.
Blank lines are skipped. A row comes with its number: of the line that it begins in, or of the row in .parquet.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO, Any, TypeAlias, cast

from gpt1.errors import UserError, did_you_mean
from gpt1.files.foreign import parse_json, repeated, short
from gpt1.files.reading import MAX_LINE_BYTES, InputFile, max_bytes, raise_limit

TABLE_FORMATS = ("csv", "tsv", "jsonl", "parquet")
NumberedRow: TypeAlias = tuple[int, dict[str, Any]]
PARQUET_BATCH = 256  # rows; a row may be a whole book
MAX_COLUMNS = 16_384
"""Columns of a table: as many as a spreadsheet has."""
MAX_ROW_DIGITS = 300
"""Digits of an integer in a row: identifiers may be long, and 300 still fit in a float."""


def stream_rows(
    file: InputFile, column_names: Sequence[str] | None = None, column: str | None = None
) -> Iterator[NumberedRow]:
    """(number, {column: value}) of every row.

    `column_names` are the columns of a .csv or .tsv file without a header; cells beyond them are left out.
    `column` reads a single column where the format can (.parquet).
    """
    if file.format == "jsonl":
        return jsonl_rows(file)
    if file.format == "parquet":
        return parquet_rows(file, column)
    return delimited_rows(file, column_names)


def row_unit(kind: str) -> str:
    return "row" if kind == "parquet" else "line"


def delimited_rows(file: InputFile, names: Sequence[str] | None) -> Iterator[NumberedRow]:
    rows = csv_cells(file, detect_delimiter(file, names)) if file.format == "csv" else tsv_cells(file)
    header = None if names is None else list(names)
    for number, cells in rows:
        if header is None:
            header = validate_header(file, cells)
            continue
        if len(cells) < len(header) or (len(cells) > len(header) and names is None):
            raise UserError(
                f"{file.name}, line {number:,} has {count_items(cells, 'cell')}, but the header has {len(header)}.",
                'Quote a cell that holds a comma, a quote or a line break: "so, ""this"" way".'
                if file.format == "csv"
                else "In .tsv a tab always ends a cell and quotes are text; other texts fit in .csv or .jsonl.",
            )
        yield number, dict(zip(header, cells, strict=False))


def detect_delimiter(file: InputFile, names: Sequence[str] | None) -> str:
    """What cuts the cells of a .csv file; only a header shows it."""
    header = file.peek().partition(b"\n")[0]
    return ";" if names is None and b";" in header and b"," not in header else ","


def csv_cells(file: InputFile, separator: str) -> Iterator[tuple[int, list[str]]]:
    # The limit belongs to the process, not to a reader; it is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))
    held = 0  # bytes of the row that is being read, which may span lines

    def lines() -> Iterator[str]:
        nonlocal held
        for line in file.lines():
            held += len(line)
            if held > MAX_LINE_BYTES:
                raise UserError(
                    f"{file.name}: the row that begins in line {number:,} is longer than {MAX_LINE_BYTES:,} bytes.",
                    "Is a quote not closed?",
                )
            yield line

    reader = csv.reader(lines(), strict=True, delimiter=separator)
    while True:
        number, held = reader.line_num + 1, 0
        try:
            cells = next(reader, None)
        except csv.Error as error:
            reason, fix = str(error), "A cell that begins with a quote ends with one, and quotes inside are doubled: "
            if "new-line" in reason:
                reason = "a carriage return stands alone outside of quotes"
                fix = "Save it with the line ends of Unix or Windows, and quote a cell that holds a line break: "
            raise UserError(
                f"{file.name}, line {number:,} is not CSV: {reason}.", fix + '"so, ""this"" way".'
            ) from None
        if cells is None:
            return
        if cells:
            yield number, cells


def tsv_cells(file: InputFile) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(file.lines(), 1):
        line = line.removesuffix("\n").removesuffix("\r")
        if line:
            check_columns(file.name, line.count("\t") + 1)
            yield number, line.split("\t")


def check_columns(name: str, columns: int) -> None:
    if columns > MAX_COLUMNS:
        raise UserError(
            f"{name} has {columns:,} columns; {MAX_COLUMNS:,} are the most.",
            "Keep the columns of texts and labels only.",
        )


def validate_header(file: InputFile, cells: list[str]) -> list[str]:
    separators = {"csv": {"\t": "tabs: name it .tsv"}, "tsv": {",": "commas: name it .csv", ";": "';': name it .csv"}}
    for other, shown in separators[file.format].items() if len(cells) == 1 else ():
        if other in cells[0]:
            raise UserError(
                f"{file.name}: the header is one cell, {short(cells[0])}.", f"Its cells seem to be cut by {shown}."
            )
    check_columns(file.name, len(cells))
    for i, name in enumerate(cells):
        if not name.strip():
            fix = "The first line names every column."
            fix += " (pandas writes its row numbers there: use to_csv(..., index=False).)" if i == 0 else ""
            raise UserError(f"{file.name}: column {i + 1} of {len(cells)} has no name.", fix)
    if (name := repeated(cells)) is not None:
        raise UserError(f"{file.name}: two columns are named {short(name)}.", "Give every column a name of its own.")
    return cells


def jsonl_rows(file: InputFile) -> Iterator[NumberedRow]:
    for number, line in enumerate(file.lines(), 1):
        if not line.strip():
            continue
        where, fix = f"{file.name}, line {number:,}", "A .jsonl file holds one JSON object a line."
        try:
            row = parse_json(line, where, fix=fix, max_digits=MAX_ROW_DIGITS, allow_nan=True)
        except UserError as error:
            raise UserError(error.problem.replace(": line 1, column", ": column"), fix) from None
        if not isinstance(row, dict):
            raise UserError(
                f"{file.name}, line {number:,} is a JSON {json_type(row)}, not an object.",
                'A .jsonl file holds one object a line, such as {"text": "..."}.',
            )
        if SURROGATE_ESCAPE.search(line):
            check_surrogates(file, number, row)
        yield number, row


SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def check_surrogates(file: InputFile, number: int, row: dict[str, Any]) -> None:
    """JSON can spell half of a character outside the BMP; such a text has no UTF-8."""
    try:
        json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        half = json.dumps(error.object[error.start])
        raise UserError(
            f"{file.name}, line {number:,} holds half a character ({half}).",
            "Write the file again from texts that are valid Unicode.",
        ) from None


def parquet_rows(file: InputFile, only: str | None) -> Iterator[NumberedRow]:
    import pyarrow

    with tempfile.TemporaryFile() as copy:
        seekable: IO[bytes] = copy if file.compressed else file.raw
        if file.compressed:  # Parquet is read from its end, so what is compressed around it goes to disk first
            shutil.copyfileobj(file.stream, copy)
        try:
            table = opened_parquet(file, seekable)
            columns: list[str] = table.schema_arrow.names
            if only is not None and only not in columns:
                raise missing_field_error(f"{file.name} has no column '{only}'", only, columns)
            number = 0
            for batch in table.iter_batches(PARQUET_BATCH, columns=None if only is None else [only]):
                check_decoded(file, sum(map(decoded_size, batch.columns)))
                for row in plain_columns(batch).to_pylist():
                    number += 1
                    file.bytes_done = file.size * number // max(1, table.metadata.num_rows)
                    yield number, cast(dict[str, Any], row)
        except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"{file.name} is not Parquet, or is damaged ({reason[:200]}).", "Write it again.") from None


def opened_parquet(file: InputFile, seekable: IO[bytes]) -> Any:
    """A Parquet file whose metadata promises no more than fits. Repeated texts stay a dictionary: a small file can
    name one long text for a million rows."""
    from pyarrow import parquet

    metadata = parquet.read_metadata(seekable)
    check_columns(file.name, metadata.num_columns)
    leaves = [metadata.schema.column(i) for i in range(metadata.num_columns)]
    flat = [leaf for leaf in leaves if not leaf.max_repetition_level]  # pyarrow keeps no dictionaries inside lists
    texts = [leaf.path for leaf in flat if leaf.physical_type == "BYTE_ARRAY" and leaf.logical_type.type in TEXTS]
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    check_decoded(file, max([8 * metadata.num_rows, *(group.total_byte_size for group in groups)]))
    seekable.seek(0)
    table = parquet.ParquetFile(seekable, read_dictionary=texts)
    if any(leaf.max_repetition_level for leaf in leaves):  # one row may hold a list of a billion nulls
        # Reads in bounded memory and finds damage: column() would end the process for it (pyarrow 26).
        table.scan_contents()
        for group in groups:
            check_decoded(file, 8 * sum(group.column(i).num_values for i in range(len(leaves))))
    return table


def decoded_size(column: Any) -> int:
    """Bytes of a column's values once each of its rows has a copy of its own."""
    from pyarrow import compute, types

    if types.is_dictionary(column.type):
        lengths = compute.binary_length(column.dictionary).take(column.indices)
        return int(compute.sum(lengths).as_py() or 0)
    if types.is_struct(column.type):
        return sum(map(decoded_size, column.flatten()))
    if types.is_list(column.type) or types.is_large_list(column.type) or types.is_map(column.type):
        return decoded_size(column.flatten() if not types.is_map(column.type) else column.items)
    return int(column.nbytes)


def plain_columns(batch: Any) -> Any:
    """The batch with its dictionaries resolved: many times faster to turn into Python's values."""
    import pyarrow

    columns = [
        column.dictionary_decode() if pyarrow.types.is_dictionary(column.type) else column for column in batch.columns
    ]
    return pyarrow.RecordBatch.from_arrays(columns, names=batch.schema.names)


TEXTS = ("STRING", "NONE", "JSON", "ENUM")  # Parquet's logical types


def check_decoded(file: InputFile, size: int) -> None:
    if size > max_bytes():
        raise UserError(
            f"{file.name} holds {size:,} bytes when it is decoded; {max_bytes():,} are the most.", raise_limit(size)
        )


def size_of(row: dict[str, Any]) -> int:
    """Bytes that a row takes in memory, about: its texts, 64 a value and 128 a row."""
    size = 128
    waiting: list[Any] = list(row.values())
    for value in waiting:  # grows while it is read
        size += 64
        if isinstance(value, str | bytes):
            size += len(value)
        elif isinstance(value, list | tuple):
            waiting += value
        elif isinstance(value, dict):
            waiting += [*value, *value.values()]
    return size


def text_field(file: InputFile, number: int, row: dict[str, Any], field: str = "text") -> str:
    """`row[field]` as a string, or UserError with the fields that there are."""
    if field not in row:
        what = "field" if file.format == "jsonl" else "column"
        raise missing_field_error(
            f"{file.name}, {row_unit(file.format)} {number:,} has no {what} '{field}'", field, list(row)
        )
    value = row[field]
    if not isinstance(value, str):
        raise UserError(
            f"{file.name}, {row_unit(file.format)} {number:,}: '{field}' is a {json_type(value)}, not a string.",
            "Leave the row out, or write a text.",
        )
    return value


def missing_field_error(problem: str, field: str, available: Sequence[str]) -> UserError:
    listed = ", ".join(available) if available else "nothing"
    return UserError(f"{problem}; it has: {listed}.{did_you_mean(field, available)}", f"Name it '{field}'.")


def json_type(value: Any) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "truth value", int: "number", float: "number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def count_items(items: Sequence[Any], noun: str) -> str:
    return f"{len(items):,} {noun}" + ("" if len(items) == 1 else "s")
