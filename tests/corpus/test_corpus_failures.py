"""Errors, interrupts and kills while a corpus is written leave no folder and no processes."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpus_helpers import read_files, write_books
from fake_tokenizers import CrashingTokenizer, HangingTokenizer, HashTokenizer, InterruptingProgress

from gpt1.corpus.corpus import write_corpus
from gpt1.corpus.encoding import TextBatch, encode_batches
from gpt1.errors import ResourceError, UserError


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_or_interrupt_leaves_no_files_and_no_processes(
    tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpt1.corpus.encoding.BATCH_CHARACTERS", 300)
    folder = write_books(tmp_path / "books")
    (folder / "4.jsonl").write_text("no JSON\n")
    with pytest.raises(UserError, match=r"4.jsonl, line 1"):
        write_corpus([str(folder)], tmp_path / "corpus", HashTokenizer(), workers=workers, shard_tokens=100)
    (folder / "4.jsonl").unlink()
    with pytest.raises(KeyboardInterrupt):
        write_corpus(
            [str(folder)],
            tmp_path / "corpus",
            HashTokenizer(),
            workers=workers,
            progress=InterruptingProgress(KeyboardInterrupt()),
        )
    assert os.listdir(tmp_path) == ["books"]
    assert not multiprocessing.active_children()


def test_text_of_only_white_space_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(" \n ")
    with pytest.raises(UserError, match="contain only white space"):
        write_corpus([str(tmp_path / "a.txt")], tmp_path / "corpus", HashTokenizer())
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_crashed_worker_is_an_error_that_suggests_fewer_workers(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="Use fewer than workers=2"):
        write_corpus([str(write_books(tmp_path / "books"))], tmp_path / "corpus", CrashingTokenizer(), workers=2)
    assert os.listdir(tmp_path) == ["books"]


def test_ctrl_c_kills_workers_that_never_finish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl", reason="Windows")
    monkeypatch.setenv("HELD", str(tmp_path))

    def batches() -> Iterator[TextBatch]:
        yield TextBatch(["a text"], "document", 0)
        while not (tmp_path / "started").exists():
            time.sleep(0.01)
        raise KeyboardInterrupt

    HangingTokenizer().save(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        list(encode_batches(batches(), HangingTokenizer(), tmp_path, 2))
    with open(tmp_path / "working", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError while a worker lives


def test_a_full_disk_is_an_error_and_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_disk_full(file: Any, values: Any, allow_pickle: bool) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", raise_disk_full)
    with pytest.raises(ResourceError, match="corpus could not be written: the disk is full"):
        write_corpus([str(write_books(tmp_path / "books"))], tmp_path / "corpus", HashTokenizer())
    assert os.listdir(tmp_path) == ["books"]


KILLED = """
import sys
sys.path[:0] = {paths!r}
from fake_tokenizers import HangingTokenizer
from gpt1.corpus.corpus import write_corpus
if __name__ == "__main__":
    write_corpus([{source!r}], {out!r}, HangingTokenizer(), workers=2)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_a_killed_run_leaves_no_corpus_and_no_process_and_the_next_run_cleans_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    source, out = str(write_books(tmp_path / "books")), str(tmp_path / "corpus")
    tests = Path(__file__).parents[1]
    script = tmp_path / "killed.py"
    script.write_text(KILLED.format(paths=[str(tests), str(tests.parent)], source=source, out=out))
    monkeypatch.setenv("HELD", str(tmp_path))
    process = subprocess.Popen([sys.executable, script])
    wait_until((tmp_path / "started").exists)
    with pytest.raises(UserError, match="is being written by another process"):
        write_corpus([source], out, HashTokenizer())
    process.send_signal(signal.SIGKILL)
    process.wait()

    def workers_are_gone() -> bool:
        with open(tmp_path / "working") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    wait_until(workers_are_gone)
    assert not Path(out).exists()
    (tmp_path / ".corpus.partial" / "shard-00007.npy").touch()  # as if killed later
    assert (tmp_path / ".corpus.partial" / "tokenizer").exists()
    corpus = write_corpus([source], out, HashTokenizer())
    assert set(read_files(Path(out))) == {*corpus.manifest["files"], "manifest.json"}
    assert not (tmp_path / ".corpus.partial").exists()


def wait_until(condition: Any, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
