"""Write docs/commands.md from the help of the commands: python docs/make_commands.py"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import click

from gpt1.cli.main import cli
from gpt1.cli.options import COLUMN_HELP
from gpt1.config import FinetuneConfig, PretrainConfig

PAGE = Path(__file__).with_name("commands.md")
SETTINGS = {field.name for config in (PretrainConfig, FinetuneConfig) for field in fields(config)}
LINE_LENGTH = 100
MAX_LISTED_SETTINGS = 12
"""A command with more settings has those of a stage, which docs/settings.md lists."""

HEAD = """\
<!-- Written by docs/make_commands.py from the help of the commands in gpt1/cli/: change it there. -->
# Commands

Messages and progress go to standard error, results to standard output. Exit codes: 0 for success, 2
for errors that you can fix, 130 after Ctrl-C (the state is saved), 1 for other errors (disk full,
out of memory).

| command | what it does |
|---|---|
"""


def wrap(text: str, indent: str = "") -> str:
    """Lines of at most LINE_LENGTH characters, not broken inside `code`; `indent` is that of all but the first."""
    code = re.sub("`[^`]+`", lambda found: found[0].replace(" ", "\0"), text)
    lines = textwrap.wrap(code, LINE_LENGTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines).replace("\0", " ")


def paragraphs(command: click.Command) -> tuple[list[str], list[str]]:
    """(paragraphs, examples) of a command's help."""
    parts = inspect.cleandoc(command.help or "").split("\n\n")
    prose = [" ".join(part.split()) for part in parts if not part.startswith("\b")]
    return prose, [part.removeprefix("\b\n") for part in parts if part.startswith("\b")]


def options(command: click.Command) -> Iterator[str]:
    """One line per option; the columns of a task and the settings of a stage share one line each."""
    shown = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
    roles = [p for p in shown if p.name in COLUMN_HELP] if any(p.name == "label" for p in shown) else []
    settings = [p for p in shown if p.name in SETTINGS and p not in roles]
    grouped = settings if len(settings) > MAX_LISTED_SETTINGS else []
    for option in shown:
        if option in grouped or option in roles:
            continue
        record = option.get_help_record(click.Context(command))
        if record:
            yield wrap(f"- `{record[0]}`: {' '.join(record[1].split())}", "  ")
    if roles:
        names = ", ".join(f"`{p.opts[0]}`" for p in roles)
        yield wrap(f"- {names}: the [columns of a task](finetuning.md)", "  ")
    if grouped:
        yield f"- {len(grouped)} [settings](settings.md) of training, such as `{grouped[1].opts[0]}`"


def section(command: click.Command) -> str:
    context = click.Context(command, info_name=f"gpt1 {command.name}")
    usage = " ".join(command.get_usage(context).removeprefix("Usage: ").split())
    prose, examples = paragraphs(command)
    parts = [f"## {command.name}\n", f"`{usage}`\n", *[f"{wrap(text)}\n" for text in prose]]
    parts += [f"```\n{text}\n```\n" for text in examples]
    return "\n".join([*parts, *options(command)])


def page() -> str:
    rows = [f"| [`gpt1 {c.name}`](#{c.name}) | {paragraphs(c)[0][0]} |\n" for c in cli.commands.values()]
    return HEAD + "".join(rows) + "\n" + "\n\n".join(section(command) for command in cli.commands.values()) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
