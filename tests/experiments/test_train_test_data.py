"""Test rows are fixed; samples are stratified, read as the whole table was, and can be learned."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt1.datasets.labeled import TaskRequest, training_rows
from gpt1.errors import UserError
from gpt1.experiments.train_test_data import learnable_first, read_train_test, stratified_order
from gpt1.tables.table import Table
from gpt1.tasks.kinds import Example
from gpt1.tasks.targets import Classes, StandardizedNumber


@given(
    labels=st.lists(st.sampled_from("abc"), min_size=6, max_size=60).filter(lambda found: len(set(found)) > 1),
    seed=st.integers(0, 5),
)
def test_the_first_n_rows_are_stratified_for_every_n(labels: list[str], seed: int) -> None:
    names = tuple(sorted(set(labels)))
    order = stratified_order([Example((str(i),), label=label) for i, label in enumerate(labels)], Classes(names), seed)
    assert sorted(order) == list(range(len(labels)))
    for n in range(len(names), len(labels) + 1):
        for name in names:
            drawn = sum(labels[i] == name for i in order[:n])
            share = n * labels.count(name) / len(labels)
            assert drawn >= 1
            assert abs(drawn - share) <= len(names)


def test_test_rows_are_fixed_and_no_training_row_is_among_them(table: Table) -> None:
    doubled = Table(table.name, table.columns, [*table.rows, *table.rows[:9]])
    found = read_train_test(doubled, None, "classification", {"text": "text", "label": "label"}, False, None)
    again = read_train_test(doubled, None, "classification", {"text": "text", "label": "label"}, False, None)
    assert found.test.table.rows == again.test.table.rows
    training, test = ({e.fields for e in rows.examples} for rows in (found.training, found.test))
    assert not training & test
    assert len(training) == len(found.training)
    assert len(training) + len(test) == len(table)
    assert found.draw_train_set(8, 0, "").table.rows != found.draw_train_set(8, 1, "").table.rows


def test_test_rows_with_all_training_rows_are_an_error(table: Table) -> None:
    columns, test = {"text": "text", "label": "label"}, Table("t.csv", table.columns, table.rows[::-1])
    with pytest.raises(UserError, match=r"rows.jsonl: all rows are also test rows, in t.csv.") as error:
        read_train_test(table, test, "classification", columns, False, None)
    assert "--test" in error.value.fix


def test_a_table_with_one_row_per_label_leaves_none_for_the_test(shared_data: Path) -> None:
    two = shared_data / "cases" / "02-curve-single-row-label" / "two.csv"
    with pytest.raises(UserError, match=r"two.csv: 2 rows for 2 labels leave none for a test"):
        read_train_test(two, None, "classification", {"text": "text", "label": "label"}, False, None)


def choice_table(n: int, labels: list[Any]) -> Table:
    columns = ["q", "a", "b", "c", "d", "label"]
    rows = [{**{name: f"{name} {i}" for name in columns[:-1]}, "label": labels[i % len(labels)]} for i in range(n)]
    return Table("choice.csv", columns, rows)


@pytest.mark.parametrize("labels", [["1", "2", "3", "1", "2", "3", "1", "4"], [*"ABCABCAD"]], ids=["from 1", "letters"])
def test_a_sample_has_the_answers_of_the_whole_table(labels: list[Any]) -> None:
    """Whether labels count from 1 shows only if the last answer is among them, which a small sample may lack."""
    table, columns = choice_table(48, labels), {"context": "q", "choices": "a,b,c,d", "label": "label"}
    right = {row["q"]: "1234".find(row["label"]) + "ABCD".find(row["label"]) + 1 for row in table.rows}
    data = read_train_test(table, None, "choice", columns, False, None)
    samples = [data.draw_train_set(4, seed, "sample").table for seed in range(8)]
    assert any(4 not in {right[row["q"]] + 1 for row in sample.rows} for sample in samples)
    for sample in (*samples, data.test.table):
        read = training_rows(TaskRequest(sample, None, "choice", columns))
        assert [example.label for example in read.examples] == [right[row["q"]] for row in sample.rows]


def test_a_sample_has_the_separator_of_the_whole_table() -> None:
    rows = [{"text": f"text {i}", "label": ("x, y", "z", "z|x, y")[i % 3]} for i in range(30)]
    columns = {"text": "text", "label": "label"}
    data = read_train_test(Table("t.csv", ["text", "label"], rows), None, "multilabel", columns, False, None)
    for seed in range(8):
        sample = data.draw_train_set(4, seed, "sample").table
        assert training_rows(TaskRequest(sample, None, "multilabel", columns)).target.labels == ("x, y", "z")


@pytest.mark.parametrize("kind", ["regression", "multilabel"])
def test_every_sample_can_be_learned_if_it_has_enough_rows(kind: str) -> None:
    """Nine of ten rows have the same number, or the same single label."""
    labels = ["0" if i % 10 else str(i) for i in range(60)] if kind == "regression" else ["a"] * 54 + [*"bcdbcd"]
    rows = [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]
    columns = {"text": "text", "label": "label"}
    data = read_train_test(Table("t.csv", ["text", "label"], rows), None, kind, columns, False, None)
    for seed in range(10):
        samples = [data.draw_train_set(n, seed, "sample") for n in (4, 8, 16)]
        for sample, larger in pairwise(samples):
            assert {e.fields for e in sample.examples} < {e.fields for e in larger.examples}
        for sample in samples:
            data.check_learnable(sample)


def test_an_order_that_can_be_learned_does_not_change() -> None:
    rows = [Example((str(i),), label=i % 3) for i in range(20)]
    target = StandardizedNumber(0.0, 1.0)
    order = stratified_order(rows, target, 0)
    assert learnable_first(order, rows, target) == order
