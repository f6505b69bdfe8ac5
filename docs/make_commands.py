"""Writes docs/commands.md from the commands themselves, as --help shows them: python docs/make_commands.py"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import click

from gpt1.cli.main import COMMAND_ORDER, cli
from gpt1.cli.options import COLUMN_HELP
from gpt1.config import FinetuneConfig, PretrainConfig

PAGE = Path(__file__).with_name("commands.md")
SETTINGS = {field.name for config in (PretrainConfig, FinetuneConfig) for field in fields(config)}
ENOUGH = 12
"""A command with more settings than this takes those of a stage, which have a page of their own."""

HEAD = """\
<!-- Written by docs/make_commands.py from gpt1/cli/main.py and gpt1/cli/experiments.py: change it there. -->
# Commands

Progress and advice go to standard error, results to standard output. Exit codes: 0; 2 for what you can mend; 130 after
Ctrl-C (the state is saved); 1 for the rest (disk full, out of memory).

| command | what it does |
|---|---|
"""


def commands() -> Iterator[click.Command]:
    """All of them in the order of use; those of a group one by one."""
    for name in COMMAND_ORDER:
        command = cli.commands[name]
        yield from command.commands.values() if isinstance(command, click.Group) else [command]


def paragraphs(command: click.Command) -> tuple[list[str], list[str]]:
    """(sentences, examples) of a command's help."""
    parts = inspect.cleandoc(command.help or "").split("\n\n")
    prose = [" ".join(part.split()) for part in parts if not part.startswith("\b")]
    return prose, [part.removeprefix("\b\n") for part in parts if part.startswith("\b")]


def options(command: click.Command) -> Iterator[str]:
    """A line an option; the columns of a task and the settings of a stage together."""
    own = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
    roles = [p for p in own if p.name in COLUMN_HELP] if any(p.name == "label" for p in own) else []
    settings = [p for p in own if p.name in SETTINGS and p not in roles]
    together = settings if len(settings) > ENOUGH else []
    for option in own:
        if option in together or option in roles:
            continue
        record = option.get_help_record(click.Context(command))
        if record:
            yield f"- `{record[0]}`: {' '.join(record[1].split())}"
    if roles:
        yield f"- {', '.join(f'`{p.opts[0]}`' for p in roles)}: the [columns of a task](finetuning.md)"
    if together:
        yield f"- and {len(together)} [settings](settings.md) of training, such as `{together[1].opts[0]}`"


def section(command: click.Command) -> str:
    context = click.Context(command, info_name=f"gpt1 {command.name}")
    usage = " ".join(command.get_usage(context).removeprefix("Usage: ").split())
    prose, examples = paragraphs(command)
    parts = [f"## {command.name}\n", f"`{usage}`\n", *[f"{text}\n" for text in prose]]
    parts += [f"```\n{text}\n```\n" for text in examples]
    return "\n".join([*parts, *options(command)])


def page() -> str:
    listed = [f"| [`gpt1 {c.name}`](#{c.name}) | {paragraphs(c)[0][0]} |\n" for c in commands()]
    return HEAD + "".join(listed) + "\n" + "\n\n".join(section(command) for command in commands()) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
