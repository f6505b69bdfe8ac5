"""Files that need much more memory than their size: an error before memory runs out, and a way to allow more."""

from __future__ import annotations

import gzip
import json
import lzma
import zlib
from pathlib import Path

import pyarrow
import pytest
import zstandard
from pyarrow import parquet

from gpt1.corpus.readers import read_documents
from gpt1.errors import UserError
from gpt1.tables.rows import MAX_COLUMNS
from gpt1.tables.table import read_table, write_table

COMPRESS = {"gz": gzip.compress, "xz": lzma.compress, "zst": zstandard.ZstdCompressor().compress}


@pytest.fixture
def byte_limit(monkeypatch: pytest.MonkeyPatch) -> int:
    """A limit of one million bytes for a table."""
    monkeypatch.setenv("GPT1_MAX_BYTES", "1e6")
    return 10**6


@pytest.mark.parametrize(("ending", "separator"), [("csv", ","), ("tsv", "\t")])
def test_too_many_columns_are_an_error(ending: str, separator: str, tmp_path: Path):
    path = tmp_path / f"wide.{ending}"
    path.write_text(separator.join(f"c{i}" for i in range(100_000)) + "\n")
    with pytest.raises(UserError, match=rf"wide.{ending} has 100,000 columns; the maximum is 16,384"):
        read_table(path)


def test_the_maximum_number_of_columns_is_read(tmp_path: Path):
    header = ",".join(f"c{i}" for i in range(MAX_COLUMNS))
    (tmp_path / "a.csv").write_text(f"{header}\n{',' * (MAX_COLUMNS - 1)}\n")
    assert len(read_table(tmp_path / "a.csv").columns) == MAX_COLUMNS


def test_too_many_distinct_json_fields_are_an_error(tmp_path: Path):
    lines = (json.dumps({f"{i}-{k}": 1 for k in range(100)}) for i in range(1000))
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    with pytest.raises(UserError, match="columns; the maximum is 16,384"):
        read_table(tmp_path / "a.jsonl")


@pytest.mark.parametrize("compression", COMPRESS)
def test_a_small_compressed_file_with_too_many_rows_is_an_error(compression: str, byte_limit: int, tmp_path: Path):
    path = tmp_path / f"a.csv.{compression}"
    path.write_bytes(COMPRESS[compression](b"a,b\n" + b"1,2\n" * 50_000))
    with pytest.raises(UserError, match=r"line [\d,]+: the rows up to here need more than 1,000,000 bytes") as error:
        read_table(path)
    assert "GPT1_MAX_BYTES=2000000" in error.value.fix


@pytest.mark.parametrize("compression", COMPRESS)
def test_a_decompression_bomb_is_an_error(compression: str, byte_limit: int, tmp_path: Path):
    path = tmp_path / f"a.txt.{compression}"
    path.write_bytes(COMPRESS[compression](b"\n" * 10_000_000))
    with pytest.raises(UserError, match=r"compressed bytes decompress to more than 1,000,000 bytes"):
        for _ in read_documents([str(path)]):
            pass


