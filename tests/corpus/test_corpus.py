"""Corpus folders: the documents' ids, the same for any number of workers, never half-written, never changed unseen."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fake_tokenizers import CrashingTokenizer, HangingTokenizer, HashTokenizer, InterruptingProgress, LastIdTokenizer
from hypothesis import given
from hypothesis import strategies as st

from gpt1.corpus import corpus as corpora
from gpt1.corpus import readers
from gpt1.corpus.corpus import Corpus, write_corpus
from gpt1.corpus.encoding import TextBatch, encode_batches
from gpt1.errors import ResourceError, UserError
from gpt1.tables.table import write_table
from gpt1.tokenization.tokenizer import Tokenizer


def joined(tokenizer: HashTokenizer, texts: list[str]) -> list[int]:
    ids: list[int] = []
    for text in texts:
        if document := tokenizer.encode(text):
            ids += [tokenizer.newline_id, *document] if ids else document
    return ids


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def books(folder: Path, n: int = 40) -> Path:
    """A folder of three files with n documents in all."""
    rows = [{"text": f"book {i} " + "says a word or two " * (i * 37 % 50)} for i in range(n)]
    write_table(folder / "1.jsonl.gz", rows[: n // 2])
    write_table(folder / "2.csv", rows[n // 2 : -1])
    (folder / "3.txt").write_text(rows[-1]["text"])
    return folder


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return write_corpus([str(books(tmp_path / "books"))], tmp_path / "corpus", HashTokenizer(), shard_tokens=500)


texts = st.lists(st.text(st.sampled_from("ab é\n"), max_size=20), min_size=1, max_size=8)


@given(texts=texts, shard_tokens=st.integers(1, 40), vocab_size=st.sampled_from([2, 2**16 + 1]), data=st.data())
def test_a_corpus_is_its_documents_joined_by_newlines_for_any_shards_and_range(
    texts: list[str], shard_tokens: int, vocab_size: int, official_data: st.DataObject
) -> None:
    tokenizer = HashTokenizer(vocab_size)
    expected = joined(tokenizer, [*texts, "end"])
    with tempfile.TemporaryDirectory() as folder:
        write_table(Path(folder, "texts.jsonl"), [{"text": text} for text in [*texts, "end"]])
        corpus = write_corpus([folder], Path(folder, "corpus"), tokenizer, shard_tokens=shard_tokens)
        start = official_data.draw(st.integers(0, len(expected)))
        stop = official_data.draw(st.integers(start, len(expected)))
        assert corpus.read(start, stop).tolist() == expected[start:stop]
        assert corpus.read(0, corpus.tokens).tolist() == expected
        assert corpus.documents + corpus.empty_documents == len(texts) + 1
        kept = [text for text in [*texts, "end"] if tokenizer.encode(text)]
        assert corpus.n_bytes == sum(len(text.encode()) for text in kept)
        assert corpus.unknown == sum(joined(tokenizer, [text]).count(0) for text in kept)


@given(texts=texts, cuts=st.lists(st.integers(0, 200), max_size=4))
def test_bytes_add_up_over_any_cuts_and_are_exact_for_whole_documents(texts: list[str], cuts: list[int]) -> None:
    tokenizer = HashTokenizer()
    kept = [text for text in [*texts, "end"] if tokenizer.encode(text)]
    with tempfile.TemporaryDirectory() as folder:
        write_table(Path(folder, "texts.jsonl"), [{"text": text} for text in kept])
        corpus = write_corpus([folder], Path(folder, "corpus"), tokenizer, shard_tokens=7)
        at = sorted([0, corpus.tokens, *(cut % corpus.tokens for cut in cuts)])
        pieces = [corpus.count_bytes(start, stop) for start, stop in pairwise(at)]
        assert sum(pieces) == pytest.approx(len("\n".join(kept).encode()))
        start = 0
        for text in kept:
            stop = start + len(tokenizer.encode(text))
            assert corpus.count_bytes(start, stop) == len(text.encode())
            assert corpus.count_bytes(stop, stop + 1) == (1 if text is not kept[-1] or stop < corpus.tokens else 0)
            start = stop + 1


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_536, np.uint16), (65_537, np.uint32)])
def test_the_last_id_of_any_vocabulary_survives(tmp_path: Path, vocab_size: int, dtype: type) -> None:
    corpus = write_corpus([str(books(tmp_path / "books"))], tmp_path / "corpus", LastIdTokenizer(vocab_size))
    assert corpus.read(0, 2).tolist() == [vocab_size - 1] * 2
    assert np.load(tmp_path / "corpus" / "shard-00000.npy").dtype == dtype


def test_any_number_of_workers_gives_the_same_folder_byte_for_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpt1.corpus.encoding.BATCH_CHARACTERS", 300)
    source = str(books(tmp_path / "books"))
    folders = []
    for workers in (1, 3):
        write_corpus([source], tmp_path / str(workers), HashTokenizer(), workers=workers, shard_tokens=100)
        folders.append(content(tmp_path / str(workers)))
    assert folders[0] == folders[1]
    assert len(folders[0]) > 5


def test_a_document_that_is_read_in_parts_gives_the_ids_and_bytes_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["first of all\n\n" + "one word after another " * 20 + "\nand lines " * 30, "short"]
    write_table(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    whole = write_corpus([str(tmp_path / "a.jsonl")], tmp_path / "whole", HashTokenizer())
    monkeypatch.setattr(readers, "MAX_PART_BYTES", 64)
    parts = write_corpus([str(tmp_path / "a.jsonl")], tmp_path / "parts", HashTokenizer())
    assert parts.fingerprint == whole.fingerprint
    assert parts.documents == 2


def test_the_folder_says_what_it_holds(corpus: Corpus, tmp_path: Path) -> None:
    manifest = json.loads((tmp_path / "corpus" / "manifest.json").read_text())
    assert [source["name"] for source in manifest["sources"]] == ["books/1.jsonl.gz", "books/2.csv", "books/3.txt"]
    assert (manifest["tokenizer"], manifest["vocab_size"]) == (HashTokenizer().fingerprint, 50)
    for name, file in manifest["files"].items():
        data = (tmp_path / "corpus" / name).read_bytes()
        assert (file["size"], file["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert {*manifest["files"], "manifest.json"} == set(content(tmp_path / "corpus"))
    starts, n_bytes = np.load(tmp_path / "corpus" / "documents.npy")
    assert (len(starts), n_bytes.sum()) == (corpus.documents, corpus.n_bytes)
    assert HashTokenizer.load(tmp_path / "corpus" / "tokenizer").vocab_size == 50


def test_the_fingerprint_names_the_content_and_not_the_place(tmp_path: Path, corpus: Corpus) -> None:
    moved = write_corpus([str(books(tmp_path / "else" / "books"))], tmp_path / "b", HashTokenizer(), shard_tokens=500)
    other = write_corpus(
        [str(books(tmp_path / "more" / "books", 41))], tmp_path / "c", HashTokenizer(), shard_tokens=500
    )
    assert moved.fingerprint == corpus.fingerprint != other.fingerprint


def test_a_flipped_byte_in_any_file_is_refused_by_name(corpus: Corpus, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    for name, data in content(folder).items():
        damaged = bytearray(data)
        damaged[len(data) // 2] ^= 1
        (folder / name).write_bytes(damaged)
        with pytest.raises(UserError, match=name):
            Corpus.open(folder).verify()
        if name.startswith("shard"):
            first = int(name[6:11]) * 500
            with pytest.raises(UserError, match=rf"{name} is not what its manifest says \(SHA-256 differs\)"):
                Corpus.open(folder).read(first, first + 1)
        (folder / name).write_bytes(data)
    Corpus.open(folder).verify()


def test_a_missing_or_shortened_file_is_refused_by_name_on_opening(corpus: Corpus, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    for name, data in content(folder).items():
        (folder / name).write_bytes(data[:-1])
        with pytest.raises(UserError, match=name):
            Corpus.open(folder)
        (folder / name).unlink()
        with pytest.raises(UserError, match=f"{name} is missing"):
            Corpus.open(folder)
        (folder / name).write_bytes(data)


def test_a_manifest_that_was_edited_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    path = tmp_path / "corpus" / "manifest.json"
    text = path.read_text()
    assert '"documents": 40' in text
    path.write_text(text.replace('"documents": 40', '"documents": 41'))
    with pytest.raises(UserError, match=r"manifest.json was changed or damaged"):
        Corpus.open(tmp_path / "corpus")


def test_a_folder_that_is_no_corpus_is_refused_with_the_way_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"manifest.json is missing(?s:.*)gpt1 tokenize"):
        Corpus.open(books(tmp_path / "books"))
    with pytest.raises(UserError, match=r"does not exist. Did you mean books\?"):
        Corpus.open(tmp_path / "book")


def test_a_corpus_behind_a_url_reads_like_a_local_one(corpus: Corpus, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "corpus"), "/remote-corpus", recursive=True)
    try:
        remote = Corpus.open("memory://remote-corpus")
        assert remote.fingerprint == corpus.fingerprint
        assert (remote.read(0, corpus.tokens) == corpus.read(0, corpus.tokens)).all()
        assert remote.count_bytes(0, corpus.tokens) == corpus.count_bytes(0, corpus.tokens)
        memory.pipe_file("/remote-corpus/shard-00001.npy", b"x" * memory.size("/remote-corpus/shard-00001.npy"))
        with pytest.raises(UserError, match=r"shard-00001.npy is not what its manifest says"):
            Corpus.open("memory://remote-corpus").read(500, 501)
    finally:
        memory.store.clear()


def test_a_corpus_of_more_shards_than_files_may_be_open_is_read_and_checked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write_corpus([str(books(tmp_path / "books", 6))], tmp_path / "c", HashTokenizer(), shard_tokens=50)
    whole = corpus.read(0, corpus.tokens)
    again = Corpus.open(tmp_path / "c")
    checked: list[str] = []
    monkeypatch.setattr(corpora, "MAX_MEMORY_MAPS", 3)
    monkeypatch.setattr(again, "check", lambda name, sha256: checked.append(name))
    for _ in range(2):
        for start in range(corpus.tokens - 5):
            assert (again.read(start, start + 6) == whole[start : start + 6]).all()
            assert len(again.arrays) <= 3
    assert len(checked) == len(set(checked)) == -(-corpus.tokens // 50) > 3


def test_a_corpus_sent_to_another_process_takes_no_tokens_along(corpus: Corpus) -> None:
    ids = corpus.read(0, corpus.tokens)
    sent = pickle.dumps(corpus)
    assert len(sent) < 4_000 < ids.nbytes
    assert (pickle.loads(sent).read(0, corpus.tokens) == ids).all()


def test_progress_rises_to_the_size_of_the_sources(tmp_path: Path) -> None:
    folder = books(tmp_path / "books")
    (folder / "4.jsonl").write_text('{"text": ""}\n{"text": " "}\n{"text": "end"}\n')
    watcher = InterruptingProgress()
    corpus = write_corpus([str(folder)], tmp_path / "corpus", HashTokenizer(), progress=watcher)
    assert watcher.advances == sorted(watcher.advances)
    assert watcher.advances[-1] == watcher.total == sum(path.stat().st_size for path in folder.iterdir())
    assert watcher.messages == ["2 empty documents left out"]
    assert corpus.empty_documents == 2


def test_an_output_folder_that_holds_something_is_refused_and_an_empty_one_is_used(tmp_path: Path) -> None:
    source = str(books(tmp_path / "books"))
    out = tmp_path / "corpus"
    out.mkdir()
    write_corpus([source], out, HashTokenizer())
    before = content(out)
    with pytest.raises(UserError, match="exists and is not empty"):
        write_corpus([source], out, HashTokenizer())
    assert content(out) == before
    with pytest.raises(UserError, match="is a file"):
        write_corpus([source], tmp_path / "books" / "3.txt", HashTokenizer())


@pytest.mark.parametrize("workers", [1, 2])
def test_after_an_error_nothing_is_left(tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt1.corpus.encoding.BATCH_CHARACTERS", 300)
    folder = books(tmp_path / "books")
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


def test_text_that_is_only_white_space_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(" \n ")
    with pytest.raises(UserError, match="no text, only white space"):
        write_corpus([str(tmp_path / "a.txt")], tmp_path / "corpus", HashTokenizer())
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_worker_that_dies_is_told_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="Use fewer than --workers 2"):
        write_corpus([str(books(tmp_path / "books"))], tmp_path / "corpus", CrashingTokenizer(), workers=2)
    assert os.listdir(tmp_path) == ["books"]


def test_after_ctrl_c_workers_that_would_never_end_are_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("gpt1.corpus.shards.fsync_file", full)
    with pytest.raises(ResourceError, match="corpus could not be written: the disk is full"):
        write_corpus([str(books(tmp_path / "books"))], tmp_path / "corpus", HashTokenizer())
    assert os.listdir(tmp_path) == ["books"]


@pytest.fixture(scope="module", params=["original", "lossless"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return Tokenizer.train(["One text, and another one.\n", "line\nbreaks, words and 한국어"], 300, request.param)


lines = st.text(st.sampled_from("aeno, .한\n"), max_size=30)


@given(texts=st.lists(lines.filter(str.strip), min_size=1, max_size=5))
def test_a_real_tokenizer_is_in_the_folder_and_gives_the_documents_back(tokenizer: Tokenizer, texts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_table(Path(folder, "texts.jsonl"), [{"text": text} for text in texts])
        corpus = write_corpus([folder], Path(folder, "corpus"), tokenizer)
        again = corpus.load_tokenizer()
        ids = corpus.read(0, corpus.tokens).tolist()
    assert again.fingerprint == corpus.tokenizer_fingerprint == tokenizer.fingerprint
    assert ids == [id for text in texts for id in [tokenizer.newline_id, *tokenizer.encode(text)]][1:]
    if tokenizer.pipeline == "lossless":
        assert again.decode(ids) == "\n".join(texts)


def test_real_tokenizers_give_the_same_folder_in_worker_processes(tmp_path: Path, tokenizer: Tokenizer) -> None:
    source = str(books(tmp_path / "books"))
    for workers in (1, 2):
        write_corpus([source], tmp_path / str(workers), tokenizer, workers=workers)
    assert content(tmp_path / "1") == content(tmp_path / "2")


def test_a_tokenizer_that_was_exchanged_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    write_corpus([str(books(tmp_path / "books"))], tmp_path / "corpus", tokenizer)
    other = Tokenizer.train(["quite other words"], 280, tokenizer.pipeline)
    other.save(tmp_path / "corpus" / "tokenizer")
    with pytest.raises(UserError, match=r"corpus/tokenizer/.* is not what its manifest says"):
        Corpus.open(tmp_path / "corpus")


def test_a_full_folder_for_temporary_files_is_told_by_name(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write_corpus([str(books(tmp_path / "books", 4))], tmp_path / "corpus", tokenizer)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")  # as write() says it, without a name

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ResourceError, match=f"{tempfile.gettempdir()}/.* could not be written: the disk is full"):
        corpus.load_tokenizer()


KILLED = """
import sys
sys.path[:0] = {paths!r}
from stand_in_tokenizers import Endless
from gpt1.corpus.corpus import write_corpus
if __name__ == "__main__":
    write_corpus([{source!r}], {out!r}, Endless(), workers=2)
"""


@pytest.mark.skipif(os.name != "posix", reason="kills a process as POSIX does")
def test_a_killed_run_leaves_no_corpus_and_no_process_and_the_next_run_cleans_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    source, out = str(books(tmp_path / "books")), str(tmp_path / "corpus")
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
    (tmp_path / ".corpus.partial" / "shard-00007.npy").touch()  # as if it had got further
    assert (tmp_path / ".corpus.partial" / "tokenizer").exists()
    corpus = write_corpus([source], out, HashTokenizer())
    assert set(content(Path(out))) == {*corpus.manifest["files"], "manifest.json"}
    assert not (tmp_path / ".corpus.partial").exists()


def wait_until(condition: Any, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
