"""Model and run folders: every file is checked against the manifest, and task.json is validated."""

from __future__ import annotations

import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gpt1.corpus.corpus import Corpus
from gpt1.errors import UserError
from gpt1.inference.convert import export_model
from gpt1.inference.evaluate import evaluate, predict
from gpt1.inference.predictor import TaskPredictor, load, load_model_and_tokenizer, load_task_predictor
from gpt1.inference.task import read_task
from gpt1.inspect import inspect
from gpt1.model.gpt import GPT
from gpt1.runs import folder as runs

FLIPS = 12
"""Bits of each file, sampled with a fixed seed."""


@pytest.fixture
def model(workspace: Path, tmp_path: Path) -> Path:
    """A copy of a fine-tuned model folder."""
    return Path(shutil.copytree(workspace / "runs/reviews/model", tmp_path / "model"))


@pytest.fixture
def run(workspace: Path, tmp_path: Path) -> Path:
    """A copy of a finished fine-tuning run."""
    return Path(shutil.copytree(workspace / "runs/reviews", tmp_path / "run"))


def flip_bit(path: Path, number: int) -> None:
    """Flip bit `number` of a file; a second call restores it."""
    data = bytearray(path.read_bytes())
    data[number // 8] ^= 1 << number % 8
    path.write_bytes(data)


def sample_bits(path: Path) -> list[int]:
    generator = random.Random(path.name)
    return [generator.randrange(path.stat().st_size * 8) for _ in range(FLIPS)]


def test_a_flipped_bit_in_a_model_is_an_error_that_names_the_file(model: Path):
    files = sorted(model.iterdir())
    assert {"config.json", "model.safetensors", "task.json", "vocab.json", "manifest.json"} <= {p.name for p in files}
    for path in files:
        for number in sample_bits(path):
            flip_bit(path, number)
            with pytest.raises(UserError) as refused:
                load(model)
            assert path.name in refused.value.problem
            flip_bit(path, number)
    load(model)


def test_a_flipped_bit_in_a_finished_run_is_an_error_of_every_use(run: Path, workspace: Path):
    manifest = json.loads((run / "manifest.json").read_text())
    assert sorted(manifest["files"]) == ["config.yaml", "metrics.jsonl", "predictions.jsonl", "results.json"]
    uses: list[Any] = [
        lambda: load(run),
        lambda: inspect(run),
        lambda: runs.open_for_resume(run, runs.FinetuneConfig, {}, {}),
        lambda: runs.read_results(run),
    ]
    for name in (*manifest["files"], "manifest.json"):
        for number in sample_bits(run / name):
            flip_bit(run / name, number)
            for use in uses:
                with pytest.raises(UserError) as refused:
                    use()
                assert name in refused.value.problem
            flip_bit(run / name, number)
    load(run)
    inspect(run)


def test_settings_edited_after_the_run_are_an_error_with_fixes(run: Path):
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("seed: 0", "seed: 1"))
    with pytest.raises(UserError, match=r"config\.yaml does not match its manifest") as refused:
        load(run)
    assert "start a new run: --config FILE --out NEW" in refused.value.fix
    assert f"delete {run / 'manifest.json'}" in refused.value.fix
    (run / "manifest.json").unlink()
    load(run)


def test_missing_and_added_files_are_errors_that_name_them(model: Path):
    (model / "merges.txt").rename(model / "elsewhere")
    with pytest.raises(UserError, match=r"merges\.txt is missing"):
        load(model)
    (model / "elsewhere").rename(model / "merges.txt")
    (model / "README.md").write_text("a file that gpt1 does not read")
    load(model)
    (model / "encoder_bpe_40000.json").write_text("{}")
    with pytest.raises(UserError, match=r"encoder_bpe_40000\.json is not in the folder's manifest\.json"):
        load(model)


def test_a_task_json_added_to_a_pretrained_model_is_an_error(workspace: Path, tmp_path: Path):
    model = Path(shutil.copytree(workspace / "runs/books/model", tmp_path / "model"))
    shutil.copy(workspace / "runs/reviews/model/task.json", model)
    for use in (load, GPT.from_pretrained, load_model_and_tokenizer, inspect):
        with pytest.raises(UserError, match=r"task\.json is not in the folder's manifest\.json"):
            use(model)


