"""How numbers and strange characters are shown."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt1 import formatting


@given(st.floats(1e-12, 1e12), st.integers(3, 6))
def test_a_shown_number_is_the_number_to_its_digits(value: float, digits: int) -> None:
    said = float(formatting.format_number(value, digits).replace(",", ""))
    assert said == pytest.approx(value, rel=0.51 * 10 ** (1 - digits))


@given(st.integers(2, 10**9))
def test_only_one_is_singular(n: int) -> None:
    assert (formatting.count_noun(1, "document"), formatting.count_noun(n, "document")) == (
        "1 document",
        f"{n:,} documents",
    )


@given(st.integers())
def test_a_whole_number_is_shown_in_full(value: int) -> None:
    assert int(formatting.format_number(value).replace(",", "")) == value


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.87, "0.870"), (61.23, "61.2"), (812.4, "812"), (12345.6, "12,346"), (0.0, "0.000"), (2.5e-4, "2.5e-4"),
     (999.4, "999"), (999.7, "1,000"), (99.97, "100"),
     (float("nan"), "NaN"), (float("inf"), "∞"), (7, "7"), (12345, "12,345")],
)  # fmt: skip
def test_measurements_keep_three_digits(value: float, said: str) -> None:
    assert formatting.format_number(value) == said


@pytest.mark.parametrize(
    ("value", "said"), [(0.1, "0.1"), (2000, "2000"), (2.5e-4, "2.5e-4"), (1e-8, "1e-8"), (3.0, "3"), (0.002, "0.002")]
)
def test_settings_are_as_short_as_they_can_be(value: float, said: str) -> None:
    assert formatting.format_setting(value) == said


@given(st.floats(1e-12, 1e12))
def test_a_setting_reads_back(value: float) -> None:
    assert float(formatting.format_setting(value)) == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize(
    ("value", "said"),
    [(980, "980"), (16_400, "16.4 k"), (25_300_000, "25.3 M"), (116_534_784, "117 M"), (2e9, "2.00 G"),
     (999_700, "1.00 M"), (999_800_000, "1.00 G"), (9_999.6, "10,000"), (3.4e12, "3,400 G")],
)  # fmt: skip
def test_large_counts_take_two_or_three_digits(value: float, said: str) -> None:
    assert formatting.format_large_count(value) == said


@pytest.mark.parametrize(("seconds", "said"), [(0.2, "0:00"), (112, "1:52"), (7380, "2:03:00"), (float("inf"), "?")])
def test_durations(seconds: float, said: str) -> None:
    assert formatting.format_duration(seconds) == said


@given(st.text())
def test_nothing_printable_is_an_order_to_the_terminal(text: str) -> None:
    said = formatting.escape_controls(text)
    assert all(c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs") for c in said)
    if all(c.isprintable() for c in text):
        assert said == text


def test_what_would_turn_the_numbers_beside_it_round_is_written_out() -> None:
    assert formatting.escape_controls("\u202e25 \u2066x") == "\\u202e25 \\u2066x"
    for text in ("👩\u200d👩\u200d👧", "مرحبا\u200f بالعالم", "می\u200cخواهم"):  # joiners and marks are part of texts
        assert formatting.escape_controls(text) == text


@given(st.text())
def test_printable_json_holds_no_control_characters_and_the_same_value(text: str) -> None:
    shown = formatting.printable_json(json.dumps({text: [text]}, ensure_ascii=False))
    assert not formatting.CONTROL.search(shown)
    assert json.loads(shown) == {text: [text]}


def test_a_line_cannot_be_forged() -> None:
    assert formatting.printable_line("a\nnext: rm\t\r") == "a\\nnext: rm\\t\\r"


@pytest.mark.parametrize(("word", "quoted"), [("a\ud800", "$'a\\355\\240\\200'"), ("a\udcff", "$'a\\377'")])
def test_half_a_character_is_quoted_for_the_shell_by_its_bytes(word: str, quoted: str):
    assert formatting.shell_quote(word) == quoted
