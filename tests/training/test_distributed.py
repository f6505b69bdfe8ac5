"""Data-parallel training: shares of the samples, results, and resuming after a kill."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from finetune_helpers import load_weights
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gpt1.cli.main import main
from gpt1.corpus.corpus import Corpus
from gpt1.corpus.windows import split_corpus
from gpt1.errors import GPT1Error
from gpt1.training import checkpoints
from gpt1.training.distributed import Processes
from gpt1.training.pretrain import pretrain

PROGRAM = Path(__file__).parents[1] / "two_processes.py"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def make_command(count: int, corpus: Path, out: Path, *more: str, **settings: Any) -> list[str]:
    flags = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return [*TORCHRUN, str(count), "-m", "gpt1", "pretrain", str(corpus), "--out", str(out), *flags, *more]


def run(*args: Any, **settings: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(make_command(*args, **settings), capture_output=True, text=True, timeout=300)


def start(*args: Any, **settings: Any) -> subprocess.Popen[str]:
    """Start a run and wait for its first metrics."""
    process = subprocess.Popen(
        make_command(*args, **settings), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    metrics = args[2] / "metrics.jsonl"
    while not metrics.exists() and process.poll() is None:
        time.sleep(0.05)
    return process


def read_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@given(st.integers(0, 40), st.integers(1, 12))
def test_each_sample_belongs_to_exactly_one_process(n: int, count: int):
    samples = np.arange(2 * n).reshape(n, 2)
    shares = [Processes(rank, count).shard_samples(samples) for rank in range(count)]
    assert sorted(map(tuple, np.concatenate(shares).tolist())) == list(map(tuple, samples.tolist()))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_single_process_is_rank_0_and_changes_nothing():
    alone, tensor = Processes(), torch.arange(3.0)
    alone.all_reduce([tensor])
    alone.barrier()
    assert (alone.is_rank0, alone.any_rank(True), alone.any_rank(False), alone.broadcast_from_rank0(lambda: "a")) == (
        True,
        True,
        False,
        "a",
    )
    assert torch.equal(tensor, torch.arange(3.0))


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("Connection closed by peer [127.0.0.1]:4711", GPT1Error),
        (
            "NCCL error in: NCCLUtils.cpp:94, unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'",
            RuntimeError,
        ),
    ],
)
def test_out_of_memory_is_not_reported_as_the_failure_of_another_process(
    reason: str, expected: type[Exception], monkeypatch: pytest.MonkeyPatch
):
    def reduce(*_: Any, **__: Any) -> None:
        raise RuntimeError(reason)

    monkeypatch.setattr(torch.distributed, "all_reduce", reduce)
    with pytest.raises(expected) as raised:
        Processes(0, 2).all_reduce([torch.zeros(1)])
    assert raised.type is expected


def assert_same_up_to_rounding(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Except for key biases: their gradient is 0 (softmax ignores a constant), and Adam scales up its noise."""
    for name, wanted in expected.items():
        ours = found[name]
        if name.endswith("attention.qkv.bias"):
            ours, wanted = (torch.cat([x.chunk(3)[0], x.chunk(3)[2]]) for x in (ours, wanted))
        torch.testing.assert_close(ours, wanted, rtol=1e-3, atol=1e-4)


DROPOUT = {"steps": 400, "dropout": 0.1, "checkpoint_every": 50, "eval_every": 0}
PLANNED = {"minutes": 0.05, "checkpoint_minutes": 1e-9, "checkpoint_every": 0, "eval_every": 0, "keep": 9}
SHORT = {"steps": 40, "checkpoint_every": 20, "eval_every": 0}


