"""From labeled rows to a task: the logged counts equal a plain count."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from logged_lines import LoggedLines

from gpt1.config import FinetuneConfig
from gpt1.datasets.labeled import TaskRequest, load_task_data, training_rows
from gpt1.errors import UserError
from gpt1.tables.table import Table
from gpt1.tasks.targets import StandardizedNumber

labeled_rows = st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(["yes", "no "])), min_size=2, max_size=30)


@given(rows=labeled_rows)
def test_duplicates_and_contradicting_labels_are_counted(rows: list[tuple[str, str]]) -> None:
    first = dict(reversed(rows))
    assume(len(set(first.values())) == 2)
    table = Table("t.csv", ["text", "label"], [{"text": text, "label": label} for text, label in rows])
    progress = LoggedLines()
    task = load_task_data(TaskRequest(table, None, "classification", {"text": "text"}), FinetuneConfig(), progress)
    remaining = {example.fields[0]: example.label for example in (*task.training, *task.validation)}
    assert remaining == first
    duplicates, other = len(rows) - len(first), sum(first[text] != label for text, label in rows)
    (message,) = re.findall(r"; ([\d,]+) duplicates? removed(.*)", progress.lines[0])
    assert message == (f"{duplicates}", f", {other} of them with a different label" if other else "")


def test_messages_about_one_row_are_singular() -> None:
    rows = [{"text": text, "label": label} for text, label in zip(["", "b", "c", "c", "d"], "xyxxy", strict=True)]
    valid = [{"text": "d", "label": "y"}, {"text": "e", "label": "x"}]
    train, validation = Table("t", ["text", "label"], rows), Table("v", ["text", "label"], valid)
    progress = LoggedLines()
    load_task_data(TaskRequest(train, validation, "classification", {"text": "text"}), FinetuneConfig(), progress)
    assert progress.lines[0].endswith("; 1 duplicate removed")
    assert progress.lines[1] == "1 row without text skipped"
    assert progress.lines[2] == "1 training row removed: also in v"
    assert progress.lines[3] == "validation: 2 rows from v"


@pytest.mark.parametrize(
    ("rows", "problem"),
    [([], "v has no rows"), ([{"text": " ", "label": "x"}, {"text": "", "label": "y"}], "v: no row has a text")],
)
def test_validation_rows_that_cannot_be_used_are_refused(rows: list[dict[str, str]], problem: str) -> None:
    train = Table("t", ["text", "label"], [{"text": text, "label": text} for text in "xy"])
    request = TaskRequest(train, Table("v", ["text", "label"], rows), "classification", {"text": "text"})
    with pytest.raises(UserError, match=problem):
        load_task_data(request, FinetuneConfig(), LoggedLines())
    with pytest.raises(UserError, match="v has no rows"):
        load_task_data(replace(request, train=Table("v", ["text", "label"], [])), FinetuneConfig(), LoggedLines())


GAPS = Table("t.csv", ["text", "label"], [{"text": f"t{i}", "label": "xy"[i % 2] if i % 4 else ""} for i in range(20)])


def load(table: Table, kind: str = "classification", **request: str) -> list[str]:
    progress = LoggedLines()
    asked = TaskRequest(table, None, kind, {"text": "text"}, unlabeled=request.get("unlabeled"))
    task = load_task_data(asked, FinetuneConfig(), progress)
    assert all(example.label for example in (*task.training, *task.validation))
    return progress.lines


def test_rows_without_a_label_are_refused_with_their_number_and_left_out_on_request() -> None:
    with pytest.raises(UserError, match=r"t.csv, row 1: the label is empty \(also in 4 other rows\)\.") as refused:
        load(GAPS, unlabeled="refuse")
    assert refused.value.fix == "Add labels, or skip these rows with --unlabeled drop."
    with pytest.raises(UserError) as refused:
        load(GAPS)  # a command without this flag
    assert refused.value.fix == "Add labels, or remove the rows."
    assert "5 rows without a label skipped" in load(GAPS, unlabeled="drop")
    with pytest.raises(UserError, match="no row has a label"):
        load(Table("t", ["text", "label"], [{"text": "a", "label": None}] * 3), unlabeled="drop")


def test_errors_name_the_line_of_the_file_when_rows_are_left_out() -> None:
    rows = [{"text": "a", "label": value} for value in (1, "", "high", 2)]
    with pytest.raises(UserError, match=r"t.csv, row 3: 'high' is not a finite number"):
        load(Table("t.csv", ["text", "label"], rows), "regression", unlabeled="drop")


def test_a_column_of_words_is_not_a_column_of_numbers() -> None:
    rows = [{"text": f"t{i}", "label": "xy"[i % 2]} for i in range(20)]
    with pytest.raises(UserError, match=r"row 1: 'x' is not a finite number. Column 'label' contains words") as error:
        load(Table("t.csv", ["text", "label"], rows), "regression")
    assert error.value.fix == "Use --kind classification, or another column as --label."


def test_numbers_with_decimal_commas_are_read_alike_in_all_rows() -> None:
    columns = ["text", "label"]
    table = Table("t.csv", columns, [{"text": f"t{i}", "label": ["1.234", "1.234,51", "2,5"][i % 3]} for i in range(9)])
    rows = training_rows(TaskRequest(table, None, "regression", {"text": "text", "label": "label"}))
    assert [rows.target.parse(example.label) for example in rows.examples[:3]] == [1234, 1234.51, 2.5]
    read, _ = rows.evaluation_rows(table)
    assert [row["label"] for row in read.table.rows[:2]] == [1234, "1.234,51"]
    ambiguous = Table("t.csv", columns, [{"text": f"t{i}", "label": f"1,23{i}"} for i in range(9)])
    with pytest.raises(UserError, match=r"row 1: '1,230' can be 1.230 or 1230"):
        load(ambiguous, "regression")


PRICES = Table("t.csv", ["text", "label"], [{"text": f"t{i}", "label": f"1.0{i}0"} for i in range(4)])
WITH_COMMA = replace(PRICES, rows=[*PRICES.rows, {"text": "", "label": "2.070,5"}])


def test_numbers_of_other_rows_are_read_as_those_of_training() -> None:
    request = TaskRequest(WITH_COMMA, PRICES, "regression", {"text": "text", "label": "label"})
    rows = training_rows(request)
    _, examples = rows.evaluation_rows(PRICES)
    assert [rows.target.parse(example.label) for example in examples] == [1000, 1010, 1020, 1030]
    task = load_task_data(request, FinetuneConfig(deduplicate=False), LoggedLines())
    assert [example.label for example in task.validation] == [1000, 1010, 1020, 1030]
    assert task.target.decimal == ","  # although the row that shows it has no text
    assert replace(task, target=replace(task.target, decimal="")).fingerprint() == task.fingerprint()


def test_a_kept_output_layer_keeps_the_notation_of_its_numbers() -> None:
    request = TaskRequest(PRICES, None, "regression", {"text": "text", "label": "label"})
    assert training_rows(request).examples[1].label == "1.010"
    kept = load_task_data(request, FinetuneConfig(), LoggedLines(), StandardizedNumber(1000, 10, ","))
    assert {example.label for example in kept.training} <= {1000, 1010, 1020, 1030}
    assert kept.target == StandardizedNumber(1000, 10, ",")
