"""From labelled rows to a task: the logged counts equal a plain count."""

from __future__ import annotations

import re

from hypothesis import assume, given
from hypothesis import strategies as st

from gpt1.config import FinetuneConfig
from gpt1.datasets.labelled import TaskRequest, load_task_data
from gpt1.progress import NullProgress
from gpt1.tables.table import Table


class RecordingProgress(NullProgress):
    """Records the logged messages."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, line: str) -> None:
        self.lines.append(line)


labelled_rows = st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(["yes", "no "])), min_size=2, max_size=30)


@given(rows=labelled_rows)
def test_duplicates_and_contradicting_labels_are_counted(rows: list[tuple[str, str]]) -> None:
    first = dict(reversed(rows))
    assume(len(set(first.values())) == 2)
    table = Table("t.csv", ["text", "label"], [{"text": text, "label": label} for text, label in rows])
    progress = RecordingProgress()
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
    progress = RecordingProgress()
    load_task_data(TaskRequest(train, validation, "classification", {"text": "text"}), FinetuneConfig(), progress)
    assert progress.lines[0].endswith("; 1 duplicate removed")
    assert progress.lines[1] == "1 row without text left out"
    assert progress.lines[2] == "1 training row removed: also in v"
    assert progress.lines[3] == "validation: 2 rows from v"
