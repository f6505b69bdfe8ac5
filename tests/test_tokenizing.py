"""Texts into a corpus with a tokenizer of their own: what is asked for is what is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpt1.errors import UserError
from gpt1.tokenizing import tokenize


@pytest.mark.parametrize("settings", [{"vocab_size": 0}, {"vocab_size": 60, "workers": 0}], ids=str)
def test_nought_is_refused_and_not_taken_for_the_default(settings: dict[str, Any], tmp_path: Path):
    (tmp_path / "a.txt").write_text("some words, and some words more\n" * 20)
    with pytest.raises(UserError, match=r"(vocab_size|--workers) 0 is"):
        tokenize([str(tmp_path / "a.txt")], out=tmp_path / "corpus", **settings)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
