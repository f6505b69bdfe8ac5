"""`gpt1 inspect`: what a table, a known data set, a corpus, a run or a model is; what is odd about it; what next."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gpt1 import datasets as tasks
from gpt1.corpus.readers import TEXT_FORMATS, is_corpus
from gpt1.errors import UserError, did_you_mean
from gpt1.files.reading import file_format, is_url, not_found_error
from gpt1.inspect.datasets import inspect_dataset
from gpt1.inspect.folders import (
    Facts,
    inspect_corpus,
    inspect_model,
    inspect_run,
    inspect_runs,
    inspect_texts,
    inspect_tokenizer,
)
from gpt1.inspect.printing import print_facts
from gpt1.inspect.tables import inspect_table
from gpt1.progress import NullProgress, Progress
from gpt1.tables.rows import TABLE_FORMATS
from gpt1.tables.table import read_table

__all__ = ["inspect", "print_facts"]


def inspect(
    source: str | Path,
    data_dir: str | Path | None = None,
    from_: str | Path | None = None,
    progress: Progress | None = None,
) -> Facts:
    """Facts about what is named, ready for JSON: `source` it is, its `name`, `odd` (sentences about what should be looked
    at), `next` (commands to run), and what belongs to its kind.

    data_dir: where the files of a known data set lie. from_: a run or model folder, whose tokenizer and context tell
    the tokens, the unknown ones and the texts that would be cut. Raises UserError for what is missing or of no known
    kind, and for files of a corpus or a model that are not what they were.
    """
    progress = progress or NullProgress()
    path, named = Path(source), None if is_url(source) or Path(source).is_file() else tasks.parse_data_set(str(source))
    if named and (data_dir or not path.exists()):  # with --data-dir a folder `rte` does not hide the data set
        return inspect_dataset(named, str(source), data_dir, from_, progress)
    if is_url(source):
        table = file_format(source)[0] in TABLE_FORMATS
        return (
            inspect_table(read_table(source), from_, progress)
            if table
            else inspect_corpus(str(source), from_, progress)
        )
    if path.is_dir():
        return inspector_for(path)(str(source), from_, progress)
    if path.exists():
        if file_format(path)[0] in TEXT_FORMATS:
            return inspect_texts(str(source), from_, progress)
        return inspect_table(read_table(path), from_, progress)
    problem = not_found_error(path).problem
    if len(path.parts) == 1 and "Did you mean" not in problem:
        problem += did_you_mean(str(source), tasks.data_set_names())
    raise UserError(
        problem, f"Name a table, a corpus, a run, a model or a known data set: {', '.join(tasks.data_set_names())}."
    )


def inspector_for(folder: Path) -> Callable[[str, str | Path | None, Progress], Facts]:
    """What tells about a folder, by the files that it holds."""
    held = {entry.name for entry in folder.iterdir()}
    if is_corpus(folder):
        return inspect_corpus
    if "config.yaml" in held:
        return inspect_run
    if {"config.json", "params_0.npy"} & held:
        return inspect_model
    if {"vocab.json", "vocab_40000.bpe"} & held:
        return inspect_tokenizer
    if "state.json" in held:
        run = folder.resolve().parent.parent
        raise UserError(f"{folder} is a checkpoint of the run {run.name}.", f"See: gpt1 inspect {run}")
    return inspect_runs if any(folder.glob("*/config.yaml")) else inspect_texts
