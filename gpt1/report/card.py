"""README.md of a model folder: its model card, with the metadata that the Hugging Face hub reads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import urlsplit

import yaml

from gpt1.files.atomic import atomic_write_text
from gpt1.files.reading import is_url
from gpt1.formatting import format_number, format_setting, printable_line
from gpt1.report.run_reader import Run, as_dict, is_number
from gpt1.version import __version__

CARD_FILE = "README.md"
MAX_CARD_BYTES = 2**20
STARTER_LICENSE = "cc-by-4.0"
STARTER_CREDIT = """\
It was trained further from `starter`, the model that comes with gpt1: CC BY 4.0, trained on OpenStax textbooks
(CC BY 4.0) and books in the public domain. The card of `starter` names them.
"""
FACT_NAMES = {
    "train": "training rows",
    "validation": "validation rows",
    "rows": "rows read",
    "duplicates": "duplicates dropped",
    "leaked": "rows that are in both",
    "unknown": "share of unknown tokens",
    "cut": "share of truncated texts",
}
"""Names of the counts in results.json that need an explanation."""


def write_card(
    folder: Path, name: str, run: Path | None, shape: Mapping[str, Any], task: Mapping[str, Any] | None, license: str
) -> None:
    """Write the model card of a model folder.

    Args:
        folder: The model folder.
        name: Name of the model, such as `owner/name`.
        run: The run folder that the model comes from, with its data, settings and metrics; None if it is unknown.
        shape: Its dimensions and number of parameters.
        task: Its task.json, if it is fine-tuned.
        license: Identifier of its license, such as `cc-by-4.0`.
    """
    contents = Run.open(run) if run else Run(folder)
    metadata = {
        "license": license.lower(),  # the hub accepts only lower case
        "library_name": "gpt1",
        "pipeline_tag": "text-classification" if task else "text-generation",
        "tags": ["gpt1", "gpt-1"],
    }
    if "/" in (base := str(contents.settings.get("starting_model", ""))):
        metadata["base_model"] = base.partition("@")[0]
    stage = f"fine-tuned for {task['kind']}" if task else "pre-trained"
    use = "predict([...])" if task else 'generate("...")'
    sections = [
        f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---\n\n# {text(name)}\n",
        f"A GPT-1 model, {stage} with gpt1 {__version__}.\n",
        f"```python\nfrom gpt1 import load\n\nload({text(name)!r}).{use}\n```\n",
        table("Model", ("", ""), shape.items()),
        table("Data", ("", ""), data_facts(contents, task)),
        metrics_table(contents),
        table("Settings", ("setting", "value"), changed_settings(contents)),
        f"## License\n\n{license}\n",
        STARTER_CREDIT if base == "starter" else "",
    ]
    atomic_write_text(folder / CARD_FILE, "\n".join(filter(None, sections)))


def copy_card(source: Path, folder: Path, license: str) -> bool:
    """Copy the card of a model folder, with its facts, its attribution and what its owner wrote; False without a card.

    A `license` that is not "unknown" replaces the card's.
    """
    card = source / CARD_FILE
    if not card.is_file() or card.stat().st_size > MAX_CARD_BYTES:
        return False
    content = card.read_text("utf-8", errors="replace")
    if license != "unknown":
        for line, new in ((r"^license: .*", f"license: {license.lower()}"), (r"(?<=^## License\n\n).*", license)):
            content = re.sub(line, new.replace("\\", r"\\"), content, count=1, flags=re.MULTILINE)
    atomic_write_text(folder / CARD_FILE, content)
    return True


def data_facts(run: Run, task: Mapping[str, Any] | None) -> list[tuple[str, Any]]:
    """The training data of the model."""
    command = as_dict(run.settings.get("command"))
    inputs = [(name, public_name(command[name])) for name in ("corpus", "train", "valid") if command.get(name)]
    if command.get("from"):
        inputs.append(("starting model", str(run.settings.get("starting_model", "another run"))))
    counts = as_dict(run.results.get("corpus")) | as_dict(run.results.get("data"))
    facts = [(FACT_NAMES.get(name, name), value) for name, value in counts.items() if is_number(value)]
    labels = as_dict(task.get("target")).get("labels") if task else None
    return inputs + facts + ([("labels", ", ".join(map(str, labels)))] if isinstance(labels, list | tuple) else [])


def public_name(source: Any) -> str:
    """The last part of a path, or of a URL without its query, which may contain a token: a card is public."""
    return PurePath(urlsplit(str(source)).path if is_url(str(source)) else str(source)).name


def metrics_table(run: Run) -> str:
    """Metrics on validation rows with 95% confidence intervals, or on validation windows."""
    validation = as_dict(run.results.get("validation"))
    metrics = as_dict(validation.get("metrics")) or {
        name: value for name, value in validation.items() if name in ("loss", "perplexity", "bits_per_byte")
    }
    rows = []
    for name, value in metrics.items():
        interval = f"[{', '.join(map(format_number, bounds))}]" if (bounds := run.interval(name)) else ""
        if is_number(value):
            rows.append((name.replace("_", " "), format_number(value), interval))
    if is_number(validation.get("rows")):
        rows.append(("validation rows", validation["rows"], ""))
    return table("Metrics on validation data", ("metric", "value", "95% confidence interval"), rows)


def changed_settings(run: Run) -> list[tuple[str, Any]]:
    """The recipe, and each setting that is not a default of it."""
    defaults = run.default_settings if run.settings else {}
    always = ("recipe", "model", "epochs", "steps", "seed")
    return [
        (name, run.settings[name])
        for name, default in defaults.items()
        if name in run.settings and (name in always or run.settings[name] != default)
    ]


def table(title: str, columns: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    """A section with a Markdown table; an empty text without rows."""
    lines = [f"| {' | '.join(map(cell, row))} |" for row in rows]
    head = [f"## {title}\n", f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    return "\n".join([*head, *lines, ""]) if lines else ""


def cell(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return text(str(value)).replace("|", "\\|")
    return f"{value:,}" if isinstance(value, int) else format_setting(value)


def text(value: str) -> str:
    """Text from a run for Markdown: one line, no markup."""
    return printable_line(value).replace("`", "'").replace("<", "&lt;")
