"""A file or folder appears complete or not at all, and no temporary files stay."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from unprivileged import as_a_user

from gpt1.cli.exit import translate_oserror
from gpt1.errors import UserError
from gpt1.files.atomic import atomic_dir, atomic_file, atomic_path, atomic_write_json
from gpt1.files.foreign import read_json_object
from gpt1.files.manifest import file_entry, verify_file, write_manifest
from gpt1.tables.table import read_table

KILLED = """
import os, signal, sys
from pathlib import Path
from gpt1.files.atomic import atomic_dir, atomic_file
with {call} as place:
    {write}
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_after_an_error_a_file_is_unchanged(tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text("before")
    with pytest.raises(TypeError), atomic_file(path) as file:
        file.writelines([b"after", "no bytes"])
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert path.read_text() == "before"


def test_json_keeps_texts_that_have_no_utf_8_form(tmp_path: Path):
    content = {"caf\udce9.csv": "\x9b é 한 \u202e", "rows": 3}
    atomic_write_json(tmp_path / "a.json", content)
    assert read_json_object(tmp_path / "a.json") == content
    assert "é 한" in (tmp_path / "a.json").read_text("utf-8")


def test_a_file_that_a_library_writes_appears_complete_or_not_at_all(tmp_path: Path):
    path, stale, fresh = (tmp_path / name for name in ("a.bin", ".a.bin.1.tmp", ".a.bin.2.tmp"))
    for left in (stale, fresh):
        left.write_text("left by another process")
    os.utime(stale, (0, 0))
    with atomic_path(path) as temporary:
        temporary.write_text("first")
        assert not path.exists()
    with pytest.raises(TypeError), atomic_path(path) as temporary:
        temporary.write_text(b"no text")  # type: ignore[arg-type]
    assert path.read_text() == "first"
    assert sorted(tmp_path.iterdir()) == [fresh, path]


def test_after_an_error_the_folder_does_not_exist(tmp_path: Path):
    with pytest.raises(UserError), atomic_dir(tmp_path / "a") as folder:
        [(folder / name).write_text("x") for name in ("x", "x/y")]
    assert list(tmp_path.iterdir()) == []


def test_the_next_writer_removes_what_a_killed_process_left(tmp_path: Path):
    file = KILLED.format(call="atomic_file(Path(sys.argv[1], 'a.json'))", write="place.write(b'half'); place.flush()")
    folder = KILLED.format(call="atomic_dir(Path(sys.argv[1], 'b'))", write="(place / 'x').write_text('half')")
    for code in (file, folder):
        assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == -9
    assert len(list(tmp_path.iterdir())) == 2  # both hidden
    with atomic_file(tmp_path / "a.json") as out:
        out.write(b"whole")
    with atomic_dir(tmp_path / "b") as place:
        assert list(place.iterdir()) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "b"]


def test_a_folder_that_another_process_is_writing_is_refused(tmp_path: Path):
    with (
        atomic_dir(tmp_path / "a"),
        pytest.raises(UserError, match="is being written by another process"),
        atomic_dir(tmp_path / "a"),
    ):
        pass


def test_a_folder_replaces_another_one_only_with_replace(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").touch()
    with pytest.raises(UserError, match="not empty"), atomic_dir(tmp_path / "a"):
        pass
    with atomic_dir(tmp_path / "a", replace=True) as folder:
        (folder / "new").touch()
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["new"]


def test_a_folder_is_synced_to_disk_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    synced: list[int] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(os.fstat(handle).st_ino), fsync(handle)))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").touch()
    with atomic_dir(tmp_path / "model", replace=True) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "vocab.json").write_text("{}")
        (folder / "model.safetensors").write_text("weights")
    model = tmp_path / "model"
    assert sorted(path.name for path in model.iterdir()) == ["inner", "model.safetensors"]
    assert {path.stat().st_ino for path in [*model.rglob("*"), model, tmp_path]} <= set(synced)


@pytest.mark.skipif(os.name != "posix", reason="needs the permissions of POSIX")
def test_a_path_without_permission_is_named_with_what_was_tried(open_folder: Path):
    (open_folder / "closed.csv").write_text("text\na\n")
    (open_folder / "closed.json").write_text("{}")
    (open_folder / "read-only").mkdir()
    write_manifest(open_folder, "test-1")
    entry = file_entry(open_folder / "closed.csv")
    for name in ("closed.csv", "closed.json"):
        (open_folder / name).chmod(0)
    readers: dict[str, Callable[[Path], Any]] = {
        "closed.csv": read_table,
        "closed.json": read_json_object,
    }
    with as_a_user():
        for name, read in readers.items():
            with pytest.raises(UserError, match=f"{name} cannot be read: permission denied") as refused:
                read(open_folder / name)
            assert "permissions" in refused.value.fix
        with pytest.raises(UserError, match=r"closed.csv cannot be read: permission denied"):
            verify_file(open_folder / "closed.csv", entry, "Copy it again.")
        with (
            pytest.raises(UserError, match=r"read-only/a.txt cannot be written: permission denied") as refused,
            atomic_file(open_folder / "read-only" / "a.txt"),
        ):
            pass
        assert "permissions" in refused.value.fix


@pytest.mark.parametrize(
    ("name", "reason", "fix"),
    [
        ("folder", "is a directory", "Use the path of a file in that folder."),
        ("file/a.txt", "(not a directory|file exists)", ""),
        ("x" * 300, "file name too long", "Use a shorter name."),
    ],
)
def test_a_path_that_cannot_be_a_file_is_called_by_its_name(name: str, reason: str, fix: str, tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=f"{name} cannot be written: {reason}") as refused, atomic_file(tmp_path / name):
        pass
    assert fix in refused.value.fix
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_an_input_that_vanishes_while_an_output_is_written_is_not_blamed_on_the_output(tmp_path: Path):
    with pytest.raises(FileNotFoundError) as missing, atomic_file(tmp_path / "out.txt"):
        (tmp_path / "input.txt").read_text()
    error = translate_oserror(missing.value)
    assert error.problem == f"{tmp_path / 'input.txt'}: no such file or directory."
    assert error.fix == "Check the path."
