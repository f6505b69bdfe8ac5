"""Benchmarks: each one runs, competitors do the same work in turn, ratios and counts are correct."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

sys.path.append(str(Path(__file__).parents[1]))  # the benchmarks are next to the package, not in it

from benchmarks import __main__ as command
from benchmarks import measure, models_and_data, page
from benchmarks.measure import BenchmarkResult, Ratio, ResultTable, interleave, speed_ratio
from benchmarks.profile import time_by_kind
from benchmarks.step import matrix_products
from gpt1.config import GPTConfig
from gpt1.kernels.int4 import int4_is_supported

EXPECTED = json.loads(command.EXPECTED_FILE.read_text(encoding="utf-8"))
SLOW = {"load", "memory", "page", "sizes", "scaling"}  # they start other processes
positive = st.floats(0.01, 100)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in command.BENCHMARKS]
)
def test_every_benchmark_runs_and_its_competitors_do_the_same_work(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    if name == "tokenizing":
        request.getfixturevalue("shared_data")
    if name == "page" and (missing := page.missing_requirement(True)):
        pytest.skip(missing)
    assert command.main([name, "--quick", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    assert found["machine"]["processor"]
    assert found["machine"]["versions"]["torch"] == torch.__version__
    assert set(found["same_work"].values()) <= {True}
    assert found["same_work"] or name in {"memory", "sizes", "scaling", "profile"}  # those have no outputs to compare
    expected = EXPECTED["ratios"].get(name, {})
    wanted = {ratio for ratio in expected if int4_is_supported([]) or "draft tokens" not in ratio}
    assert wanted <= set(found["ratios"])
    assert all(0 < r["low"] <= r["median"] <= r["high"] for r in found["ratios"].values())
    printed = capsys.readouterr().out
    for table in found["tables"]:
        assert table["title"] in printed
        assert {len(row) for row in table["rows"]} == {len(table["columns"])}


def test_expected_ratios_belong_to_benchmarks_that_exist():
    assert set(EXPECTED["ratios"]) <= set(command.BENCHMARKS)
    assert 0 < EXPECTED["tolerance"] < 1


# ---- measuring and checking


def test_competitors_alternate_and_the_warm_up_is_not_measured():
    done: list[str] = []
    works = {name: lambda name=name: done.append(name) for name in "ab"}
    before = {name: lambda name=name: done.append(f"before {name}") for name in "b"}
    seconds = interleave(works, 2, warm_up={"a": lambda: done.append("short")}, setup=before)
    assert done == ["short", "b", *(["a", "before b", "b"] * 2)]
    assert {name: len(rounds) for name, rounds in seconds.items()} == {"a": 2, "b": 2}


def test_the_setup_of_a_round_is_not_measured():
    now = [0.0]

    def pass_by(seconds: float) -> None:
        now[0] += seconds

    seconds = interleave({"a": lambda: pass_by(1)}, 3, setup={"a": lambda: pass_by(100)}, clock=lambda: now[0])
    assert seconds == {"a": [1, 1, 1]}


@given(ours=st.lists(positive, min_size=1, max_size=9), times=positive)
def test_a_peer_that_takes_k_times_as_long_has_the_ratio_k(ours: list[float], times: float):
    found = speed_ratio(ours, [times * s for s in ours])
    assert [found.low, found.median, found.high] == pytest.approx([times] * 3)


@given(wanted=positive, measured=positive)
def test_a_ratio_falls_short_if_it_is_below_the_expected_ratio_minus_the_tolerance(wanted: float, measured: float):
    expected = {"tolerance": 0.2, "ratios": {"step": {"a / b": wanted}, "head": {"a / b": 1e9}}}
    lines = command.find_shortfalls("step", {"a / b": Ratio(measured, 0.0, 1e9)}, expected)
    assert len(lines) == (measured < wanted * (1 - 0.2))
    assert all("a / b" in line for line in lines)


def test_an_expected_ratio_that_was_not_measured_falls_short():
    assert command.find_shortfalls("step", {}, {"tolerance": 0.2, "ratios": {"step": {"a / b": 1.0}}})


@pytest.mark.parametrize(("wanted", "same", "code"), [(2.0, True, 0), (3.0, True, 1), (2.0, False, 1)])
def test_check_fails_for_a_shortfall_and_for_different_results(
    wanted: float,
    same: bool,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    result = BenchmarkResult([ResultTable("t", ["a"], [[1]])], {"a / b": Ratio(2.0, 2.0, 2.0)}, {"ids": same})
    stub: Any = SimpleNamespace(ROUNDS=1, run=lambda rounds, quick: result)
    monkeypatch.setitem(sys.modules, "benchmarks.step", stub)
    expected = {"tolerance": 0.1, "machine": "a desk calculator", "ratios": {"step": {"a / b": wanted}}}
    (tmp_path / "expected.json").write_text(json.dumps(expected))
    monkeypatch.setattr(command, "EXPECTED_FILE", tmp_path / "expected.json")
    assert command.main(["step", "--check", "--out", str(tmp_path)]) == code
    assert ("a desk calculator" in capsys.readouterr().out) == bool(code)


def test_a_quick_run_keeps_the_results_of_the_last_full_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(command, "RESULTS_DIR", tmp_path)
    stub: Any = SimpleNamespace(ROUNDS=1, run=lambda rounds, quick: BenchmarkResult([]))
    monkeypatch.setitem(sys.modules, "benchmarks.step", stub)
    for words in (["step"], ["step", "--quick"]):
        assert command.main(words) == 0
    quick = {path.relative_to(tmp_path): json.loads(path.read_text())["quick"] for path in tmp_path.rglob("*.json")}
    assert quick == {Path("step.json"): False, Path("quick/step.json"): True}


def test_a_skipped_expected_ratio_falls_short_and_an_unexpected_ratio_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    left_out: Any = SimpleNamespace(missing_requirement=lambda quick: "its data is not here")
    monkeypatch.setitem(sys.modules, "benchmarks.tokenizing", left_out)
    assert command.main(["tokenizing", "--out", str(tmp_path)]) == 0
    assert command.main(["tokenizing", "--check", "--out", str(tmp_path)]) == 1
    unexpected: Any = SimpleNamespace(ROUNDS=1, run=lambda rounds, quick: BenchmarkResult([]))
    monkeypatch.setitem(sys.modules, "benchmarks.scaling", unexpected)
    assert command.main(["scaling", "--check", "--out", str(tmp_path)]) == 0
    assert "scaling: has no expected ratios" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "lacking"), [("step", "peer"), ("tokenizing", "peer"), ("tokenizing", "books")])
def test_a_benchmark_without_its_peer_or_its_data_is_skipped_with_one_line(
    name: str, lacking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    if lacking == "peer":
        monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setenv("GPT1_DATA", str(tmp_path))
    assert command.main([name, "--out", str(tmp_path)]) == 0
    assert command.main([name, "--check", "--out", str(tmp_path)]) == 1
    output = capsys.readouterr().out
    assert output.startswith(f"## {name}: skipped")
    assert ("pip install" if lacking == "peer" else "GPT1_DATA") in output.partition("\n")[0]
    assert output.count("not measured") == len(EXPECTED["ratios"][name])


@pytest.mark.parametrize(
    "content",
    ['{"ratios":', "[]", "{}", '{"ratios": {"step": {"a / b": 1}}}', '{"tolerance": 0, "ratios": {"step": ["a"]}}'],
)
def test_a_damaged_expectations_file_is_refused_before_measuring(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "expected.json").write_text(content)
    monkeypatch.setattr(command, "EXPECTED_FILE", tmp_path / "expected.json")
    monkeypatch.setattr(command, "run_benchmark", None)
    with pytest.raises(SystemExit) as refused:
        command.main(["step", "--check", "--out", str(tmp_path)])
    assert refused.value.code == 2
    assert f"{tmp_path / 'expected.json'} is damaged" in capsys.readouterr().err


def test_a_killed_benchmark_fails_the_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def run(words: list[str]) -> Any:
        return SimpleNamespace(returncode=-9 if "head" in words else 0)

    monkeypatch.setattr(command.subprocess, "run", run)
    assert command.main(["step", "kernels", "--out", str(tmp_path)]) == 0
    assert command.main(["step", "head", "--out", str(tmp_path)]) != 0


def test_an_unusable_output_path_is_refused_before_measuring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(command, "run_benchmark", None)
    with pytest.raises(SystemExit) as refused:
        command.main(["step", "--out", str(tmp_path / "file")])
    assert refused.value.code == 2


@pytest.mark.parametrize("words", [["steps"], ["step", "--quick", "--check"], ["step", "--rounds", "0"]])
def test_invalid_arguments_are_refused(words: list[str], tmp_path: Path):
    with pytest.raises(SystemExit) as refused:
        command.main([*words, "--out", str(tmp_path / "results")])
    assert refused.value.code == 2
    assert not (tmp_path / "results").exists()


def test_peak_memory_is_that_of_the_subprocess_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "holder.py").write_text("def hold(size):\n    return len(bytearray(b'1') * size)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    held = torch.ones(40_000_000)  # 160 MB of this process
    (_, small), (size, large) = (measure.run_in_subprocess("holder.hold", size=size) for size in (1, 50_000_000))
    assert size == 50_000_000
    assert large - small == pytest.approx(50_000_000, rel=0.1)
    assert small < held.nbytes < measure.peak_memory()


# ---- counts


def test_the_counted_operations_are_those_of_the_matrix_products():
    products, operations = matrix_products(GPTConfig(vocab_size=100, n_layer=3, n_head=2, n_embd=16, context=12), 24)
    with FlopCounterMode(display=False) as counter:
        products()
    assert counter.get_total_flops() == pytest.approx(operations)


@given(st.dictionaries(st.sampled_from(["aten::mm", "aten::bmm", "aten::copy_", "GELU", "aten::new"]), positive))
def test_a_profile_counts_every_operation_once(times: dict[str, float]):
    found = time_by_kind(times)
    assert found.total() == pytest.approx(sum(times.values()))
    assert found["matrix products with weights"] == times.get("aten::mm", 0)


def test_without_the_data_lengths_are_random_and_reported_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GPT1_DATA", str(tmp_path))  # a folder with something else in it
    rows = models_and_data.sst2_rows(100)
    assert "random" in rows.source
    assert len(rows.ids) == len(rows.labels) == 100
    assert all(1 <= len(ids) <= 59 and max(ids) < 40478 for ids in rows.ids)