@pytest.fixture(scope="module")
def pair(
    corpus: Path, tiny_pretrain_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """(the folder of runs that two processes trained, what they printed)."""
    folder, free = tmp_path_factory.mktemp("pair"), dict(tiny_pretrain_settings)
    del free["steps"]
    settings = {"unbroken": tiny_pretrain_settings | DROPOUT, "two": tiny_pretrain_settings | SHORT}
    settings |= {"planned": free | PLANNED, "small": tiny_pretrain_settings | {"batch_size": 1}}
    words = [*TORCHRUN, "2", str(PROGRAM), str(corpus), str(folder), json.dumps(settings)]
    environment = os.environ | {"PYTHONPATH": str(PROGRAM.parents[1])}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, done.stderr


@pytest.mark.slow
def test_several_processes_learn_the_same_as_one(corpus: Path, tiny_pretrain_settings: dict[str, Any], tmp_path: Path):
    """Three processes; the last step of an epoch has 2 windows, so that one process has none."""
    windows = split_corpus(Corpus.open(corpus), tiny_pretrain_settings["context"], 0.01)[0].n
    batch = next(size for size in range(8, windows) if windows % size == 2)
    settings = tiny_pretrain_settings | {"batch_size": batch, "steps": math.ceil(windows / batch) + 3, "eval_every": 5}
    plain = pretrain(corpus, out=tmp_path / "one", **settings)
    done = run(3, corpus, tmp_path / "three", **settings)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("report.html") == 1  # only rank 0 prints
    expected, found = load_weights(plain), load_weights(tmp_path / "three")
    assert_same_up_to_rounding(found, expected)
    for mine, theirs in zip(read_lines(plain), read_lines(tmp_path / "three"), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        assert mine.get("tokens") == theirs.get("tokens")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc which process is which")
def test_stopped_and_killed_processes_resume_to_the_same_bits(
    pair: tuple[Path, str], corpus: Path, tiny_pretrain_settings: dict[str, Any], tmp_path: Path
):
    settings = tiny_pretrain_settings | DROPOUT
    unbroken, broken = pair[0] / "unbroken", tmp_path / "broken"
    stopped = start(2, corpus, broken, **settings)
    stopped.send_signal(signal.SIGTERM)
    said, _ = stopped.communicate(timeout=120)
    saved = checkpoints.list_steps(broken / "checkpoints")
    assert 0 < saved[-1] < settings["steps"], said
    assert said.count("the state is saved") == 1, said

    killed = start(2, corpus, broken, "--resume", **settings)
    while checkpoints.list_steps(broken / "checkpoints")[-1] <= saved[-1]:
        time.sleep(0.05)
    second = next(pid for pid in children(killed.pid) if b"RANK=1" in environment(pid))
    os.kill(second, signal.SIGKILL)
    said, _ = killed.communicate(timeout=120)
    assert killed.returncode != 0, said

    done = run(2, corpus, broken, "--resume", **settings)
    assert done.returncode == 0, done.stderr
    expected, found = load_weights(unbroken), load_weights(broken)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def children(pid: int) -> list[int]:
    return [int(line) for line in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def environment(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


@pytest.mark.slow
def test_a_run_of_two_processes_resumes_in_one_with_the_same_samples(
    pair: tuple[Path, str], corpus: Path, tiny_pretrain_settings: dict[str, Any], tmp_path: Path
):
    """Without dropout the result is the same, up to the order of sums."""
    settings = tiny_pretrain_settings | SHORT
    plain = pretrain(corpus, out=tmp_path / "one", **settings)
    two = shutil.copytree(pair[0] / "two", tmp_path / "two")
    (two / "results.json").unlink()
    shutil.rmtree(checkpoints.checkpoint_path(two / "checkpoints", 40))
    pretrain(corpus, out=two, resume=True, **settings)
    expected, found = load_weights(plain), load_weights(two)
    assert_same_up_to_rounding(found, expected)


@pytest.mark.slow
def test_rank_0_decides_on_the_plan_and_on_checkpoints_by_time(pair: tuple[Path, str]):
    run, said = pair[0] / "planned", pair[1]
    assert said.count("plan for 0.05 min: tiny") == 1  # only rank 0 prints
    steps = yaml.safe_load((run / "config.yaml").read_text())["steps"]
    assert checkpoints.list_steps(run / "checkpoints") == [steps]  # those by time are replaced
    assert read_lines(run)[-1]["step"] == steps


@pytest.mark.slow
def test_a_batch_with_fewer_windows_than_processes_is_an_error(pair: tuple[Path, str]):
    for rank in (0, 1):
        problem = (pair[0] / f"small.{rank}.txt").read_text()
        assert problem == "--batch-size 1 is smaller than the number of processes (2)."
    assert not (pair[0] / "small").exists()


def test_fine_tuning_in_several_processes_is_an_error(
    pretrained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("WORLD_SIZE", "2")
    (tmp_path / "rows.csv").write_text("text,label\ngood,yes\nbad,no\n")
    with pytest.raises(SystemExit) as ended:
        main(["finetune", str(tmp_path / "rows.csv"), "--from", str(pretrained_run), "--out", str(tmp_path / "run")])
    assert ended.value.code == 2
    assert "torchrun started 2" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
