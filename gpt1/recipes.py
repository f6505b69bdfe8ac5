"""Defaults of each recipe, of each model size and of `--train head`. They override the defaults in config.py."""

from __future__ import annotations

from typing import Any

from gpt1.formatting import format_setting

MODEL_SIZES: dict[str, dict[str, Any]] = {
    # The default recipe takes peak_lr from here, the recipe `paper` does not. The learning rates are for Muon: measured
    # for tiny and mini (docs/lab-log.md), and chosen by the same rule, about 0.77 / n_embd, for small and gpt1.
    "tiny": {"n_layer": 4, "n_head": 4, "n_embd": 128, "context": 128, "peak_lr": 5e-3},
    "mini": {"n_layer": 6, "n_head": 6, "n_embd": 384, "context": 256, "peak_lr": 2e-3},
    "small": {"n_layer": 8, "n_head": 8, "n_embd": 512, "context": 512, "peak_lr": 1.5e-3},
    "gpt1": {"n_layer": 12, "n_head": 12, "n_embd": 768, "context": 512, "peak_lr": 1e-3},
    # The LSTM of table 5, to compare with `mini`: same embedding and context, one layer of 2048 units.
    "lstm": {"n_layer": 1, "n_head": 1, "n_embd": 384, "context": 256, "peak_lr": 1e-3, "architecture": "lstm"}
    | {"optimizer": "adamw"},
}


def peak_lr_of_width(n_embd: int) -> float:
    """Peak learning rate of the default recipe for a Transformer of this width: that of a size, or by their rule."""
    by_width = {size["n_embd"]: size["peak_lr"] for name, size in MODEL_SIZES.items() if name != "lstm"}
    return float(by_width.get(n_embd) or min(float(f"{0.77 / n_embd:.2g}"), MODEL_SIZES["tiny"]["peak_lr"]))


RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "PretrainConfig": {
        "default": {"optimizer": "muon", "warmup": 0.15, "dropout": 0.0, "beta2": 0.99, "weight_decay": 0.1}
        | {"valid_split": "documents"},
        # The paper mentions no clipping in stage 1.
        "paper": {"model": "gpt1", "optimizer": "adam", "peak_lr": 2.5e-4, "batch_size": 64, "epochs": 100.0}
        | {"clip_norm": 0.0, "init_std": 0.02},
    },
    "FinetuneConfig": {
        "default": {"warmup": 0.1, "head_first": True},
        "paper": {"cut": "shares", "deduplicate": False, "shared_context": False, "init_std": 0.02},
    },
}

HEAD_ONLY_DEFAULTS: dict[str, Any] = {"lm_coef": 0.0, "peak_lr": 3e-3, "epochs": 30.0, "weight_decay": 0.0}
HEAD_ONLY_DEFAULTS |= {"head_first": False}
"""The default recipe with `--train head`: a small convex problem, for a high learning rate and many cheap epochs."""

MIN_FINETUNING_STEPS = 400
"""The default recipe makes at least this many steps, with more epochs, unless --epochs is given (docs/lab-log.md)."""
FINETUNING_BATCH_SIZES = ((250, 8), (2000, 16))
"""(rows, batch size) of the default recipe for tables with fewer rows; else FinetuneConfig.batch_size."""
SMALL_TABLE_ROWS = 2000
"""On tables with fewer rows the default recipe fits the head first, with SMALL_TABLE_EPOCHS and the paper's dropout. On
others it keeps the dropout of pre-training (docs/lab-log.md)."""
SMALL_TABLE_EPOCHS = 8
"""At least this many epochs on small tables."""
COMPUTED_DEFAULTS = {
    "peak_lr": "6.25e-5 · 768 / n_embd, at most 3.75e-4; classification of 2,000 or more rows: up to 4 times that",
    "embedding_lr_factor": "n_embd / 128, at least 1",
    "dropout": "that of pre-training, at least 0.1 below 2,000 training rows",
    "batch_size": "by the number of rows, at most 32",
    "epochs": "by the number of rows, at least 3",
    "head_first": "yes below 2,000 training rows, else no",
}
"""Defaults of fine-tuning that depend on the model or the table (training/finetune.py), in words."""


def describe_default(config_class: Any, name: str) -> str:
    """The default of a setting, by recipe, model size and trained part."""
    default = config_class.__dataclass_fields__[name].default
    if config_class.__name__ not in RECIPES:
        return format_default(default) or "none"
    recipes = RECIPES[config_class.__name__]
    paper = recipes["paper"].get(name, default)
    default = recipes["default"].get(name, default)
    text = format_default(default)
    if config_class.__name__ == "PretrainConfig" and name in MODEL_SIZES["tiny"]:
        by_size = (f"{size} {format_default(values[name])}" for size, values in MODEL_SIZES.items())
        text = f"by --model: {', '.join(by_size)}"
        paper = recipes["paper"].get(name, MODEL_SIZES[recipes["paper"]["model"]][name])
    if config_class.__name__ == "FinetuneConfig":
        text = COMPUTED_DEFAULTS.get(name, text)
        if name in HEAD_ONLY_DEFAULTS:
            text += f"; --train head: {format_default(HEAD_ONLY_DEFAULTS[name])}"
    same = paper == default and text == format_default(default)
    return text if same else f"{text}; paper: {format_default(paper)}"


def default_note(config_class: Any, name: str) -> str:
    """The default of a setting, for an error: as a flag if it is a single value."""
    text = describe_default(config_class, name)
    return f"Default: {text}" if " " in text else f"Default: --{name.replace('_', '-')} {text}"


def format_default(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return format_setting(value) if isinstance(value, int | float) else str(value)
