"""Opening input files, which may be compressed or remote, with bounds."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import re
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from gpt1.errors import PATH_FIXES, UserError, did_you_mean, first_line, os_error_reason
from gpt1.files.decompression import BoundedReader, decompression_error, max_bytes, open_decompressor
from gpt1.files.foreign import LFS_POINTER, check_regular, lfs_pointer_error

COMPRESSIONS = ("gz", "xz", "zst")
SAME_FORMAT = {"ndjson": "jsonl"}
"""Other extensions of a format."""
URL_START = re.compile(r"[A-Za-z][A-Za-z0-9+.:-]*://")
"""A protocol, or several that are chained: `simplecache::s3://`."""
MAX_LINE_BYTES = 2**26
"""Bytes of the longest line, cell or row: an unclosed quote or a binary file must not fill the memory."""
# First bytes of a file → (its format, its extension).
MAGIC = {
    b"\x1f\x8b": ("compressed by gzip", ".gz"),
    b"\xfd7zXZ\x00": ("compressed by xz", ".xz"),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", ".zst"),
    b"PAR1": ("Parquet", ".parquet"),
}


def file_format(path: str | Path) -> tuple[str, str]:
    """(extension, compression), lower-case without dots: `a.JSONL.xz` → ("jsonl", "xz"), `a.csv` → ("csv", "")."""
    name = split_chain(str(path))[1] if is_url(path) else str(path)
    name = without_query(name)
    stem, dot, extension = Path(name).name.lower().rpartition(".")
    compression = extension if extension in COMPRESSIONS and stem else ""
    if compression:
        extension = stem.rpartition(".")[2] if "." in stem else ""
    elif not dot:
        extension = ""
    return SAME_FORMAT.get(extension, extension), compression


def is_url(path: str | Path) -> bool:
    """Whether a path begins with a protocol. A text that contains a link is not a URL."""
    return URL_START.match(str(path)) is not None


def without_query(url: str) -> str:
    """A web address without its query, which may contain a token; any other name unchanged."""
    return url.partition("?")[0] if url.startswith(("http://", "https://")) else url


def split_chain(url: str) -> tuple[list[str], str, list[str]]:
    """(links before, link that names a file, links after) of a chain of URLs.

    `simplecache::s3://b/a.csv` is a.csv of a bucket, `zip://a.csv::https://example.org/b.zip` is a.csv in an archive.
    """
    links = url.split("::")
    at = next(i for i, link in enumerate(links) if "://" in link)
    return links[:at], links[at], links[at + 1 :]


def filesystem(url: str | Path) -> tuple[Any, str]:
    """(fsspec file system, path in it) of a URL.

    Raises:
        UserError: for an unknown protocol, one whose package is not installed, or an archive that is damaged.
    """
    import tarfile
    import zipfile

    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(str(url))
    except ImportError as error:
        install = "pip install aiohttp requests" if str(url).startswith("http") else "the missing package"
        raise UserError(
            f"{url} cannot be read: {str(error).rstrip('.')}.", f"Install it ({install}), or download the file first."
        ) from None
    except (ValueError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise UserError(f"{url} cannot be read: {str(error).rstrip('.')}.", "Check the address.") from None
    return system, str(path)


class InputFile:
    """An open input file: `stream` has its decompressed bytes, `position()` is the offset in the stored file."""

    def __init__(
        self, name: str, kind: str, raw: BinaryIO, stream: BinaryIO, size: int, compressed: bool = False
    ) -> None:
        self.name = name
        self.format = kind
        self.raw = raw
        self.stream = stream
        self.size = size
        self.bytes_done: int | None = None  # set by readers that do not read from start to end (Parquet)
        self.compressed = compressed
        self.delimiter = ""  # of a .csv or .tsv file, once its first row is read

    def position(self) -> int:
        return self.raw.tell() if self.bytes_done is None else self.bytes_done

    def peek(self) -> bytes:
        """The next bytes, at most 8 KB, without consuming them; empty at the end of the file."""
        return cast(io.BufferedReader, self.stream).peek(8192)[:8192]

    def lines(self) -> Iterator[str]:
        """The lines with their line ends, without a byte order mark. UserError unless it is UTF-8 text."""
        self.check_is_text()
        offset = 0
        number = 0
        while line := self.stream.readline(MAX_LINE_BYTES):
            number += 1
            if len(line) == MAX_LINE_BYTES:
                problem = f"{self.name}, line {number} is longer than {MAX_LINE_BYTES:,} bytes."
                raise UserError(problem, "Check that it is a text file.")
            text = self.decode(line, number, offset)
            offset += len(line)
            yield text.removeprefix("\ufeff") if number == 1 else text

    def decode(self, data: bytes, line: int, offset: int) -> str:
        """`data` as text; it starts in `line` at byte `offset` of the (decompressed) file."""
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            line += data.count(b"\n", 0, error.start)
            raise UserError(
                f"{self.name} is not UTF-8: line {line:,}, byte {offset + error.start + 1:,} "
                f"of the file, is 0x{data[error.start]:02X}.",
                "Save it as UTF-8, for example with: iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW",
            ) from None

    def check_is_text(self) -> None:
        """UserError unless the first bytes look like UTF-8 text."""
        head = self.peek()
        if encoding := other_unicode(head):
            convert = f"iconv -f {encoding} -t UTF-8 OLD > NEW"
            raise UserError(f"{self.name} is {encoding}, not UTF-8.", f"Save it as UTF-8, for example with: {convert}")
        if head.startswith(LFS_POINTER):
            raise lfs_pointer_error(self.name)
        for magic, (what, extension) in MAGIC.items():
            if head.startswith(magic):
                raise UserError(f"{self.name} is not text: it is {what}.", f"Rename it to end in {extension}.")
        if b"\0" in head:
            raise UserError(
                f"{self.name} is a binary file, not text: byte {head.index(0) + 1:,} is 0.",
                "Use a UTF-8 text file (.txt, .md, .jsonl, .csv, .tsv), or a .parquet file with that extension.",
            )


def other_unicode(head: bytes) -> str:
    """UTF-16 or UTF-32 if these first bytes of a file are, by their byte order mark or their zeros; else ""."""
    if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "UTF-32"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    for order in (0, 1):  # without a mark: every other byte of ASCII text is zero
        zeros, others = head[order:64:2], head[1 - order : 64 : 2]
        if len(head) >= 8 and not any(zeros) and all(others):
            return "UTF-16BE" if order == 0 else "UTF-16LE"
    return ""


@contextmanager
def spool_standard_input() -> Iterator[Path]:
    """Standard input as a temporary file, because tables are read twice; its extension is the format of its content."""
    source = sys.stdin.buffer
    head = source.peek(8192)[:8192] if isinstance(source, io.BufferedReader) else source.read()
    if not head:
        raise UserError("standard input is empty.", "Pipe a table into the command.")
    for magic, (what, _) in MAGIC.items():
        if head.startswith(magic) and magic != b"PAR1":
            raise UserError(f"standard input is {what}.", "Decompress it first, for example with: zcat FILE | gpt1 ...")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"input.{content_format(head)}"
        with open(path, "wb") as file:
            if not isinstance(source, io.BufferedReader):
                file.write(head)
            shutil.copyfileobj(source, file)
        yield path


def content_format(head: bytes) -> str:
    """The table format that the first bytes of a file look like."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    starts = {b"PAR1": "parquet", b"PK\x03\x04": "xlsx", b"{": "jsonl", b"[": "json"}
    if found := next((kind for start, kind in starts.items() if text.startswith(start)), None):
        return found
    first = text.partition(b"\n")[0]
    return "tsv" if b"\t" in first and b"," not in first else "csv"


@contextmanager
def open_input(path: str | Path, format: str | None = None, name: str | None = None) -> Iterator[InputFile]:
    """Open and decompress a local file or fsspec URL.

    Args:
        path: Path or URL; its extension gives the format and the compression.
        format: The format, if it is not the extension.
        name: Its name in messages, if it is not the path.

    Raises:
        UserError: for a file that is missing or damaged.
    """
    extension, compression = file_format(path)
    name = name or str(path)
    raw, system = open_raw(path)
    with raw, network_errors(path, name):
        size = int(getattr(raw, "size", None) or 0) if is_url(path) else os.fstat(raw.fileno()).st_size
        # Every stream needs peek(); local files have it already.
        plain = isinstance(raw, io.BufferedReader) and not compression
        if isinstance(raw, io.BufferedReader) and raw.peek(64).startswith(LFS_POINTER):
            raise lfs_pointer_error(path)
        inner = open_decompressor(raw, compression)
        bounded = BoundedReader(str(path), raw, inner, max_bytes()) if compression else inner
        stream = raw if plain else io.BufferedReader(cast(Any, bounded), 2**18)
        try:
            yield InputFile(name, format or extension, raw, stream, size, bool(compression))
        except (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError) as error:
            raise decompression_error(name, compression, error) from None
    del system  # not before: that of an archive (zip://a.txt::b.zip) closes its files when nobody uses it


@contextmanager
def network_errors(path: str | Path, name: str | None = None) -> Iterator[None]:
    """UserError for a URL that cannot be reached, or whose transfer breaks off: each library has its own errors."""
    try:
        yield
    except Exception as error:
        # fsspec says that a file does not exist whenever a web server does not answer as expected.
        reason = error.__cause__ if isinstance(error, FileNotFoundError) else error
        if not is_url(path) or not isinstance(reason, Exception) or not is_network_error(reason):
            raise
        problem = f"{name or path} cannot be read: {first_line(reason)}."
        raise UserError(problem, "Check the address and the network, or try again later.") from None


def is_network_error(error: Exception) -> bool:
    """Whether it is an error of a connection or a server, except for the answer that a file does not exist."""
    library = type(error).__module__.partition(".")[0]
    is_http = library in ("aiohttp", "botocore", "httpx", "requests") and getattr(error, "status", 0) != 404
    return is_http or isinstance(error, TimeoutError | ConnectionError)


def open_raw(path: str | Path) -> tuple[BinaryIO, Any]:
    """(file, its fsspec file system or None) of a path or URL. A FIFO or device could block or never end: refused."""
    try:
        if is_url(path):
            system, inner = filesystem(path)
            if "file" in (system.protocol if isinstance(system.protocol, tuple) else (system.protocol,)):
                check_regular(inner)
            with network_errors(path):
                return cast(BinaryIO, system.open(inner, "rb")), system
        check_regular(path)
        return open(path, "rb"), None
    except FileNotFoundError:
        raise not_found_error(path) from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, not a file.", "Use a file in it.") from None
    except OSError as error:
        if error.errno not in PATH_FIXES:
            raise
        raise UserError(f"{path} cannot be read: {os_error_reason(error)}.", PATH_FIXES[error.errno]) from None
    except (ImportError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from None


def not_found_error(path: str | Path, known: Iterable[str] = ()) -> UserError:
    """The error for a missing path, with the most similar name in its folder, else of the names `known`."""
    if is_url(path):
        return UserError(f"{path} does not exist.", "Check the address.")
    parent = Path(path).parent
    if not parent.is_dir():
        return UserError(f"{path} does not exist: no folder {parent}.", "Check the path.")
    hint = did_you_mean(Path(path).name, [entry.name for entry in parent.iterdir()])
    if parent != Path(".") and not parent.is_absolute():
        hint = hint.replace("Did you mean ", f"Did you mean {parent}/")
    if len(Path(path).parts) == 1:
        hint = hint or did_you_mean(str(path), known)
    return UserError(f"{path} does not exist.{hint}", "Check the path.")
