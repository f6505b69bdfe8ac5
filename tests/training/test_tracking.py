"""Metrics as each tracker's own store gives them back. Nothing leaves this machine."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from gpt1.errors import Interrupted, UserError
from gpt1.progress import Progress
from gpt1.training.finetune import finetune
from gpt1.training.pretrain import pretrain
from gpt1.training.run import open_run
from gpt1.training.tracking import MLFLOW_DEFAULTS, TRACKERS, TRACKING_FILE, WANDB_DEFAULTS, check_tracker

pytestmark = pytest.mark.usefixtures("no_reports")

Metrics = dict[str, list[tuple[int, float]]]
RECORDS = (
    {"step": 10, "split": "train", "loss": 4.5, "note": "text", "broken": float("nan")},
    {"step": 20, "split": "train", "loss": 4.0},
    {"step": 20, "split": "validation", "loss": 4.25},
)
TRACKED = {"train/loss": [(10, 4.5), (20, 4.0)], "validation/loss": [(20, 4.25)]}


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of MLflow with its tables, which take seconds to create."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(autouse=True)
def own_store(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of MLflow for each test; the variables that trackers set are removed again."""
    for name in (*MLFLOW_DEFAULTS, *WANDB_DEFAULTS):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    return Path(shutil.copy(empty_store, tmp_path))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "books"
    folder.mkdir()
    (folder / "config.yaml").write_text("stage: pretrain\nseed: 3\nepochs: 1.0\n")
    return folder


def read_tensorboard(run: Path) -> Metrics:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events: Any = EventAccumulator(str(run / "events"))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def mlflow_run(run: Path) -> tuple[Any, Any]:
    from mlflow import MlflowClient

    client = MlflowClient()
    return client, client.get_run(read_id(run, "mlflow"))


def read_mlflow(run: Path) -> Metrics:
    client, found = mlflow_run(run)
    tags = found.data.metrics
    return {tag: [(m.step, m.value) for m in client.get_metric_history(found.info.run_id, tag)] for tag in tags}