def test_a_folder_loads_without_a_manifest_and_a_changed_one_with_no_verify(model: Path, run_cli: Any, workspace: Path):
    task = json.loads((model / "task.json").read_text())
    (model / "task.json").write_text(json.dumps({**task, "temperature": 2.0}))
    new = str(workspace / "new.csv")
    refused = run_cli("predict", str(model), new)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "task.json has" in refused.stderr
    assert f"delete {model}/manifest.json" in refused.stderr
    assert run_cli("predict", str(model), new, "--no-verify").exit_code == 0
    assert isinstance(load(model, verify=False), TaskPredictor)
    (model / "manifest.json").unlink()
    assert load_task_predictor(model).temperature == 2


def test_saving_over_a_model_removes_the_old_manifest(model: Path):
    gpt, _ = load_model_and_tokenizer(model)
    gpt.save(model)
    assert not (model / "manifest.json").exists()


def test_weights_that_are_not_finite_are_an_error_of_every_use(workspace: Path, tmp_path: Path):
    model = Path(shutil.copytree(workspace / "runs/books/model", tmp_path / "model"))
    weights = load_file(model / "model.safetensors")
    weights["blocks.0.mlp.widen.weight"][1, 2] = math.nan
    save_file(weights, model / "model.safetensors")
    (model / "manifest.json").unlink()
    uses = [
        lambda: load(model),
        lambda: evaluate(model, workspace / "corpus"),
        lambda: export_model("huggingface", model, tmp_path / "out"),
        lambda: predict(model, workspace / "new.csv"),
    ]
    for use in uses:
        with pytest.raises(UserError, match=r"model\.safetensors: tensor blocks.0.mlp.widen.weight contains NaN"):
            use()
    assert not (tmp_path / "out").exists()


def test_a_head_that_is_not_finite_is_an_error(model: Path):
    weights = load_file(model / "model.safetensors")
    weights["head.linear.bias"] = torch.full_like(weights["head.linear.bias"], math.inf)
    save_file(weights, model / "model.safetensors")
    with pytest.raises(UserError, match=r"tensor head.linear.bias contains NaN or infinity"):
        load(model, verify=False)


def test_an_exported_model_is_verified(workspace: Path, tmp_path: Path):
    out = export_model("huggingface", workspace / "runs/books", tmp_path / "out")
    GPT.from_pretrained(out)
    flip_bit(out / "model.safetensors", out.joinpath("model.safetensors").stat().st_size * 8 - 1)
    with pytest.raises(UserError, match=r"model\.safetensors does not match its manifest"):
        GPT.from_pretrained(out)


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        *(("temperature", value, "'temperature' must be a number from") for value in (0, -1, 1e-9, 1e30, "1", True)),
        ("temperature", math.nan, "NaN is not a number in JSON"),
        ("temperature", math.inf, "Infinity is not a number in JSON"),
        ("kind", "poetry", "'kind' must be one of"),
        ("kind", ["classification"], "'kind' must be one of"),
        ("kind", "regression", "its target does not belong to regression"),
        ("kind", "entailment", "'columns' names 'text', which entailment does not have"),
        ("cut", "middle", "'cut' must be one of longest, shares"),
        ("long", 7, "'long' must be one of cut, head-tail, windows"),
        ("format", "gpt1-task-9", "'format' must be one of gpt1-task-1"),
        ("columns", [], "'columns' must be an object"),
        ("columns", {"label": "label"}, "'columns' has no 'text'"),
        ("columns", {"text": 7}, "'text' must be a text"),
        ("target", None, "'target' must be an object"),
        ("target", {"name": "classes", "labels": ["a", "a"]}, "its labels must be different texts"),
        *((key, ..., f"'{key}' is missing") for key in ("kind", "columns", "target")),
    ],
)
def test_an_invalid_task_json_is_an_error_that_names_the_file(model: Path, key: str, value: Any, problem: str):
    task = json.loads((model / "task.json").read_text()) | {key: value}
    (model / "task.json").write_text(json.dumps({key: value for key, value in task.items() if value is not ...}))
    with pytest.raises(UserError) as refused:
        load(model, verify=False)
    assert str(model / "task.json") in refused.value.problem
    assert problem in refused.value.problem


def test_missing_optional_keys_of_task_json_have_defaults(model: Path):
    task = json.loads((model / "task.json").read_text())
    for key in ("cut", "long", "temperature", "train", "format"):
        del task[key]
    (model / "task.json").write_text(json.dumps(task))
    assert read_task(model / "task.json")[1].outputs == 2
    assert load_task_predictor(model, verify=False).temperature == 1


def test_a_model_folder_is_not_a_corpus(workspace: Path):
    with pytest.raises(UserError, match="is not a corpus folder"):
        Corpus.open(workspace / "runs/books/model")
