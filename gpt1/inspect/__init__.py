"""`gpt1 inspect`: facts and warnings about a table, data set, corpus, run or model, and the next commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from gpt1.console import default_progress
from gpt1.corpus.readers import TEXT_FORMATS, is_corpus
from gpt1.datasets import data_set_names, parse_data_set
from gpt1.errors import UserError
from gpt1.files.names import (
    FIRST_ARRAY,
    HUGGING_FACE_FILES,
    LIBRARY_FILE,
    MODEL_CONFIG_FILE,
    ONNX_FILE,
    OPENAI_FILES,
    RUN_CONFIG_FILE,
)
from gpt1.files.reading import file_format, is_url, not_found_error
from gpt1.inspect.datasets import inspect_dataset
from gpt1.inspect.folders import (
    inspect_corpus,
    inspect_model,
    inspect_onnx,
    inspect_run,
    inspect_runs,
    inspect_texts,
    inspect_tokenizer,
)
from gpt1.inspect.printing import print_facts
from gpt1.inspect.tables import Facts, inspect_table
from gpt1.progress import Progress
from gpt1.runs.folder import is_model_name
from gpt1.tables.rows import INPUT_FORMATS
from gpt1.tables.table import read_table

__all__ = ["inspect", "print_facts"]
Inspector: TypeAlias = Callable[[str, str | Path | None, Progress], Facts]


def inspect(
    source: str | Path,
    data_dir: str | Path | None = None,
    from_: str | Path | None = None,
    progress: Progress | None = None,
) -> Facts:
    """Inspect a table, data set, corpus, text folder, tokenizer, run or model.

    Args:
        source: A path or URL, or the name of a known data set.
        data_dir: Folder with the files of known data sets.
        from_: A run or model folder: count tokens, unknown tokens and truncated texts with its tokenizer and context.
        progress: Receives progress.

    Returns:
        Facts, ready for JSON: its `type` and `name`, `warnings` (sentences), `next` (commands to run), and more,
        depending on the type.

    Raises:
        UserError: If `source` does not exist or is not recognized, if files of a corpus, run or model are damaged, or
            for `from_` with a source that has its own tokenizer.
    """
    progress = progress or default_progress()
    path = Path(source)
    data_set = None if is_url(source) or path.is_file() else parse_data_set(str(source))
    # With --data-dir the data set takes precedence over a folder of the same name.
    if data_set and (data_dir or not path.exists()):
        return inspect_dataset(data_set, str(source), data_dir, from_, progress)
    if is_url(source):
        if file_format(source)[0] in INPUT_FORMATS:
            return inspect_table(read_table(source), from_, progress)
        return inspect_corpus(str(source), from_, progress)
    if is_model_name(path) and file_format(path)[0] not in {*INPUT_FORMATS, *TEXT_FORMATS}:
        check_from(inspect_model, from_)
        return inspect_model(str(source), from_, progress)
    if path.is_dir():
        inspector = find_inspector(path)
        check_from(inspector, from_)
        return inspector(str(source), from_, progress)
    if path.exists():
        if file_format(path)[0] in TEXT_FORMATS:
            return inspect_texts(str(source), from_, progress)
        return inspect_table(read_table(path), from_, progress)
    problem = not_found_error(path, data_set_names()).problem
    raise UserError(problem, f"Use a table, corpus, run, model or known data set: {', '.join(data_set_names())}.")


OWN_TOKENIZER: dict[Inspector, str] = {
    inspect_run: "a run",
    inspect_runs: "a folder of runs",
    inspect_model: "a model",
    inspect_onnx: "an ONNX export",
    inspect_tokenizer: "a tokenizer",
}
"""What is not inspected with the tokenizer of another model."""


def check_from(inspector: Inspector, from_: str | Path | None) -> None:
    if from_ is not None and inspector in OWN_TOKENIZER:
        raise UserError(f"--from does not apply to {OWN_TOKENIZER[inspector]}.", "Omit --from.")


def find_inspector(folder: Path) -> Inspector:
    """The function that inspects this kind of folder."""
    names = {entry.name for entry in folder.iterdir()}
    if is_corpus(folder):
        return inspect_corpus
    if RUN_CONFIG_FILE in names:
        return inspect_run
    if {MODEL_CONFIG_FILE, FIRST_ARRAY} & names:
        return inspect_model
    if ONNX_FILE in names:  # next to the files of its tokenizer
        return inspect_onnx
    if {HUGGING_FACE_FILES[0], OPENAI_FILES[1], LIBRARY_FILE} & names:
        return inspect_tokenizer
    if "state.json" in names:
        run = folder.resolve().parent.parent
        raise UserError(f"{folder} is a checkpoint of the run {run.name}.", f"See: gpt1 inspect {run}")
    return inspect_runs if any(folder.glob(f"*/{RUN_CONFIG_FILE}")) else inspect_texts
