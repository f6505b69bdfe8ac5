"""Settings: each is described, checked and used; the recipe `paper` has the paper's settings."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

import gpt1
from gpt1.config import (
    FinetuneConfig,
    GPTConfig,
    PretrainConfig,
    base_type,
    build_config,
    default_value,
    descriptions,
    field_types,
    merge_settings,
)
from gpt1.errors import UserError
from gpt1.formatting import format_setting
from gpt1.recipes import COMPUTED_DEFAULTS, MODEL_SIZES, RECIPES, format_default
from gpt1.runs.folder import resolve_settings

CONFIGS = [GPTConfig, PretrainConfig, FinetuneConfig]
FIELDS = [(config, field.name) for config in CONFIGS for field in dataclasses.fields(config)]


def find_base_type(config: Any, name: str) -> Any:
    return base_type(field_types(config)[name])[0]


def settings(include: Callable[[Any, str], bool] = lambda config, name: True) -> pytest.MarkDecorator:
    """One test for every setting of every config that `include` accepts."""
    chosen = [(config, name) for config, name in FIELDS if include(config, name)]
    return pytest.mark.parametrize(("config", "name"), chosen, ids=[f"{c.__name__}.{n}" for c, n in chosen])


def has_range(config: Any, name: str) -> bool:
    return base_type(field_types(config)[name])[1] is not None


PAPER_OPTIMIZER = {
    "optimizer": "adam",
    "weight_decay": 0.01,
    "beta1": 0.9,
    "beta2": 0.999,
    "eps": 1e-8,
    "dropout": 0.1,
}


def test_the_recipe_paper_pre_trains_with_exactly_the_papers_settings():
    expected = {
        **PAPER_OPTIMIZER,
        **{"n_layer": 12, "n_embd": 768, "n_head": 12, "context": 512},
        **{"peak_lr": 2.5e-4, "warmup": 2000, "schedule": "cosine"},
        **{"epochs": 100, "steps": 0, "batch_size": 64, "clip_norm": 0, "init_std": 0.02},
    }
    config = resolve_settings(PretrainConfig, {"recipe": "paper"})
    assert {name: getattr(config, name) for name in expected} == expected


def test_the_recipe_paper_fine_tunes_with_exactly_the_papers_settings():
    expected = {
        **PAPER_OPTIMIZER,
        **{"peak_lr": 6.25e-5, "warmup": 0.002, "schedule": "linear"},
        **{"epochs": 3, "batch_size": 32, "clip_norm": 1, "init_std": 0.02},
        **{"lm_coef": 0.5, "head_dropout": 0.1, "train": "all", "cut": "shares", "deduplicate": False},
        **{"transfer_layers": -1, "from_scratch": False},
    }
    config = resolve_settings(FinetuneConfig, {"recipe": "paper"})
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize("size", MODEL_SIZES)
def test_the_recipe_paper_has_one_learning_rate_for_every_model_size(size: str):
    config = resolve_settings(PretrainConfig, {"recipe": "paper", "model": size})
    assert config.peak_lr == 2.5e-4
    assert config.n_embd == MODEL_SIZES[size]["n_embd"]


def test_the_papers_model_has_as_many_parameters_as_the_release():
    assert GPTConfig().n_parameters == 116_534_784


def test_the_defaults_of_pre_training_are_a_named_size():
    config = resolve_settings(PretrainConfig, {})
    assert {name: getattr(config, name) for name in MODEL_SIZES[config.model]} == MODEL_SIZES[config.model]


@pytest.mark.parametrize("config", [PretrainConfig, FinetuneConfig])
def test_every_recipe_holds_known_settings_with_allowed_values(config: Any):
    assert set(RECIPES[config.__name__]) == set(get_args(field_types(config)["recipe"]))
    for recipe in RECIPES[config.__name__].values():
        merge_settings(config, recipe)


@settings()
def test_every_setting_has_a_description(config: Any, name: str):
    assert len(descriptions(config)[name]) > 5


@settings()
def test_every_setting_is_used_outside_config(config: Any, name: str):
    package = Path(gpt1.__file__).parent
    code = "\n".join(path.read_text("utf-8") for path in package.rglob("*.py") if path.name != "config.py")
    assert re.search(rf"\b(cfg|config)\.{name}\b|[\"']{name}[\"']", code)


@settings()
def test_a_setting_can_be_given_as_text(config: Any, name: str):
    value = default_value(config, name)
    changed = build_config(config, {name: str(value)})
    assert getattr(changed, name) == value
    assert (
        type(getattr(changed, name)) is find_base_type(config, name)
        or get_origin(find_base_type(config, name)) is Literal
    )


@settings(has_range)
def test_a_value_out_of_range_is_refused_with_the_range_and_the_default(config: Any, name: str):
    base, between = base_type(field_types(config)[name])
    outside = [end for end in (between.low - 1, between.high + 1) if math.isfinite(end)]
    assert outside
    for value in outside:
        with pytest.raises(UserError) as refused:
            build_config(config, {name: value})
        assert f"--{name.replace('_', '-')} {value if base is int else format_setting(value)}" in refused.value.problem
        assert str(between) in refused.value.problem
        recipe = RECIPES.get(config.__name__, {}).get("default", {})
        default = format_default(recipe.get(name, default_value(config, name)))
        is_computed = config is FinetuneConfig and name in COMPUTED_DEFAULTS
        assert (COMPUTED_DEFAULTS[name] if is_computed else default) in refused.value.fix


@settings(lambda config, name: find_base_type(config, name) in (int, float))
def test_a_number_setting_refuses_other_values(config: Any, name: str):
    for value in ["many", "", None, "nan", "inf", float("inf"), True, [1]]:
        with pytest.raises(UserError, match="number"):
            build_config(config, {name: value})


@settings(lambda config, name: find_base_type(config, name) is int)
def test_an_integer_setting_refuses_a_fraction(config: Any, name: str):
    with pytest.raises(UserError, match="a whole number"):
        build_config(config, {name: 2.5})


@settings(lambda config, name: get_origin(find_base_type(config, name)) is Literal)
def test_an_unknown_choice_is_refused_with_the_valid_choices(config: Any, name: str):
    base = find_base_type(config, name)
    with pytest.raises(UserError) as refused:
        build_config(config, {name: get_args(base)[-1] + "x"})
    assert f"Did you mean {get_args(base)[-1]}?" in refused.value.problem
    assert all(str(choice) in refused.value.fix for choice in get_args(base))


@pytest.mark.parametrize(("text", "value"), [("yes", True), ("FALSE", False), ("1", True), ("no", False)])
def test_a_switch_accepts_words(text: str, value: bool):
    assert build_config(FinetuneConfig, {"from_scratch": text}).from_scratch is value


def test_a_switch_refuses_other_words():
    with pytest.raises(UserError, match='from_scratch="maybe" is not true or false'):
        build_config(FinetuneConfig, {"from_scratch": "maybe"})


def test_an_unknown_setting_is_refused_with_the_most_similar_one():
    with pytest.raises(UserError, match=r"no setting 'peek-lr'. Did you mean peak_lr\?"):
        merge_settings(PretrainConfig, {"peek-lr": 1e-3})


def test_settings_can_be_named_as_flags_or_as_fields():
    assert merge_settings(PretrainConfig, {"peak-lr": 1e-3}) == merge_settings(PretrainConfig, {"peak_lr": 1e-3})


def test_later_layers_override_earlier_ones():
    assert merge_settings(PretrainConfig, {"seed": 1, "keep": 7}, {"seed": 2}) == PretrainConfig(seed=2, keep=7)


def test_a_width_that_is_not_a_multiple_of_the_heads_is_refused():
    with pytest.raises(UserError, match="n_embd=30 is not a multiple of n_head=4"):
        GPTConfig(n_embd=30, n_head=4)
