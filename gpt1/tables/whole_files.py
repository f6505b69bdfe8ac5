"""Rows of files that cannot be read row by row: a list of objects in .json, a sheet in .xlsx.

.json     A list of objects; or one object per line, as in .jsonl.
.xlsx     The first sheet: a header, then rows. Values keep their types; of a formula, its last value is read. Needs the
          package openpyxl.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from typing import IO, Any, TypeAlias

from gpt1.errors import UserError, first_line
from gpt1.files.decompression import max_bytes, raise_limit
from gpt1.files.foreign import parse_json
from gpt1.files.reading import InputFile
from gpt1.tables.cells import cell_to_show, is_missing

NumberedRow: TypeAlias = tuple[int, dict[str, Any]]
MAX_ROW_DIGITS = 300
"""Maximum digits of an integer in a row: identifiers may be long, and 300 digits still fit in a float."""
MAX_JSON_TABLE_BYTES = 2**28
"""Largest list of objects, which is parsed as a whole."""
LIST_FIX = 'A .json file contains a list of objects, [{"text": "..."}, ...], or one object per line.'


def is_json_list(file: InputFile) -> bool:
    """Whether a .json file is one document instead of one object per line."""
    head = file.peek().removeprefix(b"\xef\xbb\xbf").lstrip()
    return head.startswith(b"[") or head.partition(b"\n")[0].strip() == b"{"


def json_rows(file: InputFile) -> Iterator[NumberedRow]:
    file.check_is_text()
    limit = min(MAX_JSON_TABLE_BYTES, max_bytes())
    data = file.stream.read(limit + 1)
    if len(data) > limit:
        problem = f"{file.name} is one JSON document of more than {limit:,} bytes, which must be read as a whole."
        raise UserError(problem, "Convert it to .jsonl (one object per line), which is read row by row.")
    text = file.decode(data, 1, 0).removeprefix("\ufeff")
    rows = parse_json(text, file.name, fix=LIST_FIX, max_digits=MAX_ROW_DIGITS, allow_nan=True)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise no_list_error(file, rows)
    may_have_surrogates = SURROGATE_ESCAPE.search(text)
    for number, row in enumerate(rows, 1):
        if may_have_surrogates:
            check_surrogates(f"{file.name}, row {number:,}", row)
        yield number, row


SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def check_surrogates(where: str, row: dict[str, Any]) -> None:
    """UserError for an unpaired surrogate, which JSON can express and UTF-8 cannot."""
    try:
        json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        surrogate = json.dumps(error.object[error.start])
        raise UserError(
            f"{where} contains half a character (the unpaired surrogate {surrogate}).",
            "Create the file again from texts that are valid Unicode.",
        ) from None


def no_list_error(file: InputFile, content: Any) -> UserError:
    columns = isinstance(content, dict) and all(isinstance(column, dict | list) for column in content.values())
    pandas = "\nIf pandas wrote it, use to_json(..., orient='records', lines=True)." if columns else ""
    return UserError(f"{file.name} is not a list of JSON objects.", LIST_FIX + pandas)


def xlsx_rows(file: InputFile) -> Iterator[tuple[int, list[Any]]]:
    """(number, cells) of every row of the first sheet, without empty rows; empty cells are None."""
    try:
        import openpyxl
    except ImportError:
        fix = "Install it (pip install 'gpt1[excel]'), or export the sheet as .csv (Excel: CSV UTF-8)."
        raise UserError(f"{file.name}: reading .xlsx needs the package openpyxl.", fix) from None
    with tempfile.TemporaryFile() as copy:
        seekable = seekable_stream(file, copy)
        try:
            with zipfile.ZipFile(seekable) as archive:
                size = sum(entry.file_size for entry in archive.infolist())
            if size > max_bytes():
                problem = f"{file.name} has {size:,} bytes after decompression; the maximum is {max_bytes():,}."
                raise UserError(problem, raise_limit(size))
            sheet = openpyxl.load_workbook(seekable, read_only=True, data_only=True).worksheets[0]
            sheet.reset_dimensions()  # else one formatted cell far away makes each row as wide as that
            for number, cells in enumerate(sheet.iter_rows(values_only=True), 1):
                if not all(map(is_missing, cells)):
                    yield number, list(cells)
        except UserError:
            raise
        except Exception as error:  # openpyxl raises errors of zipfile, of XML and its own
            fix = "Save it again as .xlsx, or export the sheet as .csv (Excel: CSV UTF-8)."
            raise UserError(f"{file.name} is not .xlsx, or is damaged ({first_line(error, 200)}).", fix) from None


def sheet_header(cells: list[Any]) -> list[str]:
    """The header as texts, without the empty cells at its end."""
    names = list(map(cell_to_show, cells))
    while names and not names[-1].strip():
        names.pop()
    return names


def seekable_stream(file: InputFile, copy: IO[bytes]) -> IO[bytes]:
    """The decompressed file, for formats that are not read from start to end; `copy` holds it if it is compressed."""
    if not file.compressed:
        return file.raw
    shutil.copyfileobj(file.stream, copy)
    copy.seek(0)
    return copy
