"""Shared by the tests of corpus folders: source files, and the content of a folder."""

from __future__ import annotations

from pathlib import Path

from gpt1.tables.table import write_table


def read_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_books(folder: Path, n: int = 40) -> Path:
    """A folder of three files with n documents in total."""
    rows = [{"text": f"book {i} " + "says a word or two " * (i * 37 % 50)} for i in range(n)]
    write_table(folder / "1.jsonl.gz", rows[: n // 2])
    write_table(folder / "2.csv", rows[n // 2 : -1])
    (folder / "3.txt").write_text(rows[-1]["text"])
    return folder
