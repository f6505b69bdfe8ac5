"""Model folders: OpenAI's, Hugging Face's and gpt1's give the same model; invalid ones are errors."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from random_gpt import random_gpt
from safetensors.torch import load_file, save_file
from workspace import edit_json

from gpt1.config import GPTConfig
from gpt1.errors import UserError
from gpt1.files.manifest import write_manifest
from gpt1.model.gpt import GPT
from gpt1.model.head import Head
from gpt1.model.weights import MODEL_FILES, fingerprint_weights, read_head

CONFIG = GPTConfig(vocab_size=30, n_layer=2, n_head=2, n_embd=128, context=10)
IDS = torch.randint(0, 30, (2, 10), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> GPT:
    return random_gpt(CONFIG, noise=0.1)


# ---- gpt1


def test_a_fine_tuned_model_is_saved_with_its_special_tokens_and_head(model: GPT, tmp_path: Path):
    model.add_special_tokens()
    head = Head(128, 3, each=False)
    model.save(tmp_path, head)
    again = GPT.from_pretrained(tmp_path)
    assert again.config.special_tokens == 3
    assert torch.equal(again(IDS), model(IDS))
    stored = read_head(tmp_path)
    assert {name: tensor.tolist() for name, tensor in stored.items()} == {
        name: tensor.tolist() for name, tensor in head.state_dict().items()
    }


def test_a_tensor_with_a_wrong_shape_is_an_error_that_names_it(model: GPT, tmp_path: Path):
    model.save(tmp_path)
    edit_json(tmp_path / "config.json", context=12)
    with pytest.raises(
        UserError, match=r"positions.weight has shape \(10, 128\), but config.json requires \(12, 128\)"
    ):
        GPT.from_pretrained(tmp_path)


def test_an_extra_or_missing_tensor_is_an_error_that_names_it(model: GPT, tmp_path: Path):
    model.save(tmp_path)
    edit_json(tmp_path / "config.json", n_layer=1)
    with pytest.raises(UserError, match=r"tensor blocks.1"):
        GPT.from_pretrained(tmp_path)
    edit_json(tmp_path / "config.json", n_layer=3)
    with pytest.raises(UserError, match=r"tensor blocks.2"):
        GPT.from_pretrained(tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 1000, -7])
def test_truncated_weights_are_an_error_that_names_the_file(model: GPT, tmp_path: Path, keep: int):
    model.save(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"model.safetensors cannot be read"):
        GPT.from_pretrained(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[1]", "\x00"])
def test_a_damaged_config_is_an_error_that_names_it(tmp_path: Path, content: str):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config.json"):
        GPT.from_pretrained(tmp_path)


def test_an_unsupported_model_is_an_error(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match=r"an unsupported model \(bert\)"):
        GPT.from_pretrained(tmp_path)


def test_a_run_folder_is_an_error_that_suggests_its_model(model: GPT, tmp_path: Path):
    model.save(tmp_path / "model")
    with pytest.raises(UserError, match="is not a model folder") as refused:
        GPT.from_pretrained(tmp_path)
    assert refused.value.fix == f"Did you mean {tmp_path / 'model'}?"


def test_a_missing_folder_and_missing_weights_are_errors(model: GPT, tmp_path: Path):
    with pytest.raises(UserError, match="nowhere does not exist"):
        GPT.from_pretrained(tmp_path / "nowhere")
    model.save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model.safetensors does not exist"):
        GPT.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("dtype", "name"), [(torch.int8, "I8"), (torch.bool, "BOOL"), (torch.complex64, "C64"), (torch.int64, "I64")]
)
def test_weights_that_are_not_floating_point_are_an_error_with_name_and_type(
    model: GPT, tmp_path: Path, dtype: torch.dtype, name: str
):
    model.save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["tokens.weight"] = weights["tokens.weight"].to(dtype)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=f"tensor tokens.weight has the type {name}, which is not floating point"):
        GPT.from_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floating_point_weights_of_any_width_load_as_float32(model: GPT, tmp_path: Path, dtype: torch.dtype):
    model.save(tmp_path)
    weights = {name: w.to(dtype) for name, w in load_file(tmp_path / "model.safetensors").items()}
    save_file(weights, tmp_path / "model.safetensors")
    again = GPT.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(again[name], weight.float()) for name, weight in weights.items())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_an_error_that_names_them(model: GPT, tmp_path: Path, value: float):
    model.save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["blocks.1.mlp.widen.bias"][3] = value
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"model.safetensors: tensor blocks.1.mlp.widen.bias contains NaN or infinity"):
        GPT.from_pretrained(tmp_path)


def test_large_finite_weights_whose_sum_overflows_load(model: GPT, tmp_path: Path):
    model.save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["tokens.weight"].fill_(3e38)
    save_file(weights, tmp_path / "model.safetensors")
    assert GPT.from_pretrained(tmp_path).tokens.weight.max() == torch.tensor(3e38)


@pytest.mark.skipif(os.name != "posix", reason="Windows has no umask")
def test_weight_files_have_the_mode_of_other_files(model: GPT, tmp_path: Path):
    before = os.umask(0o027)
    try:
        model.save(tmp_path)
    finally:
        os.umask(before)
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "config.json": 0o640,
        "model.safetensors": 0o640,
    }


# ---- weights in several files


def write_shards(folder: Path) -> dict[str, str]:
    """Replace model.safetensors by two files and their index, as Hugging Face does for large models."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    files = {name: f"model-0000{1 + (i >= len(names) // 2)}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in names if files[name] == file}, folder / file)
    (folder / "model.safetensors").unlink()
    write_index(folder, files)
    return files


def write_index(folder: Path, weight_map: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_weights_in_several_files_are_the_same_model_in_both_formats(model: GPT, huggingface: Path, tmp_path: Path):
    model.save(tmp_path / "ours")
    for folder in (tmp_path / "ours", huggingface):
        whole = GPT.from_pretrained(folder)(IDS)
        write_shards(folder)
        assert torch.equal(GPT.from_pretrained(folder)(IDS), whole)


def test_the_fingerprint_of_weights_depends_on_every_file(model: GPT, tmp_path: Path):
    model.save(tmp_path)
    seen = {fingerprint_weights(tmp_path)}
    files = write_shards(tmp_path)
    seen.add(fingerprint_weights(tmp_path))
    for file in sorted(set(files.values())):
        tensors = load_file(tmp_path / file)
        save_file({name: tensor + 1 for name, tensor in tensors.items()}, tmp_path / file)
        seen.add(fingerprint_weights(tmp_path))
    assert len(seen) == 4


@pytest.mark.parametrize(
    ("change_index", "problem"),
    [
        (lambda files: {**files, "tokens.weight": "../secret.safetensors"}, "a file that is not inside its folder"),
        (lambda files: {**files, "tokens.weight": "/etc/secret.safetensors"}, "a file that is not inside its folder"),
        (lambda files: {**files, "tokens.weight": "config.json"}, "is not the name of a .safetensors file"),
        (lambda files: {**files, "tokens.weight": 3}, "a file that is not inside its folder"),
        (lambda files: {**files, "tokens.weight": files["blocks.0.norm_1.bias"]}, "do not agree about the tensor"),
        (lambda files: {name: f for name, f in files.items() if "norm" not in name}, "do not agree about the tensor"),
        (lambda files: {**files, "tokens.weight": "model-00003-of-00003.safetensors"}, "do not agree|does not exist"),
        (lambda files: {}, "'weight_map' is empty"),
        (lambda files: [], "'weight_map' must be an object"),
    ],
)
def test_an_index_that_does_not_describe_its_files_is_an_error(
    change_index: Any, problem: str, model: GPT, tmp_path: Path
):
    model.save(tmp_path)
    write_index(tmp_path, change_index(write_shards(tmp_path)))
    with pytest.raises(UserError, match=problem):
        GPT.from_pretrained(tmp_path)


def test_a_manifest_covers_the_index_and_every_file_that_it_names(model: GPT, tmp_path: Path):
    model.save(tmp_path)
    files = write_shards(tmp_path)
    listed = ["config.json", "model.safetensors.index.json", *set(files.values())]
    for missing in listed[1:]:
        write_manifest(tmp_path, MODEL_FILES, [name for name in listed if name != missing])
        with pytest.raises(UserError, match=f"{missing} is not in the folder's manifest.json"):
            GPT.from_pretrained(tmp_path)
    write_manifest(tmp_path, MODEL_FILES, listed)
    assert torch.equal(GPT.from_pretrained(tmp_path)(IDS), model(IDS))
