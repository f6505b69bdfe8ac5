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

COMPRESSIONS = ("gz", "xz", "zst")
LARGEST_LINE = 2**28
"""Bytes of the longest line or cell that is read; an unclosed quote or a binary file must not fill the memory."""
# What a file is that begins with these bytes, and the ending that it should have.
MAGIC = {
    b"\x1f\x8b": ("compressed by gzip", ".gz"),
    b"\xfd7zXZ\x00": ("compressed by xz", ".xz"),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", ".zst"),
    b"PAR1": ("Parquet", ".parquet"),
}


def kind_of(path: str | Path) -> tuple[str, str]:
    """(ending, compression) of a name, lower-case, no dots: `a.JSONL.xz` → ("jsonl", "xz"), `a.csv` → ("csv", "")."""
    stem, dot, ending = Path(str(path)).name.lower().rpartition(".")
    if ending in COMPRESSIONS and stem:
        return stem.rpartition(".")[2] if "." in stem else "", ending
    return (ending if dot else ""), ""


def is_url(path: str | Path) -> bool:
    return "://" in str(path)


class File:
    """An input file being read: `stream` gives its decompressed bytes, `position()` how far the stored file is read."""

    def __init__(self, name: str, kind: str, raw: BinaryIO, stream: BinaryIO, size: int) -> None:
        self.name = name
        self.kind = kind
        self.raw = raw
        self.stream = stream
        self.size = size
        self.done: int | None = None  # set by readers that do not go from the first byte to the last (Parquet)
        self.compressed = bool(kind_of(name)[1])

    def position(self) -> int:
        return self.raw.tell() if self.done is None else self.done

    def peek(self) -> bytes:
        """The next bytes, at most 8 KB, which stay to be read; none at the end of the file."""
        return cast(io.BufferedReader, self.stream).peek(8192)[:8192]

    def lines(self) -> Iterator[str]:
        """The lines with their line ends; a byte order mark is dropped. UserError for what is not UTF-8 text."""
        self.refuse_binary()
        offset = 0
        number = 0
        while line := self.stream.readline(LARGEST_LINE):
            number += 1
            if len(line) == LARGEST_LINE:
                raise UserError(
                    f"{self.name}, line {number} is longer than {LARGEST_LINE:,} bytes.", "Is this a text file?"
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

    def refuse_binary(self) -> None:
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
def opened(path: str | Path, kind: str | None = None) -> Iterator[File]:
    """A local path or fsspec URL, opened and decompressed by its ending; UserError for what is missing or damaged.

    `kind` says how the file is read where its ending does not.
    """
    ending, compression = kind_of(path)
    with open_raw(path) as raw:
        size = int(getattr(raw, "size", None) or 0) if is_url(path) else os.fstat(raw.fileno()).st_size
        # All streams can peek(); local files can do so already.
        plain = isinstance(raw, io.BufferedReader) and not compression
        stream = raw if plain else io.BufferedReader(cast(Any, decompressed(raw, compression)), 2**18)
        try:
            yield File(str(path), kind or ending, raw, stream, size)
        except (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError) as error:
            raise UserError(
                f"{path} is damaged or cut short: its {compression} compression does not decode ({error}).",
                "Copy or download it again.",
            ) from None


def open_raw(path: str | Path) -> BinaryIO:
    try:
        if is_url(path):
            import fsspec

            return cast(BinaryIO, fsspec.open(str(path), "rb").open())
        return open(path, "rb")
    except FileNotFoundError:
        raise missing(path) from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, not a file.", "Name a file in it.") from None
    except PermissionError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.", "Check its access rights.") from None
    except (ImportError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from None


def missing(path: str | Path) -> UserError:
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


def decompressed(raw: BinaryIO, compression: str) -> io.BufferedIOBase | io.RawIOBase | BinaryIO:
    if compression == "gz":
        return gzip.GzipFile(fileobj=raw)
    if compression == "xz":
        return lzma.LZMAFile(raw)
    if compression == "zst":
        return ZstdReader(raw)
    return raw


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

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.left:
            data = self.frame.unused_data if self.frame.eof else b""
            if self.frame.eof:
                self.frame, self.inside = self.start(), False
            data = data or self.raw.read(2**17)
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
