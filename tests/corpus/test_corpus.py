"""Corpus folders: identical for any number of workers, written atomically, and verified when read."""

from __future__ import annotations

import errno
import hashlib
import json
import pickle
import tempfile
from itertools import pairwise
from pathlib import Path

import fsspec
import numpy as np
import pytest
from corpus_helpers import read_files, write_books
from fake_tokenizers import HashTokenizer, InterruptingProgress, LastIdTokenizer
from hypothesis import given
from hypothesis import strategies as st

from gpt1.corpus import corpus as corpora
from gpt1.corpus import readers
from gpt1.corpus.corpus import Corpus, write_corpus
from gpt1.errors import ResourceError, UserError
from gpt1.tables.table import write_table
from gpt1.tokenization.tokenizer import Tokenizer


def join_documents(tokenizer: HashTokenizer, texts: list[str]) -> list[int]:
    ids: list[int] = []
    for text in texts:
        if document := tokenizer.encode(text):
            ids += [tokenizer.newline_id, *document] if ids else document
    return ids


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return write_corpus([str(write_books(tmp_path / "books"))], tmp_path / "corpus", HashTokenizer(), shard_tokens=500)


texts = st.lists(st.text(st.sampled_from("ab é\n"), max_size=20), min_size=1, max_size=8)


@given(texts=texts, shard_tokens=st.integers(1, 40), vocab_size=st.sampled_from([2, 2**16 + 1]), data=st.data())
def test_a_corpus_is_its_documents_joined_by_newlines_for_any_shards_and_range(
    texts: list[str], shard_tokens: int, vocab_size: int, data: st.DataObject
) -> None:
    tokenizer = HashTokenizer(vocab_size)
    expected = join_documents(tokenizer, [*texts, "end"])
    with tempfile.TemporaryDirectory() as folder:
        write_table(Path(folder, "texts.jsonl"), [{"text": text} for text in [*texts, "end"]])
        corpus = write_corpus([folder], Path(folder, "corpus"), tokenizer, shard_tokens=shard_tokens)
        start = data.draw(st.integers(0, len(expected)))
        stop = data.draw(st.integers(start, len(expected)))
        assert corpus.read(start, stop).tolist() == expected[start:stop]
        assert corpus.read(0, corpus.tokens).tolist() == expected
        assert corpus.documents + corpus.empty_documents == len(texts) + 1
        nonempty = [text for text in [*texts, "end"] if tokenizer.encode(text)]
        assert corpus.n_bytes == sum(len(text.encode()) for text in nonempty)
        assert corpus.unknown == sum(join_documents(tokenizer, [text]).count(0) for text in nonempty)


@given(texts=texts, cuts=st.lists(st.integers(0, 200), max_size=4))
def test_byte_counts_of_adjacent_ranges_add_up_and_are_exact_for_whole_documents(
    texts: list[str], cuts: list[int]
) -> None:
    tokenizer = HashTokenizer()
    nonempty = [text for text in [*texts, "end"] if tokenizer.encode(text)]
    with tempfile.TemporaryDirectory() as folder:
        write_table(Path(folder, "texts.jsonl"), [{"text": text} for text in nonempty])
        corpus = write_corpus([folder], Path(folder, "corpus"), tokenizer, shard_tokens=7)
        boundaries = sorted([0, corpus.tokens, *(cut % corpus.tokens for cut in cuts)])
        n_bytes = [corpus.count_bytes(start, stop) for start, stop in pairwise(boundaries)]
        assert sum(n_bytes) == pytest.approx(len("\n".join(nonempty).encode()))
        start = 0
        for text in nonempty:
            stop = start + len(tokenizer.encode(text))
            assert corpus.count_bytes(start, stop) == len(text.encode())
            assert corpus.count_bytes(stop, stop + 1) == (1 if text is not nonempty[-1] or stop < corpus.tokens else 0)
            start = stop + 1


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_536, np.uint16), (65_537, np.uint32)])
def test_the_shard_dtype_can_store_the_last_id_of_any_vocabulary(tmp_path: Path, vocab_size: int, dtype: type) -> None:
    corpus = write_corpus([str(write_books(tmp_path / "books"))], tmp_path / "corpus", LastIdTokenizer(vocab_size))
    assert corpus.read(0, 2).tolist() == [vocab_size - 1] * 2
    assert np.load(tmp_path / "corpus" / "shard-00000.npy").dtype == dtype


def test_the_corpus_folder_is_bit_identical_for_any_number_of_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpt1.corpus.encoding.BATCH_CHARACTERS", 300)
    source = str(write_books(tmp_path / "books"))
    folders = []
    for workers in (1, 3):
        write_corpus([source], tmp_path / str(workers), HashTokenizer(), workers=workers, shard_tokens=100)
        folders.append(read_files(tmp_path / str(workers)))
    assert folders[0] == folders[1]
    assert len(folders[0]) > 5


