"""`finetune` with a label column and no kind: the task that the table suggests, which is logged and stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from logged_lines import LoggedLines

from gpt1.datasets.labeled import TaskRequest
from gpt1.datasets.task_guess import complete_task, guess_task, label_separator
from gpt1.errors import UserError
from gpt1.progress import Progress
from gpt1.runs.folder import read_run_config
from gpt1.tables.table import Table
from gpt1.training.finetune import finetune

pytestmark = pytest.mark.usefixtures("no_reports")

REVIEWS = [{"id": i, "review": f"the film number {i} is good", "stars": i % 3, "mood": "up"} for i in range(9)]
PAIRS = [{"a": "it rains hard", "b": "it is wet now", "close": i / 4} for i in range(9)]
TAGS = [{"review": "a good film", "tags": ["good", "film"]} for _ in range(9)]
GENRES = [{"review": "a good film", "genre": genre} for genre in ("a", "b", "c", "a, b", "a, c", "b, c") * 4]
LONG = "a text of five words", "another text of five words"
VERDICTS = [{"summary": LONG[0], "body": LONG[1], "verdict": ("same", "other")[i % 2]} for i in range(9)]
DUPLICATES = [{"old": LONG[0], "new": LONG[1], "is_duplicate": str(i % 2)} for i in range(9)]
ARTICLES = [{"title": LONG[0], "body": f"{LONG[1]} {i}", "topic": ("art", "war")[i % 2]} for i in range(9)]
FLAGS = [{"title": LONG[0], "body": f"{LONG[1]} {i}", "rude": i % 2, "spam": i // 2 % 2} for i in range(12)]


def complete_request(rows: list[dict[str, Any]], **columns: str) -> TaskRequest:
    return complete_task(TaskRequest(Table("rows.csv", list(rows[0]), rows), None, None, columns), Progress())


@pytest.mark.parametrize(
    ("rows", "named", "kind", "columns", "score"),
    [
        (REVIEWS, {"label": "stars"}, "classification", {"text": "review", "label": "stars"}, False),
        (REVIEWS, {"label": "mood"}, "classification", {"text": "review", "label": "mood"}, False),
        (REVIEWS, {"label": "stars", "text": "mood"}, "classification", {"text": "mood", "label": "stars"}, False),
        (PAIRS, {"label": "close"}, "similarity", {"text_a": "a", "text_b": "b", "label": "close"}, True),
        (TAGS, {"label": "tags"}, "multilabel", {"text": "review", "label": "tags"}, False),
        (GENRES, {"label": "genre"}, "multilabel", {"text": "review", "label": "genre"}, False),
        (
            *(VERDICTS, {"label": "verdict"}, "entailment"),
            *({"premise": "summary", "hypothesis": "body", "label": "verdict"}, False),
        ),
        (
            *(DUPLICATES, {"label": "is_duplicate"}, "similarity"),
            *({"text_a": "old", "text_b": "new", "label": "is_duplicate"}, False),
        ),
        (ARTICLES, {"label": "topic"}, "classification", {"text": "body", "label": "topic"}, False),
        (FLAGS, {"label": "rude,spam"}, "multilabel", {"text": "body", "label": "rude,spam"}, False),
        (FLAGS, {"label": "spam"}, "classification", {"text": "body", "label": "spam"}, False),
    ],
)
def test_a_named_label_is_enough(
    rows: list[dict[str, Any]], named: dict[str, str], kind: str, columns: dict[str, str], score: bool
):
    found = complete_request(rows, **named)
    assert (found.kind, found.columns, found.score) == (kind, columns, score)


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([{**row, "label": "a"} for row in REVIEWS], {}),  # nothing is named
        ([{**row, "label": "a"} for row in REVIEWS], {"text": "review"}),
        (REVIEWS, {"label": "stars", "premise": "review"}),  # of another kind
    ],
)
def test_an_ambiguous_task_is_not_guessed(rows: list[dict[str, Any]], named: dict[str, str]):
    assert complete_request(rows, **named).kind is None


def test_columns_are_guessed_for_a_named_kind_as_well():
    def guess_columns(kind: str, rows: list[dict[str, Any]], **named: str) -> dict[str, str]:
        table = Table("rows.csv", list(rows[0]), rows)
        task = complete_task(TaskRequest(table, None, kind, named), Progress())
        assert task.kind == kind
        return task.columns

    assert guess_columns("regression", REVIEWS, label="stars") == {"text": "review", "label": "stars"}
    assert guess_columns("similarity", PAIRS, label="close") == {"text_a": "a", "text_b": "b", "label": "close"}
    assert guess_columns("entailment", PAIRS, label="close") == {"label": "close"}  # which is the premise?
    assert guess_columns("regression", REVIEWS, label="stars", text="mood") == {"label": "stars", "text": "mood"}
    assert guess_columns("no such kind", REVIEWS, label="stars") == {"label": "stars"}


@pytest.mark.parametrize("kind", [None, "classification"])
def test_missing_columns_are_an_error_before_the_kind_is(kind: str | None):
    table = Table("r.csv", list(REVIEWS[0]), [{**row, "mood": "up"} for row in REVIEWS], delimiter=";")
    columns = "Columns (delimiter: ;): id, review, stars, mood."
    cases: list[tuple[dict[str, str], str, str]] = [
        ({}, "column 'label'", "--label stars"),
        ({"label": "label"}, "column 'label'", "--label stars"),  # no similar name: the likely one
        ({"label": "Stars"}, "column 'Stars'", "--label stars"),
        ({"label": "starz", "text": "body"}, "columns 'starz' and 'body'", "--label stars --text review"),
    ]
    for named, missing, flags in cases:
        with pytest.raises(UserError) as raised:
            complete_task(TaskRequest(table, None, kind, named), Progress())
        assert raised.value.problem == f"r.csv has no {missing}. {columns}"
        assert raised.value.fix == f"Did you mean {flags}?"


def test_a_column_may_begin_in_a_later_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gpt1.tables.table.BLOCK_ROWS", 2)
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a b c"}\n' * 2 + '{"text": "a b c", "label": "x"}\n' * 2)
    assert complete_task(TaskRequest(path, None, None, {"label": "label"}), Progress()).kind == "classification"


def test_a_text_that_is_not_used_is_named():
    log = LoggedLines()
    request = TaskRequest(Table("rows.csv", list(ARTICLES[0]), ARTICLES), None, None, {"label": "topic"})
    complete_task(request, log)
    assert log.lines[1] == (
        "text columns that are not used: title. To use them as well: --text title,body. "
        "If the label says how two texts relate: --kind entailment --premise title --hypothesis body"
    )
    assert len(log.lines) == 2


def test_prose_dates_and_numbers_are_not_several_labels():
    for cells in (["so, it is", "no; yes, well"] * 9, ["1,5", "2,5", "1,2"] * 9, ["a,b"] * 9, ["x", "y"] * 9):
        assert not label_separator(cells)


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


def test_several_columns_of_0_and_1_are_several_labels():
    def guess(rows: list[dict[str, Any]]) -> str:
        return guess_task(Table("rows.csv", list(rows[0]), rows)).flags

    assert guess(FLAGS) == "--kind multilabel --text body --label rude,spam"
    assert guess([{**row, "new": False} for row in FLAGS]) == "--kind multilabel --text body --label rude,spam,new"
    # not if another column is the label, or if there is only one of them
    assert guess([{**row, "label": row["rude"]} for row in FLAGS]) == "--kind classification --text body --label label"
    assert guess([{**row, "mood": "ab"[row["rude"]]} for row in FLAGS]).endswith("--label mood")
    assert guess([{**row, "spam": 1} for row in FLAGS]).startswith("--kind classification")


def test_lists_under_the_name_of_a_label_are_several_labels():
    def guess(**columns: Any) -> str:
        rows = [{"text": f"a text number {i}", **columns} for i in range(9)]
        return guess_task(Table("rows.csv", list(rows[0]), rows)).flags

    assert guess(labels=["x", "y"]) == "--kind multilabel --text text --label labels"
    assert guess(Topic="['x', 'y']") == "--kind multilabel --text text --label Topic"
    # not if another column is the label, or if they may be answers
    assert guess(label=["x", "y"], right=1) == "--kind choice --context text --choices label --label right"
    assert guess(answer=["x", "y"]) == "--kind choice --context text --choices answer"


def test_dates_are_not_labels():
    rows = [{"page": f"a page number {i}", "section": "ab"[i % 2], "seen": f"0{1 + i % 2}.11.2026"} for i in range(12)]
    assert guess_task(Table("pages.csv", list(rows[0]), rows)).columns == {"text": "page", "label": "section"}
