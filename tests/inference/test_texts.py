"""Texts from files, as `gpt1 score` and `gpt1 features` read them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt1.corpus import readers
from gpt1.errors import UserError
from gpt1.inference.predictor import LanguageModel, TaskPredictor, load
from gpt1.inference.texts import read_texts_or_text, write_features
from gpt1.tables import table


@pytest.mark.parametrize("limit", [7, 50, 2**20])
def test_a_long_file_is_one_text_and_a_long_row_too(limit: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(readers, "MAX_PART_BYTES", limit)
    texts = ["it was a\ndark\n\nand stormy night " * 5 + ".", "short", "", "ein_längeres_Wort_ohne_Leerzeichen"]
    for i, text in enumerate(filter(None, texts)):
        (tmp_path / f"{i}.txt").write_text(text, encoding="utf-8")
        assert read_texts_or_text(str(tmp_path / f"{i}.txt")) == [text]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    assert read_texts_or_text(str(rows)) == texts


@pytest.mark.parametrize("name", ["classification", "similarity", "pre-trained"])
def test_features_name_a_row_that_cannot_be_read_before_they_are_computed(
    name: str, write_model: Callable[..., Path], pretrained_run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(table, "BLOCK_ROWS", 2)
    monkeypatch.setattr(LanguageModel, "features", None)
    monkeypatch.setattr(TaskPredictor, "features", None)
    rows = [{"text": "a", "other": "b"}, {"text": "c"}, {"other": "d"}, {"text": {"x": 1}}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model, column = (pretrained_run, "text") if name == "pre-trained" else (write_model(name), None)
    with pytest.raises(UserError, match=r"rows.jsonl, line 4, column 'text': .* is not a text") as raised:
        write_features(model, tmp_path / "rows.jsonl", tmp_path / "out.jsonl", column=column)
    assert raised.value.fix == "Choose another column, or fix the row."


def test_features_name_a_missing_column_as_predict_does(write_model: Callable[..., Path], tmp_path: Path):
    (tmp_path / "rows.csv").write_text("txt,oter\na,b\n")

    def read(name: str, column: str | None = None) -> str:
        with pytest.raises(UserError) as raised:
            write_features(write_model(name), tmp_path / "rows.csv", tmp_path / "out.csv", column=column)
        return f"{raised.value.problem} {raised.value.fix}"

    assert "no column 'text'. Columns: txt, oter. Did you mean --text txt?" in read("classification")
    assert "no columns 'text' and 'other'. Columns: txt, oter. Rename 'txt' to 'text'." in read("similarity")
    assert "needs text, other, not one text. Omit --text." in read("similarity", "txt")


def test_features_of_several_columns_are_those_of_the_joined_texts(pretrained_run: Path, tmp_path: Path):
    (tmp_path / "rows.csv").write_text("title,body\na,b\n,d\n")
    write_features(pretrained_run, tmp_path / "rows.csv", tmp_path / "out.jsonl", column="title,body")
    found = [row["features"] for row in table.read_table(tmp_path / "out.jsonl").rows]
    assert found == pytest.approx(load(pretrained_run).features(["a\nb", "d"]), abs=1e-5)
