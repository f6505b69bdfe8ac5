"""Results have the DataFrame library of the input; an input that cannot be read is one error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from gpt1.errors import UserError
from gpt1.tables.frames import frame_like, frame_table, is_frame, is_series, records_like, series_texts, to_table
from gpt1.tables.table import Table

COLUMNS: dict[str, list[Any]] = {"text": ["a", "b", "c"], "n": [1, 2, 3], "list": [["x"], ["y", "z"], []]}
MAKERS = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "pyarrow": pa.table}
every_library = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@every_library
def test_a_frame_and_its_table_have_the_same_values(make: Any):
    table = frame_table(make(COLUMNS))
    assert table.columns == list(COLUMNS)
    assert table.rows == [dict(zip(COLUMNS, row, strict=True)) for row in zip(*COLUMNS.values(), strict=True)]
    assert table.locate_row(1) == "the DataFrame, position 1"


@every_library
def test_a_result_has_the_kind_of_the_frame(make: Any):
    frame = make(COLUMNS)
    assert type(frame_like(frame, {"p": [1.0, 2.0, 3.0]})) is type(frame)
    assert frame_table(frame_like(frame, {"p": [1.0, 2.0, 3.0]})).rows == [{"p": 1.0}, {"p": 2.0}, {"p": 3.0}]
    records = [{"p": 1}, {"p": 2, "q": 0.5}, {"p": 3}]
    assert frame_table(records_like(frame, records)).rows == [{"q": None} | record for record in records]


def test_a_pandas_index_is_kept():
    frame = pd.DataFrame(COLUMNS, index=["x", "y", "y"])
    assert list(frame_like(frame, {"p": [1, 2, 3]}).index) == ["x", "y", "y"]
    assert list(frame_like(frame["text"], {"p": [1, 2, 3]}).index) == ["x", "y", "y"]
    assert list(frame_like(pd.DataFrame(COLUMNS)[::-1], {"p": [1, 2, 3]}).index) == [2, 1, 0]


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, pd.NaT])
def test_a_missing_value_is_none(missing: Any):
    assert frame_table(pd.DataFrame({"a": pd.Series(["x", missing], dtype=object)})).rows == [{"a": "x"}, {"a": None}]


def test_names_of_columns_are_strings():
    assert frame_table(pd.DataFrame([[1, 2]])).rows == [{"0": 1, "1": 2}]


def test_frames_are_recognized():
    assert all(map(is_frame, [pd.DataFrame(), pl.DataFrame(), pa.table({}), pd.Series(["a"]), pl.Series(["a"])]))
    assert is_series(pd.Series(["a"]))
    assert not is_series(pd.DataFrame())
    assert not any(map(is_frame, [["a"], "a", {"a": [1]}, Table("t", [], []), np.zeros(2), pl.LazyFrame()]))


@pytest.mark.parametrize("library", [pd, pl], ids=["pandas", "polars"])
def test_a_missing_text_is_an_error_with_its_row(library: Any):
    frame = library.DataFrame({"text": ["a", None, "c", None], "other": [None, "b", "c", "d"]})
    with pytest.raises(
        UserError, match=r"column 'text': the text is missing .* in 2 rows, the first at position 1"
    ) as error:
        frame_table(frame, ["text"])
    assert 'df.dropna(subset=["text"])' in error.value.fix
    assert len(frame_table(frame[["other"]])) == 4
    with pytest.raises(UserError, match=r"the Series: the text is missing .* in the row at position 0"):
        series_texts(frame["other"])


def test_two_columns_of_one_name_are_an_error():
    with pytest.raises(UserError, match="the DataFrame has two columns named 'a'"):
        frame_table(pd.DataFrame([[1, 2]], columns=["a", "a"]))


def test_rows_of_every_kind_become_a_table():
    rows = [{"text": "a", "label": 1}, {"text": "b"}]
    assert to_table(rows).rows == [{"text": "a", "label": 1}, {"text": "b", "label": None}]
    assert to_table(pd.DataFrame(rows)).columns == ["text", "label"]
    table = Table("t", [], [])
    assert to_table(table) is table
    assert to_table("rows.csv") == "rows.csv"
    for bad in (None, [], ["a text"], 3, pd.Series(["a"]), pl.LazyFrame({"a": [1]})):
        with pytest.raises(UserError):
            to_table(bad)