def test_a_higher_limit_allows_a_larger_table(byte_limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.csv").write_bytes(b"a,b\n" + b"1,2\n" * 10_000)
    with pytest.raises(UserError, match="need more than"):
        read_table(tmp_path / "a.csv")
    monkeypatch.setenv("GPT1_MAX_BYTES", "1e7")
    assert len(read_table(tmp_path / "a.csv")) == 10_000


@pytest.mark.parametrize("value", ["many", "-1", "0", "nan", "1e400"])
def test_an_invalid_limit_is_an_error(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GPT1_MAX_BYTES", value)
    (tmp_path / "a.csv").write_text("a\n1\n")
    with pytest.raises(UserError, match=f"GPT1_MAX_BYTES={value} is not a number of bytes"):
        read_table(tmp_path / "a.csv")


@pytest.mark.parametrize("column", ["plain", "list", "struct"])
def test_parquet_with_many_references_to_one_long_text_is_an_error(column: str, byte_limit: int, tmp_path: Path):
    long = "x" * 50_000
    rows = {"plain": long, "list": [long], "struct": {"inner": long}}
    parquet.write_table(pyarrow.table({"text": [rows[column]] * 200}), tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 100_000
    with pytest.raises(UserError, match=r"a.parquet has [\d,]+ bytes after decoding"):
        read_table(tmp_path / "a.parquet")


def test_parquet_with_a_million_null_rows_is_an_error(byte_limit: int, tmp_path: Path):
    parquet.write_table(pyarrow.table({"text": pyarrow.nulls(1_000_000, pyarrow.string())}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a.parquet has [\d,]+ bytes after decoding"):
        next(read_documents([str(tmp_path / "a.parquet")]))


def test_parquet_with_one_list_of_a_million_nulls_is_an_error(byte_limit: int, tmp_path: Path):
    values = pyarrow.array([[None] * 1_000_000], pyarrow.list_(pyarrow.string()))
    parquet.write_table(pyarrow.table({"text": values}), tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 100_000
    with pytest.raises(UserError, match=r"a.parquet has [\d,]+ bytes after decoding"):
        read_table(tmp_path / "a.parquet")


def test_a_flipped_bit_in_parquet_never_crashes_the_process(tmp_path: Path):
    """pyarrow can crash when reading the metadata of a column with damaged statistics (bit 3 of one byte; found by
    fuzzing)."""
    rows = [{"text": f"row {i}", "label": i % 2, "list": ["a", f"b{i}"]} for i in range(4)]
    write_table(tmp_path / "a.parquet", rows)
    data = (tmp_path / "a.parquet").read_bytes()
    errors = 0
    for i in range(len(data)):
        flipped = bytearray(data)
        flipped[i] ^= 8
        (tmp_path / "b.parquet").write_bytes(flipped)
        try:
            read_table(tmp_path / "b.parquet")
        except UserError:
            errors += 1
    assert errors > len(data) / 20


def test_the_error_for_an_unknown_time_zone_in_parquet_names_it(tmp_path: Path):
    times = pyarrow.array([0], pyarrow.timestamp("us", "Mars/Phobos"))
    parquet.write_table(pyarrow.table({"text": ["a"], "time": times}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a.parquet has times in a time zone .* does not know \(.*Mars/Phobos\)"):
        read_table(tmp_path / "a.parquet")


def test_the_error_for_damaged_parquet_names_the_file(tmp_path: Path):
    parquet.write_table(pyarrow.table({"text": ["a"] * 100}), tmp_path / "a.parquet")
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    data[len(data) // 2 : -8] = bytes(len(data) - len(data) // 2 - 8)
    (tmp_path / "a.parquet").write_bytes(data)
    with pytest.raises(UserError, match=r"a.parquet is not Parquet, or is damaged"):
        read_table(tmp_path / "a.parquet")


@pytest.mark.parametrize("row", ['{"a": ' + "[" * 2000, '{"a": ' + "9" * 5000 + "}", '{"a": 1, "a": 2}'])
def test_the_error_for_json_beyond_the_limits_names_the_line(row: str, tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n' + row + "\n")
    with pytest.raises(UserError, match=r"a.jsonl, line 2 cannot be read as JSON"):
        read_table(tmp_path / "a.jsonl")


def test_long_integers_are_read(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": 10**200}) + "\n")
    assert read_table(tmp_path / "a.jsonl").rows == [{"id": 10**200}]


def test_concatenated_xz_streams_are_one_file(tmp_path: Path):
    parts = (lzma.compress(b"a\n1\n"), bytes(8), lzma.compress(b""), lzma.compress(b"2\n"), bytes(4))
    (tmp_path / "a.csv.xz").write_bytes(b"".join(parts))
    assert read_table(tmp_path / "a.csv.xz").rows == [{"a": "1"}, {"a": "2"}]


def test_xz_that_needs_gigabytes_of_memory_is_an_error(tmp_path: Path):
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 2**26}]
    data = bytearray(lzma.compress(b"a\n1\n", filters=filters))
    data[data.index(b"\x21\x01") + 2] = 40  # size of the dictionary; the checksum of the header follows
    size = 4 * (data[12] + 1)
    data[12 + size - 4 : 12 + size] = zlib.crc32(data[12 : 12 + size - 4]).to_bytes(4, "little")
    (tmp_path / "a.csv.xz").write_bytes(data)
    with pytest.raises(UserError, match=r"a.csv.xz needs too much memory to be decompressed") as error:
        read_table(tmp_path / "a.csv.xz")
    assert error.value.fix.endswith("xz -dc OLD | xz > NEW")
