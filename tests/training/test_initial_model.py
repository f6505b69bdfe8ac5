"""The settings that a run inherits from the model that it continues."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpt1.config import PretrainConfig
from gpt1.errors import UserError
from gpt1.inference.task import save_model
from gpt1.model.gpt import GPT
from gpt1.recipes import MODEL_SIZES, peak_lr_of_width
from gpt1.runs.folder import resolve_settings
from gpt1.tokenization.tokenizer import Tokenizer
from gpt1.training.initial_model import inherited_settings, new_model_config


def write_model(folder: Path, tokenizer: Tokenizer, **settings: Any) -> Path:
    cfg = resolve_settings(PretrainConfig, settings)
    folder.mkdir()
    save_model(folder, GPT(new_model_config(cfg, tokenizer.vocab_size)), tokenizer)
    return folder


@pytest.mark.parametrize("size", ["tiny", "mini", "lstm"])
def test_a_continued_model_has_the_defaults_of_its_size(size: str, tokenizer: Tokenizer, tmp_path: Path):
    folder = write_model(tmp_path / size, tokenizer, model=size)
    found = resolve_settings(PretrainConfig, {}, extra=inherited_settings(folder, {}))
    assert found == resolve_settings(PretrainConfig, {"model": size})


def test_the_default_learning_rate_of_a_continued_model_is_that_of_its_width(tokenizer: Tokenizer, tmp_path: Path):
    folder = write_model(tmp_path / "other", tokenizer, n_embd=256, n_head=4, n_layer=2)
    assert inherited_settings(folder, {})["peak_lr"] == 3e-3
    chosen = {"peak_lr": 1e-4}
    assert resolve_settings(PretrainConfig, chosen, extra=inherited_settings(folder, chosen)).peak_lr == 1e-4
    paper = {"recipe": "paper"}
    assert resolve_settings(PretrainConfig, paper, extra=inherited_settings(folder, paper)).peak_lr == 2.5e-4


def test_the_learning_rate_of_a_width_is_that_of_the_sizes_and_never_above_that_of_the_smallest():
    for size in ("tiny", "mini", "small", "gpt1"):
        assert peak_lr_of_width(MODEL_SIZES[size]["n_embd"]) == MODEL_SIZES[size]["peak_lr"]
    rates = [peak_lr_of_width(width) for width in range(16, 2048, 16)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == MODEL_SIZES["tiny"]["peak_lr"]


def test_another_size_contradicts_from(tokenizer: Tokenizer, tmp_path: Path):
    folder = write_model(tmp_path / "tiny", tokenizer, model="tiny")
    assert inherited_settings(folder, {"model": "tiny"})["model"] == "tiny"
    with pytest.raises(UserError, match=r'model="mini": .* has the shape of tiny'):
        inherited_settings(folder, {"model": "mini"})
    shape = {"n_embd": 64, "n_head": 4, "n_layer": 2}
    other = write_model(tmp_path / "other", tokenizer, **shape)
    with pytest.raises(UserError, match=r'model="mini": .* has another shape, and from_= keeps its shape'):
        inherited_settings(other, {"model": "mini"})
    assert "model" not in inherited_settings(other, {"model": "mini", **shape})  # as config.yaml of its run has it
