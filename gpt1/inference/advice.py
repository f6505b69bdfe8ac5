"""Advice for a fine-tuned model that is worse than TF-IDF."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gpt1.config import FinetuneConfig, field_types, flag_name, format_flag
from gpt1.datasets import parse_data_set
from gpt1.errors import UserError
from gpt1.files.names import RUN_CONFIG_FILE, beside
from gpt1.files.reading import file_format, is_url
from gpt1.formatting import shell_join
from gpt1.runs import folder as runs
from gpt1.tables.rows import TABLE_FORMATS

TEXTS = "TEXTS"  # stands for files that the user has
WORTH_WINDOWS = 0.2
"""Share of truncated texts from which `--long windows` is advised: it takes longer and changes only these texts."""
MIN_CORPUS_TOKENS = 100_000
"""Minimum number of tokens of a table whose texts are worth pre-training on alone: about 50 steps in four epochs."""


class Advice(NamedTuple):
    """What to do, and the commands for it. They run as printed once the names in capitals are replaced."""

    sentence: str
    commands: tuple[str, ...] = ()


def tfidf_advice(run: str | Path, tokens: float | None, truncated: float, name: str | Path = "") -> Advice:
    """What to do about a run that is worse than TF-IDF. The sentence does not depend on the names of folders.

    Args:
        run: The run of the model.
        tokens: Tokens of its training table; by default those that the run has stored.
        truncated: Share of its texts that are truncated.
        name: What the commands call the run; by default its folder.
    """
    stored = read_settings(Path(run))
    command = stored.get("command")
    if not isinstance(command, dict) or not command.get("from"):
        return Advice("Use a model pre-trained on more text from this domain.")
    if stored.get("from_scratch"):
        return Advice("Fine-tune a pre-trained model, not one from scratch.")
    base, origin = Path(run), command["from"]
    source = text_arguments(command, read_tokens(base) if tokens is None else tokens)
    own = source != [TEXTS]
    texts = "these texts and others from their domain" if own else "texts from this domain"
    corpus, model, again = (beside(Path(name or run), f"-{what}") for what in ("corpus", "pretrained", "again"))
    windows = stored.get("long") != "windows" and truncated >= WORTH_WINDOWS
    settings = setting_arguments(stored, "long" if windows else "")
    split = f", with long texts as windows ({truncated:.0%} of them are truncated)" if windows else ""
    commands = [
        ["tokenize", *source, "--out", corpus, "--tokenizer", origin],
        ["pretrain", corpus, "--from", origin, "--out", model, *(["--epochs", 4] if own else [])],
        ["finetune", *task_arguments(command), *settings, "--from", model, "--out", again]
        + ["--long", "windows"] * windows,
    ]
    lines = [shell_join(["gpt1", *words]) for words in commands]
    if not own:
        lines[0] += f"   # {TEXTS}: files with texts from this domain"
    sentence = f"Continue pre-training on {texts}, without labels, and fine-tune again{split}."
    return Advice(sentence, tuple(lines))


def task_arguments(command: Mapping[str, Any]) -> list[Any]:
    """Arguments of `finetune` for the rows and the task of a run; TABLE, VALID for rows that no longer have a file."""
    train, valid, columns = command.get("train"), command.get("valid"), command.get("columns") or {}
    given = {**{name: command.get(name) for name in ("kind", "weight", "unlabeled", "data_dir")}, **columns}
    given["valid"] = valid if has_source(valid) else "VALID" if valid else None
    flags = [word for name, value in given.items() if value for word in (flag_name(name), value)]
    return [train if has_source(train) else "TABLE", *flags, *["--score"] * bool(command.get("score"))]


def has_source(rows: Any) -> bool:
    """Whether the name of a run's rows is that of a file, a URL or a data set: a table in memory has none."""
    return isinstance(rows, str) and (Path(rows).is_file() or is_url(rows) or is_data_set(rows))


def setting_arguments(stored: Mapping[str, Any], except_for: str = "") -> list[str]:
    """The settings that the user gave and that affect the weights, as flags, without one that is advised.

    A new model has no head to keep. Runs of earlier versions did not store which settings were given.
    """
    given, left_out = stored["command"].get("given"), {"keep_head", except_for, *runs.RESUMABLE_FIELDS}
    names = [name for name in field_types(FinetuneConfig) if isinstance(given, list) and name in given]
    found = {name: value for name in names if name not in left_out and is_setting(value := stored.get(name))}
    return [word for name, value in found.items() for word in format_flag(name, value).split(" ", 1)]


def is_setting(value: Any) -> bool:
    return isinstance(value, bool | int | float | str)


def is_data_set(name: str) -> bool:
    """Whether `name` is a split of a known data set, and not a table in memory that is called `rte:mine`."""
    try:
        return parse_data_set(name) is not None
    except UserError:
        return False


def read_tokens(run: Path) -> float:
    """Tokens of the training table of a run; 0 if unknown."""
    try:
        return float(runs.read_results(run)["data"]["tokens"])
    except (UserError, KeyError, TypeError, ValueError):
        return 0


def read_settings(run: Path) -> Mapping[str, Any]:
    """The stored settings of a run; empty for a model without them."""
    try:
        return runs.read_run_config(run) if (run / RUN_CONFIG_FILE).exists() else {}
    except UserError:
        return {}


def text_arguments(command: Mapping[str, Any], tokens: float) -> list[str]:
    """Arguments of `tokenize` for the training table of a run; TEXTS if it is small, or no file that it reads.

    It reads one column of a table, not several that are joined, and fewer formats than `finetune`.
    """
    train, columns = command.get("train"), command.get("columns")
    if not isinstance(train, str) or not isinstance(columns, dict) or tokens < MIN_CORPUS_TOKENS:
        return [TEXTS]
    text = next((column for role, column in columns.items() if role not in ("label", "choices")), None)
    if not text or "," in str(text) or is_url(train) or not Path(train).is_file():
        return [TEXTS]
    if file_format(train)[0] not in TABLE_FORMATS:
        return [TEXTS]
    return [train, "--text-field", str(text)]
