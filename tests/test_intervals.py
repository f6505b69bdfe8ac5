"""Intervals equal those of scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, pearsonr

from gpt1.intervals import estimate_interval


@given(rows=st.integers(1, 5000), share=st.floats(0, 1))
def test_the_interval_of_accuracy_is_wilsons(rows: int, share: float) -> None:
    right = round(share * rows)
    expected = binomtest(right, rows).proportion_ci(0.95, method="wilson")
    assert estimate_interval("accuracy", right / rows, rows) == pytest.approx((expected.low, expected.high), abs=1e-9)


@given(seed=st.integers(0, 999), rows=st.integers(4, 300))
def test_the_interval_of_pearson_is_fishers(seed: int, rows: int) -> None:
    x, y = np.random.default_rng(seed).normal(size=(2, rows))
    found = pearsonr(x, y)
    expected = found.confidence_interval(0.95)
    assert estimate_interval("pearson", found.statistic, rows) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_the_interval_of_spearman_is_wider_than_that_of_pearson() -> None:
    low, high = estimate_interval("pearson", 0.5, 50) or (0, 0)
    wide_low, wide_high = estimate_interval("spearman", 0.5, 50) or (0, 0)
    assert wide_low < low < 0.5 < high < wide_high


@pytest.mark.parametrize(("metric", "rows"), [("loss", 100), ("f1", 100), ("accuracy", 0), ("pearson", 3)])
def test_no_interval_is_claimed_where_none_follows(metric: str, rows: int) -> None:
    assert estimate_interval(metric, 0.5, rows) is None
