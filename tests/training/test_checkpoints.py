"""Checkpoints are written atomically, and never loaded after a byte has changed."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt1.errors import ResourceError, UserError
from gpt1.files.manifest import write_manifest
from gpt1.training import checkpoints

WEIGHTS = {"a.weight": torch.randn(3, 5), "a.bias": torch.randn(3)}
OPTIMIZER = {"exp_avg.a.weight": torch.randn(3, 5)}
STATE = {"outcome": {"tokens": 12, "best_value": float("-inf"), "loss": 0.1}, "fingerprints": {"corpus": "abc"}}
FILES = ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]


def save(folder: Path, step: int) -> Path:
    return checkpoints.save_checkpoint(folder, step, WEIGHTS, OPTIMIZER, STATE)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("checkpoints"), 7)


def test_a_checkpoint_loads_bit_for_bit(checkpoint: Path):
    loaded = checkpoints.load_checkpoint(checkpoint)
    for found, expected in ((loaded.weights, WEIGHTS), (loaded.optimizer, OPTIMIZER)):
        assert set(found) == set(expected)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert loaded.state == {**STATE, "step": 7}


def test_a_checkpoint_is_safetensors_and_json(checkpoint: Path):
    assert sorted(path.name for path in checkpoint.iterdir()) == sorted(FILES)
    for name in FILES:
        content = (checkpoint / name).read_bytes()
        if name.endswith(".json"):
            json.loads(content)
        else:
            assert content[8:9] == b"{"  # a safetensors header


@given(name=st.sampled_from(FILES[:3]), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_an_error_that_names_its_file(checkpoint, tmp_path_factory, name, place, bit):
    damaged = tmp_path_factory.mktemp("damaged") / checkpoint.name
    shutil.copytree(checkpoint, damaged)
    content = bytearray((damaged / name).read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    (damaged / name).write_bytes(content)
    with pytest.raises(UserError) as refused:
        checkpoints.load_checkpoint(damaged)
    assert str(damaged / name) in refused.value.problem
    assert "SHA-256 differs" in refused.value.problem


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_in_the_manifest_is_an_error(checkpoint, tmp_path_factory, place, bit):
    damaged = tmp_path_factory.mktemp("damaged") / checkpoint.name
    shutil.copytree(checkpoint, damaged)
    content = bytearray((damaged / "manifest.json").read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    (damaged / "manifest.json").write_bytes(content)
    with pytest.raises(UserError, match=r"manifest\.json"):
        checkpoints.load_checkpoint(damaged)


def test_a_checkpoint_with_a_manifest_without_its_own_sha256_loads(checkpoint: Path, tmp_path: Path):
    older = Path(shutil.copytree(checkpoint, tmp_path / checkpoint.name))
    manifest = json.loads((older / "manifest.json").read_text())
    del manifest["sha256"]
    (older / "manifest.json").write_text(json.dumps(manifest))
    assert checkpoints.load_checkpoint(older).state == {**STATE, "step": 7}
    del manifest["files"]["state.json"]
    (older / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"state\.json is not in the folder's manifest\.json"):
        checkpoints.load_checkpoint(older)


@pytest.mark.parametrize("state", ["[]", "[" * 2000, '{"step": "7"}', '{"step": 8}', "{}"])
def test_an_invalid_state_with_a_correct_sha256_is_an_error_that_names_it(checkpoint, tmp_path: Path, state: str):
    damaged = Path(shutil.copytree(checkpoint, tmp_path / checkpoint.name))
    (damaged / "state.json").write_text(state)
    write_manifest(damaged, checkpoints.FORMAT)
    with pytest.raises(UserError, match=r"state\.json"):
        checkpoints.load_checkpoint(damaged)


def test_a_manifest_that_lists_a_file_outside_its_folder_is_an_error(checkpoint: Path, tmp_path: Path):
    damaged = Path(shutil.copytree(checkpoint, tmp_path / checkpoint.name))
    (tmp_path / "outside").write_text("secret")
    write_manifest(damaged, checkpoints.FORMAT, [*FILES[:3], "../outside"])
    with pytest.raises(UserError, match="names a file that is not inside its folder"):
        checkpoints.load_checkpoint(damaged)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_an_error_that_names_it(checkpoint: Path, tmp_path: Path, name: str):
    damaged = tmp_path / checkpoint.name
    shutil.copytree(checkpoint, damaged)
    (damaged / name).unlink()
    with pytest.raises(UserError, match=name):
        checkpoints.load_checkpoint(damaged)


@pytest.mark.parametrize(
    "stage",
    ["training.checkpoints.write_safetensors", "training.checkpoints.write_manifest", "files.atomic.fsync_file"],
)
def test_an_error_while_saving_leaves_only_the_earlier_checkpoints(
    tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
):
    save(tmp_path, 1)

    def raise_disk_full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(f"gpt1.{stage}", raise_disk_full)
    with pytest.raises(ResourceError, match="the disk is full"):
        save(tmp_path, 2)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == [checkpoints.checkpoint_path(tmp_path, 1).name]
    checkpoints.load_checkpoint(checkpoints.checkpoint_path(tmp_path, 1))


@pytest.mark.parametrize("step", [2, 5])
def test_a_partial_checkpoint_of_a_killed_process_is_ignored_and_deleted_by_the_next_save(tmp_path: Path, step: int):
    half = tmp_path / f".{checkpoints.checkpoint_path(tmp_path, 2).name}.tmp"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    assert checkpoints.list_steps(tmp_path) == []
    checkpoints.load_checkpoint(save(tmp_path, step))
    assert not half.exists()


def test_a_copy_with_another_name_is_not_a_checkpoint(tmp_path: Path):
    path = save(tmp_path, 7)
    for name in (f"{path.name}.bak", f"{path.name} (copy)", "step-7", "step-last"):
        shutil.copytree(path, tmp_path / name)
    assert checkpoints.list_steps(tmp_path) == [7]
    checkpoints.prune(tmp_path, 1, 7)
    assert len(list(tmp_path.iterdir())) == 5


def test_saving_a_step_again_replaces_its_checkpoint(tmp_path: Path):
    save(tmp_path, 3)
    path = checkpoints.save_checkpoint(tmp_path, 3, WEIGHTS, OPTIMIZER, {"outcome": "new"})
    assert checkpoints.list_steps(tmp_path) == [3]
    assert checkpoints.load_checkpoint(path).state["outcome"] == "new"


@given(saved=st.sets(st.integers(1, 10**6), min_size=1, max_size=8), keep=st.integers(1, 4), best=st.integers(1, 10**6))
def test_pruning_keeps_the_newest_and_the_best(tmp_path_factory, saved, keep, best):
    folder = tmp_path_factory.mktemp("many")
    for step in saved | {best}:
        checkpoints.checkpoint_path(folder, step).mkdir()
    assert checkpoints.list_steps(folder) == sorted(saved | {best})
    now = sorted(saved)[len(saved) // 2]  # later ones were rejected by a resumed run
    checkpoints.prune(folder, keep, now, best)
    earlier = [step for step in sorted(saved | {best}) if step <= now]
    assert checkpoints.list_steps(folder) == sorted({*earlier[-keep:], best})


# ---- checkpoints by time


class Clock:
    """A clock that advances only when `now` is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def due_times(minutes: float, is_first: bool, until: int, save_seconds: float = 1.0) -> list[int]:
    """The seconds at which checkpoints are due, asked every second."""
    clock = Clock()
    timer = checkpoints.CheckpointTimer(minutes, is_first, clock)
    found = []
    for second in range(until):
        clock.now = max(clock.now, second)
        if timer.is_due():
            found.append(second)
            with timer.saving():
                clock.now += save_seconds
    return found


def test_the_first_checkpoint_comes_after_a_minute_and_the_others_at_the_interval():
    assert due_times(5, True, 1000) == [60, 361, 662, 963]


def test_a_resumed_run_has_a_checkpoint_and_waits_for_the_whole_interval():
    assert due_times(5, False, 700) == [300, 601]


def test_an_interval_below_a_minute_holds_for_the_first_checkpoint_too():
    assert due_times(0.5, True, 100, save_seconds=0.1)[:2] == [30, 61]


def test_saving_takes_at_most_a_fiftieth_of_the_time():
    assert due_times(5, True, 3000, save_seconds=20) == [60, 1080, 2100]


def test_no_checkpoint_is_due_by_time_if_the_interval_is_0():
    assert due_times(0, True, 10_000) == []
