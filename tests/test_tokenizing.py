"""Texts into a corpus with a tokenizer of their own: what is asked for is what is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpt1.errors import ResourceError, UserError
from gpt1.tokenizing import tokenize


@pytest.mark.parametrize("settings", [{"vocab_size": 0}, {"vocab_size": 60, "workers": 0}], ids=str)
def test_nought_is_refused_and_not_taken_for_the_default(settings: dict[str, Any], tmp_path: Path):
    (tmp_path / "a.txt").write_text("some words, and some words more\n" * 20)
    with pytest.raises(UserError, match=r"(vocab_size|--workers) 0 is"):
        tokenize([str(tmp_path / "a.txt")], out=tmp_path / "corpus", **settings)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(("workers", "advice"), [(5, "--workers 2 (now 5)"), (1, "Close other programs")])
def test_too_little_memory_names_the_workers_to_try(
    workers: int, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def write(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("gpt1.tokenizing.write_corpus", write)
    (tmp_path / "a.txt").write_text("some words, and some words more\n" * 20)
    with pytest.raises(ResourceError, match="out of memory") as ended:
        tokenize([str(tmp_path / "a.txt")], out=tmp_path / "corpus", vocab_size=60, workers=workers)
    assert advice in ended.value.fix
