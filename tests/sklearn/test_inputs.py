"""X of the estimators: DataFrames with other columns than in `fit`, bytes, and rows that cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from gpt1.errors import UserError
from gpt1.sklearn import GPTChoice, GPTPairClassifier
from gpt1.sklearn.inputs import text_rows
from gpt1.tables.table import Table

pytestmark = pytest.mark.usefixtures("no_reports")

QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 16, "device": "cpu", "precision": "fp32", "random_state": 0}


@pytest.mark.parametrize("library", [pd.DataFrame, pl.DataFrame])
def test_pairs_in_another_order_than_in_fit_are_an_error(library: Any, pretrained_run: Path, table: Table):
    columns = {name: [row[column] for row in table.rows] for name, column in (("p", "text"), ("h", "other"))}
    model = GPTPairClassifier(str(pretrained_run), **QUICK).fit(library(columns), [row["label"] for row in table.rows])
    with pytest.raises(ValueError, match="the columns h, p, but must have the order of fit: p, h"):
        model.predict(library(columns)[["h", "p"]])
    expected = model.predict_proba(library(columns))
    others: list[Any] = [library({"a": columns["p"], "h": columns["h"]}), [*zip(*columns.values(), strict=True)]]
    for other in others:  # other names, or none: the order decides
        np.testing.assert_allclose(model.predict_proba(other), expected, atol=1e-6)


def test_a_question_before_the_context_is_an_error(pretrained_run: Path, table: Table):
    frame = pd.DataFrame(
        {"c": [row["text"] for row in table.rows], "q": "why", "a": [row["answers"] for row in table.rows]}
    )
    model = GPTChoice(str(pretrained_run), **QUICK).fit(frame, [row["right"] for row in table.rows])
    with pytest.raises(ValueError, match="order of fit: c, q, a"):
        model.predict(frame[["q", "c", "a"]])


@pytest.mark.parametrize("texts", [["a text", "été"], [["a", "pair"], ["of", "texts"]]], ids=["texts", "pairs"])
def test_bytes_are_texts_in_utf_8_as_in_tables(texts: list[Any]):
    columns = np.array(texts).reshape(2, -1)
    assert text_rows(np.char.encode(texts, "utf-8"), columns.shape[1]).tolist() == columns.tolist()
    with pytest.raises(UserError, match="not UTF-8 text"):
        text_rows([b"\xe9"], 1)


def test_rows_of_an_error_count_from_0_also_if_rows_without_weight_are_left_out(pretrained_run: Path, table: Table):
    questions = [(row["text"], row["answers"]) for row in table.rows]
    questions[4] = ("a text", ["one answer"])
    weights = [0.0, 0.0, *[1.0] * (len(questions) - 2)]
    with pytest.raises(UserError, match="X, position 4: only 1 answer"):
        GPTChoice(str(pretrained_run), **QUICK).fit(questions, [0] * len(questions), sample_weight=weights)


@pytest.mark.parametrize("row", [("a", None), ("a", 3), ("a", []), ("a", "b"), ("a",), None, 7, "ab"])
def test_rows_that_are_no_questions_are_refused(row: Any):
    with pytest.raises(ValueError, match=r"row 1 of X is not \(context, answers\)"):
        GPTChoice().fit([("a", ["b", "c"]), row], [0, 0])
