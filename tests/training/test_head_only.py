"""Head-only training: the backbone runs once over the rows, and the cached features are valid and bounded in size."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finetune_helpers import FAST_SETTINGS as ANY
from finetune_helpers import TEXT_OPTIONS, copy_until_checkpoint, read_metrics, read_results
from hypothesis import given
from hypothesis import strategies as st
from logged_lines import LoggedLines
from torch import Tensor

from gpt1.errors import ResourceError, UserError
from gpt1.model import weights
from gpt1.model.gpt import GPT
from gpt1.model.head import Head, TaskModel
from gpt1.model.weights import read_safetensors
from gpt1.progress import Progress
from gpt1.tables.table import Table
from gpt1.tasks.kinds import EncodedExample
from gpt1.training import head_only as features
from gpt1.training.finetune import finetune

pytestmark = pytest.mark.usefixtures("no_reports")

FAST = {**ANY, "train": "head", "epochs": 2}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPT1_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def sequence_counts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Number of sequences in each call of the backbone."""
    calls: list[int] = []
    states = GPT.hidden_states

    def count_sequences(self: GPT, ids: Tensor, kv_cache: Any = None, packing: Any = None) -> Tensor:
        calls.append(len(packing.lengths) if packing else len(ids))
        return states(self, ids, kv_cache=kv_cache, packing=packing)

    monkeypatch.setattr(GPT, "hidden_states", count_sequences)
    return calls


def list_cached_files(cache: Path) -> list[Path]:
    return sorted((cache / "features").iterdir()) if (cache / "features").exists() else []


def assert_alike(run: Path, other: Path) -> None:
    """The same weights bit for bit, and the same metrics."""
    found, expected = (read_safetensors(r / "model" / "model.safetensors") for r in (run, other))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert read_metrics(run) == read_metrics(other)
    assert read_results(run) == read_results(other)


# ---- runs


def test_the_backbone_runs_once_over_each_example_for_any_number_of_epochs(
    table: Table, pretrained_run: Path, tmp_path: Path, sequence_counts: list[int]
):
    for epochs in (1, 10):
        sequence_counts.clear()
        given = {**TEXT_OPTIONS, **FAST, "epochs": epochs, "cache_features": False}
        finetune(table, from_=pretrained_run, out=tmp_path / str(epochs), **given)
        assert sum(sequence_counts) == 64


def test_a_second_run_on_the_same_rows_loads_the_features_and_prints_it(
    table: Table, pretrained_run: Path, tmp_path: Path, sequence_counts: list[int], cache: Path
):
    finetune(table, from_=pretrained_run, out=tmp_path / "first", **TEXT_OPTIONS, **FAST)
    (kept,) = list_cached_files(cache)
    sequence_counts.clear()
    messages = LoggedLines()
    other = {**TEXT_OPTIONS, **FAST, "peak_lr": 0.1, "epochs": 3, "head_dropout": 0.0, "dropout": 0.3}
    finetune(table, from_=pretrained_run, out=tmp_path / "second", progress=messages, **other)
    assert sequence_counts == []
    assert f"features of 64 examples loaded from {kept.parent}" in messages
    assert list_cached_files(cache) == [kept]


