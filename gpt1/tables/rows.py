"""Rows of .csv, .tsv, .jsonl and .parquet files, one at a time, for labeled tables and corpora.

.csv      A header, then cells by RFC 4180: quoted if they contain a comma, a quote or a line break. If the header has
          more semicolons (as Excel writes in much of Europe) or tabs than commas outside quotes, they are the
          delimiter; a first line such as `sep=;` names it.
.tsv      A header, then lines split at tabs only: quotes are plain text, as in GLUE's files.
.jsonl    (also .ndjson) One JSON object per line; values keep their types.
.parquet  Values keep their types.
.json and .xlsx are in whole_files.py.
Blank lines are skipped. Each row has a number: of its first line, or of the row in .parquet.
"""

from __future__ import annotations

import csv
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, cast

from gpt1.errors import UserError, closest_name, first_line
from gpt1.files.decompression import max_bytes, raise_limit
from gpt1.files.foreign import find_repeated, parse_json, short
from gpt1.files.reading import MAX_LINE_BYTES, InputFile
from gpt1.formatting import count_noun, shell_quote
from gpt1.tables.cells import decode_bytes
from gpt1.tables.whole_files import (
    MAX_ROW_DIGITS,
    SURROGATE_ESCAPE,
    NumberedRow,
    check_surrogates,
    is_json_list,
    json_rows,
    no_list_error,
    seekable_stream,
    sheet_header,
    xlsx_rows,
)

TABLE_FORMATS = ("csv", "tsv", "jsonl", "parquet")
INPUT_FORMATS = (*TABLE_FORMATS, "json", "xlsx")
"""Formats of labeled tables. A folder of texts may hold .json files that are not texts."""
SPREADSHEETS = ("xls", "xlsx", "ods")
PARQUET_BATCH = 256  # rows; a row may be a whole book
MAX_COLUMNS = 16_384
"""Maximum number of columns, as in a spreadsheet."""


def stream_rows(
    file: InputFile, column_names: Sequence[str] | None = None, column: str | None = None
) -> Iterator[NumberedRow]:
    """(number, {column: value}) of every row.

    Args:
        column_names: Columns of a .csv or .tsv file without a header; additional cells are ignored.
        column: Read only this column if the format supports it (.parquet).
    """
    if file.format == "json" and is_json_list(file):
        return json_rows(file)
    if file.format in ("json", "jsonl"):
        return jsonl_rows(file)
    if file.format == "xlsx":
        return sheet_rows(file)
    if file.format == "parquet":
        return parquet_rows(file, column)
    return delimited_rows(file, column_names)


def row_unit(kind: str) -> str:
    return "line" if kind in ("csv", "tsv", "jsonl") else "row"


def delimited_rows(file: InputFile, names: Sequence[str] | None) -> Iterator[NumberedRow]:
    delimiter, in_first_line = detect_delimiter(file, names) if file.format == "csv" else ("\t", False)
    file.delimiter = delimiter
    rows = csv_cells(file, delimiter) if file.format == "csv" else tsv_cells(file)
    header = None if names is None else list(names)
    for number, cells in rows:
        if in_first_line and number == 1:  # sep=;
            continue
        if header is None:
            header = validate_header(file, cells)
            continue
        if len(cells) < len(header) or (len(cells) > len(header) and names is None):
            raise cell_count_error(file, number, cells, header)
        yield number, dict(zip(header, cells, strict=False))


def cell_count_error(file: InputFile, number: int, cells: Sequence[str], header: Sequence[str]) -> UserError:
    problem = f"{file.name}, line {number:,} has {count_noun(len(cells), 'cell')}, but the header has {len(header)}."
    if header[0].startswith("#"):
        return UserError(problem, f"The header, {short(header[0])}, looks like a comment: remove the comment lines.")
    if cells[0].startswith("#"):
        return UserError(problem, "It looks like a comment: remove the comment lines.")
    if file.format == "csv":
        name = DELIMITER_NAMES.get(file.delimiter, file.delimiter)
        fix = f'Quote cells that contain {name}, a quote or a line break: "so{file.delimiter} ""this"" way".'
        return UserError(problem, fix)
    if any(cell.startswith('"') for cell in cells):
        return UserError(problem, QUOTED_TSV_FIX)
    fix = "In .tsv every tab ends a cell and quotes are text. Use .csv or .jsonl for texts with tabs."
    return UserError(problem, fix)


