"""The regressors: what rows of weight 0 may not change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt1.sklearn import GPTPairRegressor, GPTRegressor
from gpt1.tables.table import Table

pytestmark = pytest.mark.usefixtures("no_reports")

QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 16, "device": "cpu", "precision": "fp32", "random_state": 0}


@pytest.mark.parametrize("regressor", [GPTRegressor, GPTPairRegressor])
def test_rows_of_weight_0_are_as_if_they_were_not_there(regressor: Any, pretrained_run: Path, table: Table):
    pairs = [(row["text"], row["other"]) for row in table.rows]
    X: list[Any] = pairs if regressor is GPTPairRegressor else [text for text, _ in pairs]
    numbers = np.array([*(row["stars"] for row in table.rows[:40]), *[1000.0] * 24])  # an outlier in each row left out
    weights = np.array([1.0] * 40 + [0.0] * 24)
    weighted = regressor(str(pretrained_run), **QUICK).fit(X, numbers, weights)
    shorter = regressor(str(pretrained_run), **QUICK).fit(X[:40], numbers[:40])
    np.testing.assert_array_equal(weighted.predict(X), shorter.predict(X))
    with pytest.raises(ValueError, match="all numbers are 2"):
        regressor(str(pretrained_run), **QUICK).fit(X, np.where(weights, 2.0, numbers), weights)
