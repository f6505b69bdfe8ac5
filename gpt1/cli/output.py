"""What the commands print: nothing in it can give the terminal an order, wherever its words came from."""

from __future__ import annotations

import json
from typing import Any

import click

from gpt1.formatting import printable_json, printable_line


def echo(line: str) -> None:
    """One line on standard error: standard output holds results only."""
    click.echo(printable_line(line), err=True)


def echo_json(value: Any) -> None:
    """One line of JSON on standard output."""
    click.echo(printable_json(json.dumps(value, ensure_ascii=False, default=str)))