DELIMITER_NAMES = {",": "a comma", ";": "a semicolon", "\t": "a tab"}
QUOTED_TSV_FIX = "In .tsv quotes are text. If pandas or a spreadsheet quoted the cells, rename the file to end in .csv."


def sheet_rows(file: InputFile) -> Iterator[NumberedRow]:
    header: list[str] | None = None
    for number, cells in xlsx_rows(file):
        if header is None:
            header = validate_header(file, sheet_header(cells))
            continue
        extra = [cell for cell in cells[len(header) :] if cell is not None]
        if extra:
            problem = f"{file.name}, row {number:,} has a cell outside the columns of the header: {short(extra[0])}."
            raise UserError(problem, "Name its column in the first row, or remove the cell.")
        yield number, dict(zip(header, [*cells, *[None] * len(header)], strict=False))


def detect_delimiter(file: InputFile, names: Sequence[str] | None) -> tuple[str, bool]:
    """(delimiter of a .csv file, whether its first line is Excel's `sep=;`); without a header it is the comma."""
    first = file.peek().partition(b"\n")[0].removeprefix(b"\xef\xbb\xbf").strip(b"\r")
    if names is None and (found := SEPARATOR_LINE.fullmatch(first)):
        return found[1].decode(), True
    if names is not None:
        return ",", False
    unquoted = QUOTED_CELL.sub(b"", first)
    return max(",", ";", "\t", key=lambda char: unquoted.count(char.encode())), False


QUOTED_CELL = re.compile(rb'"[^"]*("|$)')
SEPARATOR_LINE = re.compile(rb'"?sep=([ -~\t])"?', re.IGNORECASE)


