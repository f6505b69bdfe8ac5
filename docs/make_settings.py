"""Write docs/settings.md from gpt1/config.py: python docs/make_settings.py"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from gpt1.config import (
    RENAMED_SETTINGS,
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
from gpt1.recipes import COMPUTED_DEFAULTS, HEAD_ONLY_DEFAULTS, MODEL_SIZES
from gpt1.runs.folder import RESUMABLE_FIELDS, resolve_settings
from gpt1.training.finetune import model_dependent_defaults

PAGE = Path(__file__).with_name("settings.md")

HEAD = """\
<!-- Written by docs/make_settings.py from gpt1/config.py: change it there. -->
# Settings

To change how a run is trained, set any of these settings, by the same name as a flag, as a key of a
YAML file or as a keyword in Python:

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

Later sources override earlier ones: the defaults, the recipe, the model size (pre-training) or the
trained part (fine-tuning), the file, the flags. A run stores all its settings in its `config.yaml`.
Unknown names, values of a wrong type and values out of range are errors before anything is written.

Settings cannot change on `--resume`, except those that do not affect the trained weights:
{free}.
Former names still work: {former}.
"""
FINETUNING_RATES = model_dependent_defaults(MODEL_SIZES["mini"]["n_embd"], {})  # those of the default size


def format_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return format_setting(value) if isinstance(value, int | float) else str(value)


def describe_values(config_class: type[Any], name: str) -> str:
    """The values that a setting accepts."""
    base, between = base_type(field_types(config_class)[name])
    if get_origin(base):
        return " · ".join(f"`{choice}`" for choice in get_args(base))
    what = {int: "integer", float: "number", bool: "", str: "text"}[base]
    if base is bool:
        return f"`{flag_name(name)}` / `--no-{flag_name(name)[2:]}`"
    return f"{what} {between}" if between and str(between) != "at least -inf" else what


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |\n" for line in lines)


def added_settings(config_class: type[Any], parent: type[Any] | None) -> list[str]:
    """The settings that a config adds to its parent's."""
    inherited = {field.name for field in dataclasses.fields(parent)} if parent else set()
    return [field.name for field in dataclasses.fields(config_class) if field.name not in inherited]


def settings_table(names: Sequence[str], *stages: type[Any]) -> str:
    """One row per setting, with its value in each recipe of each stage."""
    heads = ["setting", "values"]
    configs = []
    for stage in stages:
        label = {PretrainConfig: "pre-training", FinetuneConfig: "fine-tuning"}[stage] if len(stages) > 1 else ""
        heads += [f"{label} default".strip(), f"{label} `paper`".strip()]
        configs += [resolve_settings(stage, {"recipe": recipe}) for recipe in ("default", "paper")]
    heads.append("description")
    rows = []
    for name in names:
        values = [format_value(getattr(config, name)) for config in configs]
        if name in FINETUNING_RATES:
            values[2] = f"{format_value(FINETUNING_RATES[name])} ¹"
        elif name in COMPUTED_DEFAULTS and FinetuneConfig in stages:
            values[2 * stages.index(FinetuneConfig)] = COMPUTED_DEFAULTS[name]
        if name == "peak_lr":
            values[0] += " ¹"
        rows.append(
            [f"`{name}`", describe_values(stages[0], name), *values, descriptions(stages[0])[name].replace("\n", " ")]
        )
    return table(heads, rows)


def sizes_table() -> str:
    rows = []
    for name, size in MODEL_SIZES.items():
        shape = {key: size[key] for key in ("n_layer", "n_head", "n_embd", "context")}
        config = {key: value for key, value in size.items() if key not in ("peak_lr", "optimizer")}
        learning_rates = [size["peak_lr"], model_dependent_defaults(size["n_embd"], {})["peak_lr"]]
        parameters = [f"{GPTConfig(vocab_size=n, **config).n_parameters / 1e6:.1f}M" for n in (8000, 40478)]
        rows.append([f"`{name}`", *map(format_value, shape.values()), *parameters, *map(format_value, learning_rates)])
    heads = ["`--model`", "`n_layer`", "`n_head`", "`n_embd`", "`context`", "parameters, 8,000 tokens", "40,478 tokens"]
    return table([*heads, "`peak_lr`, pre-training", "fine-tuning"], rows)


def page() -> str:
    head_only = ", ".join(f"`{name}: {format_value(value)}`" for name, value in HEAD_ONLY_DEFAULTS.items())
    parts = [
        HEAD.format(
            free="\n".join(textwrap.wrap(", ".join(f"`{name}`" for name in sorted(RESUMABLE_FIELDS)), 84)),
            former=", ".join(f"`{old}` (now `{new}`)" for old, new in RENAMED_SETTINGS.items()),
        ),
        "## Sizes\n",
        sizes_table(),
        "The learning rate of fine-tuning is the paper's 6.25e-5 at a width of 768, multiplied by\n"
        "768 / width for narrower models, up to 3.75e-4, and 3.75e-4 for the token embedding at every width.\n"
        "Classification of 2,000 texts or more has up to four times that\n"
        "([fine-tuning](finetuning.md#how-the-settings-differ-from-the-papers)).\n"
        "The recipe `paper` uses the paper's learning rate for every size and every weight.\n",
        "## Both stages\n",
        settings_table(added_settings(TrainingConfig, None), PretrainConfig, FinetuneConfig),
        "¹ Depends on the model size, see the table above; here that of `mini`, the default size.\n",
        f"With `--train head` the default recipe of fine-tuning uses\n{head_only}.\n",
        "## Pre-training\n",
        settings_table(added_settings(PretrainConfig, TrainingConfig), PretrainConfig),
        "## Fine-tuning\n",
        settings_table(added_settings(FinetuneConfig, TrainingConfig), FinetuneConfig),
        "## Model configuration\n\nThe keys of `config.json` of a model folder.\n",
        table(
            ["key", "values", "paper", "description"],
            [
                [
                    f"`{name}`",
                    describe_values(GPTConfig, name),
                    format_value(getattr(GPTConfig(), name)),
                    descriptions(GPTConfig)[name],
                ]
                for name in added_settings(GPTConfig, None)
            ],
        ),
    ]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