def test_a_document_read_in_parts_has_the_ids_and_bytes_of_the_whole_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["first of all\n\n" + "one word after another " * 20 + "\nand lines " * 30, "short"]
    write_table(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    whole = write_corpus([str(tmp_path / "a.jsonl")], tmp_path / "whole", HashTokenizer())
    monkeypatch.setattr(readers, "MAX_PART_BYTES", 64)
    parts = write_corpus([str(tmp_path / "a.jsonl")], tmp_path / "parts", HashTokenizer())
    assert parts.fingerprint == whole.fingerprint
    assert parts.documents == 2


def test_a_document_whose_first_part_is_white_space_does_not_continue_the_one_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["short", "\n" * 100 + "one word after another " * 20, "\n" * 100, "end"]
    write_table(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    monkeypatch.setattr(readers, "MAX_PART_BYTES", 64)
    corpus = write_corpus([str(tmp_path / "a.jsonl")], tmp_path / "parts", HashTokenizer())
    assert corpus.read(0, corpus.tokens).tolist() == join_documents(HashTokenizer(), texts)
    assert corpus.document_starts().tolist() == [0, 2, 83]
    assert (corpus.documents, corpus.empty_documents) == (3, 1)


def test_the_manifest_lists_the_sources_the_counts_and_every_file(corpus: Corpus, tmp_path: Path) -> None:
    manifest = json.loads((tmp_path / "corpus" / "manifest.json").read_text())
    assert [source["name"] for source in manifest["sources"]] == ["books/1.jsonl.gz", "books/2.csv", "books/3.txt"]
    assert (manifest["tokenizer"], manifest["vocab_size"]) == (HashTokenizer().fingerprint, 50)
    for name, file in manifest["files"].items():
        data = (tmp_path / "corpus" / name).read_bytes()
        assert (file["size"], file["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert {*manifest["files"], "manifest.json"} == set(read_files(tmp_path / "corpus"))
    starts, n_bytes = np.load(tmp_path / "corpus" / "documents.npy")
    assert (len(starts), n_bytes.sum()) == (corpus.documents, corpus.n_bytes)
    assert HashTokenizer.load(tmp_path / "corpus" / "tokenizer").vocab_size == 50


def test_the_fingerprint_depends_on_the_content_and_not_on_the_location(tmp_path: Path, corpus: Corpus) -> None:
    moved = write_corpus(
        [str(write_books(tmp_path / "else" / "books"))], tmp_path / "b", HashTokenizer(), shard_tokens=500
    )
    other = write_corpus(
        [str(write_books(tmp_path / "more" / "books", 41))], tmp_path / "c", HashTokenizer(), shard_tokens=500
    )
    assert moved.fingerprint == corpus.fingerprint != other.fingerprint


def test_a_flipped_bit_in_any_file_is_an_error_that_names_the_file(corpus: Corpus, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    for name, data in read_files(folder).items():
        damaged = bytearray(data)
        damaged[len(data) // 2] ^= 1
        (folder / name).write_bytes(damaged)
        with pytest.raises(UserError, match=name):
            Corpus.open(folder).verify()
        if name.startswith("shard"):
            first = int(name[6:11]) * 500
            with pytest.raises(UserError, match=rf"{name} does not match its manifest \(SHA-256 differs\)"):
                Corpus.open(folder).read(first, first + 1)
        (folder / name).write_bytes(data)
    Corpus.open(folder).verify()


def test_opening_a_corpus_with_a_missing_or_truncated_file_names_the_file(corpus: Corpus, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    for name, data in read_files(folder).items():
        (folder / name).write_bytes(data[:-1])
        with pytest.raises(UserError, match=name):
            Corpus.open(folder)
        (folder / name).unlink()
        with pytest.raises(
            UserError, match="no manifest.json found" if name == "manifest.json" else f"{name} is missing"
        ):
            Corpus.open(folder)
        (folder / name).write_bytes(data)


def test_an_edited_manifest_is_an_error(corpus: Corpus, tmp_path: Path) -> None:
    path = tmp_path / "corpus" / "manifest.json"
    text = path.read_text()
    assert '"documents": 40' in text
    path.write_text(text.replace('"documents": 40', '"documents": 41'))
    with pytest.raises(UserError, match=r"manifest.json was changed or damaged"):
        Corpus.open(tmp_path / "corpus")


def test_opening_a_folder_that_is_not_a_corpus_shows_how_to_create_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no manifest.json found(?s:.*)gpt1 tokenize"):
        Corpus.open(write_books(tmp_path / "books"))
    with pytest.raises(UserError, match=r"does not exist. Did you mean books\?"):
        Corpus.open(tmp_path / "book")


def test_a_corpus_at_a_url_reads_like_a_local_one(corpus: Corpus, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "corpus"), "/remote-corpus", recursive=True)
    try:
        remote = Corpus.open("memory://remote-corpus")
        assert remote.fingerprint == corpus.fingerprint
        assert (remote.read(0, corpus.tokens) == corpus.read(0, corpus.tokens)).all()
        assert remote.count_bytes(0, corpus.tokens) == corpus.count_bytes(0, corpus.tokens)
        memory.pipe_file("/remote-corpus/shard-00001.npy", b"x" * memory.size("/remote-corpus/shard-00001.npy"))
        with pytest.raises(UserError, match=r"shard-00001.npy does not match its manifest"):
            Corpus.open("memory://remote-corpus").read(500, 501)
    finally:
        memory.store.clear()


def test_each_shard_is_verified_once_even_if_not_all_can_be_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write_corpus([str(write_books(tmp_path / "books", 6))], tmp_path / "c", HashTokenizer(), shard_tokens=50)
    whole = corpus.read(0, corpus.tokens)
    again = Corpus.open(tmp_path / "c")
    checked: list[str] = []
    monkeypatch.setattr(corpora, "MAX_MEMORY_MAPS", 3)
    monkeypatch.setattr(again, "check_digest", lambda name, sha256: checked.append(name))
    for _ in range(2):
        for start in range(corpus.tokens - 5):
            assert (again.read(start, start + 6) == whole[start : start + 6]).all()
            assert len(again.arrays) <= 3
    assert len(checked) == len(set(checked)) == -(-corpus.tokens // 50) > 3


def test_a_pickled_corpus_contains_no_tokens(corpus: Corpus) -> None:
    ids = corpus.read(0, corpus.tokens)
    sent = pickle.dumps(corpus)
    assert len(sent) < 4_000 < ids.nbytes
    assert (pickle.loads(sent).read(0, corpus.tokens) == ids).all()


def test_progress_ends_at_the_size_of_the_sources(tmp_path: Path) -> None:
    folder = write_books(tmp_path / "books")
    (folder / "4.jsonl").write_text('{"text": ""}\n{"text": " "}\n{"text": "end"}\n')
    watcher = InterruptingProgress()
    corpus = write_corpus([str(folder)], tmp_path / "corpus", HashTokenizer(), progress=watcher)
    assert watcher.advances == sorted(watcher.advances)
    assert watcher.advances[-1] == watcher.total == sum(path.stat().st_size for path in folder.iterdir())
    assert watcher.messages == ["2 empty documents skipped"]
    assert corpus.empty_documents == 2


def test_the_output_folder_must_be_empty_or_missing(tmp_path: Path) -> None:
    source = str(write_books(tmp_path / "books"))
    out = tmp_path / "corpus"
    out.mkdir()
    write_corpus([source], out, HashTokenizer())
    before = read_files(out)
    with pytest.raises(UserError, match="exists and is not empty"):
        write_corpus([source], out, HashTokenizer())
    assert read_files(out) == before
    with pytest.raises(UserError, match="is a file"):
        write_corpus([source], tmp_path / "books" / "3.txt", HashTokenizer())


@pytest.fixture(scope="module", params=["original", "lossless"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return Tokenizer.train(["One text, and another one.\n", "line\nbreaks, words and 한국어"], 300, request.param)


lines = st.text(st.sampled_from("aeno, .한\n"), max_size=30)


@given(texts=st.lists(lines.filter(str.strip), min_size=1, max_size=5))
def test_the_saved_tokenizer_decodes_the_documents(tokenizer: Tokenizer, texts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_table(Path(folder, "texts.jsonl"), [{"text": text} for text in texts])
        corpus = write_corpus([folder], Path(folder, "corpus"), tokenizer)
        again = corpus.load_tokenizer()
        ids = corpus.read(0, corpus.tokens).tolist()
    assert again.fingerprint == corpus.tokenizer_fingerprint == tokenizer.fingerprint
    assert ids == [id for text in texts for id in [tokenizer.newline_id, *tokenizer.encode(text)]][1:]
    if tokenizer.pipeline == "lossless":
        assert again.decode(ids) == "\n".join(texts)


def test_trained_tokenizers_give_the_same_folder_in_worker_processes(tmp_path: Path, tokenizer: Tokenizer) -> None:
    source = str(write_books(tmp_path / "books"))
    for workers in (1, 2):
        write_corpus([source], tmp_path / str(workers), tokenizer, workers=workers)
    assert read_files(tmp_path / "1") == read_files(tmp_path / "2")


def test_a_replaced_tokenizer_is_an_error(tmp_path: Path, tokenizer: Tokenizer) -> None:
    write_corpus([str(write_books(tmp_path / "books"))], tmp_path / "corpus", tokenizer)
    other = Tokenizer.train(["quite other words"], 280, tokenizer.pipeline)
    other.save(tmp_path / "corpus" / "tokenizer")
    with pytest.raises(UserError, match=r"corpus/tokenizer/.* does not match its manifest"):
        Corpus.open(tmp_path / "corpus")


def test_a_full_temporary_folder_is_an_error_that_names_it(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write_corpus([str(write_books(tmp_path / "books", 4))], tmp_path / "corpus", tokenizer)

    def raise_disk_full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")  # without a file name, as from write()

    monkeypatch.setattr(Path, "write_bytes", raise_disk_full)
    with pytest.raises(ResourceError, match=f"{tempfile.gettempdir()}/.* could not be written: the disk is full"):
        corpus.load_tokenizer()
