"""A command replaces only a folder of the kind that it writes, and knows before the work whether it can."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest

from gpt1.config import PretrainConfig
from gpt1.errors import UserError
from gpt1.files.atomic import atomic_dir, atomic_write_text, lock_dir
from gpt1.files.manifest import write_manifest
from gpt1.files.output import FolderKind, check_can_be_renamed, check_new_folder, written_kind
from gpt1.runs.folder import create_run

KINDS: tuple[FolderKind, ...] = ("run", "corpus", "model")


def make_folder(path: Path, kind: FolderKind) -> Path:
    if kind == "run":
        return create_run(path, PretrainConfig(), {})
    path.mkdir()
    if kind == "corpus":
        (path / "documents.npy").write_bytes(b"")
    write_manifest(path, "gpt1-model-files-1", [])
    return path


@pytest.mark.parametrize(("there", "writes"), [*itertools.product(KINDS, KINDS)])
def test_overwrite_replaces_only_a_folder_of_its_own_kind(there: FolderKind, writes: FolderKind, tmp_path: Path):
    folder = make_folder(tmp_path / "out", there)
    assert written_kind(folder) == there
    with pytest.raises(UserError, match="exists and is not empty"):
        check_new_folder(folder, writes=writes)
    if there == writes:
        assert check_new_folder(folder, overwrite=True, writes=writes) == folder
    else:
        with pytest.raises(UserError, match=f"is a {there}, and overwrite=True .* replaces only a {writes}"):
            check_new_folder(folder, overwrite=True, writes=writes)


@pytest.mark.parametrize("kind", KINDS)
def test_overwrite_replaces_no_folder_that_a_process_is_writing(kind: FolderKind, tmp_path: Path):
    folder = make_folder(tmp_path / "out", kind)
    with lock_dir(folder):
        with pytest.raises(UserError, match="is being written by another process"):
            check_new_folder(folder, overwrite=True, writes=kind)
        # and not if that process started after the check
        with pytest.raises(UserError, match="is being written"), atomic_dir(folder, replace=True) as new:
            atomic_write_text(new / "a", "a")
    assert written_kind(folder) == kind
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("kind", ["corpus", "model"])
def test_a_place_that_cannot_be_replaced_is_refused_before_the_work(
    kind: FolderKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (inner := tmp_path / "here" / "inner").mkdir(parents=True)
    (link := tmp_path / "link").symlink_to(inner)
    monkeypatch.chdir(inner)
    for out, reason in (("..", "current directory"), (".", "current directory"), (link, "is a link")):
        with pytest.raises(UserError, match=f"{reason}.*: a new folder cannot replace it"):
            check_new_folder(out, writes=kind)
    assert check_new_folder("new", writes=kind) == Path("new")
    assert check_new_folder(".") == Path()  # a run is written into a folder that is there


def test_a_run_in_the_current_directory_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(make_folder(tmp_path / "run", "run"))
    with pytest.raises(UserError, match="current directory"):
        create_run(".", PretrainConfig(), {}, overwrite=True)
    assert written_kind(tmp_path / "run") == "run"


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder that is surely mounted")
def test_a_mounted_volume_is_not_replaced():
    with pytest.raises(UserError, match="is a mounted volume"):
        check_can_be_renamed(Path("/proc"), "/proc")
