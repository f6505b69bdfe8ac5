"""The advice in messages: which commands and flags it names, and whether they exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from gpt1.cli.main import cli

PACKAGE = Path(__file__).parent.parent / "gpt1"
COMMAND = re.compile(r"\bgpt1 ([a-z]+)\b([^)]*)")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z](?![\w-])")
OTHER_PROGRAMS = re.compile(r"\b(pip|iconv|torchrun|git|zcat|huggingface-cli) .*")
ARGUMENTS = re.compile(r" (--[a-z]|[A-Z]{2,}\b|[a-z-]+/)")
"""What follows a command, but not a verb in prose such as \"gpt1 needs no padding\"."""


def list_flags(command: str) -> set[str]:
    options = [option for option in cli.commands[command].params if isinstance(option, click.Option)]
    return {flag for option in options for flag in (*option.opts, *option.secondary_opts)} | {"--help"}


ALL_FLAGS = set().union(*(list_flags(name) for name in cli.commands)) | {"--version"}


def find_wrong_values(command: str, words: str) -> list[str]:
    """Values of flags in a command that are not among their choices; names in capitals and X stand for any value."""
    options = [option for option in cli.commands[command].params if isinstance(option, click.Option)]
    choices = {flag: option.metavar.split("|") for option in options if option.metavar for flag in option.opts}
    pairs = re.findall(r"(--[a-z-]+)[ =]([a-z][a-z:0-9-]*)", words)
    closed = {flag for flag, names in choices.items() if len(names) > 1 and "".join(names).islower()}
    chosen = [(flag, value) for flag, value in pairs if flag in closed]
    return [f"gpt1 {command} has no {flag} {value}" for flag, value in chosen if value not in choices[flag]]


def find_wrong_advice(text: str, command: str | None = None, typed: Sequence[str] = ()) -> list[str]:
    """Commands and flags in a message that do not exist.

    Args:
        text: The message.
        command: The command that printed it; None: any command, whose flags are all accepted.
        typed: The words of the user's command, which a message may repeat.
    """
    wrong = []
    own = (ALL_FLAGS if command is None else list_flags(command)) | {word.partition("=")[0] for word in typed}
    for line in text.splitlines():
        line = OTHER_PROGRAMS.sub("", line)
        while match := COMMAND.search(line):
            name, rest = match.groups()
            line = line[: match.start()] + ("" if name in cli.commands else rest)
            if name in cli.commands:
                wrong += find_wrong_values(name, rest)
                wrong += [f"gpt1 {name} has no {flag}" for flag in FLAG.findall(rest) if flag not in list_flags(name)]
            elif ARGUMENTS.match(rest):
                wrong.append(f"there is no gpt1 {name}")
        whose = f"gpt1 {command}" if command else "no command"
        wrong += [
            f"{whose} has {flag}" if not command else f"{whose} has no {flag}"
            for flag in FLAG.findall(line)
            if flag not in own
        ]
    return wrong


def list_messages(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of every string in a module that is not a docstring; values in it are `X`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(str(p.value) if isinstance(p, ast.Constant) else "X" for p in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings | inside:
            yield node.lineno, node.value