def read_wandb(run: Path) -> Metrics:
    found: Metrics = {}
    for path in sorted(run.glob("wandb/offline-run-*/*.wandb")):
        for record in finished_wandb_records(path):
            values = {item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            for name, value in values.items():
                if not name.startswith("_"):
                    found.setdefault(name, []).append((values["_step"], value))
    return found


def finished_wandb_records(path: Path, seconds: float = 60) -> list[Any]:
    """The records of a run that has ended. The process of wandb may write the last ones after `finish` has returned."""
    end = time.monotonic() + seconds
    while True:
        records = list(wandb_records(path.read_bytes()))
        if any(record.HasField("exit") for record in records):
            return records
        assert time.monotonic() < end, f"{path} has no end: {[record.WhichOneof('record_type') for record in records]}"
        time.sleep(0.1)


def wandb_records(content: bytes) -> Iterator[Any]:
    """The records of a .wandb file: LevelDB's log format after a header of seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    assert content[:4] == b":W&B"
    position, data = 7, b""
    while position + 7 <= len(content):
        if (left := 2**15 - position % 2**15) < 7:  # the rest of a block is too short for a header
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        data += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(data)
            data = b""
            yield record


READERS = {"none": read_tensorboard, "mlflow": read_mlflow, "wandb": read_wandb}


def read_id(run: Path, name: str) -> str:
    return str(json.loads((run / TRACKING_FILE).read_text())[name])


@pytest.mark.parametrize("name", READERS)
def test_every_number_is_kept_as_split_and_name(name: str, run: Path):
    with open_run(run, Progress(), name) as (progress, _):
        for record in RECORDS:
            progress.record(**record)
    assert READERS[name](run) == TRACKED


@pytest.mark.parametrize("name", READERS)
def test_a_resumed_run_continues_the_same_tracked_run_and_repeats_no_step(name: str, run: Path):
    ids: list[str] = []
    for steps in ((10, 20, 30), (20, 30, 40)):  # stopped after 30, resumed from a checkpoint at 10
        with suppress(Interrupted), open_run(run, Progress(), name) as (progress, metrics):
            assert metrics is not None
            metrics.truncate_after(steps[0] - 10)
            for step in steps:
                progress.record(step=step, split="train", loss=step / 8)
            ids.append(read_id(run, name) if name in TRACKERS else "")
            if steps[-1] == 30:
                raise Interrupted("stopped.", "Resume.")
    assert READERS[name](run) == {"train/loss": [(10, 1.25), (20, 2.5), (30, 3.75), (40, 5.0)]}
    assert ids[0] == ids[1]


@pytest.mark.parametrize("name", TRACKERS)
def test_a_run_that_is_tracked_only_later_has_its_earlier_metrics_too(name: str, run: Path):
    for track, records in (("none", RECORDS[:2]), (name, RECORDS[2:])):
        with open_run(run, Progress(), track) as (progress, _):
            for record in records:
                progress.record(**record)
    assert READERS[name](run) == TRACKED


@pytest.mark.parametrize(
    ("error", "status"), [(None, "FINISHED"), (Interrupted("stopped."), "KILLED"), (OSError("broken"), "FAILED")]
)
def test_mlflow_knows_the_settings_and_how_the_run_ended(error: Exception | None, status: str, run: Path):
    with suppress(OSError, Interrupted), open_run(run, Progress(), "mlflow"):
        if error:
            raise error
    _, found = mlflow_run(run)
    assert found.info.status == status
    assert found.info.run_name == "books"
    assert found.data.params == {"seed": "3", "epochs": "1.0"}


@pytest.mark.slow
def test_pretraining_and_finetuning_are_tracked(
    corpus: Path, pretrained_run: Path, table: Any, tmp_path: Path, own_store: Path
):
    shape = {"n_layer": 1, "n_head": 2, "n_embd": 16, "context": 32, "batch_size": 8, "steps": 20, "device": "cpu"}
    first = pretrain(corpus, out=tmp_path / "p", track="mlflow", eval_every=10, **shape)
    second = finetune(
        table, from_=pretrained_run, out=tmp_path / "f", kind="classification", text="text", label="label",
        track="wandb", epochs=1, device="cpu",
    )  # fmt: skip
    for run, reader in ((first, read_mlflow), (second, read_wandb)):
        expected: dict[str, dict[int, float]] = {}
        for line in (run / "metrics.jsonl").read_text().splitlines():
            record = json.loads(line)
            for name in record.keys() - {"step", "split"}:
                expected.setdefault(f"{record['split']}/{name}", {})[record["step"]] = record[name]
        found = {tag: dict(values) for tag, values in reader(run).items()}
        assert found == {tag: pytest.approx(values) for tag, values in expected.items()}
        assert set(expected) >= {"train/loss", "validation/loss"}


def test_a_missing_package_is_named_before_training_begins(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import gpt1.training.tracking as tracking

    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    for name in TRACKERS:
        with pytest.raises(UserError, match=f'track="{name}" needs') as error:
            check_tracker(name)
        assert "pip install 'gpt1[track]'" in error.value.fix
    with pytest.raises(UserError, match='track="wandb" needs wandb'):
        pretrain(corpus, out=tmp_path / "run", model="tiny", steps=1, device="cpu", track="wandb")
    assert not (tmp_path / "run").exists()
    check_tracker("none")


def test_importing_gpt1_imports_no_tracker():
    code = f"import sys, gpt1.training.pretrain; print([name for name in {[*TRACKERS]} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True, env=os.environ).strip() == "[]"


@pytest.mark.parametrize("store", ["sqlite:////dev/null/mlflow.db", "nonsense://x"])
def test_a_store_that_cannot_be_opened_is_one_error(store: str, run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    with (
        pytest.raises(UserError, match='track="mlflow" cannot start a run: '),
        open_run(run, Progress(), "mlflow"),
    ):
        pass


def test_a_store_without_the_run_to_continue_is_an_error(
    run: Path, empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with open_run(run, Progress(), "mlflow"):
        pass
    shutil.copy(empty_store, tmp_path / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'other.db'}")
    expected = f'track="mlflow" cannot continue run {read_id(run, "mlflow")}'
    with pytest.raises(UserError, match=expected), open_run(run, Progress(), "mlflow"):
        pass


def test_a_store_that_breaks_while_training_gives_one_warning(run: Path, own_store: Path):
    lines: list[str] = []

    class Listener(Progress):
        def log(self, line: str) -> None:
            lines.append(line)

    with open_run(run, Listener(), "mlflow") as (progress, _):
        with sqlite3.connect(own_store) as database:
            database.execute("DROP TABLE metrics")
            database.execute("DROP TABLE runs")
        for record in RECORDS:
            progress.record(**record)
    assert len(lines) == 1
    assert "logging of MLflow metrics stopped" in lines[0]
    assert len((run / "metrics.jsonl").read_text().splitlines()) == len(RECORDS)
