"""Head-only training: the backbone runs once over the rows, for all the runs on them; what is kept on disk is whole,
right and bounded, or not there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finetune_helpers import FAST_SETTINGS as ANY
from finetune_helpers import TEXT_OPTIONS, copy_until_checkpoint, read_metrics, read_results
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gpt1.errors import ResourceError, UserError
from gpt1.model.gpt import GPT
from gpt1.model.head import Head, TaskModel
from gpt1.model.weights import read_safetensors
from gpt1.progress import NullProgress
from gpt1.tables.table import Table
from gpt1.tasks.kinds import EncodedExample
from gpt1.training import finetune as finetuning
from gpt1.training import head_only as features
from gpt1.training.finetune import finetune

FAST = {**ANY, "train": "head", "epochs": 2}


class Said(NullProgress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, line: str) -> None:
        self.lines.append(line)

    def __contains__(self, words: str) -> bool:
        return any(words in line for line in self.lines)


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page that every run leaves has tests of its own."""
    monkeypatch.setattr(finetuning, "report_on_exit", lambda run: nullcontext())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPT1_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The sequences of every call of the backbone."""
    calls: list[int] = []
    states = GPT.hidden_states

    def counted(self: GPT, ids: Tensor, kv_cache: Any = None, packing: Any = None) -> Tensor:
        calls.append(len(packing.lengths) if packing else len(ids))
        return states(self, ids, kv_cache=kv_cache, packing=packing)

    monkeypatch.setattr(GPT, "hidden_states", counted)
    return calls


def files(cache: Path) -> list[Path]:
    return sorted((cache / "features").iterdir()) if (cache / "features").exists() else []


def assert_alike(run: Path, other: Path) -> None:
    """The same weights bit for bit, the same figures."""
    found, expected = (read_safetensors(r / "model" / "model.safetensors") for r in (run, other))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert read_metrics(run) == read_metrics(other)
    assert read_results(run) == read_results(other)


# ---- runs


def test_the_backbone_runs_once_over_every_example_however_many_the_epochs(
    table: Table, pretrained_run: Path, tmp_path: Path, seen: list[int]
):
    for epochs in (1, 10):
        seen.clear()
        given = {**TEXT_OPTIONS, **FAST, "epochs": epochs, "cache_features": False}
        finetune(table, from_=pretrained_run, out=tmp_path / str(epochs), **given)
        assert sum(seen) == 64


def test_a_second_run_on_the_same_rows_never_runs_the_backbone_and_says_so(
    table: Table, pretrained_run: Path, tmp_path: Path, seen: list[int], cache: Path
):
    finetune(table, from_=pretrained_run, out=tmp_path / "first", **TEXT_OPTIONS, **FAST)
    (kept,) = files(cache)
    seen.clear()
    said = Said()
    other = {**TEXT_OPTIONS, **FAST, "peak_lr": 0.1, "epochs": 3, "head_dropout": 0.0, "dropout": 0.3}
    finetune(table, from_=pretrained_run, out=tmp_path / "second", progress=said, **other)
    assert seen == []
    assert f"features of 64 examples taken from {kept.parent}" in said
    assert files(cache) == [kept]


@pytest.mark.parametrize("kind", ["similarity", "choice"])
def test_features_from_disk_give_the_same_bits_metrics_and_results_as_fresh_ones(
    kind: str, table: Table, pretrained_run: Path, tmp_path: Path
):
    columns = {"similarity": {"text_a": "text", "text_b": "other"}}.get(kind)
    columns = columns or {"context": "text", "choices": "answers", "label": "right"}
    runs = [
        finetune(table, from_=pretrained_run, out=tmp_path / name, kind=kind, cache_features=cached, **columns, **FAST)
        for name, cached in (("without", False), ("writes", True), ("reads", True))
    ]
    assert_alike(runs[0], runs[1])
    assert_alike(runs[0], runs[2])


def test_a_killed_run_goes_on_without_the_backbone_and_gives_the_same_bits(
    table: Table, pretrained_run: Path, tmp_path: Path, seen: list[int]
):
    settings = {**TEXT_OPTIONS, **FAST, "head_dropout": 0.2, "checkpoint_every": 1, "keep": 99}
    whole = finetune(table, from_=pretrained_run, out=tmp_path / "whole", **settings)
    run = copy_until_checkpoint(3, whole, tmp_path / "run")
    seen.clear()
    finetune(table, from_=pretrained_run, out=run, resume=True, **TEXT_OPTIONS)
    assert seen == []
    assert_alike(run, whole)


def test_whatever_decides_the_features_is_asked_for(
    table: Table, pretrained_run: Path, tmp_path: Path, seen: list[int], cache: Path
):
    """Each of these runs would be wrong with the features of another."""
    long = replace(table, rows=[{**row, "text": row["text"] * 3} for row in table.rows])
    shutil.copytree(pretrained_run, tmp_path / "other")
    model = GPT.from_pretrained(tmp_path / "other/model")
    with torch.no_grad():
        model.blocks[1].mlp.narrow.bias[0] += 1e-3
    model.save(tmp_path / "other/model")
    runs = [
        (long, pretrained_run, {}),
        (replace(long, rows=[{**long.rows[0], "text": "another text"}, *long.rows[1:]]), pretrained_run, {}),
        (long, tmp_path / "other", {}),
        (long, pretrained_run, {"seed": 1}),  # other special tokens
        (long, pretrained_run, {"precision": "bf16"}),
        (long, pretrained_run, {"transfer_layers": 1}),
        (long, pretrained_run, {"from_scratch": True}),
        (long, pretrained_run, {"cut": "shares"}),
        (long, pretrained_run, {"long": "head-tail"}),
    ]
    for number, (rows, start, settings) in enumerate(runs, 1):
        seen.clear()
        pairs = {"kind": "entailment", "premise": "text", "hypothesis": "other"}
        finetune(rows, from_=start, out=tmp_path / str(number), **pairs, **FAST | settings)
        assert sum(seen) == 64, settings
        assert len(files(cache)) == number


# ---- files


@pytest.mark.parametrize("damage", ["cut short", "emptied", "changed", "of another shape"])
def test_a_damaged_file_is_told_computed_again_and_mended(
    damage: str, table: Table, pretrained_run: Path, tmp_path: Path, seen: list[int], cache: Path
):
    first = finetune(table, from_=pretrained_run, out=tmp_path / "first", **TEXT_OPTIONS, **FAST)
    (kept,) = files(cache)
    whole = kept.read_bytes()
    changes = {"cut short": whole[:-7], "emptied": b"", "changed": whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]}
    kept.write_bytes(changes.get(damage, whole.replace(b"[64,32]", b"[32,64]")))
    assert kept.read_bytes() != whole
    seen.clear()
    said = Said()
    again = finetune(table, from_=pretrained_run, out=tmp_path / "again", progress=said, **TEXT_OPTIONS, **FAST)
    assert sum(seen) == 64
    assert f"{kept} is damaged" in said
    assert_alike(first, again)
    assert kept.read_bytes() == whole


def test_a_folder_that_cannot_be_written_costs_a_line_and_not_the_run(
    table: Table, pretrained_run: Path, tmp_path: Path, cache: Path
):
    cache.write_text("a file stands where the folder would be made")
    said = Said()
    finetune(table, from_=pretrained_run, out=tmp_path / "run", progress=said, **TEXT_OPTIONS, **FAST)
    assert f"the features are not kept in {cache / 'features'}" in said


def test_a_folder_that_may_not_be_read_costs_a_line_and_not_the_run(
    table: Table, pretrained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    exists = Path.exists

    def denied(path: Path) -> bool:
        if path.suffix == ".safetensors" and path.parent.name == "features":
            raise PermissionError(13, "Permission denied", str(path))
        return exists(path)

    monkeypatch.setattr(Path, "exists", denied)
    said = Said()
    finetune(table, from_=pretrained_run, out=tmp_path / "run", progress=said, **TEXT_OPTIONS, **FAST)
    assert "cannot be read (Permission denied)" in said


def test_a_cache_in_the_home_of_nobody_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GPT1_CACHE", "~no-such-user/cache")
    with pytest.raises(UserError, match="GPT1_CACHE ~no-such-user/cache"):
        features.cache_dir()


def test_a_full_disk_leaves_nothing_half_written(
    table: Table, pretrained_run: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"the first bytes")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(features, "save_file", full)
    said = Said()
    finetune(table, from_=pretrained_run, out=tmp_path / "run", progress=said, **TEXT_OPTIONS, **FAST)
    assert "No space left on device" in said
    assert files(cache) == []


def test_no_more_is_kept_than_the_limit_and_what_was_used_last_stays(
    table: Table, pretrained_run: Path, tmp_path: Path, seen: list[int], cache: Path, monkeypatch: pytest.MonkeyPatch
):
    def run(seed: int) -> bool:
        """Whether the features had to be computed."""
        number = len(list(tmp_path.glob("run*")))
        seen.clear()
        finetune(table, from_=pretrained_run, out=tmp_path / f"run{number}", seed=seed, **TEXT_OPTIONS, **FAST)
        for age, path in enumerate(sorted(files(cache), key=lambda path: -path.stat().st_mtime)):
            os.utime(path, (path.stat().st_mtime - 10 * age,) * 2)  # clocks of disks are coarse
        return sum(seen) > 0

    assert run(0)
    size = files(cache)[0].stat().st_size
    monkeypatch.setattr(features, "MAX_CACHE_BYTES", 2.5 * size)
    abandoned = cache / "features" / ".half.1.tmp"
    abandoned.write_bytes(b"what a killed process left")
    os.utime(abandoned, (0, 0))
    assert run(1)
    assert not run(0)
    assert run(2)
    assert len(files(cache)) == 2
    assert not run(0)
    assert run(1)  # the one used least recently had gone


@pytest.mark.skipif(os.name == "nt", reason="links need a right there")
def test_a_file_that_another_process_removes_meanwhile_costs_nothing(
    table: Table, pretrained_run: Path, tmp_path: Path, cache: Path
):
    (cache / "features").mkdir(parents=True)
    for name in ("gone.safetensors", ".gone.1.tmp"):
        (cache / "features" / name).symlink_to("removed")  # listed, and no longer there when it is looked at
    said = Said()
    finetune(table, from_=pretrained_run, out=tmp_path / "run", progress=said, **TEXT_OPTIONS, **FAST)
    assert "not kept" not in said


def test_features_larger_than_the_limit_are_not_kept(
    table: Table, pretrained_run: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(features, "MAX_CACHE_BYTES", 100)
    said = Said()
    finetune(table, from_=pretrained_run, out=tmp_path / "run", progress=said, **TEXT_OPTIONS, **FAST)
    assert "the features are not kept on disk" in said
    assert files(cache) == []


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, ".cache/gpt1"),
        ("linux", {"XDG_CACHE_HOME": "elsewhere"}, "elsewhere/gpt1"),
        ("darwin", {"XDG_CACHE_HOME": "elsewhere"}, "Library/Caches/gpt1"),
        ("win32", {}, "AppData/Local/gpt1"),
        ("win32", {"LOCALAPPDATA": "local"}, "local/gpt1"),
        ("linux", {"GPT1_CACHE": "mine", "XDG_CACHE_HOME": "elsewhere"}, "mine"),
    ],
)
def test_the_cache_lies_where_the_system_keeps_caches_or_where_gpt1_cache_says(
    platform: str, variables: dict[str, str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("GPT1_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, folder in variables.items():
        monkeypatch.setenv(name, str(tmp_path / folder))
    monkeypatch.setattr(features.sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert features.cache_dir() == tmp_path / expected


# ---- states


@pytest.fixture(scope="module")
def model(pretrained_run: Path) -> TaskModel:
    gpt = GPT.from_pretrained(pretrained_run / "model")
    return TaskModel(gpt, Head(gpt.config.n_embd, 2, each=False)).eval()


sequences = st.lists(st.integers(0, 299), min_size=1, max_size=32)


@given(coded=st.lists(st.lists(sequences, min_size=1, max_size=3).map(EncodedExample), min_size=1, max_size=8))
def test_the_features_are_the_last_states_of_each_sequence_in_order(model: TaskModel, coded: list[EncodedExample]):
    found = features.extract_features(model, coded, NullProgress())
    with torch.no_grad():
        expected = [
            model.gpt.hidden_states(torch.tensor([ids]))[0, -1] for example in coded for ids in example.sequences
        ]
    torch.testing.assert_close(found.clone(), torch.stack(expected), rtol=0, atol=1e-5)


@given(
    coded=st.lists(st.lists(sequences, min_size=1, max_size=3).map(EncodedExample), min_size=1, max_size=8),
    micro_batch=st.integers(1, 4),
)
def test_a_pass_takes_no_more_than_the_micro_batch_and_the_features_stay_the_same(
    model: TaskModel, coded: list[EncodedExample], micro_batch: int
):
    passes: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        states = GPT.hidden_states

        def counted(self: GPT, ids: Tensor, kv_cache: Any = None, packing: Any = None) -> Tensor:
            passes.append(len(ids))
            return states(self, ids, kv_cache=kv_cache, packing=packing)

        patch.setattr(GPT, "hidden_states", counted)
        found = features.extract_features(model, coded, NullProgress(), micro_batch)
    one_at_least = max(example.tokens for example in coded)
    assert max(passes) <= max(one_at_least, micro_batch * max(example.max_row_tokens for example in coded))
    torch.testing.assert_close(
        found.clone(), features.extract_features(model, coded, NullProgress()).clone(), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(("rows", "advice"), [(6, "--micro-batch 3 (now 6)"), (1, "a smaller model")])
def test_out_of_memory_names_the_setting_and_the_size_to_try(
    rows: int, advice: str, model: TaskModel, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: Any) -> Tensor:
        raise MemoryError

    monkeypatch.setattr(TaskModel, "features", full)
    with pytest.raises(ResourceError, match="out of memory") as ended:
        features.extract_features(model, [EncodedExample([[1, 2, 3]])] * rows, NullProgress())
    assert advice in ended.value.fix


def test_out_of_memory_while_the_head_learns_names_no_setting_that_would_not_help(
    table: Table, pretrained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(features, "l2", full)
    with pytest.raises(ResourceError, match="out of memory") as ended:
        finetune(table, from_=pretrained_run, out=tmp_path / "run", **TEXT_OPTIONS, **FAST, cache_features=False)
    assert ended.value.fix == "Close other programs."
