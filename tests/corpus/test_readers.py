"""CORPUS → documents: all formats give the same texts in constant memory, and errors name the file and line."""

from __future__ import annotations

import gzip
import json
import lzma
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from threading import Thread

import fsspec
import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from gpt1.corpus import readers
from gpt1.corpus.readers import file_url, list_sources, read_documents
from gpt1.errors import UserError
from gpt1.files import reading as files
from gpt1.tables.table import write_table

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}
# Without NUL, which marks a binary file; carriage returns and other control characters are text.
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60)


def read_texts(*corpora: str | Path) -> list[str]:
    return [document.text for document in read_documents([str(corpus) for corpus in corpora])]


def list_names(*corpora: str | Path) -> list[str]:
    return [source.name for source in list_sources([str(corpus) for corpus in corpora])]


def read_error(*corpora: str | Path) -> str:
    with pytest.raises(UserError) as raised:
        read_texts(*corpora)
    return str(raised.value)


@pytest.fixture(scope="module")
def scratch_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for generated files, overwritten by every example."""
    return tmp_path_factory.mktemp("generated")


@given(texts=st.lists(texts, min_size=1, max_size=5), compression=st.sampled_from(sorted(COMPRESS)))
@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_row_is_a_document_in_every_format_and_compression(
    scratch_folder: Path, kind: str, texts: list[str], compression: str
) -> None:
    path = scratch_folder / f"rows.{kind}{compression}"
    write_table(path, [{"id": i, "text": text} for i, text in enumerate(texts)])
    assert read_texts(path) == texts


@given(text=texts.filter(bool), compression=st.sampled_from(sorted(COMPRESS)), mark=st.booleans())
@pytest.mark.parametrize("kind", ["txt", "md"])
def test_a_text_file_is_one_unchanged_document_without_its_byte_order_mark(
    scratch_folder: Path, kind: str, text: str, compression: str, mark: bool
) -> None:
    path = scratch_folder / f"text.{kind}{compression}"
    path.write_bytes(COMPRESS[compression](text.encode("utf-8-sig" if mark else "utf-8")))
    assert read_texts(path) == [text if mark else text.removeprefix("\ufeff")]


def test_quotes_in_tsv_cells_are_text(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('text\tn\n"so" he said\t1\n"one quote\t2\r\n', encoding="utf-8")
    assert read_texts(tmp_path) == ['"so" he said', '"one quote']


def test_a_csv_cell_may_be_longer_than_the_default_limit_of_the_csv_module(tmp_path: Path) -> None:
    text = 'a "long"\nstory, ' * 20_000
    write_table(tmp_path / "a.csv", [{"text": text}])
    assert read_texts(tmp_path / "a.csv") == [text]


long_texts = st.sampled_from(["ab é한🙂\n", "ab é", "é한🙂"]).flatmap(
    lambda characters: st.text(st.sampled_from(characters), min_size=40, max_size=200)
)


@example(text="a" * 32 + "\n", kind="txt")
@example(text="a" * 32 + "\n", kind="jsonl")
@given(text=long_texts, kind=st.sampled_from(["txt", "jsonl"]))
def test_the_parts_of_a_long_document_are_short_and_join_to_the_document(
    scratch_folder: Path, text: str, kind: str
) -> None:
    path = scratch_folder / f"long.{kind}"
    path.write_text(json.dumps({"text": text}) if kind == "jsonl" else text, encoding="utf-8", newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "MAX_PART_BYTES", 32)
        documents = list(read_documents([str(path)]))
    between = {"document": "", "line": "\n", "word": ""}
    assert "".join(between[document.boundary] + document.text for document in documents) == text
    assert [document.boundary for document in documents].count("document") == 1
    assert all(len(document.text.encode("utf-8")) <= 32 for document in documents)


def test_a_large_file_is_read_in_constant_memory(tmp_path: Path) -> None:
    line = json.dumps({"text": "word " * 2_000}).encode() + b"\n"
    path = tmp_path / "large.jsonl.xz"
    path.write_bytes(lzma.compress(line * 4_000, preset=0))  # 40 MB of text
    tracemalloc.start()
    n = sum(len(document.text) for document in read_documents([str(path)]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n == 4_000 * 10_000
    assert peak < 4e6


def test_the_position_ends_at_the_size_of_the_file(tmp_path: Path) -> None:
    rows = [{"text": f"{i} " * 500} for i in range(600)]
    for name in ("a.jsonl", "a.jsonl.gz", "a.csv.zst", "a.parquet"):
        write_table(tmp_path / name, rows)
        positions = [document.bytes_read for document in read_documents([str(tmp_path / name)])]
        assert positions == sorted(positions)
        assert positions[-1] == (tmp_path / name).stat().st_size


def test_folders_are_read_recursively_sorted_by_name_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b/1.txt", "a.txt", "b/10.md", "b/.hidden.txt", ".git/c.txt", "b-c.jsonl", "picture.png"):
        (tmp_path / "books" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "books" / name).write_text('{"text": "x"}')
    assert list_names(tmp_path / "books") == ["books/a.txt", "books/b/1.txt", "books/b/10.md", "books/b-c.jsonl"]


def test_a_corpus_folder_is_not_read_as_text(tmp_path: Path) -> None:
    for name in ("a.txt", "corpus/manifest.json", "corpus/documents.npy", "corpus/tokenizer/merges.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("a")
    assert read_texts(tmp_path) == ["a"]
    assert "is already tokenized" in read_error(tmp_path / "corpus")


def test_links_are_followed_but_cycles_are_not(tmp_path: Path) -> None:
    (tmp_path / "books").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.txt").write_text("a")
    (tmp_path / "books" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "books")
    assert list_names(tmp_path / "books") == ["books/linked/a.txt"]


def test_a_file_given_twice_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    assert read_texts(tmp_path / "b.txt", tmp_path, tmp_path / "*.txt") == ["b", "a"]


def test_glob_patterns_match_files_and_an_existing_name_with_brackets_is_not_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "[b].txt").write_text("b")
    (tmp_path / "c.png").write_bytes(b"\0")
    assert read_texts(tmp_path / "*.*") == ["b", "a"]
    assert read_texts(tmp_path / "[b].txt") == ["b"]


def test_a_pattern_that_matches_a_folder_reads_its_files_and_none_twice(tmp_path: Path) -> None:
    for name in ("a.txt", "sub/c.txt", "sub/deep/d.txt", "pictures/p.png", "nothing/.hidden/e.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "dangling.txt").symlink_to("nowhere.txt")
    for pattern in ("*", "**", "**/*"):
        assert list_names(tmp_path / pattern) == ["a.txt", "sub/c.txt", "sub/deep/d.txt"]
    assert list_names(tmp_path / "*.txt") == ["a.txt"]
    assert "has no file with a supported extension; found: p.png" in read_error(tmp_path / "pict*")
    assert "no file matches" in read_error(tmp_path / "noth*")


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()


def test_a_local_url_gives_the_same_files_as_the_path(tmp_path: Path) -> None:
    books = tmp_path / "books"
    corpus = ("corpus/manifest.json", "corpus/documents.npy", "corpus/tokenizer/merges.txt")
    for name in ("b/c.txt", "b-c.txt", ".b.txt", ".git/x.md", *corpus, "manifest.json"):
        (books / name).parent.mkdir(parents=True, exist_ok=True)
        (books / name).write_text("a")
    (books / "empty.txt").touch()
    names = ["books/b/c.txt", "books/b-c.txt", "books/empty.txt"]
    assert list_names(books) == list_names(f"file://{books}") == list_names(f"file://{books}/") == names
    for pattern in (books / "*", books / "**", f"file://{books}/*", f"file://{books}/**"):
        assert {*list_names(pattern)} == {"b/c.txt", "b-c.txt", "empty.txt"}
    for place in (books, f"file://{books}"):
        assert list_names(f"{place}/*/**/*.txt") == ["b/c.txt"]
        assert "no file matches" in read_error(f"{place}/*/*/*.txt")  # the merges.txt of the corpus
    for place in (books / "corpus", f"file://{books}/corpus"):
        assert "is already tokenized" in read_error(place)
    assert "no file matches" in read_error(f"file://{books}/*.csv")


def test_urls_may_be_files_folders_or_glob_patterns(memory: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    write_table(tmp_path / "rows.parquet", [{"text": "row"}])
    memory.pipe_file("/books/a.txt.gz", gzip.compress(b"a"))
    memory.pipe_file("/books/deep/rows.parquet", (tmp_path / "rows.parquet").read_bytes())
    memory.pipe_file("/books/c.png", b"\0")
    assert read_texts("memory://books") == ["a", "row"]
    assert read_texts("memory://books/*.gz") == ["a"]
    assert read_texts("memory://books/deep/rows.parquet") == ["row"]
    assert "memory://nowhere.txt does not exist" in read_error("memory://nowhere.txt")


@pytest.mark.parametrize("archive", ["zip", "tar"])
def test_the_files_of_an_archive_are_read_by_its_url(archive: str, tmp_path: Path) -> None:
    write_table(tmp_path / "books/deep/rows.csv", [{"text": "row"}])
    (tmp_path / "books/a.txt").write_text("a")
    place = shutil.make_archive(str(tmp_path / "books"), archive, tmp_path, "books")
    for inner in ("books", "books/*", "books/**"):
        assert read_texts(f"{archive}://{inner}::{place}") == read_texts(tmp_path / inner) == ["a", "row"]
    for inner in ("books/a.txt", "books/*.txt"):
        assert read_texts(f"{archive}://{inner}::file://{place}") == ["a"]
    assert "does not exist" in read_error(f"{archive}://b.txt::{place}")
    Path(place).write_bytes(b"no archive")
    assert f"{place} cannot be read" in read_error(f"{archive}://books/b.txt::{place}")


@pytest.mark.parametrize(
    ("url", "path", "name", "expected"),
    [
        ("ftp://user@example.org/books/", "/books", "/books/a.txt", "ftp://user@example.org/books/a.txt"),
        ("ftp://example.org", "", "/a.txt", "ftp://example.org/a.txt"),
        ("github://owner:books@main/b/*", "b/*", "b/a.txt", "github://owner:books@main/b/a.txt"),
        ("s3://bucket/*/a.txt", "bucket/*/a.txt", "bucket/b/a.txt", "s3://bucket/b/a.txt"),
        (
            "https://example.org/b",
            "https://example.org/b",
            "https://example.org/b/a.txt",
            "https://example.org/b/a.txt",
        ),
        ("simplecache::s3://bucket/b", "bucket/b", "bucket/b/a.txt", "simplecache::s3://bucket/b/a.txt"),
    ],
)
def test_the_url_of_a_file_keeps_the_server(url: str, path: str, name: str, expected: str) -> None:
    """Not every file system is installed, or reachable from here."""
    assert file_url(None, url, path, name) == expected


def test_a_corpus_does_not_store_the_query_of_a_web_address(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some text")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/a.txt?key=AK/2026/x&token=SECRET"
        (source,) = list_sources([url])
        found = read_texts(url)
        server.shutdown()
    assert (source.path, source.name, found) == (url, "a.txt", ["some text"])


def test_an_empty_name_is_an_error_and_not_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("a")
    monkeypatch.chdir(tmp_path)
    assert "the name of a source is empty" in read_error("a.txt", "")
    assert read_texts(".") == ["a"]


def test_empty_files_in_a_folder_are_skipped(tmp_path: Path) -> None:
    for kind in ("parquet", "csv", "txt.gz", "txt.xz", "txt.zst"):
        (tmp_path / f"empty.{kind}").touch()
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b""))
    (tmp_path / "c.txt").write_text("c")
    assert read_texts(tmp_path) == ["c"]


INVALID_FILES = {
    "nothing.txt": (b"", ["nothing.txt is empty"]),
    "nothing.jsonl.gz": (gzip.compress(b"\n"), ["nothing.jsonl.gz is empty"]),
    "header.csv": (b"text,label\n", ["header.csv is empty", "no rows"]),
    "latin.txt": ("fine\ncaf\u00e9".encode("latin-1"), ["not UTF-8", "line 2", "byte 9 ", "0xE9", "iconv"]),
    "latin.jsonl": (b'{"text": "a"}\n{"text": "\xe9"}\n', ["not UTF-8", "line 2", "byte 25 ", "0xE9"]),
    "wide.txt": ("text".encode("utf-16"), ["UTF-16", "UTF-8"]),
    "program.txt": (b"\x7fELF\0\0\0\1", ["program.txt is a binary file"]),
    "zipped.txt": (gzip.compress(b"text"), ["gzip", ".gz"]),
    "broken.jsonl": (
        b'{"text": "a"}\n{"text": \n',
        ["broken.jsonl, line 2 cannot be read as JSON", "one JSON object per line"],
    ),
    "list.jsonl": (b'["text"]\n', ["line 1 is a JSON list", "one object per line"]),
    "title.jsonl": (
        b'{"title": 1, "texts": "a"}\n',
        ["line 1", "'text'", "title, texts", 'Did you mean text_field="texts"?'],
    ),
    "null.jsonl": (b'{"text": "a"}\n\n{"text": null}\n', ["line 3", "'text' is a null, not a string"]),
    "half.jsonl": (b'{"text": "\\ud83d"}\n', ["line 1", "half a character", "\\ud83d"]),
    "other.csv": (b"title,body\n1,2\n", ["column 'text'", "title, body"]),
    "open.csv": (b'text,n\nfine,1\n"never closed,2\n', ["open.csv, line 3 is not CSV"]),
    "cells.csv": (b"text,n\none,1,extra\n", ["line 2 has 3 cells", "header has 2"]),
    "commas.tsv": (b"text,label\na,1\n", ["header is one cell", "a comma", ".csv"]),
    "fake.parquet": (b"text\n", ["fake.parquet is not Parquet"]),
    "picture.png": (b"\x89PNG", ["picture.png has no supported extension", ".txt"]),
    "fake.txt.xz": (b"text", ["fake.txt.xz is damaged or truncated"]),
    "fake.txt.zst": (b"text", ["fake.txt.zst is damaged or truncated"]),
}


@pytest.mark.parametrize("name", INVALID_FILES)
def test_the_error_for_an_invalid_file_names_the_place_the_problem_and_the_fix(tmp_path: Path, name: str) -> None:
    data, expected = INVALID_FILES[name]
    (tmp_path / name).write_bytes(data)
    message = read_error(tmp_path / name)
    assert all(part in message for part in expected), message
    assert name in message


@given(text=st.text(st.sampled_from("ab é\n"), min_size=80, max_size=200), data=st.data())
@pytest.mark.parametrize("kind", ["txt", "tsv"])
def test_an_invalid_utf_8_byte_is_located_anywhere_in_the_file(
    scratch_folder: Path, text: str, data: st.DataObject, kind: str
) -> None:
    head = ("text\n" + text[: data.draw(st.integers(0, len(text)))]).encode()
    path = scratch_folder / f"bad.{kind}"
    path.write_bytes(head + b"\xff" + text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "MAX_PART_BYTES", 32)
        assert f"line {head.count(10) + 1}, byte {len(head) + 1} of the file, is 0xFF" in read_error(path)


def test_the_error_for_a_missing_path_suggests_the_closest_name(tmp_path: Path) -> None:
    (tmp_path / "books.jsonl").write_text("{}")
    assert "Did you mean books.jsonl?" in read_error(tmp_path / "book.jsonl")
    assert f"no folder {tmp_path / 'nowhere'}" in read_error(tmp_path / "nowhere" / "book.jsonl")
    assert "no file matches" in read_error(tmp_path / "*.txt")


def test_the_error_for_a_file_without_read_permission_names_it_and_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raise_permission_error(path: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(files, "open", raise_permission_error, raising=False)
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(UserError) as error:
        list(read_documents([str(tmp_path)]))
    assert error.value.problem == f"{tmp_path / 'a.txt'} cannot be read: permission denied."
    assert "permissions" in error.value.fix


def test_the_error_for_a_folder_without_text_lists_its_files(tmp_path: Path) -> None:
    assert f"{tmp_path} is empty" in read_error(tmp_path)
    for i in range(7):
        (tmp_path / f"{i}.png").write_bytes(b"\0")
    message = read_error(tmp_path)
    assert "0.png" in message
    assert "2 more" in message
    (tmp_path / "a.txt").touch()
    assert "all text files are empty (1)" in read_error(tmp_path)


@given(data=st.data(), ending=st.sampled_from([".gz", ".xz", ".zst"]))
def test_a_truncated_compressed_file_is_an_error(scratch_folder: Path, data: st.DataObject, ending: str) -> None:
    random = Random(0)
    rows = b"".join(b'{"text": "%s"}\n' % random.randbytes(20).hex().encode() for _ in range(20))
    whole = COMPRESS[ending](rows)
    path = scratch_folder / f"cut.jsonl{ending}"
    path.write_bytes(whole[: data.draw(st.integers(1, len(whole) - 1))])
    assert "damaged or truncated" in read_error(path)


def test_a_zst_file_with_a_long_window_is_read_within_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    window = zstandard.ZstdCompressionParameters.from_level(3, window_log=31, enable_ldm=True)
    compressor = zstandard.ZstdCompressor(compression_params=window).compressobj()  # without the size of the text
    (tmp_path / "a.txt.zst").write_bytes(compressor.compress(b"text") + compressor.flush())
    assert read_texts(tmp_path / "a.txt.zst") == ["text"]
    monkeypatch.setenv("GPT1_MAX_BYTES", "1e9")
    message = read_error(tmp_path / "a.txt.zst")
    assert "a.txt.zst needs too much memory to be decompressed" in message
    assert "zstd -dc -M2048MB OLD | zstd > NEW" in message
    (tmp_path / "a.txt.zst").write_bytes(zstandard.ZstdCompressor(level=22).compress(b"text"))
    assert read_texts(tmp_path / "a.txt.zst") == ["text"]


@given(sizes=st.lists(st.integers(0, 5), min_size=2, max_size=4))
@pytest.mark.parametrize("ending", [".gz", ".xz", ".zst"])
def test_all_members_of_a_compressed_file_are_read(scratch_folder: Path, ending: str, sizes: list[int]) -> None:
    path = scratch_folder / f"members.txt{ending}"
    path.write_bytes(b"".join(COMPRESS[ending](b"word " * size) for size in [1, *sizes]))
    assert read_texts(path) == ["word " * (1 + sum(sizes))]