@pytest.mark.parametrize("kind", ["similarity", "choice"])
def test_cached_features_give_the_same_bits_metrics_and_results_as_computed_ones(
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


def test_a_killed_run_resumes_without_the_backbone_to_the_same_bits(
    table: Table, pretrained_run: Path, tmp_path: Path, sequence_counts: list[int]
):
    settings = {**TEXT_OPTIONS, **FAST, "head_dropout": 0.2, "checkpoint_every": 1, "keep": 99}
    whole = finetune(table, from_=pretrained_run, out=tmp_path / "whole", **settings)
    run = copy_until_checkpoint(3, whole, tmp_path / "run")
    sequence_counts.clear()
    finetune(table, from_=pretrained_run, out=run, resume=True, baselines=False, **TEXT_OPTIONS)
    assert sequence_counts == []
    assert_alike(run, whole)


def test_everything_that_affects_the_features_is_in_the_cache_key(
    table: Table, pretrained_run: Path, tmp_path: Path, sequence_counts: list[int], cache: Path
):
    """Each of these runs needs other features."""
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
        sequence_counts.clear()
        pairs = {"kind": "entailment", "premise": "text", "hypothesis": "other"}
        finetune(rows, from_=start, out=tmp_path / str(number), **pairs, **FAST | settings)
        assert sum(sequence_counts) == 64, settings
        assert len(list_cached_files(cache)) == number


# ---- files


@pytest.mark.parametrize("damage", ["cut short", "emptied", "changed", "of another shape"])
def test_a_damaged_file_is_reported_and_its_features_computed_again(
    damage: str, table: Table, pretrained_run: Path, tmp_path: Path, sequence_counts: list[int], cache: Path
):
    first = finetune(table, from_=pretrained_run, out=tmp_path / "first", **TEXT_OPTIONS, **FAST)
    (kept,) = list_cached_files(cache)
    whole = kept.read_bytes()
    changes = {"cut short": whole[:-7], "emptied": b"", "changed": whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]}
    kept.write_bytes(changes.get(damage, whole.replace(b"[64,32]", b"[32,64]")))
    assert kept.read_bytes() != whole
    sequence_counts.clear()
    messages = LoggedLines()
    again = finetune(table, from_=pretrained_run, out=tmp_path / "again", progress=messages, **TEXT_OPTIONS, **FAST)
    assert sum(sequence_counts) == 64
    assert f"{kept} is damaged" in messages
    assert_alike(first, again)
    assert kept.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_a_message_and_not_an_error(
    table: Table, pretrained_run: Path, tmp_path: Path, cache: Path
):
    cache.write_text("a file stands where the folder would be made")
    messages = LoggedLines()
    finetune(table, from_=pretrained_run, out=tmp_path / "run", progress=messages, **TEXT_OPTIONS, **FAST)
    assert f"the features cannot be cached in {cache / 'features'}" in messages


