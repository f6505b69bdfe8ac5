"""Shared by the tests of known data sets: no GPT1_DATA, and small files in the official formats."""

from __future__ import annotations

from pathlib import Path

import pytest

RTE_HEADER = "index\tsentence1\tsentence2\tlabel"
MSR_HEADER = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
RACE_PASSAGE = {
    "article": "Tom has a dog.\nIt is old.",
    "questions": ["Tom has a  _  .", "How old is it?"],
    "options": [["cat", "dog", "cow", "pig"], ["1", "2", "Old.", "New."]],
    "answers": ["B", "C"],
    "id": "middle1.txt",
}


@pytest.fixture(autouse=True)
def no_data_dir_variable(monkeypatch):
    monkeypatch.delenv("GPT1_DATA", raising=False)


def write_official_file(folder: Path, name: str, *lines: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path
