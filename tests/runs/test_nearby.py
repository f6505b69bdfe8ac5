"""The models of a folder: runs and model folders, whatever else lies there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from unprivileged import as_a_user

from gpt1.runs.nearby import list_models


def make_models(folder: Path) -> None:
    (folder / "run" / "model").mkdir(parents=True)
    (folder / "run" / "results.json").write_text("{}")
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    (folder / "unfinished" / "model").mkdir(parents=True)
    (folder / "notes.txt").write_text("")


def test_finished_runs_and_model_folders_are_listed_by_name(tmp_path: Path):
    make_models(tmp_path)
    assert [path.name for path in list_models(tmp_path)] == ["model", "run"]
    assert list_models(tmp_path / "nowhere") == []


@pytest.mark.skipif(os.name != "posix", reason="needs the permissions of POSIX")
def test_a_folder_that_may_not_be_read_is_not_a_model(open_folder: Path):
    """A new volume has a folder lost+found, which only root may read."""
    make_models(open_folder)
    (open_folder / "lost+found").mkdir(mode=0o700)
    with as_a_user():
        assert [path.name for path in list_models(open_folder)] == ["model", "run"]
