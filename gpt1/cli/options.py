"""Options of the commands; the flags of settings are made from config.py."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_args, get_origin

import click

from gpt1.config import (
    RENAMED_SETTINGS,
    Range,
    base_type,
    descriptions,
    field_types,
    flag_name,
)
from gpt1.errors import UserError
from gpt1.recipes import describe_default

Command = TypeVar("Command", bound=Callable[..., Any])


class RangedNumber(click.ParamType[float]):
    """A number in a range; its error names the value, the rule and the default, as for settings."""

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
        default = param.default if param and isinstance(param.default, int | float) else None
        fix = f"Omit {name} to use the default." if default is None else f"Default: {name} {default}"
        raise UserError(f"{name} {value} is out of range: it must be {what} {self.range}.", fix)


verify = click.option(
    "--verify/--no-verify", default=True, show_default=True, help="Check the SHA-256 of the model's files before use."
)

overwrite = click.option("--overwrite", is_flag=True, help="Replace an existing output that gpt1 wrote.")
baselines = click.option(
    "--baselines/--no-baselines",
    default=True,
    show_default=True,
    help="Compare with TF-IDF and a linear model trained on the same rows.",
)

unlabeled = click.option(
    "--unlabeled",
    metavar="refuse|drop",
    default="refuse",
    show_default=True,
    help="What to do with rows without a label: stop with an error, or skip them.",
)

kind = click.option(
    "--kind",
    metavar="KIND",
    help="classification, multilabel, regression, entailment, similarity or choice.  "
    "[default: guessed from TRAIN if only --label is given]",
)
score = click.option("--score", is_flag=True, help="Similarity as a number instead of two classes.")
data_dir = click.option("--data-dir", metavar="DIR", help="Folder with the files of known data sets.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")

COLUMN_HELP = {
    "text": "Column with the text, or several to join: title,body (classification, multilabel, regression).",
    "premise": "Column with the premise (entailment).",
    "hypothesis": "Column with the hypothesis (entailment).",
    "text_a": "Column with one text (similarity).",
    "text_b": "Column with the other text (similarity).",
    "context": "Column with the document (choice).",
    "question": "Column with the question (choice; optional).",
    "choices": "Columns with the answers, C1,C2,…, or one column with lists of answers (choice).",
    "label": "Column with the label; for choice the right answer's column, text or number; for multilabel a "
    "column with lists or with labels separated by | ; or commas, or L1,L2,…: a 0/1 column for each label.  "
    "[default: label]",
}


def column_options(*excluded: str, suffix: str = "") -> Callable[[Command], Command]:
    """A flag for every role of a column except the `excluded` ones."""

    def add(command: Command) -> Command:
        for role, text in reversed(COLUMN_HELP.items()):
            if role not in excluded:
                text = text.removesuffix("  [default: label]") + suffix if suffix else text
                command = click.option(flag_name(role), metavar="COLUMN", help=text)(command)
        return command

    return add


def setting_options(config_class: Any, *excluded: str) -> Callable[[Command], Command]:
    """A flag for every field of a config except the `excluded` ones.

    config.py checks the values, so that flags and lines of a YAML file give the same errors.
    """

    def add(command: Command) -> Command:
        names = [field.name for field in dataclasses.fields(config_class) if field.name not in excluded]
        for name in reversed(names):
            base, _ = base_type(field_types(config_class)[name])
            text = f"{descriptions(config_class)[name]}  [default: {describe_default(config_class, name)}]"
            metavar = {int: "N", float: "X", bool: None}.get(base, "TEXT")
            if get_origin(base) is Literal:
                metavar = "|".join(map(str, get_args(base)))
            flag = switch(name) if base is bool else flag_name(name)
            command = click.option(flag, metavar=metavar, default=None, help=text)(command)
        for old, new in RENAMED_SETTINGS.items():  # all of them are switches
            if new in names:
                command = click.option(switch(old), default=None, hidden=True, help=f"Now {flag_name(new)}.")(command)
        return command

    return add


def switch(name: str) -> str:
    return f"{flag_name(name)}/--no-{flag_name(name)[2:]}"
