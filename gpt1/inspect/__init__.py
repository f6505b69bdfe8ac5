"""`gpt1 inspect`: what a table, a known data set, a corpus, a run or a model is; what is odd about it; what next."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gpt1 import datasets as tasks
from gpt1.corpus.readers import TEXT_KINDS, is_corpus
from gpt1.errors import UserError, did_you_mean
from gpt1.files.reading import is_url, kind_of, missing
from gpt1.inspect.folders import Facts, of_corpus, of_model, of_run, of_runs, of_texts, of_tokenizer
from gpt1.inspect.known import of_data_set
from gpt1.inspect.showing import show
from gpt1.inspect.tables import of_table
from gpt1.progress import Progress, Silent
from gpt1.tables.rows import ROW_KINDS
from gpt1.tables.table import read_table

__all__ = ["inspect", "show"]


def inspect(
    what: str | Path,
    data_dir: str | Path | None = None,
    from_: str | Path | None = None,
    progress: Progress | None = None,
) -> Facts:
    """Facts about what is named, ready for JSON: `what` it is, its `name`, `odd` (sentences about what should be looked
    at), `next` (commands to run), and what belongs to its kind.

    data_dir: where the files of a known data set lie. from_: a run or model folder, whose tokenizer and context tell
    the tokens, the unknown ones and the texts that would be cut. Raises UserError for what is missing or of no known
    kind, and for files of a corpus or a model that are not what they were.
    """
    progress = progress or Silent()
    path, named = Path(what), None if is_url(what) or Path(what).is_file() else tasks.parse(str(what))
    if named and (data_dir or not path.exists()):  # with --data-dir a folder `rte` does not hide the data set
        return of_data_set(named, str(what), data_dir, from_, progress)
    if is_url(what):
        table = kind_of(what)[0] in ROW_KINDS
        return of_table(read_table(what), from_, progress) if table else of_corpus(str(what), from_, progress)
    if path.is_dir():
        return look_into(path)(str(what), from_, progress)
    if path.exists():
        if kind_of(path)[0] in TEXT_KINDS:
            return of_texts(str(what), from_, progress)
        return of_table(read_table(path), from_, progress)
    problem = missing(path).problem
    if len(path.parts) == 1 and "Did you mean" not in problem:
        problem += did_you_mean(str(what), tasks.names())
    raise UserError(problem, f"Name a table, a corpus, a run, a model or a known data set: {', '.join(tasks.names())}.")


def look_into(folder: Path) -> Callable[[str, str | Path | None, Progress], Facts]:
    """What tells about a folder, by the files that it holds."""
    held = {entry.name for entry in folder.iterdir()}
    if is_corpus(folder):
        return of_corpus
    if "config.yaml" in held:
        return of_run
    if {"config.json", "params_0.npy"} & held:
        return of_model
    if {"vocab.json", "vocab_40000.bpe"} & held:
        return of_tokenizer
    if "state.json" in held:
        run = folder.resolve().parent.parent
        raise UserError(f"{folder} is a checkpoint of the run {run.name}.", f"See: gpt1 inspect {run}")
    return of_runs if any(folder.glob("*/config.yaml")) else of_texts
