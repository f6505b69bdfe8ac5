"""Rows become examples: which column is which field, what a label means, what is left out, what is refused."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt1.errors import UserError
from gpt1.tasks.examples import (
    answer_index,
    check_columns,
    deduplicate,
    encode_labels,
    hold_out,
    read_examples,
    target_from_examples,
)
from gpt1.tasks.kinds import KINDS, Example
from gpt1.tasks.targets import Classes, OrdinalBins, StandardizedNumber

CHOICE = KINDS["choice"]


def where(i: int) -> str:
    return f"t.csv, line {i + 2}"


def read(kind: str, row: dict[str, Any], columns: dict[str, str], labelled: bool = True) -> Example:
    (example,) = read_examples([row], KINDS[kind], columns, where, labelled)
    return example


# ---- columns


def test_fields_come_in_the_order_of_the_kind_whatever_the_columns_are_called():
    row = {"x": "second", "y": "first", "z": "yes", "w": 0}
    assert read("entailment", row, {"hypothesis": "x", "premise": "y", "label": "z"}) == Example(
        ("first", "second"), label="yes"
    )


def test_a_cell_that_is_empty_or_a_number_is_text_too():
    columns = {"text_a": "a", "text_b": "b", "label": "l"}
    assert read("similarity", {"a": None, "b": 12, "l": 1}, columns).fields == ("", "12")
    assert read("similarity", {"a": float("nan"), "b": 1.5, "l": 1}, columns).fields == ("", "1.5")


def test_a_missing_question_is_no_text():
    row = {"c": "passage", "a": ["x", "y"], "l": 0}
    assert read("choice", row, {"context": "c", "choices": "a", "label": "l"}) == Example(
        ("passage", ""), ("x", "y"), 0
    )


def test_a_column_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(UserError) as refused:
        check_columns(KINDS["classification"], {"text": "text", "label": "labels"}, ["text", "label"], "t.csv")
    assert refused.value.problem == "t.csv has no column 'labels'. Columns: text, label."
    assert refused.value.fix == "Did you mean --label label?"


def test_a_column_that_the_kind_needs_and_nobody_named_is_refused():
    with pytest.raises(UserError) as refused:
        check_columns(KINDS["entailment"], {"premise": "a", "label": "l"}, ["a", "b", "l"], "t.csv")
    assert refused.value.problem == "--kind entailment needs --hypothesis."
    assert "--premise COLUMN --hypothesis COLUMN --label COLUMN" in refused.value.fix


@pytest.mark.parametrize(
    ("kind", "columns"),
    [
        ("classification", {"text": "a", "label": "a"}),
        ("entailment", {"premise": "b", "hypothesis": "a", "label": "a"}),
        ("choice", {"context": "c", "choices": "a,b", "label": "b"}),
    ],
)
def test_a_label_that_the_model_would_read_is_refused(kind: str, columns: dict[str, str]):
    with pytest.raises(UserError, match=f"--label {columns['label']} is a column of --.* too"):
        check_columns(KINDS[kind], columns, ["a", "b", "c"], "t.csv")


def test_every_column_of_the_answers_has_to_be_there():
    columns = {"context": "c", "choices": "a1,a2,a4", "label": "l"}
    with pytest.raises(UserError, match="no column 'a4'"):
        check_columns(CHOICE, columns, ["c", "a1", "a2", "a3", "l"], "t.csv")


# ---- which answer is right


@pytest.mark.parametrize(
    ("label", "answer"),
    [
        ("A2", 1),  # a column's name
        ("red", 0),  # an answer's text
        (" blue ", 2),
        (2, 2),  # a number, from 0
        ("1", 1),
        (1.0, 1),
        ("0.0", 0),
    ],
)
def test_the_right_answer_is_named_by_column_by_text_or_by_number(label: Any, answer: int):
    assert answer_index(label, ["red", "green", "blue"], ["A1", "A2", "A3"], "here") == answer


def test_a_columns_name_goes_before_a_text_and_a_number():
    assert answer_index("1", ["1", "b"], ["0", "1"], "here") == 1
    assert answer_index("b", ["b", "a"], ["a", "b"], "here") == 1


@pytest.mark.parametrize(
    ("label", "answers"),
    [
        ("1", ["1", "2", "3"]),  # answer 0 by its text, answer 1 by its number
        ("same", ["same", "other", "same"]),
        ("2", ["a", "2", "2"]),
    ],
)
def test_a_label_that_could_mean_two_answers_is_refused(label: str, answers: list[str]):
    with pytest.raises(UserError, match=r"t.csv, line 7: label '\w+' could mean the answers number \d and \d"):
        answer_index(label, answers, [], "t.csv, line 7")


def test_a_label_that_means_one_answer_in_two_ways_is_no_riddle():
    assert answer_index("1", ["0", "1"], [], "here") == 1


@pytest.mark.parametrize("label", ["purple", 3, -1, 0.5, "nan", "inf", None, "", float("nan")])
def test_a_label_that_means_no_answer_is_refused(label: Any):
    with pytest.raises(UserError, match=r"t.csv, line 7: label '.*' is none of the 3 answers") as refused:
        answer_index(label, ["red", "green", "blue"], ["A1", "A2", "A3"], "t.csv, line 7")
    assert "A1, A2, A3" in refused.value.fix
    assert "from 0 to 2" in refused.value.fix


@pytest.mark.parametrize("cell", [["x", "y", "z"], ("x", "y", "z"), np.array(["x", "y", "z"])])
def test_answers_may_stand_in_one_column_as_a_list(cell: Any):
    row = {"c": "p", "a": cell, "l": "z"}
    assert read("choice", row, {"context": "c", "choices": "a", "label": "l"}) == Example(("p", ""), ("x", "y", "z"), 2)


def test_answers_may_stand_in_columns_of_their_own():
    row = {"c": "p", "q": "?", "A": "x", "B": 5, "l": "B"}
    columns = {"context": "c", "question": "q", "choices": "A,B", "label": "l"}
    assert read("choice", row, columns) == Example(("p", "?"), ("x", "5"), 1)


@pytest.mark.parametrize(("cell", "rule"), [("x", "holds no list"), ([], "0 answer"), (["x"], "1 answer")])
def test_less_than_two_answers_are_no_choice(cell: Any, rule: str):
    with pytest.raises(UserError, match=f"t.csv, line 2: .*{rule}"):
        read("choice", {"c": "p", "a": cell, "l": 0}, {"context": "c", "choices": "a", "label": "l"})


def test_rows_to_predict_need_no_label():
    row = {"c": "p", "a": ["x", "y"]}
    assert read("choice", row, {"context": "c", "choices": "a"}, labelled=False).label is None


# ---- labels


@pytest.mark.parametrize(
    ("kind", "score", "label", "rule"),
    [
        ("classification", False, "", "label is empty"),
        ("regression", False, "many", "'many' stands where a finite number belongs"),
        ("regression", False, float("nan"), "'nan' stands where"),
        ("similarity", True, "high", "'high' stands where"),
    ],
)
def test_a_label_that_breaks_its_rule_is_named_with_its_row(kind: str, score: bool, label: Any, rule: str):
    examples = [Example(("a",), label="1"), Example(("b",), label="2"), Example(("c",), label=label)]
    with pytest.raises(UserError, match=f"t.csv, line 4: .*{rule}"):
        target_from_examples(KINDS[kind], score, examples, where, "t.csv")


def test_a_label_that_training_never_saw_is_named_with_its_row():
    target = Classes(("no", "yes"))
    with pytest.raises(UserError, match=r"t.csv, line 3: unknown label 'perhaps'"):
        encode_labels(target, [Example(("a",), label="no"), Example(("b",), label="perhaps")], where)


def test_the_target_is_the_kinds_or_bins_where_a_score_is_asked_for():
    examples = [Example(("a", "b"), label=label) for label in (0, 5)]
    assert target_from_examples(KINDS["similarity"], False, examples, where, "t.csv") == Classes(("0", "5"))
    assert target_from_examples(KINDS["similarity"], True, examples, where, "t.csv") == OrdinalBins(0, 5)
    assert isinstance(target_from_examples(KINDS["regression"], False, examples, where, "t.csv"), StandardizedNumber)


def test_a_question_with_fewer_answers_leaves_its_last_columns_empty():
    columns = {"context": "c", "choices": "a1,a2,a3,a4", "label": "l"}
    row = {"c": "p", "a1": "x", "a2": "", "a3": "z", "a4": " ", "l": "a3"}
    assert read("choice", row, columns) == Example(("p", ""), ("x", "", "z"), 2)
    assert read("choice", {**row, "a3": None, "a2": "y", "l": 1}, columns) == Example(("p", ""), ("x", "y"), 1)
    for label in ("a4", 3):
        with pytest.raises(UserError, match=f"label '{label}' is none of the 3 answers"):
            read("choice", {**row, "l": label}, columns)
    with pytest.raises(UserError, match="0 answers to choose from"):
        read("choice", {**row, "a1": "", "a3": ""}, columns)


@pytest.mark.parametrize("kind", ["classification", "entailment", "regression", "choice"])
def test_a_score_is_refused_for_what_is_not_similarity(kind: str):
    with pytest.raises(UserError, match=f"--score goes with --kind similarity, not {kind}"):
        target_from_examples(KINDS[kind], True, [Example(("a",), label=0)], where, "t.csv")


def test_a_choice_has_as_many_labels_as_the_most_answers_of_a_row():
    """Not only as many as happen to be right somewhere."""
    examples = [Example(("p", ""), ("a", "b", "c"), 0), Example(("p", ""), ("a", "b"), 1)]
    assert target_from_examples(CHOICE, False, examples, where, "t.csv").most == 3


# ---- what is left out


def test_a_row_that_repeats_another_one_is_left_out_whatever_its_label():
    a, b = Example(("a",), label="x"), Example(("b",), label="x")
    assert deduplicate([a, b, Example(("a",), label="y"), b]) == ([0, 1], 2, 0)


def test_a_row_that_also_stands_elsewhere_is_left_out_and_counted_apart():
    a, b, c = (Example((text,)) for text in "abc")
    assert deduplicate([a, b, a, c, c], held_out=[Example(("a",), label="x")]) == ([1, 3], 1, 2)


def test_rows_with_the_same_texts_in_other_fields_are_not_repeats():
    assert deduplicate([Example(("a", "b")), Example(("b", "a")), Example(("a",), ("b",))]) == ([0, 1, 2], 0, 0)


rows = st.lists(st.sampled_from("abcd"), min_size=1, max_size=80)
fractions = st.floats(0, 0.5)


@given(labels=rows, fraction=fractions, seed=st.integers(0, 2**31 - 1))
def test_rows_held_out_and_rows_to_train_on_are_all_rows_once(labels, fraction, seed):
    train, valid = hold_out([Example(("",), label=label) for label in labels], classes(labels), fraction, seed)
    assert sorted(train + valid) == list(range(len(labels)))


@given(labels=rows, fraction=fractions, seed=st.integers(0, 2**31 - 1))
def test_the_held_out_share_is_met_and_no_label_is_held_out_whole(labels, fraction, seed):
    train, valid = hold_out([Example(("",), label=label) for label in labels], classes(labels), fraction, seed)
    assert {labels[i] for i in train} == set(labels)
    counts, held = Counter(labels), Counter(labels[i] for i in valid)
    assert len(valid) <= fraction * len(labels) + 1e-6
    assert all(held[label] <= fraction * counts[label] + len(counts) for label in counts)
    if all(count * (1 - fraction) >= 1 for count in counts.values()):
        assert len(valid) > fraction * len(labels) - 1


@given(n=st.integers(2, 60), fraction=fractions, seed=st.integers(0, 2**31 - 1))
def test_rows_with_numbers_are_held_out_alike(n, fraction, seed):
    train, valid = hold_out([Example(("",), label=i) for i in range(n)], StandardizedNumber(0, 1), fraction, seed)
    assert sorted(train + valid) == list(range(n))
    assert len(valid) == int(fraction * n + 1e-9)


def test_the_seed_draws_the_held_out_rows():
    examples = [Example(("",), label="ab"[i % 2]) for i in range(100)]
    draws = [hold_out(examples, classes("ab"), 0.2, seed)[1] for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    assert torch.tensor(draws[0]).diff().unique().numel() > 3  # spread over the file, not a stretch of it


def classes(labels: Any) -> Classes:
    return Classes(tuple(sorted(set(labels))))
