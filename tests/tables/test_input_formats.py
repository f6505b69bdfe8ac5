"""Tables as other programs write them: read with the right delimiter and types, or refused with their actual format."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import openpyxl
import openpyxl.styles
import pandas
import pytest

from gpt1.corpus.readers import list_sources
from gpt1.errors import UserError
from gpt1.files.reading import content_format, file_format, open_input
from gpt1.tables.table import read_table
from gpt1.tables.whole_files import xlsx_rows
from gpt1.tables.writer import output_kind

FRAME = pandas.DataFrame(
    {"text": ["plain", 'a "quoted" word', "two\nlines", "a\ttab", "a, b; c"], "label": list("xyxyx")}
)
ROWS = FRAME.to_dict("records")
WRITERS: dict[str, Any] = {
    "a.csv": lambda path: FRAME.to_csv(path, index=False),
    "semicolon.csv": lambda path: FRAME.to_csv(path, index=False, sep=";"),
    "tab.csv": lambda path: FRAME.to_csv(path, index=False, sep="\t"),
    "separator.csv": lambda path: path.write_text("\ufeffsep=;\r\n" + FRAME.to_csv(index=False, sep=";")),
    "quoted-separator.csv": lambda path: path.write_text('"sep=|"\n' + FRAME.to_csv(index=False, sep="|")),
    "a.jsonl": lambda path: FRAME.to_json(path, orient="records", lines=True),
    "a.ndjson": lambda path: FRAME.to_json(path, orient="records", lines=True),
    "lines.json": lambda path: FRAME.to_json(path, orient="records", lines=True),
    "list.json": lambda path: FRAME.to_json(path, orient="records"),
    "pretty.json": lambda path: path.write_text(json.dumps(ROWS, indent=2)),
    "list.json.gz": lambda path: FRAME.to_json(path, orient="records"),
    "a.xlsx": lambda path: FRAME.to_excel(path, index=False),
    "a.parquet": lambda path: FRAME.to_parquet(path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_the_files_of_pandas_and_excel_have_the_same_rows(name: str, tmp_path: Path):
    WRITERS[name](tmp_path / name)
    table = read_table(tmp_path / name)
    assert table.columns == ["text", "label"]
    assert table.rows == ROWS


def test_cells_of_a_sheet_keep_their_types_and_empty_rows_are_skipped(tmp_path: Path):
    book = openpyxl.Workbook()
    for row in [["text", "label", None], ["a", 1, None], [None, None], [None, 2.5], ["=1+1", datetime(2024, 1, 31)]]:
        book.active.append(row)
    book.save(tmp_path / "t.xlsx")
    table = read_table(tmp_path / "t.xlsx")
    assert [(row["text"], row["label"]) for row in table.rows] == [
        ("a", 1),
        (None, 2.5),
        (None, datetime(2024, 1, 31)),  # no value was computed for the formula
    ]
    assert table.locate_row(1) == f"{tmp_path / 't.xlsx'}, row 4"


def test_a_formatted_cell_far_away_does_not_widen_the_rows_of_a_sheet(tmp_path: Path):
    """Rows as wide as the sheet would be 17 billion cells."""
    book = openpyxl.Workbook()
    for row in (["text", "label"], ["a film", "good"]):
        book.active.append(row)
    book.active.cell(row=1_048_576, column=16_384).font = openpyxl.styles.Font(bold=True)
    book.save(tmp_path / "t.xlsx")
    with open_input(tmp_path / "t.xlsx") as file:
        assert [len(cells) for _, cells in xlsx_rows(file)] == [2, 2]
    assert read_table(tmp_path / "t.xlsx").rows == [{"text": "a film", "label": "good"}]


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n"
REFUSED: dict[str, tuple[str, bytes, str, str]] = {
    "UTF-16": ("t.csv", "text,label\na,b".encode("utf-16"), "t.csv is UTF-16", "iconv -f UTF-16 -t UTF-8"),
    "UTF-16 without a mark": ("t.csv", "text,label\na,b".encode("utf-16-le"), "t.csv is UTF-16LE", "iconv -f UTF-16LE"),
    "UTF-16BE without a mark": ("t.csv", "text,label\n".encode("utf-16-be"), "t.csv is UTF-16BE", "iconv -f UTF-16BE"),
    "UTF-32": ("t.csv", "text,label\na,b".encode("utf-32"), "t.csv is UTF-32", "iconv -f UTF-32 -t UTF-8"),
    "Git LFS csv": ("t.csv", LFS, "t.csv is a Git LFS pointer", "git lfs pull"),
    "Git LFS gz": ("t.csv.gz", LFS, "t.csv.gz is a Git LFS pointer", "git lfs pull"),
    "Git LFS parquet": ("t.parquet", LFS, "t.parquet is a Git LFS pointer", "git lfs pull"),
    "a comment first": ("t.csv", b"# made by X\ntext,label\na,b\n", "is a comment", "Remove the comment lines"),
    "a comment with commas": ("t.csv", b"# a, b, c\ntext,label\n", "line 2 has 2 cells", "looks like a comment"),
    "a comment between rows": ("t.csv", b"text,label\na,b\n# c\n", "line 3 has 1 cell", "looks like a comment"),
    "a comment in .jsonl": ("t.jsonl", b'// c\n{"text": "a"}\n', "line 1 is a comment", "Remove the comment lines"),
    "a repeated key": ("t.jsonl", b'{"a": 1, "a": 2}\n', "line 1 .* the key 'a' is repeated", "different name"),
    "a repeated key in a list": ("t.json", b'[{"a": 1, "a": 2}]', "the key 'a' is repeated", "list of objects"),
    "half a character": (
        "t.json",
        b'[{"a": "b"}, {"a": "\\uDc80"}]',
        r"t.json, row 2 contains half a character",
        "Unicode",
    ),
    "bytes that are not UTF-8": ("t.json", b'[\n{"a": "\xe9"}]', "line 2, byte 10 of the file, is 0xE9", "iconv"),
    "columns instead of rows": ("t.json", FRAME.to_json().encode(), "is not a list", "orient='records'"),
    "one object over lines": ("t.json", b'{\n"text": "a"\n}', "is not a list", "list of objects"),
    "a list of texts": ("t.json", b'["a"]', "is not a list of JSON objects", "list of objects"),
    "quoted .tsv": (
        "t.tsv",
        FRAME.to_csv(index=False, sep="\t").encode(),
        "line 4 has 1 cell",
        "rename the file to end",
    ),
    "commas in .tsv": ("t.tsv", b"text,label\na,b\n", "the header is one cell", "rename the file to end in .csv"),
    "no sheet": ("t.xlsx", b"PK\x03\x04 no zip", "is not .xlsx, or is damaged", "export the sheet as .csv"),
    "an old sheet": ("t.xls", b"\xd0\xcf\x11\xe0", "no supported table extension", "Save it as .xlsx or .csv"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_is_something_else_is_called_by_its_name(case: str, tmp_path: Path):
    name, data, problem, fix = REFUSED[case]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=problem) as refused:
        read_table(tmp_path / name)
    assert fix in refused.value.fix


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no FIFOs")
@pytest.mark.parametrize("name", ["t.csv", "t.txt", "t"])
def test_a_fifo_is_called_a_pipe_and_is_never_opened(name: str, tmp_path: Path):
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match="is a pipe"):
        read_table(tmp_path / name)
    with pytest.raises(UserError, match="is a pipe"):
        list_sources([str(tmp_path / name)])


@pytest.mark.parametrize(
    ("path", "kind", "piped"),
    [
        ("a.ndjson.gz", "jsonl", "jsonl"),
        ("https://x.org/a.csv?raw=true", "csv", "csv"),
        ("s3://bucket/a.tsv.zst", "tsv", "tsv"),
        ("a.xlsx", "xlsx", "csv"),
        ("a.json", "json", "jsonl"),
        ("a.parquet", "parquet", "jsonl"),
        ("a", "", "jsonl"),
    ],
)
def test_the_format_of_a_file_or_url_is_kept_in_a_pipe_if_it_can_be(path: str, kind: str, piped: str):
    assert file_format(path)[0] == kind
    assert output_kind(None, path) == piped


@pytest.mark.parametrize("name", WRITERS)
def test_the_format_of_standard_input_is_that_of_its_content(name: str, tmp_path: Path):
    WRITERS[name](tmp_path / name)
    found = content_format((tmp_path / name).read_bytes()[:8192])
    if name.endswith((".gz", "separator.csv")) or name == "pretty.json":
        return  # compressed input is refused; a separator line is read as .csv
    expected = {"a.ndjson": "jsonl", "lines.json": "jsonl", "tab.csv": "tsv"}.get(name, name.rpartition(".")[2])
    assert found == expected
