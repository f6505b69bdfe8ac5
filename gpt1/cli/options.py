"""Settings as flags: config.py's names, types, defaults and reasons in the words of a command line."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_args, get_origin

import click

from gpt1.config import (
    HEAD_ONLY_DEFAULTS,
    MODEL_SIZES,
    RECIPES,
    FinetuneConfig,
    PretrainConfig,
    Range,
    base_type,
    default_value,
    descriptions,
    field_types,
    flag_name,
)
from gpt1.errors import UserError
from gpt1.formatting import format_setting

Command = TypeVar("Command", bound=Callable[..., Any])


class RangedNumber(click.ParamType[float]):
    """A number in a range; its error names the value, the rule and the fix, as those of the settings do."""

    def __init__(
        self, base: type[int] | type[float], low: float = -math.inf, high: float = math.inf, above: bool = False
    ):
        self.name = "N" if base is int else "X"
        self.number_type, self.range = base, Range(low, high, above)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = self.number_type(value)
        except ValueError:
            number = math.nan
        if number in self.range and math.isfinite(number):
            return number
        name = param.opts[0] if param else "the value"
        what = "a whole number" if self.number_type is int else "a number"
        usual = param.default if param and isinstance(param.default, int | float) else None
        used = f"Leave {name} out." if usual is None else f"Default: {name} {usual}"
        raise UserError(f"{name} {value} is out of range: it has to be {what} {self.range}.", used)


verify = click.option(
    "--verify/--no-verify", default=True, show_default=True, help="Check the model's files by SHA-256 before use."
)

COLUMN_HELP = {
    "text": "Column with the text (classification, regression).",
    "premise": "Column with the premise (entailment).",
    "hypothesis": "Column with the hypothesis (entailment).",
    "text_a": "Column with one text (similarity).",
    "text_b": "Column with the other text (similarity).",
    "context": "Column with the document (choice).",
    "question": "Column with the question (choice; may be left out).",
    "choices": "Columns with the answers, C1,C2,…, or the one that holds lists of them (choice).",
    "label": "Column with the label; in choice the right answer's column, text or number (from 0).  [default: label]",
}


def column_options(command: Command) -> Command:
    for role, text in reversed(COLUMN_HELP.items()):
        command = click.option(flag_name(role), metavar="COLUMN", help=text)(command)
    return command


def setting_options(config_class: Any, *excluded: str) -> Callable[[Command], Command]:
    """Every field of a config, but the `excluded` ones, as a flag, with its type, defaults and reason. What is given is
    checked by config.py, so that a flag and a line of a YAML file are refused in the same words."""

    def add(command: Command) -> Command:
        for field in reversed(dataclasses.fields(config_class)):
            if field.name in excluded:
                continue
            base, _ = base_type(field_types(config_class)[field.name])
            text = f"{descriptions(config_class)[field.name]}  [default: {default_help(config_class, field.name)}]"
            names = flag_name(field.name)
            metavar = {int: "N", float: "X", bool: None}.get(base, "TEXT")
            if base is bool:
                names += f"/--no-{flag_name(field.name)[2:]}"
            elif get_origin(base) is Literal:
                metavar = "|".join(map(str, get_args(base)))
            command = click.option(names, metavar=metavar, default=None, help=text)(command)
        return command

    return add


def default_help(config_class: Any, name: str) -> str:
    """What a setting is where it is not given: by recipe, by model size, by what is trained."""
    recipes = RECIPES[config_class.__name__]
    usual = recipes["default"].get(name, default_value(config_class, name))
    paper = recipes["paper"].get(name, default_value(config_class, name))
    said = format_default(usual)
    if config_class is PretrainConfig and name in MODEL_SIZES["tiny"]:
        said = "by --model: " + ", ".join(
            f"{size} {format_default(values[name])}" for size, values in MODEL_SIZES.items()
        )
        paper = recipes["paper"].get(name, MODEL_SIZES[recipes["paper"]["model"]][name])
    if config_class is FinetuneConfig and name in HEAD_ONLY_DEFAULTS:
        said += f"; --train head: {format_default(HEAD_ONLY_DEFAULTS[name])}"
    return said if paper == usual and ":" not in said else f"{said}; paper: {format_default(paper)}"


def format_default(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return format_setting(value) if isinstance(value, int | float) else str(value)
