"""Labeled tables: every format reads back what was written, and the error for an invalid row names its line."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt1.datasets import KnownTable
from gpt1.errors import ResourceError, UserError
from gpt1.files.reading import open_input
from gpt1.tables.rows import stream_rows
from gpt1.tables.table import missing_column_error, read_table, write_table
from gpt1.tables.writer import table_writer

COMPRESSIONS = ["", ".gz", ".xz", ".zst"]
characters = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
cells = st.text(characters, max_size=20)
headers = st.lists(
    st.text(characters, min_size=1, max_size=8).filter(lambda name: name.strip() and name[0] != "\ufeff"),
    min_size=2,  # a header of one cell is checked for other delimiters
    max_size=4,
    unique=True,
)
tsv_characters = st.characters(exclude_characters="\0\t\r\n", exclude_categories=["Cs"])


def tables_of(headers: st.SearchStrategy[list[str]], cells: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return headers.flatmap(
        lambda names: st.lists(st.fixed_dictionaries(dict.fromkeys(names, cells)), min_size=1, max_size=5)
    )


@pytest.fixture(scope="module")
def scratch_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for generated files, overwritten by every example."""
    return tmp_path_factory.mktemp("generated")


def round_trip(path: Path, rows: list[dict[str, Any]]) -> None:
    write_table(path, rows)
    assert path.name in os.listdir(path.parent)
    assert not [name for name in os.listdir(path.parent) if "partial" in name]
    table = read_table(path)
    assert table.rows == rows
    assert table.columns == list(rows[0])


@given(rows=tables_of(headers, cells), compression=st.sampled_from(COMPRESSIONS))
def test_csv_preserves_any_cells(scratch_folder: Path, rows: list[dict[str, Any]], compression: str) -> None:
    round_trip(scratch_folder / f"rows.csv{compression}", rows)


@given(
    rows=tables_of(headers.map(lambda names: [f"{i}{name.split()[0]}" for i, name in enumerate(names)]), cells).map(
        lambda rows: [{key: " ".join(value.split()) + '"' for key, value in row.items()} for row in rows]
    ),
    compression=st.sampled_from(COMPRESSIONS),
)
def test_tsv_preserves_any_cells_without_tabs_and_line_breaks(
    scratch_folder: Path, rows: list[dict[str, Any]], compression: str
) -> None:
    round_trip(scratch_folder / f"rows.tsv{compression}", rows)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(rows=tables_of(headers, values), compression=st.sampled_from(COMPRESSIONS))
def test_jsonl_preserves_any_values(scratch_folder: Path, rows: list[dict[str, Any]], compression: str) -> None:
    round_trip(scratch_folder / f"rows.jsonl{compression}", rows)


@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {
                "text": st.text(max_size=20),
                "label": st.none() | st.integers(-(2**63), 2**63 - 1),
                "score": st.floats(allow_nan=False),
                "choices": st.lists(st.text(max_size=5), min_size=1, max_size=3),
            }
        ),
        min_size=1,
        max_size=5,
    ),
    compression=st.sampled_from(COMPRESSIONS),
)
def test_parquet_preserves_typed_columns(scratch_folder: Path, rows: list[dict[str, Any]], compression: str) -> None:
    round_trip(scratch_folder / f"rows.parquet{compression}", rows)


def test_a_row_has_its_line_or_row_number_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('\ufefftext,label\n"two\nlines",x\n\nlast,y\n', encoding="utf-8")
    table = read_table(tmp_path / "a.csv")
    assert table.columns == ["text", "label"]
    assert [table.locate_row(i) for i in range(len(table))] == [
        f"{tmp_path}/a.csv, line 2",
        f"{tmp_path}/a.csv, line 5",
    ]
    write_table(tmp_path / "a.parquet", table.rows)
    assert read_table(tmp_path / "a.parquet").locate_row(1) == f"{tmp_path}/a.parquet, row 2"


