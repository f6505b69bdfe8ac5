"""Metrics as TensorBoard reads them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt1.training.tensorboard import TensorBoard


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events: Any = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_every_number_is_stored_as_split_and_name(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path / "events", pytest.fail)
    board.begin("training", 20)
    board.record(step=10, split="train", loss=4.5, lr=0.25, note="text", broken=float("nan"))
    board.record(step=20, split="train", loss=4.0, lr=0.125)
    board.record(step=20, split="validation", loss=4.25, epoch=1)
    board.end()
    assert read(tmp_path / "events") == {
        "train/loss": [(10, 4.5), (20, 4.0)],
        "train/lr": [(10, 0.25), (20, 0.125)],
        "validation/loss": [(20, 4.25)],
        "validation/epoch": [(20, 1.0)],
    }


def test_steps_that_a_resumed_run_repeats_appear_once(tmp_path: Path) -> None:
    for steps in ((10, 20, 30), (20, 30, 40)):  # killed after 30, resumed from a checkpoint at 10
        board = TensorBoard(tmp_path, pytest.fail)
        for step in steps:
            board.record(step=step, split="train", loss=step / 8)
        board.end()
    assert read(tmp_path) == {"train/loss": [(10, 1.25), (20, 2.5), (30, 3.75), (40, 5.0)]}


def test_nothing_is_written_before_the_first_record(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path / "events", pytest.fail)
    board.log("hello")
    board.begin("training", 5)
    board.advance(1, loss=2.0)
    board.end()
    assert not (tmp_path / "events").exists()


def become_a_file(events: Path) -> None:
    events.write_text("in the way")


@pytest.mark.parametrize("spoil", [become_a_file, lambda events: shutil.rmtree(events.parent)], ids=["file", "gone"])
def test_events_that_cannot_be_written_give_one_warning(spoil: Callable[[Path], None], tmp_path: Path) -> None:
    events, warnings = tmp_path / "run" / "events", list[str]()
    events.parent.mkdir()
    spoil(events)
    board = TensorBoard(events, warnings.append)
    for step in (10, 20):
        board.record(step=step, split="train", loss=4.5)
        board.end()
    assert len(warnings) == 1
    assert str(events) in warnings[0]
    assert not events.is_dir()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_a_full_disk_gives_one_warning(tmp_path: Path) -> None:
    warnings: list[str] = []
    board = TensorBoard(tmp_path / "events", warnings.append)
    board.record(step=10, split="train", loss=4.5)
    with open("/dev/full", "wb") as full:  # the open file is now on a full disk
        os.dup2(full.fileno(), board._file.fileno())  # type: ignore[union-attr]
        for step in (20, 30):
            board.record(step=step, split="train", loss=4.0)
        board.end()
    assert [line for line in warnings if "No space left on device" in line] == warnings
    assert len(warnings) == 1
    assert read(tmp_path / "events") == {"train/loss": [(10, 4.5)]}