def test_a_cache_that_cannot_be_read_is_a_message_and_not_an_error(
    table: Table, pretrained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    exists = Path.exists

    def deny_features(path: Path) -> bool:
        if path.suffix == ".safetensors" and path.parent.name == "features":
            raise PermissionError(13, "Permission denied", str(path))
        return exists(path)

    monkeypatch.setattr(Path, "exists", deny_features)
    messages = LoggedLines()
    finetune(table, from_=pretrained_run, out=tmp_path / "run", progress=messages, **TEXT_OPTIONS, **FAST)
    assert "cannot be read (Permission denied)" in messages


def test_a_cache_in_the_home_of_an_unknown_user_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GPT1_CACHE", "~no-such-user/cache")
    with pytest.raises(UserError, match="GPT1_CACHE ~no-such-user/cache"):
        features.cache_dir()


def test_a_full_disk_leaves_no_partial_file(
    table: Table, pretrained_run: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"the first bytes")
        raise OSError(28, "No space left on device")

    write = weights.save_file
    monkeypatch.setattr(weights, "save_file", lambda *args: (full if "states" in args[0] else write)(*args))
    messages = LoggedLines()
    finetune(table, from_=pretrained_run, out=tmp_path / "run", progress=messages, **TEXT_OPTIONS, **FAST)
    assert "the disk is full" in messages
    assert list_cached_files(cache) == []


def test_the_cache_keeps_the_last_used_files_within_its_limit(
    table: Table,
    pretrained_run: Path,
    tmp_path: Path,
    sequence_counts: list[int],
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    def run(seed: int) -> bool:
        """Whether the features had to be computed."""
        number = len(list(tmp_path.glob("run*")))
        sequence_counts.clear()
        finetune(table, from_=pretrained_run, out=tmp_path / f"run{number}", seed=seed, **TEXT_OPTIONS, **FAST)
        for age, path in enumerate(sorted(list_cached_files(cache), key=lambda path: -path.stat().st_mtime)):
            os.utime(path, (path.stat().st_mtime - 10 * age,) * 2)  # clocks of disks are coarse
        return sum(sequence_counts) > 0

    assert run(0)
    size = list_cached_files(cache)[0].stat().st_size
    monkeypatch.setattr(features, "MAX_CACHE_BYTES", 2.5 * size)
    abandoned = cache / "features" / ".half.1.tmp"
    abandoned.write_bytes(b"what a killed process left")
    os.utime(abandoned, (0, 0))
    assert run(1)
    assert not run(0)
    assert run(2)
    assert len(list_cached_files(cache)) == 2
    assert not run(0)
    assert run(1)  # the least recently used one was deleted


@pytest.mark.skipif(os.name == "nt", reason="links need a right there")
def test_a_file_that_another_process_deletes_is_not_an_error(
    table: Table, pretrained_run: Path, tmp_path: Path, cache: Path
):
    (cache / "features").mkdir(parents=True)
    for name in ("gone.safetensors", ".gone.1.tmp"):
        (cache / "features" / name).symlink_to("removed")  # listed, and no longer there when it is looked at
    messages = LoggedLines()
    finetune(table, from_=pretrained_run, out=tmp_path / "run", progress=messages, **TEXT_OPTIONS, **FAST)
    assert "cached" not in messages


def test_features_larger_than_the_limit_are_not_cached(
    table: Table, pretrained_run: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(features, "MAX_CACHE_BYTES", 100)
    messages = LoggedLines()
    finetune(table, from_=pretrained_run, out=tmp_path / "run", progress=messages, **TEXT_OPTIONS, **FAST)
    assert "the features are not cached" in messages
    assert list_cached_files(cache) == []


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
def test_the_cache_is_in_the_systems_cache_folder_or_gpt1_cache(
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
def test_features_are_the_last_hidden_states_of_each_sequence_in_order(model: TaskModel, coded: list[EncodedExample]):
    found = features.extract_features(model, coded, Progress())
    with torch.no_grad():
        expected = [
            model.gpt.hidden_states(torch.tensor([ids]))[0, -1] for example in coded for ids in example.sequences
        ]
    torch.testing.assert_close(found.clone(), torch.stack(expected), rtol=0, atol=1e-5)


@given(
    coded=st.lists(st.lists(sequences, min_size=1, max_size=3).map(EncodedExample), min_size=1, max_size=8),
    micro_batch=st.integers(1, 4),
)
def test_micro_batch_limits_a_pass_and_does_not_change_the_features(
    model: TaskModel, coded: list[EncodedExample], micro_batch: int
):
    passes: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        states = GPT.hidden_states

        def count_sequences(self: GPT, ids: Tensor, kv_cache: Any = None, packing: Any = None) -> Tensor:
            passes.append(len(ids))
            return states(self, ids, kv_cache=kv_cache, packing=packing)

        patch.setattr(GPT, "hidden_states", count_sequences)
        found = features.extract_features(model, coded, Progress(), micro_batch)
    largest_example = max(example.tokens for example in coded)
    assert max(passes) <= max(largest_example, micro_batch * max(example.max_row_tokens for example in coded))
    torch.testing.assert_close(
        found.clone(), features.extract_features(model, coded, Progress()).clone(), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(("rows", "advice"), [(6, "--micro-batch 3 (now 6)"), (1, "a smaller model")])
def test_out_of_memory_suggests_a_setting_and_a_value(
    rows: int, advice: str, model: TaskModel, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: Any) -> Tensor:
        raise MemoryError

    monkeypatch.setattr(TaskModel, "features", full)
    with pytest.raises(ResourceError, match="out of memory") as ended:
        features.extract_features(model, [EncodedExample([[1, 2, 3]])] * rows, Progress())
    assert advice in ended.value.fix


def test_out_of_memory_while_the_head_trains_suggests_no_useless_setting(
    table: Table, pretrained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(features, "l2", full)
    with pytest.raises(ResourceError, match="out of memory") as ended:
        finetune(table, from_=pretrained_run, out=tmp_path / "run", **TEXT_OPTIONS, **FAST, cache_features=False)
    assert ended.value.fix == "Close other programs."