def test_line_endings_of_any_system_are_read(tmp_path: Path) -> None:
    for kind, separator in (("csv", ","), ("tsv", "\t")):
        path = tmp_path / f"a.{kind}"
        path.write_bytes(f"text{separator}label\r\na b{separator}1\r\nc{separator}2".encode())
        assert read_table(path).rows == [{"text": "a b", "label": "1"}, {"text": "c", "label": "2"}]


def test_quotes_delimit_cells_in_csv_and_are_text_in_tsv(tmp_path: Path) -> None:
    for kind, separator, cell in (("csv", ",", 'say "so", he said'), ("tsv", "\t", '"say ""so"", he said"')):
        (tmp_path / f"a.{kind}").write_text(f'text{separator}label\n"say ""so"", he said"{separator}1\n')
        assert read_table(tmp_path / f"a.{kind}").rows[0]["text"] == cell


def test_column_names_replace_a_missing_header_and_format_replaces_the_extension(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('x\t3.5\t"one\nx\t1\ttwo\tmore\tand more\n')
    with open_input(tmp_path / "a.csv", "tsv") as file:
        rows = [*stream_rows(file, ["genre", "score", "text"])]
    assert [(number, row["text"]) for number, row in rows] == [(1, '"one'), (2, "two")]
    too_few = pytest.raises(UserError, match="line 1 has 3 cells, but the header has 4")
    with open_input(tmp_path / "a.csv", "tsv") as file, too_few:
        [*stream_rows(file, ["genre", "score", "text", "other"])]


def test_missing_jsonl_fields_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"b": [1, "x"], "a": null}\n')
    table = read_table(tmp_path / "a.jsonl")
    assert table.columns == ["a", "b"]
    assert table.rows == [{"a": 1, "b": None}, {"a": None, "b": [1, "x"]}]


INVALID_TABLES = {
    "nothing.csv": (b"", ["nothing.csv is empty"]),
    "nothing.jsonl": (b"\n\n", ["nothing.jsonl has no rows"]),
    "header.tsv": (b"text\tlabel\n", ["header.tsv has no rows"]),
    "few.csv": (b"text,label\na,1\nb\n", ["few.csv, line 3 has 1 cell, but the header has 2", "Quote"]),
    "many.tsv": (b"text\tlabel\na\t1\t2\n", ["many.tsv, line 2 has 3 cells", "quotes are text"]),
    "quote.csv": (b'text,label\n"a" b,1\n', ["quote.csv, line 2 is not CSV"]),
    "open.csv": (b'text,label\na,1\n"b,2\nc,3\n', ["open.csv, line 3 is not CSV"]),
    "mac.csv": (b"text,label\ra,1\rb,2\r", ["mac.csv, line 1 is not CSV: a carriage return", "line endings of Unix"]),
    "commas.tsv": (
        b"text,label\na,1\n",
        ["the header is one cell, 'text,label'", "a comma, rename the file to end in .csv"],
    ),
    "semicolons.tsv": (
        b"text;label\na;1\n",
        ["the header is one cell, 'text;label'", "a semicolon, rename the file to end in .csv"],
    ),
    "twice.csv": (b"text,text\na,1\n", ["two columns are named 'text'"]),
    "nameless.csv": (b",text\n0,a\n", ["column 1 of 2 has no name", "index=False"]),
    "nameless.tsv": (b"text\t \n0\ta\n", ["column 2 of 2 has no name"]),
    "latin.csv": (b"text,label\ncaf\xe9,1\n", ["latin.csv is not UTF-8: line 2, byte 15 ", "0xE9"]),
    "binary.csv": (b"PK\3\4\0\0", ["binary.csv is a binary file"]),
    "packed.csv": (b"PAR1\0\0", ["packed.csv is not text: it is Parquet", ".parquet"]),
    "broken.jsonl": (b'{"a": 1}\n{"a": 1\n', ["broken.jsonl, line 2 cannot be read as JSON"]),
    "list.jsonl": (b"[1]\n", ["line 1 is a JSON list, not an object"]),
    "fake.parquet": (b"PAR1 no PAR1", ["fake.parquet is not Parquet"]),
    "cut.csv.gz": (b"\x1f\x8b\x08\0", ["cut.csv.gz is damaged or truncated"]),
    "table.xlsx": (b"PK", ["table.xlsx is not .xlsx, or is damaged", "as .csv (Excel: CSV UTF-8)"]),
    "table.json": (b"[]", ["table.json has no rows"]),
    "table": (b"a,b", ["table has no supported table extension"]),
}


