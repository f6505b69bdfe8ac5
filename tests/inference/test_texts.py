"""Texts from files, as `gpt1 score` and `gpt1 features` read them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpt1.corpus import readers
from gpt1.inference.texts import read_texts_or_text


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
