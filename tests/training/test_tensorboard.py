"""Measurements as TensorBoard reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpt1.training.tensorboard import TensorBoard


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events: Any = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_every_number_is_found_under_its_split_and_name(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path / "events")
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


def test_updates_that_a_resumed_run_does_again_are_told_once(tmp_path: Path) -> None:
    for steps in ((10, 20, 30), (20, 30, 40)):  # killed after 30, resumed from a checkpoint at 10
        board = TensorBoard(tmp_path)
        for step in steps:
            board.record(step=step, split="train", loss=step / 8)
        board.end()
    assert read(tmp_path) == {"train/loss": [(10, 1.25), (20, 2.5), (30, 3.75), (40, 5.0)]}


def test_nothing_is_written_before_the_first_measurement(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path / "events")
    board.say("hello")
    board.begin("training", 5)
    board.advance(1, loss=2.0)
    board.end()
    assert not (tmp_path / "events").exists()