@pytest.mark.parametrize("name", INVALID_TABLES)
def test_the_error_for_an_invalid_table_names_the_place_the_problem_and_the_fix(tmp_path: Path, name: str) -> None:
    data, expected = INVALID_TABLES[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError) as raised:
        read_table(tmp_path / name)
    assert all(part in str(raised.value) for part in expected), raised.value


def test_the_error_for_a_missing_table_suggests_the_closest_name(tmp_path: Path) -> None:
    (tmp_path / "reviews.csv").touch()
    with pytest.raises(UserError, match=r"review.csv does not exist. Did you mean reviews.csv\?"):
        read_table(tmp_path / "review.csv")
    with pytest.raises(UserError, match="is a folder"):
        read_table(tmp_path)


def test_the_error_for_a_missing_column_lists_the_columns_and_suggests_the_closest() -> None:
    assert str(missing_column_error("reviews.csv", {"labels": "--label"}, ["text", "label", "stars"])) == (
        "reviews.csv has no column 'labels'. Columns: text, label, stars.\nDid you mean label=\"label\"?"
    )
    assert missing_column_error("r.csv", {"x": "--label"}, ["text", "y"]).fix == "Choose one of them with --label."


def test_ambiguous_column_names_are_quoted_in_the_error_and_in_the_suggestion() -> None:
    assert str(missing_column_error("r.csv", {"label": "--label"}, ["a text", " label ", "x,y"])) == (
        "r.csv has no column 'label'. Columns: a text, ' label ', 'x,y'.\nDid you mean label=' label '?"
    )


