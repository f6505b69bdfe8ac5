"""Rows become examples: columns and fields, meaning of labels, validation split, errors."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt1.errors import UserError
from gpt1.files.foreign import Fields
from gpt1.tasks.examples import (
    answer_index,
    check_columns,
    encode_labels,
    find_numbering,
    numbering_notes,
    read_examples,
    split_validation,
    target_from_examples,
)
from gpt1.tasks.kinds import KINDS, Example
from gpt1.tasks.targets import (
    Answers,
    Classes,
    OrdinalBins,
    StandardizedNumber,
    target_from_json,
    target_to_json,
)

CHOICE = KINDS["choice"]


def locate_row(i: int) -> str:
    return f"t.csv, line {i + 2}"


def read_one(kind: str, row: dict[str, Any], columns: dict[str, str], labeled: bool = True) -> Example:
    (example,) = read_examples([row], KINDS[kind], columns, locate_row, labeled)
    return example


# ---- columns


def test_fields_have_the_order_of_the_kind_whatever_the_names_of_the_columns():
    row = {"x": "second", "y": "first", "z": "yes", "w": 0}
    assert read_one("entailment", row, {"hypothesis": "x", "premise": "y", "label": "z"}) == Example(
        ("first", "second"), label="yes"
    )


def test_empty_cells_and_numbers_are_read_as_text():
    columns = {"text_a": "a", "text_b": "b", "label": "l"}
    assert read_one("similarity", {"a": None, "b": 12, "l": 1}, columns).fields == ("", "12")
    assert read_one("similarity", {"a": float("nan"), "b": 1.5, "l": 1}, columns).fields == ("", "1.5")


def test_a_missing_question_is_an_empty_text():
    row = {"c": "passage", "a": ["x", "y"], "l": 0}
    assert read_one("choice", row, {"context": "c", "choices": "a", "label": "l"}) == Example(
        ("passage", ""), ("x", "y"), 0
    )


def test_a_missing_column_is_an_error_that_lists_the_columns():
    with pytest.raises(UserError) as refused:
        check_columns(KINDS["classification"], {"text": "text", "label": "labels"}, ["text", "label"], "t.csv")
    assert refused.value.problem == "t.csv has no column 'labels'. Columns: text, label."
    assert refused.value.fix == "Did you mean --label label?"


def test_a_role_that_the_kind_needs_must_be_given():
    with pytest.raises(UserError) as refused:
        check_columns(KINDS["entailment"], {"premise": "a", "label": "l"}, ["a", "b", "l"], "t.csv")
    assert refused.value.problem == "entailment needs --hypothesis."
    assert "--premise COLUMN --hypothesis COLUMN --label COLUMN" in refused.value.fix


@pytest.mark.parametrize(
    ("kind", "columns", "flags"),
    [
        ("similarity", {"text_a": "a", "text_b": "a", "label": "l"}, "--text-a and --text-b"),
        ("entailment", {"premise": "a", "hypothesis": "a", "label": "l"}, "--premise and --hypothesis"),
        ("choice", {"context": "a", "choices": "b,a", "label": "l"}, "--context and --choices"),
        ("classification", {"text": "a,a"}, "--text"),
    ],
)
def test_a_column_cannot_be_two_inputs(kind: str, columns: dict[str, str], flags: str):
    with pytest.raises(UserError) as raised:
        check_columns(KINDS[kind], columns, ["a", "b", "l"], "t.csv")
    assert raised.value.problem == f"column 'a' is used twice, in {flags}."


@pytest.mark.parametrize(
    ("kind", "columns"),
    [
        ("classification", {"text": "a", "label": "a"}),
        ("entailment", {"premise": "b", "hypothesis": "a", "label": "a"}),
        ("choice", {"context": "c", "choices": "a,b", "label": "b"}),
    ],
)
def test_a_label_column_that_is_also_an_input_is_an_error(kind: str, columns: dict[str, str]):
    with pytest.raises(UserError, match="is also the input column of "):
        check_columns(KINDS[kind], columns, ["a", "b", "c"], "t.csv")


def test_every_column_of_choices_must_exist():
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
def test_a_label_is_a_column_name_the_text_of_an_answer_or_an_index(label: Any, answer: int):
    assert answer_index(label, ["red", "green", "blue"], ["A1", "A2", "A3"], "here") == answer


def test_a_column_name_takes_precedence_over_a_text_and_an_index():
    assert answer_index("1", ["1", "b"], ["0", "1"], "here") == 1
    assert answer_index("b", ["b", "a"], ["a", "b"], "here") == 1


@pytest.mark.parametrize(
    ("label", "answers"),
    [
        ("1", ["1", "2", "3"]),  # answer 0 by its text, answer 1 by its index
        ("same", ["same", "other", "same"]),
        ("2", ["a", "2", "2"]),
    ],
)
def test_an_ambiguous_label_is_an_error(label: str, answers: list[str]):
    with pytest.raises(UserError, match=r"t.csv, line 7: label '\w+' is ambiguous: it could be answer \d or \d"):
        answer_index(label, answers, [], "t.csv, line 7")


def test_a_label_that_means_one_answer_in_two_ways_is_not_ambiguous():
    assert answer_index("1", ["0", "1"], [], "here") == 1


@pytest.mark.parametrize("label", ["purple", 3, -1, 0.5, "nan", "inf", None, "", float("nan")])
def test_a_label_that_matches_no_answer_is_an_error(label: Any):
    with pytest.raises(UserError, match=r"t.csv, line 7: label '.*' matches none of the 3 answers") as refused:
        answer_index(label, ["red", "green", "blue"], ["A1", "A2", "A3"], "t.csv, line 7")
    assert "A1, A2, A3" in refused.value.fix
    assert "from 0 to 2" in refused.value.fix


@pytest.mark.parametrize("cell", [["x", "y", "z"], ("x", "y", "z"), np.array(["x", "y", "z"])])
def test_answers_can_be_a_list_in_one_column(cell: Any):
    row = {"c": "p", "a": cell, "l": "z"}
    assert read_one("choice", row, {"context": "c", "choices": "a", "label": "l"}) == Example(
        ("p", ""), ("x", "y", "z"), 2
    )


def test_answers_can_have_one_column_each():
    row = {"c": "p", "q": "?", "A": "x", "B": 5, "l": "B"}
    columns = {"context": "c", "question": "q", "choices": "A,B", "label": "l"}
    assert read_one("choice", row, columns) == Example(("p", "?"), ("x", "5"), 1)


@pytest.mark.parametrize(
    ("cell", "rule"), [("x", "must contain a list"), ([], "only 0 answers"), (["x"], "only 1 answer ")]
)
def test_fewer_than_two_answers_are_an_error(cell: Any, rule: str):
    with pytest.raises(UserError, match=f"t.csv, line 2: .*{rule}"):
        read_one("choice", {"c": "p", "a": cell, "l": 0}, {"context": "c", "choices": "a", "label": "l"})


def test_rows_to_predict_need_no_label():
    row = {"c": "p", "a": ["x", "y"]}
    assert read_one("choice", row, {"context": "c", "choices": "a"}, labeled=False).label is None


# ---- labels


@pytest.mark.parametrize(
    ("kind", "score", "label", "rule"),
    [
        ("classification", False, "", "label is empty"),
        ("regression", False, "many", "'many' is not a finite number"),
        ("regression", False, float("nan"), "'nan' is not a finite"),
        ("similarity", True, "high", "'high' is not a finite"),
    ],
)
def test_an_invalid_label_is_an_error_that_names_its_row(kind: str, score: bool, label: Any, rule: str):
    examples = [Example(("a",), label="1"), Example(("b",), label="2"), Example(("c",), label=label)]
    with pytest.raises(UserError, match=f"t.csv, line 4: .*{rule}"):
        target_from_examples(KINDS[kind], score, examples, locate_row, "t.csv")


def test_an_unknown_label_is_an_error_that_names_its_row():
    target = Classes(("no", "yes"))
    with pytest.raises(UserError, match=r"t.csv, line 3: unknown label 'perhaps'"):
        encode_labels(target, [Example(("a",), label="no"), Example(("b",), label="perhaps")], locate_row)


def test_the_target_is_that_of_the_kind_or_ordinal_bins_with_score():
    examples = [Example(("a", "b"), label=label) for label in (0, 5)]
    assert target_from_examples(KINDS["similarity"], False, examples, locate_row, "t.csv") == Classes(
        ("0", "5"), (0, 5)
    )
    assert target_from_examples(KINDS["similarity"], True, examples, locate_row, "t.csv") == OrdinalBins(0, 5)
    assert isinstance(
        target_from_examples(KINDS["regression"], False, examples, locate_row, "t.csv"), StandardizedNumber
    )


def test_empty_last_columns_are_fewer_answers():
    columns = {"context": "c", "choices": "a1,a2,a3,a4", "label": "l"}
    row = {"c": "p", "a1": "x", "a2": "", "a3": "z", "a4": " ", "l": "a3"}
    assert read_one("choice", row, columns) == Example(("p", ""), ("x", "", "z"), 2)
    assert read_one("choice", {**row, "a3": None, "a2": "y", "l": 1}, columns) == Example(("p", ""), ("x", "y"), 1)
    for label in ("a4", 3):
        with pytest.raises(UserError, match=f"label '{label}' matches none of the 3 answers"):
            read_one("choice", {**row, "l": label}, columns)
    with pytest.raises(UserError, match="0 answers to choose from"):
        read_one("choice", {**row, "a1": "", "a3": ""}, columns)


@pytest.mark.parametrize("kind", ["classification", "entailment", "regression", "choice"])
def test_score_requires_similarity(kind: str):
    with pytest.raises(UserError, match=f'score=True requires kind="similarity", not {kind}'):
        target_from_examples(KINDS[kind], True, [Example(("a",), label=0)], locate_row, "t.csv")


def test_multiple_choice_has_as_many_labels_as_the_longest_list_of_answers():
    """Also answers that are never right in these rows."""
    examples = [Example(("p", ""), ("a", "b", "c"), 0), Example(("p", ""), ("a", "b"), 1)]
    assert target_from_examples(CHOICE, False, examples, locate_row, "t.csv").most == 3


rows = st.lists(st.sampled_from("abcd"), min_size=1, max_size=80)
fractions = st.floats(0, 0.5)


@given(labels=rows, fraction=fractions, seed=st.integers(0, 2**31 - 1))
def test_every_row_is_either_a_training_or_a_validation_row(labels, fraction, seed):
    train, valid = split_validation(
        [Example(("",), label=label) for label in labels], make_classes(labels), fraction, seed
    )
    assert sorted(train + valid) == list(range(len(labels)))


@given(labels=rows, fraction=fractions, seed=st.integers(0, 2**31 - 1))
def test_the_validation_fraction_is_met_and_every_label_keeps_training_rows(labels, fraction, seed):
    train, valid = split_validation(
        [Example(("",), label=label) for label in labels], make_classes(labels), fraction, seed
    )
    assert {labels[i] for i in train} == set(labels)
    counts, validation_counts = Counter(labels), Counter(labels[i] for i in valid)
    assert len(valid) <= fraction * len(labels) + 1e-6
    assert all(validation_counts[label] <= fraction * counts[label] + len(counts) for label in counts)
    if all(count * (1 - fraction) >= 1 for count in counts.values()):
        assert len(valid) > fraction * len(labels) - 1


@given(n=st.integers(2, 60), fraction=fractions, seed=st.integers(0, 2**31 - 1))
def test_rows_with_numbers_are_split_at_the_same_fraction(n, fraction, seed):
    train, valid = split_validation(
        [Example(("",), label=i) for i in range(n)], StandardizedNumber(0, 1), fraction, seed
    )
    assert sorted(train + valid) == list(range(n))
    assert len(valid) == int(fraction * n + 1e-9)


def test_the_validation_rows_depend_on_the_seed():
    examples = [Example(("",), label="ab"[i % 2]) for i in range(100)]
    splits = [split_validation(examples, make_classes("ab"), 0.2, seed)[1] for seed in (1, 1, 2)]
    assert splits[0] == splits[1] != splits[2]
    assert torch.tensor(splits[0]).diff().unique().numel() > 3  # spread over the file, not consecutive


def make_classes(labels: Any) -> Classes:
    return Classes(tuple(sorted(set(labels))))


def choice_labels(labels: list[Any], answers: int = 4) -> tuple[str, list[int]]:
    """(numbering, right answers) of rows with these labels."""
    rows = [{"c": "x", "a": [f"answer {k}" for k in range(answers)], "l": label} for label in labels]
    columns = {"context": "c", "choices": "a", "label": "l"}
    numbering = find_numbering(rows, CHOICE, columns)
    return numbering, [
        example.label for example in read_examples(rows, CHOICE, columns, locate_row, numbering=numbering)
    ]


@pytest.mark.parametrize(
    ("labels", "numbering", "right"),
    [
        (["A", "d", "B"], "A", [0, 3, 1]),
        ([1, 4, "2"], "1", [0, 3, 1]),
        ([1, 4.0, 2, "answer 2"], "1", [0, 3, 1, 2]),
        ([1, 2, "answer 2"], "0", [1, 2, 2]),
        ([0, 3, "2"], "0", [0, 3, 2]),
        ([1, 3, 2], "0", [1, 3, 2]),
        (["answer 0", "answer 3"], "0", [0, 3]),
    ],
)
def test_labels_of_multiple_choice_count_from_0_from_1_or_from_a(labels: list[Any], numbering: str, right: list[int]):
    assert choice_labels(labels) == (numbering, right)


@pytest.mark.parametrize("labels", [[0, 4], ["A", "E"], ["A", 1], [1, 5], ["3_0", 1]])
def test_labels_that_do_not_fit_one_way_of_counting_are_an_error(labels: list[Any]):
    with pytest.raises(UserError, match="matches none of the 4 answers"):
        choice_labels(labels)


def test_another_numbering_is_reported_and_so_is_a_first_answer_that_is_never_right():
    examples = [Example(("x",), ("a", "b", "c"), label=1 + i % 2) for i in range(20)]
    assert "from 1" in numbering_notes("1", examples)[0]
    assert "A is the first answer" in numbering_notes("A", examples)[0]
    assert "the first answer is never the right one" in numbering_notes("0", examples)[0]
    assert numbering_notes("0", examples[:19]) == []
    assert numbering_notes("0", [*examples, Example(("x",), ("a", "b"), label=0)]) == []


def test_the_way_of_counting_is_part_of_the_target():
    examples = [Example(("x",), ("a", "b"), label=0)]
    target = target_from_examples(CHOICE, False, examples, locate_row, "t", "1")
    assert target == Answers(2, "1")
    assert target_from_json(Fields(target_to_json(target), "task.json")) == target


def test_several_text_columns_are_joined_without_the_empty_ones():
    rows = [{"title": "A", "body": "b c"}, {"title": None, "body": "d"}, {"title": "E", "body": " "}]
    columns = {"text": "title, body"}
    check_columns(KINDS["classification"], columns, ["title", "body"], "t.csv")
    examples = read_examples(rows, KINDS["classification"], columns, locate_row, labeled=False)
    assert [example.fields for example in examples] == [("A\nb c",), ("d",), ("E",)]


def test_a_column_whose_name_has_a_comma_is_that_column():
    (example,) = read_examples([{"a,b": "x"}], KINDS["classification"], {"text": "a,b"}, locate_row, labeled=False)
    assert example.fields == ("x",)


def test_a_missing_part_of_joined_columns_is_named():
    with pytest.raises(UserError, match=r"t.csv has no column 'bdy'") as refused:
        check_columns(KINDS["classification"], {"text": "title,bdy"}, ["title", "body"], "t.csv")
    assert "--text body" in refused.value.fix


@pytest.mark.parametrize("empty", ["", " ", None, float("nan"), 0, 0.0, False, b"0"])
def test_an_empty_cell_of_a_label_column_is_0_in_every_format(empty: Any):
    row, columns = {"text": "x", "sport": 1.0, "art": empty}, {"text": "text", "label": "sport,art"}
    assert read_one("multilabel", row, columns).label == ["sport"]
    with pytest.raises(UserError, match=r"t\.csv, line 2: column 'art' has '2' instead of 0 or 1"):
        read_one("multilabel", {**row, "art": 2}, columns)
