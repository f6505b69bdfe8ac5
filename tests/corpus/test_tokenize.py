"""Tokenizing with a newly trained tokenizer: settings, errors, and the texts that it is trained on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gpt1.corpus.readers import list_sources
from gpt1.corpus.tokenize import sample_texts, tokenize
from gpt1.errors import ResourceError, UserError
from gpt1.tokenization.tokenizer import Tokenizer


@pytest.mark.parametrize("settings", [{"vocab_size": 0}, {"vocab_size": 60, "workers": 0}], ids=str)
def test_zero_is_an_error_and_not_the_default(settings: dict[str, Any], tmp_path: Path):
    (tmp_path / "a.txt").write_text("some words, and some words more\n" * 20)
    with pytest.raises(UserError, match=r"(vocab_size |workers=)0 is"):
        tokenize([str(tmp_path / "a.txt")], out=tmp_path / "corpus", **settings)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("pipeline", ["original", "lossless"])
def test_a_vocabulary_that_no_model_may_have_is_an_error(pipeline: str, tmp_path: Path):
    (tmp_path / "a.txt").write_text("some words, and some words more\n" * 20)
    with pytest.raises(UserError, match="vocab_size 10000000000 is too large: a model has at most 16,777,216 tokens"):
        tokenize([str(tmp_path / "a.txt")], out=tmp_path / "corpus", vocab_size=10**10, pipeline=pipeline)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_another_pipeline_than_that_of_the_tokenizer_is_an_error(tmp_path: Path):
    texts = tmp_path / "a.txt"
    texts.write_text("some words, and some words more\n" * 20)
    Tokenizer.train([texts.read_text()], vocab_size=60, pipeline="original").save(tmp_path / "tokenizer")
    with pytest.raises(UserError, match="is original"):
        tokenize([str(texts)], out=tmp_path / "corpus", tokenizer=tmp_path / "tokenizer", pipeline="lossless")
    same = tokenize([str(texts)], out=tmp_path / "corpus", tokenizer=tmp_path / "tokenizer", pipeline="original")
    assert same.load_tokenizer().pipeline == "original"


@pytest.mark.parametrize(("workers", "advice"), [(5, "--workers 2 (now 5)"), (1, "Close other programs")])
def test_the_out_of_memory_error_suggests_fewer_workers(
    workers: int, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def raise_memory_error(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("gpt1.corpus.tokenize.write_corpus", raise_memory_error)
    (tmp_path / "a.txt").write_text("some words, and some words more\n" * 20)
    with pytest.raises(ResourceError, match="out of memory") as error:
        tokenize([str(tmp_path / "a.txt")], out=tmp_path / "corpus", vocab_size=60, workers=workers)
    assert advice in error.value.fix


def test_a_script_without_a_main_guard_is_told_to_have_one(tmp_path: Path):
    """Worker processes import the script that starts them."""
    (tmp_path / "a.txt").write_text("some words, and some words more\n" * 20)
    script = tmp_path / "script.py"
    script.write_text("import gpt1\ngpt1.tokenize(['a.txt'], out='corpus', vocab_size=60, workers=2)\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "Put the call of tokenize below `if __name__ == '__main__':`, or use workers=1." in result.stderr
    assert not (tmp_path / "corpus").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names of files are Unicode")
def test_a_file_name_that_is_not_utf_8_is_escaped_in_the_manifest(tmp_path: Path):
    path = Path(os.fsdecode(os.fsencode(tmp_path / "texts") + b"/caf\xe9.txt"))
    path.parent.mkdir()
    path.write_text("some words, and some words more\n" * 20)
    corpus = tokenize([str(path.parent)], out=tmp_path / "corpus", vocab_size=60, workers=1)
    assert [source["name"] for source in corpus.manifest["sources"]] == [r"texts/caf\udce9.txt"]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([50, 50], [50, 50]),  # all text if it is shorter than the limit
        ([900, 300, 900], [35, 35, 35]),
        ([10, 900, 10, 10, 900], [10, 37, 10, 10, 38]),  # the unused shares of small files go to large ones
    ],
)
def test_a_vocabulary_is_trained_on_equal_shares_of_the_files(
    sizes: list[int], expected: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("gpt1.corpus.tokenize.SAMPLE_CHARACTERS", 105)
    for letter, size in zip("abcde", sizes, strict=False):
        (tmp_path / f"{letter}.txt").write_text(letter * size)
    sample = "".join(sample_texts(list_sources([str(tmp_path)])))
    assert [sample.count(letter) for letter in "abcde"[: len(sizes)]] == expected
