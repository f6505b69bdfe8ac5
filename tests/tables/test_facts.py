"""Statistics of a table: counts and lengths equal a plain count, and warnings are sentences."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt1.tables.facts import describe_table, label_warnings, normalize_text
from gpt1.tables.table import Table, read_table

texts = st.text(alphabet="aA b.!ß굳ㅋ_", max_size=6)


def make_table(rows: list[dict], name: str = "reviews.csv") -> Table:
    return Table(name, list(rows[0]), rows)


@given(rows=st.lists(st.tuples(texts, st.sampled_from(["pos", "neg"])), min_size=1, max_size=30))
def test_row_label_length_and_duplicate_counts_equal_a_plain_count(rows):
    facts = describe_table(make_table([{"text": text, "label": label} for text, label in rows]), texts=["text"])
    lengths = sorted(len(text) for text, _ in rows)
    assert facts["rows"] == len(rows)
    assert facts["labels"] == Counter(label for _, label in rows)
    assert facts["texts"]["text"]["min"] == lengths[0]
    assert facts["texts"]["text"]["max"] == lengths[-1]
    assert lengths[(len(rows) - 1) // 2] <= facts["texts"]["text"]["median"] <= lengths[len(rows) // 2]
    assert facts["texts"]["text"]["empty"] == sum(not text.strip() for text, _ in rows)
    filled = [(text, label) for text, label in rows if text.strip()]  # rows without text are not duplicates
    assert facts["duplicates"] == len(filled) - len({text for text, _ in filled})
    first = dict(reversed(filled))
    assert facts["contradictions"] == sum(first[text] != label for text, label in filled)


@given(text=st.text(max_size=20))
def test_texts_are_compared_by_their_letters_and_digits_in_every_script(text):
    letters = "".join(c for c in text.lower() if c.isalnum())
    kept = "".join(c for c in normalize_text(text) if c.isalnum())
    assert kept == letters
    assert normalize_text(text) == text if not letters else True
    assert normalize_text("Don't — stop, 굳!") == normalize_text("dont stop 굳")


def test_numeric_columns_are_not_text_columns(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id,title,stars,body\n1,Good,5,I like it.\n2,Bad,1,\n3,2012,3,Fine.\n")
    facts = describe_table(read_table(path))
    assert list(facts["texts"]) == ["title", "body"]
    assert "labels" not in facts
    assert facts["warnings"] == ["1 row has no text in 'body'."]


def test_scores_have_a_range_and_a_mean_instead_of_counts():
    facts = describe_table(make_table([{"text": f"t{i}", "label": i / 10} for i in range(101)]))
    assert facts["scores"] == {"min": 0.0, "mean": 5.0, "max": 10.0}
    assert "labels" not in facts


def test_score_statistics_ignore_nan_and_infinity():
    stars = ["nan", "inf", *map(str, range(60))]
    facts = describe_table(make_table([{"text": f"t{i}", "stars": star} for i, star in enumerate(stars)]), "stars")
    assert facts["scores"] == {"min": 0, "mean": 29.5, "max": 59}
    assert "scores" not in describe_table(
        make_table([{"text": "t", "stars": f"{i}e999"} for i in range(1, 60)]), "stars"
    )


def test_a_list_of_answers_is_a_text():
    facts = describe_table(make_table([{"context": "c", "choices": ["aa", "bb"], "label": 0}] * 2))
    assert facts["texts"]["choices"]["max"] == 5
    assert facts["duplicates"] == 1


def test_the_warnings_are_sentences():
    rows = [{"text": f"t{i}", "label": "yes"} for i in range(41)]
    rows += [{"text": "t0", "label": "no"}, {"text": "t1", "label": "yes"}]
    facts = describe_table(make_table(rows))
    assert facts["warnings"] == [
        "2 rows have the same text as an earlier row.",
        "1 row has the same text as an earlier row but a different label.",
        "label 'no' has 1 row, 'yes' 42: accuracy is not a useful metric.",
    ]
    assert describe_table(make_table([{"text": "a", "label": "x"}, {"text": "b", "label": "x"}]))["warnings"] == [
        "all rows have the same label, 'x': there is nothing to learn."
    ]
    assert describe_table(make_table([{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]))["warnings"] == []


def test_similar_labels_are_one_warning():
    labels = [f"{name}{i}" for i in range(8) for name in ("a", "A")]
    (warning,) = label_warnings(dict.fromkeys(labels, 9))
    assert "'a0' and 'A0' (case, spaces or punctuation); 'a1' and 'A1'" in warning
    assert warning.endswith("; 3 more.")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([f"u{i:03}" for i in range(40)], "40 of them with a single row"),
        ([f"2024-01-{1 + i // 2:02}" for i in range(40)], "20 labels in 40 rows. Is the label column an identifier, a"),
        ([f"2024-01-{1 + i // 8:02}" for i in range(40)], "the 5 labels are dates"),
        (["a", "b", "c", "d"] * 10, ""),
    ],
)
def test_identifiers_and_dates_as_labels_are_a_warning(labels: list[str], words: str):
    found = label_warnings(Counter(labels))
    assert bool(found) == bool(words)
    assert words in " ".join(found)
