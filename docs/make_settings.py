"""Writes docs/settings.md from config.py, where every setting is described once: python docs/make_settings.py"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from gpt1.config import (
    HEAD_ONLY_DEFAULTS,
    MODEL_SIZES,
    FinetuneConfig,
    GPTConfig,
    PretrainConfig,
    TrainingConfig,
    base_type,
    descriptions,
    field_types,
    flag_name,
)
from gpt1.formatting import format_setting
from gpt1.runs.folder import RESUMABLE_FIELDS, resolve_settings
from gpt1.training.finetune import model_dependent_defaults

PAGE = Path(__file__).with_name("settings.md")

HEAD = """\
<!-- Written by docs/make_settings.py from gpt1/config.py: change it there. -->
# Settings

You want to change how a run is trained. Every setting is a flag, a key of a YAML file and a keyword in Python, under
the same name:

```text
gpt1 pretrain corpus --out runs/books --peak-lr 3e-4 --n-layer 8
gpt1 pretrain corpus --out runs/books --config books.yaml --seed 1
```
```yaml
# books.yaml
peak_lr: 3e-4
n_layer: 8
```
```python
from gpt1 import pretrain

pretrain("corpus", out="runs/books", peak_lr=3e-4, n_layer=8)
```

Later ones win: the defaults, the recipe, the model size (pre-training) or the part that is trained (fine-tuning), the
file, the flags. A run writes what came out of it, every setting, into its `config.yaml`. A name that does not exist, a
value out of its range and a number that is none are refused before anything is written.

A run that goes on with `--resume` keeps its settings; only {free} may
change: they decide where and how a run is computed, not what is learnt.
"""


def shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return format_setting(value) if isinstance(value, int | float) else str(value)


def rule(config_class: type[Any], name: str) -> str:
    """Which values a setting takes."""
    base, between = base_type(field_types(config_class)[name])
    if get_origin(base):
        return " · ".join(f"`{choice}`" for choice in get_args(base))
    what = {int: "whole number", float: "number", bool: "", str: "text"}[base]
    if base is bool:
        return f"`{flag_name(name)}` / `--no-{flag_name(name)[2:]}`"
    return f"{what} {between}" if between and str(between) != "at least -inf" else what


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |\n" for line in lines)


def own(config_class: type[Any], parent: type[Any] | None) -> list[str]:
    """The settings that a config adds to its parent's."""
    above = {field.name for field in dataclasses.fields(parent)} if parent else set()
    return [field.name for field in dataclasses.fields(config_class) if field.name not in above]


def settings_table(names: Sequence[str], *stages: type[Any]) -> str:
    """A row a setting, with what each recipe of each stage makes of it."""
    heads = ["setting", "values"]
    made = []
    for stage in stages:
        said = {PretrainConfig: "pre-training", FinetuneConfig: "fine-tuning"}[stage] if len(stages) > 1 else ""
        heads += [f"{said} default".strip(), f"{said} `paper`".strip()]
        made += [resolve_settings(stage, None, {"recipe": recipe}) for recipe in ("default", "paper")]
    heads.append("what it is")
    rows = []
    for name in names:
        values = [shown(getattr(config, name)) for config in made]
        if name == "peak_lr":  # depends on the model: see the table of sizes
            values[::2] = [f"{value} ¹" for value in values[::2]]
        rows.append([f"`{name}`", rule(stages[0], name), *values, descriptions(stages[0])[name].replace("\n", " ")])
    return table(heads, rows)


def sizes_table() -> str:
    rows = []
    for name, size in MODEL_SIZES.items():
        shape = {key: size[key] for key in ("n_layer", "n_head", "n_embd", "context")}
        config = {key: value for key, value in size.items() if key != "peak_lr"}
        rates = [size["peak_lr"], model_dependent_defaults(size["n_embd"], {})["peak_lr"]]
        weights = [f"{GPTConfig(vocab_size=n, **config).n_parameters / 1e6:.1f} M" for n in (8000, 40478)]
        rows.append([f"`{name}`", *map(shown, shape.values()), *weights, *map(shown, rates)])
    heads = ["`--model`", "`n_layer`", "`n_head`", "`n_embd`", "`context`", "weights, 8,000 tokens", "40,478 tokens"]
    return table([*heads, "`peak_lr` of pre-training", "of fine-tuning"], rows)


def page() -> str:
    head_only = ", ".join(f"`{name}: {shown(value)}`" for name, value in HEAD_ONLY_DEFAULTS.items())
    parts = [
        HEAD.format(free=", ".join(f"`{name}`" for name in sorted(RESUMABLE_FIELDS))),
        "## Sizes\n",
        sizes_table(),
        "The fine-tuning rate is the paper's 6.25e-5 at a width of 768, and larger for narrower models by the square "
        "of 768 / width, to 3.75e-4 at most. Recipe `paper` takes the paper's rate whatever the size.\n",
        "## Both stages\n",
        settings_table(own(TrainingConfig, None), PretrainConfig, FinetuneConfig),
        "¹ Depends on the model's size: the table above. Pre-training starts from `mini`.\n",
        f"With `--train head` the default recipe of fine-tuning takes {head_only}.\n",
        "## Pre-training\n",
        settings_table(own(PretrainConfig, TrainingConfig), PretrainConfig),
        "## Fine-tuning\n",
        settings_table(own(FinetuneConfig, TrainingConfig), FinetuneConfig),
        "## What a model is\n\n`config.json` of a model folder.\n",
        table(
            ["key", "values", "the paper's", "what it is"],
            [
                [f"`{name}`", rule(GPTConfig, name), shown(getattr(GPTConfig(), name)), descriptions(GPTConfig)[name]]
                for name in own(GPTConfig, None)
            ],
        ),
    ]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
