"""A file or folder appears complete or not at all, and no temporary files stay."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpt1.errors import UserError
from gpt1.files.atomic import atomic_dir, atomic_file

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
    with pytest.raises(OSError, match="not empty"), atomic_dir(tmp_path / "a"):
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
