"""Foreign model folders: OpenAI's and Hugging Face's give the same model as gpt1's; invalid ones are errors."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from random_gpt import random_gpt
from safetensors.torch import load_file, save_file
from workspace import edit_json

from gpt1.config import GPTConfig
from gpt1.errors import UserError
from gpt1.model.gpt import GPT
from gpt1.model.weights import tensor_shapes

CONFIG = GPTConfig(vocab_size=30, n_layer=2, n_head=2, n_embd=128, context=10)


IDS = torch.randint(0, 30, (2, 10), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> GPT:
    return random_gpt(CONFIG, noise=0.1)


def write_release(model: GPT, folder: Path, arrays: int = 10) -> None:
    """Write the format of the release from its description: positions, tokens, then per block c_attn, c_proj, ln_1,
    c_fc, c_proj, ln_2, each weight and bias, dense ones [1, in, out]; all concatenated and cut into ten arrays."""
    tensors = [model.positions.weight, model.tokens.weight]
    for block in model.blocks:
        a, m = block.attention, block.mlp
        for part in (a.qkv, a.out, block.norm_1, m.widen, m.narrow, block.norm_2):
            tensors += [part.weight.T[None] if part.weight.dim() == 2 else part.weight, part.bias]
    parts = [tensor.detach().numpy() for tensor in tensors]
    (folder / "params_shapes.json").write_text(json.dumps([part.shape for part in parts]))
    flat = np.concatenate([part.ravel() for part in parts])
    for i, piece in enumerate(np.array_split(flat, arrays)):
        np.save(folder / f"params_{i}.npy", piece)


def test_the_format_of_the_release_gives_the_same_logits(model: GPT, tmp_path: Path):
    write_release(model, tmp_path)
    again = GPT.from_pretrained(tmp_path)
    assert again.config == CONFIG
    assert torch.equal(again(IDS), model(IDS))


def test_more_than_ten_arrays_keep_their_order(model: GPT, tmp_path: Path):
    write_release(model, tmp_path, arrays=12)
    assert torch.equal(GPT.from_pretrained(tmp_path)(IDS), model(IDS))


def test_the_shapes_in_the_release_are_those_of_the_papers_model(shared_data: Path):
    shapes = json.loads((shared_data / "openai" / "params_shapes.json").read_text())
    ours = [
        shape[::-1] if len(shape) == 2 and "blocks" in name else shape
        for name, shape in tensor_shapes(GPTConfig()).items()
    ]
    assert sorted(tuple(shape[-2:]) for shape in shapes) == sorted(map(tuple, ours))
    assert sum(int(np.prod(shape)) for shape in shapes) == GPTConfig().n_parameters


def test_a_missing_array_is_an_error_with_the_counts(model: GPT, tmp_path: Path):
    write_release(model, tmp_path)
    (tmp_path / "params_9.npy").unlink()
    with pytest.raises(UserError) as refused:
        GPT.from_pretrained(tmp_path)
    assert f"requires {CONFIG.n_parameters:,}" in refused.value.problem
    assert "found 9" in refused.value.fix


def test_arrays_without_their_shapes_are_an_error(model: GPT, tmp_path: Path):
    write_release(model, tmp_path)
    (tmp_path / "params_shapes.json").unlink()
    with pytest.raises(UserError, match=r"no params_shapes.json"):
        GPT.from_pretrained(tmp_path)


class Trap:
    """Unpickling this creates a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_inside_an_array_is_an_error_and_not_loaded(model: GPT, tmp_path: Path):
    write_release(model, tmp_path)
    np.save(tmp_path / "params_3.npy", np.array([Trap(tmp_path / "sprung")], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"params_3.npy"):
        GPT.from_pretrained(tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_a_pickle_beside_a_config_is_an_error_and_not_loaded(tmp_path: Path):
    config = {"model_type": "openai-gpt", "vocab_size": 30, "n_layer": 1, "n_head": 1, "n_embd": 8, "n_positions": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(UserError, match="pickle, which can run code"):
        GPT.from_pretrained(tmp_path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [b"no array", b"", b"PK\x03\x04 no archive"])
def test_a_damaged_array_is_an_error_that_names_it(model: GPT, tmp_path: Path, content: bytes):
    write_release(model, tmp_path)
    (tmp_path / "params_2.npy").write_bytes(content)
    with pytest.raises(UserError, match=r"params_2.npy"):
        GPT.from_pretrained(tmp_path)


@pytest.mark.parametrize("array", [np.array(["0.1"]), np.array([1j]), {"a": np.ones(1)}])
def test_an_array_that_is_not_numeric_is_an_error_that_names_it(model: GPT, tmp_path: Path, array: Any):
    write_release(model, tmp_path)
    with (tmp_path / "params_2.npy").open("wb") as file:
        np.savez(file, **array) if isinstance(array, dict) else np.save(file, array)
    with pytest.raises(UserError, match=r"params_2.npy is not an array of numbers"):
        GPT.from_pretrained(tmp_path)


def test_other_files_beside_the_arrays_do_not_matter(model: GPT, tmp_path: Path):
    write_release(model, tmp_path)
    for name in ("params_.npy", "params_extra.npy", "params_1 (1).npy"):
        np.save(tmp_path / name, np.ones(3))
    assert torch.equal(GPT.from_pretrained(tmp_path)(IDS), model(IDS))


@pytest.mark.parametrize(
    "content", ["{}", "[]", "[[10, 128]]", '[["a", "b"]]', "[5]", "[[-1, 128]]", "[[10.0, 128.0]]", "\ufeff[]"]
)
def test_a_damaged_list_of_shapes_is_an_error_that_names_it(model: GPT, tmp_path: Path, content: str):
    write_release(model, tmp_path)
    (tmp_path / "params_shapes.json").write_text(content, encoding="utf-8")
    with pytest.raises(
        UserError, match=r"params_shapes.json (is not the list of shapes of the release|cannot be read as JSON)"
    ):
        GPT.from_pretrained(tmp_path)


@pytest.mark.parametrize("extra", [["a", 2], [None, 3], None])
def test_a_list_of_shapes_with_an_invalid_one_is_an_error_that_names_it(model: GPT, tmp_path: Path, extra: Any):
    write_release(model, tmp_path)
    path = tmp_path / "params_shapes.json"
    path.write_text(json.dumps([*json.loads(path.read_text()), extra]))
    with pytest.raises(UserError, match=r"params_shapes.json is not the list of shapes of the release"):
        GPT.from_pretrained(tmp_path)


def test_a_truncated_list_of_shapes_is_an_error_that_names_it(model: GPT, tmp_path: Path):
    write_release(model, tmp_path)
    (tmp_path / "params_shapes.json").write_text("[[1,")
    with pytest.raises(UserError, match=r"params_shapes.json cannot be read as JSON: line 1"):
        GPT.from_pretrained(tmp_path)


def test_a_release_with_an_unknown_number_of_heads_is_an_error(tmp_path: Path):
    write_release(GPT(GPTConfig(vocab_size=30, n_layer=1, n_head=1, n_embd=96, context=10)), tmp_path)
    with pytest.raises(UserError, match="width 96 is not a multiple of 64"):
        GPT.from_pretrained(tmp_path)


def test_the_shape_of_a_hugging_face_folder_is_read_from_its_config(huggingface: Path):
    assert GPT.from_pretrained(huggingface).config == GPTConfig(30, 2, 2, 16, 10, dropout=0.1)


def test_a_missing_tensor_of_a_hugging_face_folder_is_named(huggingface: Path):
    tensors = load_file(huggingface / "model.safetensors")
    name = next(name for name in tensors if name.endswith("h.1.mlp.c_fc.bias"))
    del tensors[name]
    save_file(tensors, huggingface / "model.safetensors")
    with pytest.raises(UserError, match=r"h.1.mlp.c_fc.bias"):
        GPT.from_pretrained(huggingface)


def test_another_activation_is_an_error(huggingface: Path):
    edit_json(huggingface / "config.json", afn="relu")
    with pytest.raises(UserError, match="activation 'relu'"):
        GPT.from_pretrained(huggingface)


def test_another_layer_norm_epsilon_is_an_error(huggingface: Path):
    edit_json(huggingface / "config.json", layer_norm_epsilon=1e-3)
    with pytest.raises(UserError, match=r"layer_norm_epsilon 0.001; GPT-1 uses 1e-05"):
        GPT.from_pretrained(huggingface)


def test_more_blocks_than_in_the_config_are_an_error(huggingface: Path):
    edit_json(huggingface / "config.json", n_layer=1)
    with pytest.raises(UserError, match=r"more blocks than the 1 of config.json"):
        GPT.from_pretrained(huggingface)


def test_an_untied_output_matrix_is_an_error_and_a_copy_of_the_embedding_is_not(huggingface: Path):
    path = huggingface / "model.safetensors"
    tensors = load_file(path)
    (embedding,) = (tensor for name, tensor in tensors.items() if name.endswith("tokens_embed.weight"))
    save_file({**tensors, "lm_head.weight": embedding.clone()}, path)
    assert GPT.from_pretrained(huggingface).config.vocab_size == 30
    save_file({**tensors, "lm_head.weight": embedding + 1}, path)
    with pytest.raises(UserError, match=r"lm_head.weight differs from the token embedding"):
        GPT.from_pretrained(huggingface)


@pytest.mark.parametrize("value", [None, "two", 0, 1.5, [2]])
def test_an_invalid_dimension_is_an_error_that_names_its_file(huggingface: Path, value: Any):
    edit_json(huggingface / "config.json", n_layer=value)
    with pytest.raises(UserError, match=r"config.json was changed or damaged: n_layer"):
        GPT.from_pretrained(huggingface)


def test_a_missing_dimension_is_an_error_that_names_it(huggingface: Path):
    config = json.loads((huggingface / "config.json").read_text())
    del config["n_embd"]
    (huggingface / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="n_embd"):
        GPT.from_pretrained(huggingface)


def test_stored_causal_masks_are_not_weights_whatever_their_type(huggingface: Path):
    tensors = load_file(huggingface / "model.safetensors")
    expected = GPT.from_pretrained(huggingface)(IDS)
    for mask in (torch.ones(1, 1, 10, 10).tril(), torch.ones(1, 1, 10, 10, dtype=torch.bool).tril()):
        masks = {f"h.{layer}.attn.bias": mask.clone() for layer in range(2)}
        save_file({**tensors, **masks}, huggingface / "model.safetensors")
        assert torch.equal(GPT.from_pretrained(huggingface)(IDS), expected)


def test_a_tensor_that_is_not_used_is_named(huggingface: Path, capsys: pytest.CaptureFixture[str]):
    tensors = load_file(huggingface / "model.safetensors")
    extra = {"multiple_choice_head.summary.weight": torch.ones(1, 128), "adapter.down": torch.ones(3)}
    save_file({**tensors, **extra}, huggingface / "model.safetensors")
    GPT.from_pretrained(huggingface)
    message = capsys.readouterr().err
    assert "not used" in message
    assert "adapter.down, multiple_choice_head.summary.weight" in message
