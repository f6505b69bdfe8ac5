"""A cell of any type has one text and one number, the same in every format, or is refused by row and column."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pandas
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from gpt1.corpus.readers import read_documents
from gpt1.errors import UserError
from gpt1.tables.cells import cell_number, cell_text, is_missing, resolve_thousands
from gpt1.tables.table import read_table, write_table
from gpt1.tasks.examples import read_examples
from gpt1.tasks.kinds import KINDS

TEXTS: dict[str, Any] = {
    "좋다": "좋다",
    "1": 1,
    "1.0": 1.0,
    "True": True,
    "0.1": np.float32(0.1),
    "2": np.int8(2),
    "False": np.bool_(False),
    "a": np.str_("a"),
    "120": Decimal("1.2E+2"),
    "2024-01-31": date(2024, 1, 31),
    "2024-01-31 12:00:00": datetime(2024, 1, 31, 12),
    "2024-01-31 12:00:01": np.datetime64("2024-01-31T12:00:01"),
    "2024-01-31 12:00:02": pandas.Timestamp("2024-01-31 12:00:02"),
    "2024-01-31 12:00:00+00:00": datetime(2024, 1, 31, 12, tzinfo=UTC),
    "12:30:00": time(12, 30),
    "00000000-0000-0000-0000-000000000001": UUID(int=1),
}


@pytest.mark.parametrize("text", TEXTS)
def test_a_value_with_one_text_form_is_read_as_it(text: str):
    assert cell_text(TEXTS[text]) == text


@given(st.text(st.characters(codec="utf-8")))
def test_utf8_bytes_are_the_text(text: str):
    assert cell_text(text.encode()) == cell_text(text) == text


@pytest.mark.parametrize("cell", [None, math.nan, np.nan, pandas.NaT, pandas.NA, np.datetime64("NaT"), Decimal("NaN")])
def test_missing_values_of_every_library_are_empty(cell: Any):
    assert cell_text(cell) == ""
    assert cell is not None or is_missing(cell)


@pytest.mark.parametrize(
    "cell",
    [["a"], ("a",), {"a": 1}, {"a"}, np.array(["a"]), timedelta(days=1), np.timedelta64(1, "D"), 1j, object(), b"\xff"],
)
def test_a_value_without_one_text_form_is_refused_by_row_and_column(cell: Any):
    with pytest.raises(UserError, match=r"t, row 1, column 'body': .*(is not a text or a number|not UTF-8)"):
        read_examples([{"body": cell}], KINDS["classification"], {"text": "body"}, lambda i: f"t, row {i + 1}", False)


@pytest.mark.parametrize(
    ("cell", "number"),
    [
        ("3", 3),
        (" -3.5 ", -3.5),
        ("1e3", 1000),
        (b"4", 4),
        (Decimal("0.5"), 0.5),
        (np.float32(0.1), 0.1),
        ("3,5", 3.5),
        ("-0,125", -0.125),
        ("1234,567", 1234.567),
        ("3_5", None),
        ("1,234", None),
        ("1.234,5", 1234.5),
        ("1,234,567.5", 1234567.5),
        ("1.2345,6", None),
        ("", None),
        ("four", None),
        ([3], None),
        (date(2024, 1, 1), None),
        (10**400, None),
    ],
)
def test_a_number_is_read_with_a_point_or_a_comma_and_without_underscores(cell: Any, number: float | None):
    assert cell_number(cell) == number


@pytest.mark.parametrize(
    ("cells", "numbers"),
    [
        (["1.234", "3,5"], [1234, 3.5]),
        (["1.234", "1.234,51"], [1234, 1234.51]),
        (["1,234", "3,5"], [1.234, 3.5]),
        (["1,234", "3.5"], [1234, 3.5]),
        (["1,234", "1,234.5"], [1234, 1234.5]),
        (["1.234", "3.5"], [1.234, 3.5]),
        (["1.234", "1.500"], [1.234, 1.5]),
        (["1,234", "1,500"], [None, None]),  # nothing decides
        (["1,234", "3.5", "3,5"], [None, 3.5, 3.5]),  # the others disagree
        ([1.234, "3,5"], [1.234, 3.5]),
    ],
)
def test_the_other_numbers_of_a_column_decide_what_could_be_two(cells: list[Any], numbers: list[float | None]):
    assert list(map(cell_number, resolve_thousands(cells))) == numbers


@pytest.mark.parametrize(
    ("cells", "decimal", "numbers"),
    [
        (["1.234", "1.500"], ",", [1234, 1500]),
        (["1,234", "1,500"], ",", [1.234, 1.5]),
        (["1,234", "1,500"], ".", [1234, 1500]),
        (["1.234", "3.5"], ",", [1.234, 3.5]),  # these cells show it themselves
        (["1,234", "3.5", "3,5"], ",", [None, 3.5, 3.5]),
    ],
)
def test_other_rows_of_the_column_decide_if_these_do_not(cells: list[Any], decimal: str, numbers: list[float | None]):
    assert list(map(cell_number, resolve_thousands(cells, decimal))) == numbers


def test_binary_and_text_columns_of_parquet_are_read_alike(tmp_path: Path):
    texts = ["좋다", "b", "", None]
    for name, kind in {"string": pyarrow.string(), "binary": pyarrow.binary(), "large": pyarrow.large_binary()}.items():
        encoded = [None if text is None else text.encode() for text in texts] if "bin" in str(kind) else texts
        parquet.write_table(pyarrow.table({"text": pyarrow.array(encoded, kind)}), tmp_path / f"{name}.parquet")
        rows = read_table(tmp_path / f"{name}.parquet").rows
        found = read_examples(rows, KINDS["classification"], {"text": "text"}, str, False)
        assert [example.fields[0] for example in found] == ["좋다", "b", "", ""]


def test_a_corpus_of_binary_texts_is_decoded_or_refused_by_column(tmp_path: Path):
    for name, data in {"good": "좋다".encode(), "bad": b"\xff"}.items():
        parquet.write_table(
            pyarrow.table({"text": pyarrow.array([data], pyarrow.binary())}), tmp_path / f"{name}.parquet"
        )
    assert [part.text for part in read_documents([str(tmp_path / "good.parquet")])] == ["좋다"]
    with pytest.raises(UserError, match=r"bad.parquet, row 1, column 'text': these bytes are not UTF-8"):
        list(read_documents([str(tmp_path / "bad.parquet")]))


def test_values_from_parquet_are_those_that_were_written(tmp_path: Path):
    table = pyarrow.table(
        {
            "float32": pyarrow.array([0.1, 2.5, None], pyarrow.float32()),
            "time": pyarrow.array([0, 10**9, None], pyarrow.timestamp("ns")),
            "precise": pyarrow.array([1, 10**9, None], pyarrow.timestamp("ns")),
        }
    )
    parquet.write_table(table, tmp_path / "t.parquet")
    rows = read_table(tmp_path / "t.parquet").rows
    assert [row["float32"] for row in rows] == [0.1, 2.5, None]
    assert [cell_text(row["time"]) for row in rows] == ["1970-01-01 00:00:00", "1970-01-01 00:00:01", ""]
    assert cell_text(rows[0]["precise"]) == "1970-01-01 00:00:00.000000001"


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_dates_bytes_and_missing_values_are_written_as_their_text(name: str, tmp_path: Path):
    row = {"day": date(2024, 1, 31), "text": "좋다".encode(), "none": pandas.NaT, "n": np.float32(0.1)}
    write_table(tmp_path / name, [row])
    (found,) = read_table(tmp_path / name).rows
    assert {key: str(value) for key, value in found.items()} == {
        "day": "2024-01-31",
        "text": "좋다",
        "none": "",
        "n": "0.1",
    }
