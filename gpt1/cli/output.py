"""Output of the commands: every line is printable, so no text from outside can control the terminal."""

from __future__ import annotations

import json
from typing import Any

import click

from gpt1.formatting import printable_json, printable_line


def make_console() -> Any:
    from gpt1.console import Console

    return Console()


def echo(line: str) -> None:
    """Print one line on standard error: standard output is for results only."""
    click.echo(printable_line(line), err=True)


def echo_json(value: Any) -> None:
    """Print one line of JSON on standard output."""
    click.echo(printable_json(json.dumps(value, ensure_ascii=False, default=str)))


def print_next_steps(*commands: str) -> None:
    for command in commands:
        echo(f"next: {command}")
