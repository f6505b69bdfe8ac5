"""`gpt1 score` and `gpt1 features`: texts from files, read by a model in blocks."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gpt1.corpus.readers import DocumentPart, document_format, read_documents
from gpt1.errors import UserError
from gpt1.files.reading import is_url, not_found_error
from gpt1.formatting import count_noun
from gpt1.inference.language_model import LanguageModel
from gpt1.inference.predictor import load
from gpt1.inference.task_predictor import TaskPredictor
from gpt1.progress import Progress
from gpt1.tables.facts import format_rows_have
from gpt1.tables.table import Table, check_table_output, fill_missing, read_blocks
from gpt1.tables.writer import csv_delimiter, merge_schema, output_kind, table_writer
from gpt1.tasks.examples import check_columns, choice_columns, column_text, read_examples
from gpt1.tasks.kinds import KINDS, Kind

FEATURES = "features"
"""The column that is added; one of this name in the table is replaced."""
SCORED_AT_ONCE = 64
"""Texts between two steps of the progress."""


def read_texts_or_text(source: str, column: str = "text") -> list[str]:
    """The documents of a file, or `source` itself if it is not a file name; UserError for a missing file or no text.

    `column` is that of the texts in a table.
    """
    if not source:
        raise UserError("the text is empty.", "Use a text, or the name of a file.")
    kind, has_spaces = document_format(source), any(map(str.isspace, source))
    if os.path.exists(source) or (is_url(source) and (kind or not has_spaces)):
        try:
            return join_parts(read_documents([source], column))
        except UserError as error:
            raise UserError(error.problem, error.fix.replace("--text-field", "--text")) from None
    if kind and not has_spaces:
        raise not_found_error(source)
    return [source]


def join_parts(parts: Iterable[DocumentPart]) -> list[str]:
    """The whole documents."""
    documents: list[list[str]] = []
    for part in parts:
        if part.boundary == "document":
            documents.append([part.text])
        else:
            documents[-1] += ["\n", part.text] if part.boundary == "line" else [part.text]
    return ["".join(document) for document in documents]


def score_with_progress(
    model: LanguageModel, texts: list[str], stride: int | None, progress: Progress
) -> list[dict[str, Any]]:
    """`LanguageModel.score` with a progress of texts."""
    found: list[dict[str, Any]] = []
    if len(texts) <= SCORED_AT_ONCE:
        progress = Progress()
    progress.begin("scoring", len(texts), unit="texts")
    for first in range(0, len(texts), SCORED_AT_ONCE):
        found += model.score(texts[first : first + SCORED_AT_ONCE], stride)
        progress.advance(len(found))
    progress.end()
    return found


def write_features(
    run: str | Path,
    table: str | Path,
    out: str | Path,
    *,
    column: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    verify: bool = True,
) -> str:
    """Write a table with the column `features` added: a vector for each row, empty for rows without text.

    Args:
        run: A run or model folder.
        table: The table; it is read in blocks.
        out: The file to write; it appears when it is complete.
        column: Column with the text. Default: for a fine-tuned model, the columns of its task.
        overwrite: Replace an existing `out` that has the column `features`.
        progress: Receives messages and progress.
        verify: See `load`.

    Returns:
        A summary of what was written.

    Raises:
        UserError: For a column that is missing, a pre-trained model without `column`, or an `out` that exists.
    """
    progress = progress or Progress()
    check_table_output(out, overwrite, source=table, written=(FEATURES,))
    model = load(run, verify=verify)
    kind, columns = feature_columns(model, run, column)
    names, total, schema, delimiter = scan_table(table, kind, columns, output_kind(out) == "parquet")
    rows = empty = 0
    progress.begin("features", total, unit="rows")
    with table_writer(out, [*names, FEATURES], schema=schema, delimiter=delimiter) as writer:
        for block in read_blocks(table):
            block = fill_missing(block, names)
            found = model.features(block_rows(block, columns))
            vectors = [None if math.isnan(vector[0]) else vector for vector in found.tolist()]
            writer.write([{**row, FEATURES: vector} for row, vector in zip(block.rows, vectors, strict=True)])
            rows, empty = rows + len(block), empty + vectors.count(None)
            progress.advance(rows)
    progress.end()
    if empty:
        progress.log(f"{format_rows_have(empty)} no text, so no vector")
    return f"{out}: {count_noun(rows, 'row')}, vectors of {model.gpt.config.n_embd} numbers in the column '{FEATURES}'"


def feature_columns(model: LanguageModel, run: str | Path, column: str | None) -> tuple[Kind, dict[str, str]]:
    """The columns that `features` reads, by role, and the kind of task that has these roles."""
    if not isinstance(model, TaskPredictor):
        if column is None:
            problem = f"{run} is not fine-tuned: it has no column of texts."
            raise UserError(problem, "Name the column with --text COLUMN.")
        return KINDS["classification"], {"text": column}
    if column is None:
        return model.kind, model.text_columns
    if "text" not in model.text_columns:
        raise UserError(f"{run} needs {', '.join(model.text_columns.values())}, not one text.", "Omit --text.")
    return model.kind, {"text": column}


def scan_table(
    table: str | Path, kind: Kind, columns: dict[str, str], parquet: bool
) -> tuple[list[str], int, Any, str]:
    """(columns, number of rows, Parquet schema or None, delimiter for .csv) of a table, which is checked on the way.

    Raises:
        UserError: For a row that cannot be read, or without one of the `columns` that are read.
    """
    names: dict[str, None] = {}
    rows, delimiter = 0, ""
    schema: Any = None
    needed = [name for column in columns.values() for name in choice_columns(column)]
    for block in read_blocks(table):
        delimiter = block.delimiter
        names |= dict.fromkeys(block.columns)
        rows += len(block)
        if parquet:
            schema = merge_schema(schema, [name for name in block.columns if name != FEATURES], block.rows)
        filled = fill_missing(block, [*block.columns, *needed])
        read_examples(filled.rows, kind, columns, filled.locate_row, labeled=False)
    check_columns(kind, columns, list(names), str(table), chosen="text" in columns, delimiter=delimiter)
    if parquet:
        import pyarrow

        schema = schema.append(pyarrow.field(FEATURES, pyarrow.list_(pyarrow.float32())))
    return [name for name in names if name != FEATURES], rows, schema, csv_delimiter(table, delimiter)


def block_rows(block: Table, columns: dict[str, str]) -> list[Any]:
    """The inputs of `features` for the rows of a block."""
    if "text" not in columns:
        return list(block.rows)
    return [column_text(row, columns["text"], block.locate_row(i)) for i, row in enumerate(block.rows)]
