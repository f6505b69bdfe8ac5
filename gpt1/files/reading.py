"""Files in, files out: one way to open what may be compressed or remote, one way to write with nothing half-written."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from gpt1.errors import UserError, did_you_mean
from gpt1.files.foreign import check_regular

COMPRESSIONS = ("gz", "xz", "zst")
MAX_LINE_BYTES = 2**26
"""Bytes of the longest line, cell or row that is read; an unclosed quote or a binary file must not fill the memory."""
MAX_BYTES = 2**32
"""Memory that a table may take, and bytes that any compressed file may decompress to."""
MAX_BYTES_VARIABLE = "GPT1_MAX_BYTES"
MAX_RATIO = 200
"""A larger compressed file may also decompress to this many times its size: text is rarely above 20."""
XZ_MEMORY = 2**28
"""Bytes that decompressing .xz may take; `xz -9` needs 65 MB."""
ZSTD_INPUT = 1024
"""Bytes that are decompressed at a time: four bytes of zstd can stand for 128 KB."""
# What a file is that begins with these bytes, and the ending that it should have.
MAGIC = {
    b"\x1f\x8b": ("compressed by gzip", ".gz"),
    b"\xfd7zXZ\x00": ("compressed by xz", ".xz"),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", ".zst"),
    b"PAR1": ("Parquet", ".parquet"),
}


def file_format(path: str | Path) -> tuple[str, str]:
    """(ending, compression) of a name, lower-case, no dots: `a.JSONL.xz` → ("jsonl", "xz"), `a.csv` → ("csv", "")."""
    stem, dot, ending = Path(str(path)).name.lower().rpartition(".")
    if ending in COMPRESSIONS and stem:
        return stem.rpartition(".")[2] if "." in stem else "", ending
    return (ending if dot else ""), ""


def is_url(path: str | Path) -> bool:
    return "://" in str(path)


def max_bytes() -> int:
    """GPT1_MAX_BYTES where it is set, else MAX_BYTES."""
    given = os.environ.get(MAX_BYTES_VARIABLE, "")
    try:
        limit = int(float(given)) if given else MAX_BYTES
    except (ValueError, OverflowError):
        limit = 0
    if limit < 1:
        raise UserError(
            f"{MAX_BYTES_VARIABLE}={given}: this is not a number of bytes.", f"For example: {MAX_BYTES_VARIABLE}=16e9"
        )
    return limit


def raise_limit(limit: int) -> str:
    """The fix for a file that needs more than the `limit` of `max_bytes`."""
    return f"If you trust the file and have the memory, allow more: {MAX_BYTES_VARIABLE}={2 * limit}"


def filesystem(url: str | Path) -> tuple[Any, str]:
    """(fsspec file system, path in it) of a URL.

    Raises:
        UserError: for a protocol that is unknown, or whose package is not installed.
    """
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(str(url))
    except ImportError as error:
        install = "pip install aiohttp requests" if str(url).startswith("http") else "the package that it names"
        raise UserError(
            f"{url} cannot be read: {str(error).rstrip('.')}.", f"Install it ({install}), or download the file first."
        ) from None
    except ValueError as error:
        raise UserError(f"{url} cannot be read: {str(error).rstrip('.')}.", "Check the address.") from None
    return system, str(path)


class InputFile:
    """An input file being read: `stream` gives its decompressed bytes, `position()` how far the stored file is read."""

    def __init__(self, name: str, kind: str, raw: BinaryIO, stream: BinaryIO, size: int) -> None:
        self.name = name
        self.format = kind
        self.raw = raw
        self.stream = stream
        self.size = size
        self.bytes_done: int | None = None  # set by readers that do not go from the first byte to the last (Parquet)
        self.compressed = bool(file_format(name)[1])

    def position(self) -> int:
        return self.raw.tell() if self.bytes_done is None else self.bytes_done

    def peek(self) -> bytes:
        """The next bytes, at most 8 KB, which stay to be read; none at the end of the file."""
        return cast(io.BufferedReader, self.stream).peek(8192)[:8192]

    def lines(self) -> Iterator[str]:
        """The lines with their line ends; a byte order mark is dropped. UserError for what is not UTF-8 text."""
        self.check_is_text()
        offset = 0
        number = 0
        while line := self.stream.readline(MAX_LINE_BYTES):
            number += 1
            if len(line) == MAX_LINE_BYTES:
                raise UserError(
                    f"{self.name}, line {number} is longer than {MAX_LINE_BYTES:,} bytes.", "Is this a text file?"
                )
            text = self.decode(line, number, offset)
            offset += len(line)
            yield text.removeprefix("\ufeff") if number == 1 else text

    def decode(self, data: bytes, line: int, offset: int) -> str:
        """`data`, which begins in `line` at byte `offset` of the (decompressed) file, as text."""
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
        """UserError unless the beginning looks like UTF-8 text."""
        head = self.peek()
        if head.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise UserError(f"{self.name} is UTF-16, not UTF-8.", "Save it as UTF-8.")
        for magic, (what, ending) in MAGIC.items():
            if head.startswith(magic):
                raise UserError(f"{self.name} is not text: it is {what}.", f"Give it a name that ends in {ending}.")
        if b"\0" in head:
            raise UserError(
                f"{self.name} is a binary file, not text: byte {head.index(0) + 1:,} is 0.",
                "Give a UTF-8 text file (.txt, .md, .jsonl, .csv, .tsv), or .parquet under that ending.",
            )


@contextmanager
def open_input(path: str | Path, format: str | None = None) -> Iterator[InputFile]:
    """A local path or fsspec URL, opened and decompressed by its ending; UserError for what is missing or damaged.

    `format` says how the file is read where its ending does not.
    """
    ending, compression = file_format(path)
    with open_raw(path) as raw:
        size = int(getattr(raw, "size", None) or 0) if is_url(path) else os.fstat(raw.fileno()).st_size
        # All streams can peek(); local files can do so already.
        plain = isinstance(raw, io.BufferedReader) and not compression
        inner = open_decompressor(raw, compression)
        bounded = BoundedReader(str(path), raw, inner, max_bytes()) if compression else inner
        stream = raw if plain else io.BufferedReader(cast(Any, bounded), 2**18)
        try:
            yield InputFile(str(path), format or ending, raw, stream, size)
        except (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError) as error:
            raise UserError(
                f"{path} is damaged or cut short: its {compression} compression does not decode ({error}).",
                "Copy or download it again.",
            ) from None


def open_raw(path: str | Path) -> BinaryIO:
    """A local path or fsspec URL, opened. A FIFO or device is refused: it could block or never end."""
    try:
        if is_url(path):
            system, inner = filesystem(path)
            if "file" in (system.protocol if isinstance(system.protocol, tuple) else (system.protocol,)):
                check_regular(inner)
            return cast(BinaryIO, system.open(inner, "rb"))
        check_regular(path)
        return open(path, "rb")
    except FileNotFoundError:
        raise not_found_error(path) from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, not a file.", "Name a file in it.") from None
    except PermissionError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.", "Check its access rights.") from None
    except (ImportError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from None


def not_found_error(path: str | Path) -> UserError:
    """The error for a path that is not there, with the neighbour that was meant."""
    if is_url(path):
        return UserError(f"{path} does not exist.", "Check the address.")
    parent = Path(path).parent
    if not parent.is_dir():
        return UserError(f"{path} does not exist: there is no folder {parent}.", "Check the path.")
    meant = did_you_mean(Path(path).name, [entry.name for entry in parent.iterdir()])
    if parent != Path(".") and not parent.is_absolute():
        meant = meant.replace("Did you mean ", f"Did you mean {parent}/")
    return UserError(f"{path} does not exist.{meant}", "Check the path.")


def open_decompressor(raw: BinaryIO, compression: str) -> io.BufferedIOBase | io.RawIOBase | BinaryIO:
    if compression == "gz":
        return gzip.GzipFile(fileobj=raw)
    if compression == "xz":
        return XzReader(raw)
    if compression == "zst":
        return ZstdReader(raw)
    return raw


class XzReader(io.RawIOBase):
    """Decompresses .xz, all streams of it, in bounded memory: lzma.LZMAFile takes up to 4 GB if a file asks for it."""

    def __init__(self, raw: BinaryIO) -> None:
        self.raw = raw
        self.stream = self.start()

    def start(self) -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(memlimit=XZ_MEMORY)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            data = b""
            if self.stream.eof:
                data = self.stream.unused_data
                while not data.lstrip(b"\0"):  # zeros may stand between streams
                    if not (data := self.raw.read(2**17)):
                        return 0
                data, self.stream = data.lstrip(b"\0"), self.start()
            elif self.stream.needs_input and not (data := self.raw.read(2**17)):
                raise EOFError("the file ends inside a stream")
            if out := self.stream.decompress(data, len(buffer)):
                buffer[: len(out)] = out
                return len(out)


class ZstdReader(io.RawIOBase):
    """Decompresses .zst, all frames of it; EOFError where the file is cut short (zstandard's own ends silently)."""

    def __init__(self, raw: BinaryIO) -> None:
        import zstandard

        self.raw = raw
        self.start = zstandard.ZstdDecompressor().decompressobj
        self.error = zstandard.ZstdError
        self.frame = self.start()
        self.inside = False  # of a frame
        self.left = memoryview(b"")  # decompressed and not yet handed out
        self.stored, self.at = b"", 0  # bytes that were read; those before `at` are decompressed

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.left:
            if self.frame.eof:
                self.at -= len(self.frame.unused_data)
                self.frame, self.inside = self.start(), False
            if self.at == len(self.stored):
                self.stored, self.at = self.raw.read(2**17), 0
            data = self.stored[self.at : self.at + ZSTD_INPUT]
            self.at += len(data)
            if not data:
                if self.inside:
                    raise EOFError("the file ends inside a frame")
                return 0
            self.inside = True
            try:
                self.left = memoryview(self.frame.decompress(data))
            except self.error as error:
                raise EOFError(str(error)) from None
        n = min(len(buffer), len(self.left))
        buffer[:n] = self.left[:n]
        self.left = self.left[n:]
        return n


class BoundedReader(io.RawIOBase):
    """Passes on what decompressing gives; UserError for a file that decompresses without end.

    At most `limit` bytes, or MAX_RATIO times what was read of the stored file.
    """

    def __init__(self, name: str, raw: BinaryIO, stream: Any, limit: int) -> None:
        self.name, self.raw, self.stream, self.limit, self.count = name, raw, stream, limit, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        n = int(self.stream.readinto(buffer))
        self.count += n
        if self.count > self.limit and self.count > MAX_RATIO * self.raw.tell():
            raise UserError(
                f"{self.name}: {self.raw.tell():,} compressed bytes give more than {self.limit:,} bytes.",
                raise_limit(self.limit),
            )
        return n