def csv_cells(file: InputFile, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    # The limit is global to the process; it is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))
    row_bytes = 0  # of the current row, which may span several lines

    def lines() -> Iterator[str]:
        nonlocal row_bytes
        for line in file.lines():
            row_bytes += len(line)
            if row_bytes > MAX_LINE_BYTES:
                raise UserError(
                    f"{file.name}: the row that begins in line {number:,} is longer than {MAX_LINE_BYTES:,} bytes.",
                    "Check for a quote that is not closed.",
                )
            yield line

    reader = csv.reader(lines(), strict=True, delimiter=delimiter)
    while True:
        number, row_bytes = reader.line_num + 1, 0
        try:
            cells = next(reader, None)
        except csv.Error as error:
            reason, fix = str(error), "A quoted cell begins and ends with a quote, and quotes inside are doubled: "
            if "new-line" in reason:
                reason = "a carriage return without a line feed outside quotes"
                fix = "Save it with the line endings of Unix or Windows, and quote cells that contain a line break: "
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
            check_column_count(file.name, line.count("\t") + 1)
            yield number, line.split("\t")


def check_column_count(name: str, columns: int) -> None:
    if columns > MAX_COLUMNS:
        raise UserError(
            f"{name} has {columns:,} columns; the maximum is {MAX_COLUMNS:,}.", "Keep only the text and label columns."
        )


def validate_header(file: InputFile, cells: list[str]) -> list[str]:
    delimiters = {",": "a comma", ";": "a semicolon"} if file.format == "tsv" and len(cells) == 1 else {}
    for char, delimiter in delimiters.items():
        if char in cells[0]:
            problem = f"{file.name}: the header is one cell, {short(cells[0])}."
            raise UserError(problem, f"If the delimiter is {delimiter}, rename the file to end in .csv.")
    if len(cells) == 1 and cells[0].startswith("#"):
        problem = f"{file.name}: the first line, {short(cells[0])}, is a comment."
        raise UserError(problem, "Remove the comment lines: the first line must name the columns.")
    check_column_count(file.name, len(cells))
    for i, name in enumerate(cells):
        if not name.strip():
            fix = "The first line must name every column."
            fix += " If pandas wrote its row numbers there, use to_csv(..., index=False)." if i == 0 else ""
            raise UserError(f"{file.name}: column {i + 1} of {len(cells)} has no name.", fix)
    check_unique(file.name, cells)
    return cells


def check_unique(name: str, columns: Sequence[str]) -> None:
    if (column := find_repeated(columns)) is not None:
        raise UserError(f"{name}: two columns are named {short(column)}.", "Use a different name for each column.")


def jsonl_rows(file: InputFile) -> Iterator[NumberedRow]:
    for number, line in enumerate(file.lines(), 1):
        if not line.strip():
            continue
        where, fix = f"{file.name}, line {number:,}", "A .jsonl file contains one JSON object per line."
        if line.lstrip().startswith(("#", "//")):
            raise UserError(f"{where} is a comment, not JSON.", "Remove the comment lines. " + fix)
        try:
            row = parse_json(line, where, fix=fix, max_digits=MAX_ROW_DIGITS, allow_nan=True)
        except UserError as error:
            fix = "Use a different name for each key." if error.problem.endswith("is repeated.") else fix
            raise UserError(error.problem.replace(": line 1, column", ": column"), fix) from None
        if not isinstance(row, dict):
            raise UserError(
                f"{file.name}, line {number:,} is a JSON {json_type(row)}, not an object.",
                'A .jsonl file contains one object per line, such as {"text": "..."}.',
            )
        if file.format == "json" and row and all(isinstance(value, dict) for value in row.values()):
            raise no_list_error(file, row)
        if SURROGATE_ESCAPE.search(line):
            check_surrogates(where, row)
        yield number, row


def parquet_rows(file: InputFile, only: str | None) -> Iterator[NumberedRow]:
    import pyarrow

    with tempfile.TemporaryFile() as copy:
        seekable = seekable_stream(file, copy)
        try:
            table = open_parquet(file, seekable)
            columns: list[str] = table.schema_arrow.names
            check_unique(file.name, columns)
            if only not in columns:  # `text_field` says so
                only = None
            number = 0
            for batch in table.iter_batches(PARQUET_BATCH, columns=None if only is None else [only]):
                check_decoded(file, sum(map(decoded_size, batch.columns)))
                for row in plain_columns(batch).to_pylist():
                    number += 1
                    file.bytes_done = file.size * number // max(1, table.metadata.num_rows)
                    yield number, cast(dict[str, Any], row)
        except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
            problem = f"{file.name} is not Parquet, or is damaged ({first_line(error, 200)})."
            raise UserError(problem, "Create or copy the file again.") from None
        except KeyError as error:  # of pytz or zoneinfo
            problem = f"{file.name} has times in a time zone that this machine does not know ({error.args[0]})."
            raise UserError(problem, "Create the file again with times in UTC, or with texts.") from None


def open_parquet(file: InputFile, seekable: IO[bytes]) -> Any:
    """Open a Parquet file after checking the decoded size in its metadata.

    Text columns stay dictionary-encoded: a small file can refer to one long text in a million rows.
    """
    from pyarrow import parquet

    metadata = parquet.read_metadata(seekable)
    check_column_count(file.name, metadata.num_columns)
    leaves = [metadata.schema.column(i) for i in range(metadata.num_columns)]
    flat = [leaf for leaf in leaves if not leaf.max_repetition_level]  # pyarrow keeps no dictionaries inside lists
    texts = [leaf.path for leaf in flat if leaf.physical_type == "BYTE_ARRAY" and leaf.logical_type.type in TEXT_TYPES]
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    check_decoded(file, max([8 * metadata.num_rows, *(group.total_byte_size for group in groups)]))
    seekable.seek(0)
    table = parquet.ParquetFile(seekable, read_dictionary=texts)
    if any(leaf.max_repetition_level for leaf in leaves):  # one row may contain a list of a billion nulls
        # Reads in bounded memory and detects damage, for which column() would crash the process (pyarrow 26).
        table.scan_contents()
        for group in groups:
            check_decoded(file, 8 * sum(group.column(i).num_values for i in range(len(leaves))))
    return table


def decoded_size(column: Any) -> int:
    """Bytes of a column after decoding its dictionaries."""
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
    """The batch in types that convert to Python values fast and without loss (see `plain_column`)."""
    import pyarrow

    return pyarrow.RecordBatch.from_arrays(list(map(plain_column, batch.columns)), names=batch.schema.names)


def plain_column(column: Any) -> Any:
    """A column with decoded dictionaries, which converts many times faster; a float as its shortest decimal (0.1, not
    0.10000000149); times in microseconds if they have no nanoseconds, else as text."""
    import pyarrow
    from pyarrow import types

    if types.is_dictionary(column.type):
        return column.dictionary_decode()
    if types.is_float32(column.type):
        return column.cast(pyarrow.string()).cast(pyarrow.float64())
    if types.is_timestamp(column.type) and column.type.unit == "ns":
        try:
            return column.cast(pyarrow.timestamp("us", column.type.tz))
        except pyarrow.ArrowInvalid:
            return column.cast(pyarrow.string())
    if types.is_duration(column.type) and column.type.unit == "ns":
        return column.cast(pyarrow.duration("us"), safe=False)
    return column


TEXT_TYPES = ("STRING", "NONE", "JSON", "ENUM")  # Parquet's logical types


def check_decoded(file: InputFile, size: int) -> None:
    if size > max_bytes():
        problem = f"{file.name} has {size:,} bytes after decoding; the maximum is {max_bytes():,}."
        raise UserError(problem, raise_limit(size))


def row_memory(row: dict[str, Any]) -> int:
    """Approximate bytes of a row in memory: its texts, 64 per value and 128 per row."""
    size = 128
    pending: list[Any] = list(row.values())
    for value in pending:  # grows during the loop
        size += 64
        if isinstance(value, str | bytes):
            size += len(value)
        elif isinstance(value, list | tuple):
            pending += value
        elif isinstance(value, dict):
            pending += [*value, *value.values()]
    return size


def text_field(file: InputFile, number: int, row: dict[str, Any], field: str = "text") -> str:
    """`row[field]` as a string, or a UserError that lists the existing fields."""
    where = f"{file.name}, {row_unit(file.format)} {number:,}"
    if field not in row:
        kind = "field" if file.format == "jsonl" else "column"
        raise missing_field_error(f"{where} has no {kind} '{field}'", field, row)
    value = row[field]
    if isinstance(value, bytes):  # BINARY in Parquet
        try:
            return decode_bytes(value)
        except UserError as error:
            raise UserError(f"{where}, column '{field}': {error.problem}", error.fix) from None
    if not isinstance(value, str):
        raise UserError(f"{where}: '{field}' is a {json_type(value)}, not a string.", "Correct or remove the row.")
    return value


def missing_field_error(problem: str, field: str, row: Mapping[str, Any]) -> UserError:
    """The error for a row without the field of the texts; it suggests a similar name, or else the longest text."""
    lengths = {name: len(cell) for name, cell in row.items() if isinstance(cell, str)}
    closest = closest_name(field, row) or max(lengths, key=lengths.__getitem__, default="")
    fix = f"Did you mean --text-field {shell_quote(closest)}?" if closest else "Name it with --text-field COLUMN."
    return UserError(f"{problem}. Found: {', '.join(row) or 'none'}.", fix)


def json_type(value: Any) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
