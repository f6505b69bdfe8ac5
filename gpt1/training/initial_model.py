"""The model that a pre-training run starts from: a new one of the configured size, or that of `--from`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from gpt1.config import GPTConfig, PretrainConfig, flag_name
from gpt1.corpus.corpus import Corpus
from gpt1.corpus.order import derive_seed
from gpt1.errors import UserError
from gpt1.inference.predictor import load_model_and_tokenizer
from gpt1.model.gpt import GPT
from gpt1.recipes import MODEL_SIZES, peak_lr_of_width
from gpt1.runs import folder as runs
from gpt1.tokenization.tokenizer import Tokenizer

SHAPE_FIELDS = ("n_layer", "n_head", "n_embd", "architecture", "lstm_units")  # fixed by --from


def new_model_config(cfg: PretrainConfig, vocab_size: int) -> GPTConfig:
    """The shape of a new model, with the run's dropout."""
    return GPTConfig(vocab_size, **{name: getattr(cfg, name) for name in (*SHAPE_FIELDS, "context", "dropout")})


def init_model(cfg: PretrainConfig, corpus: Corpus, tokenizer: Tokenizer, from_: str | Path | None) -> GPT:
    """A new model of the configured size, or that of `from_`; with the run's dropout."""
    if from_ is None:
        torch.manual_seed(derive_seed(cfg.seed, 2**32))  # differs from the seeds of all steps
        return GPT(new_model_config(cfg, corpus.vocab_size), cfg.init_std)
    model, own_tokenizer = load_model_and_tokenizer(from_)
    if own_tokenizer.fingerprint != tokenizer.fingerprint:
        raise UserError(
            f"the corpus was created with a different tokenizer than {from_}.",
            f"Create it again with: gpt1 tokenize TEXTS --out NEW --tokenizer {from_}",
        )
    if cfg.context > model.config.context:
        raise UserError(
            f"--context {cfg.context} exceeds the {model.config.context} positions of {from_}.",
            f"Use --context {model.config.context}, or train a new model with --context {cfg.context}.",
        )
    model.set_dropout(cfg.dropout)
    return model


def inherited_settings(from_: str | Path, requested: Mapping[str, Any]) -> dict[str, Any]:
    """The shape of the model `from_` as settings, and the defaults that depend on it.

    Raises:
        UserError: `requested` contradicts the shape.
    """
    config = GPT.from_pretrained(runs.find_model_folder(from_)).config
    shape = {name: getattr(config, name) for name in SHAPE_FIELDS}
    for name, value in shape.items():
        if requested.get(name, value) != value:
            raise UserError(
                f"{flag_name(name)} {requested[name]}: {from_} has {value}, and --from keeps its shape.",
                "Remove the flag.",
            )
    size = size_of_shape(shape)
    if (model := requested.get("model")) in MODEL_SIZES:
        wanted = {**shape_of_size(model), **requested}
        if any(wanted[name] != shape[name] for name in shape_of_size(model)):
            own = f"the shape of {size}" if size else "another shape"
            raise UserError(f"--model {model}: {from_} has {own}, and --from keeps its shape.", "Remove the flag.")
    inherited = {**shape, "context": config.context} | ({"model": size} if size else {})
    if requested.get("recipe", "default") == "default":
        inherited["peak_lr"] = peak_lr_of_width(config.n_embd)
        if config.architecture == "lstm":
            inherited |= {name: MODEL_SIZES["lstm"][name] for name in ("peak_lr", "optimizer")}
    return inherited


def size_of_shape(shape: Mapping[str, Any]) -> str | None:
    """The model size that has this shape."""
    return next((size for size in MODEL_SIZES if shape_of_size(size).items() <= shape.items()), None)


def shape_of_size(size: str) -> dict[str, Any]:
    values = {"architecture": "transformer", **MODEL_SIZES[size]}
    return {name: values[name] for name in ("n_layer", "n_head", "n_embd", "architecture")}
