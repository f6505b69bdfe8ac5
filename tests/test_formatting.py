"""Formatting of numbers and control characters."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt1 import formatting


@given(st.floats(1e-12, 1e12), st.integers(3, 6))
def test_a_formatted_number_is_correct_to_its_digits(value: float, digits: int) -> None:
    shown = float(formatting.format_number(value, digits).replace(",", ""))
    assert shown == pytest.approx(value, rel=0.51 * 10 ** (1 - digits))


@given(st.integers(2, 10**9))
def test_only_one_is_singular(n: int) -> None:
    assert (formatting.count_noun(1, "document"), formatting.count_noun(n, "document")) == (
        "1 document",
        f"{n:,} documents",
    )


@given(st.integers())
def test_an_integer_is_shown_in_full(value: int) -> None:
    assert int(formatting.format_number(value).replace(",", "")) == value


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.87, "0.870"), (61.23, "61.2"), (812.4, "812"), (12345.6, "12,346"), (0.0, "0.000"), (2.5e-4, "2.5e-4"),
     (999.4, "999"), (999.7, "1,000"), (99.97, "100"),
     (float("nan"), "NaN"), (float("inf"), "∞"), (7, "7"), (12345, "12,345")],
)  # fmt: skip
def test_metrics_have_three_significant_digits(value: float, expected: str) -> None:
    assert formatting.format_number(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.1, "0.1"), (2000, "2000"), (2.5e-4, "2.5e-4"), (1e-8, "1e-8"), (3.0, "3"), (0.002, "0.002")],
)
def test_settings_have_their_shortest_form(value: float, expected: str) -> None:
    assert formatting.format_setting(value) == expected


@given(st.floats(1e-12, 1e12))
def test_a_formatted_setting_parses_to_the_same_value(value: float) -> None:
    assert float(formatting.format_setting(value)) == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(980, "980"), (16_400, "16.4k"), (25_300_000, "25.3M"), (116_534_784, "117M"), (2e9, "2.00G"),
     (999_700, "1.00M"), (999_800_000, "1.00G"), (9_999.6, "10,000"), (3.4e12, "3,400G")],
)  # fmt: skip
def test_large_counts_have_three_digits_and_a_unit(value: float, expected: str) -> None:
    assert formatting.format_large_count(value) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.2, "0:00"), (112, "1:52"), (7380, "2:03:00"), (float("inf"), "?")]
)
def test_durations_have_minutes_and_seconds(seconds: float, expected: str) -> None:
    assert formatting.format_duration(seconds) == expected


@given(st.text())
def test_escaped_text_has_no_control_characters(text: str) -> None:
    escaped = formatting.escape_controls(text)
    assert all(c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs") for c in escaped)
    if all(c.isprintable() for c in text):
        assert escaped == text


def test_characters_that_reorder_text_are_escaped() -> None:
    assert formatting.escape_controls("\u202e25 \u2066x") == "\\u202e25 \\u2066x"
    for text in ("👩\u200d👩\u200d👧", "مرحبا\u200f بالعالم", "می\u200cخواهم"):  # joiners and marks belong to texts
        assert formatting.escape_controls(text) == text


@given(st.text())
def test_printable_json_has_no_control_characters_and_the_same_value(text: str) -> None:
    shown = formatting.printable_json(json.dumps({text: [text]}, ensure_ascii=False))
    assert not formatting.CONTROL.search(shown)
    assert json.loads(shown) == {text: [text]}


def test_a_name_cannot_forge_a_line() -> None:
    assert formatting.printable_line("a\nnext: rm\t\r") == "a\\nnext: rm\\t\\r"


@pytest.mark.parametrize(("word", "quoted"), [("a\ud800", "$'a\\355\\240\\200'"), ("a\udcff", "$'a\\377'")])
def test_half_a_character_is_quoted_for_the_shell_by_its_bytes(word: str, quoted: str):
    assert formatting.shell_quote(word) == quoted


@pytest.mark.parametrize(("n", "text"), [(28_928, "28.9k"), (1_800_000, "1.8M"), (116_534_784, "116.5M"), (770, "770")])
def test_parameters_of_small_models_are_not_0_million(n: int, text: str):
    assert formatting.count_parameters(n) == f"{text} parameters"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(8.4, "8 s"), (119, "119 s"), (120, "2 min"), (2820, "47 min"), (7200, "2 h"), (170000, "47 h"), (1e6, "12 days")],
)
def test_an_estimate_has_its_largest_unit(seconds: float, text: str) -> None:
    assert formatting.format_estimate(seconds) == f"about {text}"


@pytest.mark.parametrize(
    ("size", "expected"),
    [(1, "1 byte"), (812, "812 bytes"), (12_345, "12.3 kB"), (600_019, "0.6 MB"), (10_100_000, "10.1 MB")],
)
def test_sizes_are_never_zero_megabytes(size: float, expected: str) -> None:
    assert formatting.format_size(size) == expected


def test_counts_of_one_are_singular_and_fractions_are_short() -> None:
    assert formatting.count_noun(1.0, "epoch") == "1 epoch"
    assert formatting.count_noun(0.5, "epoch") == "0.5 epochs"
    assert formatting.format_metric("MB_per_s", 4.89e-4) == "489 bytes/s"
    assert formatting.format_metric("MB_per_s", 9.0) == "9.00 MB/s"
