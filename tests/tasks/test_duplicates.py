"""Rows with the same input are found, whatever their label."""

from __future__ import annotations

from typing import Any

import pytest

from gpt1.tasks.duplicates import contradictions, deduplicate
from gpt1.tasks.kinds import KINDS, Example


def test_duplicates_are_removed_whatever_their_label():
    a, b = Example(("a",), label="x"), Example(("b",), label="x")
    assert deduplicate(KINDS["classification"], [a, b, Example(("a",), label="y"), b]) == ([0, 1], 2, 0)


def test_rows_also_in_the_validation_file_are_removed_and_counted_separately():
    a, b, c = (Example((text,)) for text in "abc")
    validation = [Example(("a",), label="x")]
    assert deduplicate(KINDS["classification"], [a, b, a, c, c], validation) == ([1, 3], 1, 2)


def test_rows_with_the_same_texts_in_other_fields_are_not_duplicates():
    examples = [Example(("a", "b")), Example(("b", "a")), Example(("a",), ("b",))]
    assert deduplicate(KINDS["entailment"], examples) == ([0, 1, 2], 0, 0)


def test_a_pair_that_the_model_sees_in_both_orders_is_a_duplicate_of_the_swapped_pair():
    examples = [Example(("a", "b")), Example(("b", "a")), Example(("b", "b"))]
    assert deduplicate(KINDS["similarity"], examples) == ([0, 2], 1, 0)
    assert deduplicate(KINDS["similarity"], examples, validation=[Example(("b", "a"))]) == ([2], 0, 2)


@pytest.mark.parametrize(
    ("kind", "labels", "expected"),
    [
        ("multilabel", ["sport|art", "art|sport", ["art", "sport"], "art", "1|2", "2.0|1"], 1),
        ("classification", ["1", 1.0, "2", "1"], 1),
        ("regression", ["0,5", "0.50", 0.5, 2], 1),
    ],
)
def test_a_label_that_is_written_in_another_way_is_not_another_label(kind: str, labels: list[Any], expected: int):
    examples = [Example(("b" if str(label) in ("1|2", "2.0|1") else "a",), label=label) for label in labels]
    target = KINDS[kind].target.from_labels(labels)
    kept, _, _ = deduplicate(KINDS[kind], examples)
    assert contradictions(KINDS[kind], examples, kept, target) == expected
