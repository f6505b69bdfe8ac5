"""`gpt1 inspect` of a table: types and means of its columns, duplicates, texts that the likely task does not use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpt1.inspect import inspect, print_facts
from gpt1.tables.table import write_table
from gpt1.tasks.labels import as_label

LONG = [f"some words of row {i}" for i in range(12)]


def write_columns(folder: Path, columns: dict[str, list[Any]], name: str = "t.jsonl") -> Path:
    write_table(folder / name, [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)])
    return folder / name


def test_texts_that_the_likely_task_does_not_use_are_named(tmp_path: Path):
    columns = {"title": LONG, "body": [f"{text} and more" for text in LONG], "topic": ["art", "war"] * 6}
    warnings = inspect(write_columns(tmp_path, columns))["warnings"]
    assert any("not used: title. To use them as well: --text title,body." in sentence for sentence in warnings), (
        warnings
    )

    pair = {"premise": LONG, "hypothesis": [f"{text} so" for text in LONG], "remark": [f"{text} ." for text in LONG]}
    warnings = inspect(write_columns(tmp_path, {**pair, "label": ["neutral", "entailment"] * 6}))["warnings"]
    assert "text columns that are not used: remark." in warnings


@pytest.mark.parametrize(
    "columns",
    [
        {"a": [1, 3, 5], "b": [2, 4, 2]},
        {"label": ["pos", "neg", "pos"]},
        {"text": ["", " ", None], "label": ["pos", "neg", "pos"]},
    ],
)
def test_nothing_is_suggested_for_a_table_without_texts(columns: dict[str, list[Any]], tmp_path: Path):
    found = inspect(write_columns(tmp_path, columns))
    (warning,) = [sentence for sentence in found["warnings"] if "finetune" in sentence]
    assert warning.startswith("gpt1 finetune would fail: no column with texts was found for --text.")
    assert found["next"] == []


def test_columns_of_0_and_1_are_inspected_as_the_labels_of_a_text(tmp_path: Path):
    columns = {"text": LONG, "rude": [0, 1] * 6, "spam": [0, 0, 1] * 4}
    found = inspect(write_columns(tmp_path, columns, "t.csv"))
    assert found["labels"] == {"rude": 6, "spam": 4}
    assert found["warnings"] == []
    suggested = found["next"][-1]
    assert "--kind multilabel --text text --label rude,spam" in suggested


def test_dates_and_means_of_numbers_are_shown(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    columns = {
        "text": LONG,
        "day": ["2024-01-31", "31.01.2024", "2024-01-31 12:00"] * 4,
        "price": ["1.234,50", "2,50", "1.000"] * 4,
        "label": ["a", "b"] * 6,
    }
    found = inspect(write_columns(tmp_path, columns, "t.csv"))
    assert [found["columns"][name]["type"] for name in columns] == ["texts", "dates", "numbers", "words"]
    assert found["columns"]["price"]["mean"] == pytest.approx((1234.5 + 2.5 + 1000) / 3)
    assert not any("mean" in found["columns"][name] for name in ("text", "day", "label"))
    print_facts(found)
    assert "746" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["True", "true", "False"] * 4, 0),
        (["1.0", "1", "2"] * 4, 0),
        ([1, "1", 2] * 4, 0),
        (["0,5", "0.50", "2,5"] * 4, 0),
        (["True", "truth", "False"] * 4, 4),
    ],
)
def test_labels_of_duplicates_are_compared_as_training_reads_them(labels: list[Any], expected: int, tmp_path: Path):
    texts = [f"some words of row {i}" for group in range(4) for i in (group, group, 10 + group)]
    found = inspect(write_columns(tmp_path, {"text": texts, "label": labels}))
    assert (found["duplicates"], found["contradictions"]) == (4, expected)


def test_duplicate_texts_and_duplicate_rows_are_counted(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    columns = {"text": [*LONG[:9], LONG[0], LONG[0], LONG[1]], "label": ["a", "b"] * 6}
    found = inspect(write_columns(tmp_path, columns))
    assert (found["duplicates"], found["contradictions"], found["duplicate_rows"]) == (3, 1, 2)
    print_facts(found)
    assert (
        "duplicates: 3 rows have the same text as an earlier row, 1 of them with another label; "
        "2 rows have the same cells in every column" in " ".join(capfd.readouterr().out.split())
    )


@pytest.mark.parametrize("labels", [(False, True), ("false", "TRUE"), ("10.0", "20.0")], ids=str)
def test_a_label_in_its_texts_is_found_in_any_spelling(tmp_path: Path, labels: tuple[Any, Any]):
    rows = [{"text": f"row {i} is {as_label(labels[i % 2])}, really", "label": labels[i % 2]} for i in range(20)]
    write_table(tmp_path / "t.jsonl", rows)
    warnings = " ".join(inspect(tmp_path / "t.jsonl")["warnings"])
    for label in map(as_label, labels):
        assert f"the label '{label}' occurs in 100% of its own texts and in 0% of the others" in warnings