def test_csv_with_semicolons_reads_like_csv_with_commas(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes('\ufefftext;score\r\n"so; ""this"" way,\r\nor";3,5\r\nb,c;1\r\n'.encode())
    table = read_table(tmp_path / "a.csv")
    assert table.columns == ["text", "score"]
    assert table.rows == [{"text": 'so; "this" way,\r\nor', "score": "3,5"}, {"text": "b,c", "score": "1"}]
    (tmp_path / "d.csv").write_text('nr;"size, MB";note, more\n1;2,3;x\n')  # most of the header's cells
    assert read_table(tmp_path / "d.csv").columns == ["nr", "size, MB", "note, more"]
    (tmp_path / "e.csv").write_text("a;b\n1;2;3\n")
    with pytest.raises(UserError, match="Quote cells that contain a semicolon"):
        read_table(tmp_path / "e.csv")
    (tmp_path / "b.csv").write_text("a;b,c\n1;2,3\n")  # a comma in the header: the delimiter is the comma
    assert read_table(tmp_path / "b.csv").rows == [{"a;b": "1;2", "c": "3"}]
    round_trip(tmp_path / "c.csv", [{"a;b": "1;2"}, {"a;b": "1,2"}])


def test_the_fix_for_a_folder_depends_on_whether_it_contains_tables(tmp_path: Path) -> None:
    (tmp_path / "pos").mkdir()
    with pytest.raises(UserError, match=r"is a folder, not a table\.\nWrite its texts to a \.csv"):
        read_table(tmp_path)
    (tmp_path / "a.csv").touch()
    with pytest.raises(UserError, match=r"is a folder, not a table\.\nUse a file in it"):
        read_table(tmp_path)


@pytest.mark.parametrize(
    ("like", "expected"),
    [
        ("in.csv.gz", 'text,list,n\n"a, b","[""é"", 1]",\nc,,0.5\n'),
        ("in.tsv", 'text\tlist\tn\na, b\t["é", 1]\t\nc\t\t0.5\n'),
        ("in.jsonl", '{"text": "a, b", "list": ["é", 1]}\n{"text": "c", "n": 0.5}\n'),
        ("in.parquet", '{"text": "a, b", "list": ["é", 1]}\n{"text": "c", "n": 0.5}\n'),
    ],
)
def test_standard_output_has_the_format_of_the_input_without_compression(
    capfdbinary: pytest.CaptureFixture[bytes], like: str, expected: str
) -> None:
    with table_writer(None, ["text", "list", "n"], like=like) as writer:
        writer.write([{"text": "a, b", "list": ["é", 1]}, {"text": "c", "n": np.float32(0.5)}])
    assert capfdbinary.readouterr().out.decode("utf-8") == expected


@pytest.mark.parametrize(
    ("name", "rows", "problem"),
    [
        (
            "a.tsv",
            [{"text": "fine"}, {"text": "tab\tinside"}],
            "row 2 cannot be written as .tsv: a cell contains a tab",
        ),
        ("a.tsv", [{"text": "line\nbreak"}], "row 1 cannot be written as .tsv"),
        ("a.tsv", [{"text": ""}], "row 1 cannot be written as .tsv: it is empty"),
        ("a.tsv", [{"te\txt": "a"}], "the header cannot be written as .tsv"),
        ("a.parquet", [{"n": 1}, {"n": "one"}], "the rows cannot be written as .parquet"),
        ("a.txt", [{"n": 1}], "a.txt has no supported table extension"),
    ],
)
def test_rows_that_a_format_cannot_store_leave_the_old_file(
    tmp_path: Path, name: str, rows: list[dict[str, Any]], problem: str
) -> None:
    (tmp_path / name).write_text("before")
    with pytest.raises(UserError, match=problem):
        write_table(tmp_path / name, rows)
    assert (tmp_path / name).read_text() == "before"
    assert os.listdir(tmp_path) == [name]


def test_a_full_disk_is_an_error_and_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_disk_full(file: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("gpt1.files.atomic.fsync_file", raise_disk_full)
    (tmp_path / "a.csv").write_text("before")
    with pytest.raises(ResourceError, match="the disk is full"):
        write_table(tmp_path / "a.csv", [{"text": "a"}])
    assert (tmp_path / "a.csv").read_text() == "before"
    assert os.listdir(tmp_path) == ["a.csv"]


def test_equal_rows_give_equal_bytes_at_any_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for ending in COMPRESSIONS:
        for name, now in (("a", 1e9), ("b", 2e9)):
            monkeypatch.setattr("time.time", lambda now=now: now)
            write_table(tmp_path / f"{name}.jsonl{ending}", [{"text": "x"}])
        assert (tmp_path / f"a.jsonl{ending}").read_bytes() == (tmp_path / f"b.jsonl{ending}").read_bytes()


OFFICIAL = [
    ("SST-2/train.tsv", 67_349, ["sentence", "label"]),
    ("RTE/train.tsv", 2_490, ["index", "sentence1", "sentence2", "label"]),
    ("QNLI/dev.tsv", 5_463, ["index", "question", "sentence", "label"]),
    ("SNLI-devtest/dev.jsonl.xz", 9_842, ["premise", "hypothesis", "label"]),
]


@pytest.mark.parametrize(("name", "rows", "columns"), OFFICIAL, ids=[name for name, *_ in OFFICIAL])
def test_official_files_have_the_official_number_of_rows(
    shared_data: Path, name: str, rows: int, columns: list[str]
) -> None:
    table = read_table(shared_data / "data" / "tasks" / name)
    assert len(table) == rows
    assert table.columns == columns
    assert json.loads(json.dumps(table.rows[-1]))


def test_selected_rows_keep_their_places_in_the_file(tmp_path: Path):
    (tmp_path / "t.csv").write_text("text\na\n\nb\nc\n")
    table = read_table(tmp_path / "t.csv", name="t.csv").select([2, 0])
    assert [(row["text"], table.locate_row(i)) for i, row in enumerate(table.rows)] == [
        ("c", "t.csv, line 5"),
        ("a", "t.csv, line 2"),
    ]
    known = KnownTable("rte:dev", ["text"], [{"text": "a"}, {"text": "b"}], row_locations=["dev.tsv, 1", "dev.tsv, 2"])
    assert known.select([1]).locate_row(0) == "dev.tsv, 2"
