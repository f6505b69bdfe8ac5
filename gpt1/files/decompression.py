"""Decompressing input files within bounds of memory and size."""

from __future__ import annotations

import gzip
import io
import lzma
import os
from typing import Any, BinaryIO

from gpt1.errors import UserError

MAX_BYTES = 2**32
"""Maximum memory of a table, and bytes that a compressed file may decompress to."""
MAX_BYTES_VARIABLE = "GPT1_MAX_BYTES"
MAX_RATIO = 200
"""Large compressed files may decompress to this many times their size. Text is rarely above 20."""
XZ_MEMORY = 2**28
"""Maximum memory of the .xz decompressor, in bytes; `xz -9` needs 65 MB."""
ZSTD_MEMORY = 2**27, 2**31
"""Maximum memory of the .zst decompressor, in bytes: GPT1_MAX_BYTES within these bounds. `zstd --long=31` (Reddit's
dumps) needs the second; a header that asks for it in a small file takes addresses, but no memory."""
ZSTD_INPUT = 1024
"""Bytes decompressed at a time: four bytes of zstd can decode to 128 KB."""


def max_bytes() -> int:
    """GPT1_MAX_BYTES if it is set, else MAX_BYTES."""
    given = os.environ.get(MAX_BYTES_VARIABLE, "")
    try:
        limit = int(float(given)) if given else MAX_BYTES
    except (ValueError, OverflowError):
        limit = 0
    if limit < 1:
        raise UserError(
            f"{MAX_BYTES_VARIABLE}={given} is not a number of bytes.", f"For example: {MAX_BYTES_VARIABLE}=16e9"
        )
    return limit


def raise_limit(limit: int) -> str:
    """The fix for a file that exceeds the `limit` of `max_bytes`."""
    return f"If you trust the file and have enough memory, raise the limit: {MAX_BYTES_VARIABLE}={2 * limit}"


def open_decompressor(raw: BinaryIO, compression: str) -> io.BufferedIOBase | io.RawIOBase | BinaryIO:
    if compression == "gz":
        return gzip.GzipFile(fileobj=raw)
    if compression == "xz":
        return XzReader(raw)
    if compression == "zst":
        return ZstdReader(raw)
    return raw


class XzReader(io.RawIOBase):
    """Decompresses all streams of an .xz file in bounded memory; lzma.LZMAFile takes up to 4 GB."""

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
                while not data.lstrip(b"\0"):  # streams may be padded with zeros
                    if not (data := self.raw.read(2**17)):
                        return 0
                data, self.stream = data.lstrip(b"\0"), self.start()
            elif self.stream.needs_input and not (data := self.raw.read(2**17)):
                raise EOFError("the file ends inside a stream")
            if out := self.stream.decompress(data, len(buffer)):
                buffer[: len(out)] = out
                return len(out)


class ZstdReader(io.RawIOBase):
    """Decompresses all frames of a .zst file; EOFError if it is truncated (zstandard's own ends silently)."""

    def __init__(self, raw: BinaryIO) -> None:
        import zstandard

        self.raw = raw
        window = max(ZSTD_MEMORY[0], min(max_bytes(), ZSTD_MEMORY[1]))
        self.start = zstandard.ZstdDecompressor(max_window_size=window).decompressobj
        self.error = zstandard.ZstdError
        self.frame = self.start()
        self.inside = False  # of a frame
        self.left = memoryview(b"")  # decompressed, not yet returned
        self.stored, self.at = b"", 0  # compressed bytes; those before `at` are decompressed

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
    """Limits decompression: UserError beyond `limit` bytes and MAX_RATIO times the compressed bytes read so far."""

    def __init__(self, name: str, raw: BinaryIO, stream: Any, limit: int) -> None:
        self.name, self.raw, self.stream, self.limit, self.count = name, raw, stream, limit, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        n = int(self.stream.readinto(buffer))
        self.count += n
        if self.count > self.limit and self.count > MAX_RATIO * self.raw.tell():
            raise UserError(
                f"{self.name}: {self.raw.tell():,} compressed bytes decompress to more than {self.limit:,} bytes.",
                raise_limit(self.limit),
            )
        return n


def decompression_error(name: str, compression: str, error: Exception) -> UserError:
    """The error for compressed data that its library refuses: they are damaged, or need too much memory."""
    if "memory" in str(error).lower():
        tool, options = ("zstd", " -M2048MB") if compression == "zst" else ("xz", "")
        problem = f"{name} needs too much memory to be decompressed ({error})."
        return UserError(problem, f"Compress it with a smaller window: {tool} -dc{options} OLD | {tool} > NEW")
    problem = f"{name} is damaged or truncated: its {compression} data cannot be decompressed ({error})."
    return UserError(problem, "Copy or download it again.")
