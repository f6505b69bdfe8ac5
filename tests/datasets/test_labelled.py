"""Labelled rows become a task, and what a person is told of them is what a plain count gives."""

from __future__ import annotations

import re

from hypothesis import assume, given
from hypothesis import strategies as st

from gpt1.config import FinetuneConfig
from gpt1.datasets.labelled import load_task_data
from gpt1.progress import NullProgress
from gpt1.tables.table import Table


class Said(NullProgress):
    """Keeps what a person is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, line: str) -> None:
        self.lines.append(line)


drawn = st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(["yes", "no "])), min_size=2, max_size=30)


@given(rows=drawn)
def test_repeated_rows_are_counted_and_those_that_contradict(rows: list[tuple[str, str]]) -> None:
    first = dict(reversed(rows))
    assume(len(set(first.values())) == 2)
    table = Table("t.csv", ["text", "label"], [{"text": text, "label": label} for text, label in rows])
    said = Said()
    task = load_task_data(table, None, "classification", {"text": "text"}, False, None, FinetuneConfig(), said)
    kept = {example.fields[0]: example.label for example in (*task.training, *task.validation)}
    assert kept == first
    repeated, other = len(rows) - len(first), sum(first[text] != label for text, label in rows)
    (told,) = re.findall(r"; ([\d,]+) duplicates? left out(.*)", said.lines[0])
    assert told == (f"{repeated}", f", {other} of them with another label than the row that stays" if other else "")


def test_one_is_said_as_one() -> None:
    rows = [{"text": text, "label": label} for text, label in zip(["", "b", "c", "c", "d"], "xyxxy", strict=True)]
    valid = [{"text": "d", "label": "y"}, {"text": "e", "label": "x"}]
    said, (train, held_out) = (
        Said(),
        (Table(name, ["text", "label"], part) for name, part in (("t", rows), ("v", valid))),
    )
    load_task_data(train, held_out, "classification", {"text": "text"}, False, None, FinetuneConfig(), said)
    assert said.lines[0].endswith("; 1 duplicate left out")
    assert said.lines[1] == "1 row has no text"
    assert said.lines[2] == "1 training row left out: also in v"
    assert said.lines[3] == "validation: 2 rows of v"
