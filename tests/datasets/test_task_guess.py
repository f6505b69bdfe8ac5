"""`finetune` with a label column and no kind: the task that the table suggests, which is logged and stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from logged_lines import LoggedLines

from gpt1.datasets.labelled import TaskRequest
from gpt1.datasets.task_guess import complete_task
from gpt1.errors import UserError
from gpt1.progress import Progress
from gpt1.runs.folder import read_run_config
from gpt1.tables.table import Table
from gpt1.training.finetune import finetune

pytestmark = pytest.mark.usefixtures("no_reports")

REVIEWS = [{"id": i, "review": f"the film number {i} is good", "stars": i % 3, "mood": "up"} for i in range(9)]
PAIRS = [{"a": "it rains hard", "b": "it is wet now", "close": i / 4} for i in range(9)]
TAGS = [{"review": "a good film", "tags": ["good", "film"]} for _ in range(9)]


def complete(rows: list[dict[str, Any]], **columns: str) -> TaskRequest:
    return complete_task(TaskRequest(Table("rows.csv", list(rows[0]), rows), None, None, columns), Progress())


@pytest.mark.parametrize(
    ("rows", "named", "kind", "columns", "score"),
    [
        (REVIEWS, {"label": "stars"}, "classification", {"text": "review", "label": "stars"}, False),
        (REVIEWS, {"label": "mood"}, "classification", {"text": "review", "label": "mood"}, False),
        (REVIEWS, {"label": "stars", "text": "mood"}, "classification", {"text": "mood", "label": "stars"}, False),
        (PAIRS, {"label": "close"}, "similarity", {"text_a": "a", "text_b": "b", "label": "close"}, True),
    ],
)
def test_a_named_label_is_enough(
    rows: list[dict[str, Any]], named: dict[str, str], kind: str, columns: dict[str, str], score: bool
):
    found = complete(rows, **named)
    assert (found.kind, found.columns, found.score) == (kind, columns, score)


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        (REVIEWS, {}),  # nothing is named
        (REVIEWS, {"text": "review"}),
        (REVIEWS, {"label": "starz"}),
        (REVIEWS, {"label": "stars", "premise": "review"}),  # of another kind
        (TAGS, {"label": "tags"}),  # several labels for one text
    ],
)
def test_what_leaves_a_doubt_is_not_guessed(rows: list[dict[str, Any]], named: dict[str, str]):
    assert complete(rows, **named).kind is None


def test_a_guess_is_logged_as_flags_and_stored_with_the_run(pretrained_run: Path, tmp_path: Path):
    rows = "\n".join(f"the film {i} is {'good' if i % 2 else 'bad'},{'pos' if i % 2 else 'neg'}" for i in range(24))
    (tmp_path / "reviews.csv").write_text(f"review,label\n{rows}\n")
    log = LoggedLines()
    settings: dict[str, Any] = {"from_": pretrained_run, "epochs": 1, "device": "cpu", "precision": "fp32"}
    run = finetune(tmp_path / "reviews.csv", out=tmp_path / "run", label="label", progress=log, **settings)
    flags = "--kind classification --text review --label label"
    assert f"task, guessed from {tmp_path / 'reviews.csv'}: {flags}" in log.lines
    command = read_run_config(run)["command"]
    assert command["train"] == str(tmp_path / "reviews.csv")
    assert (command["kind"], command["columns"]) == ("classification", {"text": "review", "label": "label"})
    assert finetune(out=run, resume=True) == run
    with pytest.raises(UserError, match="kind= is missing"):
        finetune(tmp_path / "reviews.csv", out=tmp_path / "other", **settings)
