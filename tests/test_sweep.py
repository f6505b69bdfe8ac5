"""A sweep trains every combination once, also if it is interrupted."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1]))  # the benchmarks are next to the package, not in it

from benchmarks import sweep
from gpt1.errors import GPT1Error, Interrupted

SHAPE = "--n-layer 1 --n-head 1 --n-embd 16 --context 16 --steps 4 --batch-size 2 --eval-every 2 --device cpu"


def make_arguments(corpus: Path, out: Path, more: str) -> list[str]:
    return [str(corpus), "--out", str(out), *SHAPE.split(), *more.split()]


def read_cells(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / sweep.CELLS_FILE).read_text().splitlines()]


def test_every_combination_is_trained_once_and_finished_ones_are_skipped(corpus: Path, tmp_path: Path, capsys: Any):
    assert sweep.main(make_arguments(corpus, tmp_path, "--peak-lr 1e-3,2e-3 --seed 0")) == 0
    before = read_cells(tmp_path)
    assert sweep.main(make_arguments(corpus, tmp_path, "--peak-lr 1e-3,2e-3 --seed 0,1")) == 0
    found = read_cells(tmp_path)
    assert found[:2] == before
    assert [(c["key"]["peak_lr"], c["key"]["seed"]) for c in found] == [(1e-3, 0), (2e-3, 0), (1e-3, 1), (2e-3, 1)]
    for cell in found:
        assert [(p["step"], p["tokens"]) for p in cell["curve"]] == [(2, 64), (4, 128)]
        seconds = [p["seconds"] for p in cell["curve"]]
        assert 0 < seconds[0] < seconds[1]
    page = capsys.readouterr().out
    assert page.rstrip().endswith((tmp_path / sweep.PAGE_FILE).read_text().rstrip())
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| 0.00")]
    assert sorted(row[0] for row in rows) == ["| 0.001", "| 0.001", "| 0.002", "| 0.002"]
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_a_stopped_cell_is_not_written_and_a_diverged_one_is(corpus: Path, tmp_path: Path, monkeypatch: Any):
    def fail(error: GPT1Error) -> None:
        def pretrain(*args: Any, **settings: Any) -> None:
            raise error

        monkeypatch.setattr(sweep, "pretrain", pretrain)

    fail(Interrupted("stopped"))
    assert sweep.main(make_arguments(corpus, tmp_path, "")) == 130
    assert not (tmp_path / sweep.CELLS_FILE).exists()
    fail(GPT1Error("loss is nan"))
    assert sweep.main(make_arguments(corpus, tmp_path, "")) == 0
    assert [cell["error"] for cell in read_cells(tmp_path)] == ["loss is nan"]
    assert "diverged" in (tmp_path / sweep.PAGE_FILE).read_text()


@pytest.mark.parametrize(
    ("more", "message"), [("--peak-rate 1", "peak-rate"), ("--steps x", "whole number"), ("1e-3", "pairs")]
)
def test_settings_that_do_not_exist_are_refused(corpus: Path, tmp_path: Path, more: str, message: str, capsys: Any):
    with pytest.raises(SystemExit):
        sweep.main(make_arguments(corpus, tmp_path, more))
    assert message in capsys.readouterr().err
