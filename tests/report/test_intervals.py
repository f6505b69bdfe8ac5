"""Intervals on pages."""

from __future__ import annotations

from gpt1.report.page import format_interval


def test_ends_of_intervals_have_three_decimals_and_a_minus_sign() -> None:
    assert format_interval((-0.0604, 0.3412)) == "[−0.060,\xa00.341]"
    assert format_interval((1.5, 12.25)) == "[1.50,\xa012.2]"
