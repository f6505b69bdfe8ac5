"""`gpt1 predict`: read, predict and write rows in blocks, so that memory is bounded for tables of any length.

The rows are read twice: first to check all of them, then to predict.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from gpt1 import formatting
from gpt1.console import Console, default_progress
from gpt1.datasets import DataSet, parse_data_set, plan_submission, write_submission
from gpt1.errors import UserError
from gpt1.files.atomic import ensure_writable
from gpt1.files.reading import file_format, is_url, open_input, spool_standard_input
from gpt1.inference.evaluate import given_columns, load_labeled_rows, predict
from gpt1.inference.predictor import TaskPredictor, load_task_predictor
from gpt1.inference.task_logits import InputStatistics
from gpt1.progress import Progress
from gpt1.tables.facts import format_rows_have
from gpt1.tables.rows import INPUT_FORMATS, TABLE_FORMATS, detect_delimiter
from gpt1.tables.table import BLOCK_ROWS, Table, check_table_output, fill_missing, read_blocks
from gpt1.tables.writer import (
    csv_delimiter,
    format_cell,
    has_lossy_bytes,
    merge_schema,
    output_kind,
    table_writer,
    tsv_error,
)
from gpt1.tasks.examples import check_columns, choice_columns, column_names, input_columns, read_examples
from gpt1.tasks.targets import decode_predictions

PROGRESS_MIN_BYTES = 2**24
"""Smaller files are checked without a progress bar."""
CERTAIN_LOGIT = 100.0
"""Its sigmoid is 1 in float64."""


def predict_into(
    run: str | Path,
    rows: str | Path,
    out: str | Path | None = None,
    *,
    data_dir: str | Path | None = None,
    excel_safe: bool = False,
    overwrite: bool = False,
    as_json: bool = False,
    progress: Progress | None = None,
    verify: bool = True,
    **columns: str | None,
) -> str:
    """Predict every row of a table and write the result while predicting.

    Args:
        run: A run or model folder.
        rows: A table, the name of a known data set, a text, or `-` for a table on standard input.
        out: The file to write; it appears when it is complete. None is standard output. For the test split of a GLUE
            task it can be a folder, for the files of a submission.
        data_dir: Folder with the files of known data sets.
        excel_safe: Put an apostrophe before cells of .csv and .tsv that a spreadsheet would run as formulas.
        overwrite: Replace a file of predictions that is there.
        as_json: Write JSON lines to standard output. Default: the format of `rows`; for a text in a terminal, a table.
        progress: Receives messages and progress.
        verify: See `load`.
        **columns: Columns that are not named as in training, by role: text="review".

    Returns:
        A summary of what was written; empty for standard output.

    Raises:
        UserError: Before predicting, for rows that cannot be predicted or that the format of `out` cannot store.
    """
    progress = progress or default_progress()
    if not str(rows).strip():
        raise UserError("INPUT is empty.", "Use a table, or a text of at least one word.")
    if out is not None and file_format(out)[0] not in TABLE_FORMATS and (data := glue_task(rows)):
        return write_glue_submission(data, run, rows, Path(out), data_dir, progress, overwrite)
    if out is not None:
        if as_json:
            raise UserError("--json does not apply to --out.", "Omit --json: the extension of --out is the format.")
        check_table_output(out, overwrite, source=rows, written=("prediction", "score"))
    with spool_standard_input() if str(rows) == "-" else nullcontext() as spooled:
        is_text = not spooled and is_plain_text(rows)
        like = spooled or (rows if os.path.isfile(rows) or (is_url(rows) and not is_text) else "rows.jsonl")
        kind = output_kind(out, "rows.jsonl" if as_json else like)
        if excel_safe and kind not in ("csv", "tsv"):
            raise UserError(f"--excel-safe requires .csv or .tsv, not .{kind}.", "Remove --excel-safe.")
        model, chosen = load_task_predictor(run, verify=verify), given_columns(columns)
        if spooled:
            check_header(spooled, {**model.text_columns, **chosen})
            source = open_file(model, spooled, "standard input", chosen)
        elif is_text:
            source = open_text(model, str(rows), run)
            if out is None and not as_json and sys.stdout.isatty():
                print_prediction(model, source, progress)
                return ""
        else:
            source = open_source(model, run, rows, data_dir, progress, chosen)
        return write_predictions(model, source, out, kind, excel_safe, progress)


def write_predictions(
    model: TaskPredictor, source: RowSource, out: str | Path | None, kind: str, excel_safe: bool, progress: Progress
) -> str:
    """Check all rows, then predict and write them; returns the summary of `predict_into`."""
    plan = check_rows(model, source, kind, progress)
    if replaced := [name for name in plan.columns if name in plan.added]:
        progress.log(f"{source.name}: existing columns are replaced by predictions: {', '.join(replaced)}")
    names = list(dict.fromkeys([*plan.columns, *plan.added]))
    with table_writer(
        out, names, like=f"rows.{kind}", excel_safe=excel_safe, schema=plan.schema, delimiter=plan.delimiter
    ) as writer:
        for block in predict_blocks(model, source, plan, progress):
            writer.write(block)
    if writer.formulas and not excel_safe:
        progress.log(
            f"a spreadsheet would run {formatting.count_noun(writer.formulas, 'cell')} as formulas, because of =, +, - "
            "or @ at the beginning. Use --excel-safe for a file that is opened in a spreadsheet."
        )
    answer = "score" if "score" in plan.added else "prediction"
    return f"{out}: {formatting.count_noun(plan.rows, 'row')}; see the column {answer}" if out is not None else ""


def print_prediction(model: TaskPredictor, source: RowSource, progress: Progress) -> None:
    """Print the prediction of a single row, and the probabilities of the labels, highest first."""
    (block,) = predict_blocks(model, source, check_rows(model, source, "jsonl", progress), progress)
    row, prefix, console = block[0], "probability_", Console()
    found = {key.removeprefix(prefix): p for key, p in row.items() if key.startswith(prefix) and p is not None}
    if "score" in row and row["score"] is not None:
        console.print_result(f"score: {formatting.format_number(row['score'])}")
    elif found:
        labels = row["prediction"] if isinstance(row["prediction"], list) else [row["prediction"]]
        console.print_result(f"prediction: {', '.join(map(str, labels)) or 'no label'}")
        console.print_probabilities(sorted(found.items(), key=lambda item: -item[1]))


def is_plain_text(rows: str | Path) -> bool:
    """Whether INPUT is a text to predict and not the name of a file or a data set: it has spaces, or other letters than
    ASCII, and no extension of a table. A text may begin with a URL."""
    text = str(rows)
    if os.path.exists(text) or parse_data_set(text) is not None:
        return False
    is_prose = any(map(str.isspace, text)) or not (text.isascii() or is_url(text))
    return is_prose and file_format(text)[0] not in INPUT_FORMATS


@dataclass(frozen=True)
class RowSource:
    """Rows that can be read repeatedly in blocks, and their text columns by role."""

    name: str
    blocks: Callable[[Callable[[int], None] | None], Iterator[Table]]
    columns: dict[str, str]
    size: int = 0

    def lacks(self, present: Container[str]) -> bool:
        """Whether a column that every row needs is not among `present`."""
        names = (column_names(role, column, present) for role, column in self.columns.items())
        return any(name not in present for group in names for name in group)


def open_source(
    model: TaskPredictor,
    run: str | Path,
    rows: str | Path,
    data_dir: str | Path | None,
    progress: Progress,
    columns: Mapping[str, str],
) -> RowSource:
    """Files are read again each time; known data sets are small and stay in memory."""
    if os.path.isfile(rows) or (is_url(rows) and parse_data_set(str(rows)) is None):
        return open_file(model, rows, str(rows), columns)
    table, chosen = load_labeled_rows(model, run, rows, data_dir, progress, columns)

    def blocks(advance: Callable[[int], None] | None) -> Iterator[Table]:
        for first in range(0, len(table), BLOCK_ROWS):
            numbers = (table.row_numbers or range(1, len(table) + 1))[first : first + BLOCK_ROWS]
            block = table.rows[first : first + BLOCK_ROWS]
            yield Table(table.name, table.columns, block, list(numbers), table.unit)

    return RowSource(table.name, blocks, input_columns(chosen))


def open_file(model: TaskPredictor, path: str | Path, name: str, columns: Mapping[str, str]) -> RowSource:
    size = os.path.getsize(path) if os.path.isfile(path) else 0
    chosen = {**model.text_columns, **columns}
    return RowSource(name, lambda advance: read_blocks(path, name=name, advance=advance), chosen, size)


def check_header(spooled: Path, columns: Mapping[str, str]) -> None:
    """UserError for lines of text on standard input where a table is needed."""
    if spooled.suffix != ".csv" or len(columns) > 1:
        return
    with open_input(spooled, name="standard input") as file:
        delimiter, _ = detect_delimiter(file, None)
        first, second = [*map(str.strip, islice(file.lines(), 2)), "", ""][:2]
    needed = [part for column in columns.values() for part in choice_columns(column)]
    names = [name.strip().strip('"') for name in first.split(delimiter)]
    is_prose = len(names) == 1 or ('"' not in first + second and second.count(delimiter) < len(names) - 1)
    if is_prose and not {*names} & {*needed}:
        fix = f"The first line of a table names its columns: add the line {needed[0]} before the texts."
        raise UserError(f"standard input has no column '{needed[0]}'; its first line is '{first[:40]}'.", fix)


def open_text(model: TaskPredictor, text: str, run: str | Path) -> RowSource:
    """One row with this text."""
    if list(model.text_columns) != ["text"]:
        problem = f"{run} needs {', '.join(model.text_columns.values())}, not one text."
        raise UserError(problem, "Use a table with these columns.")
    column = model.text_columns["text"]
    return RowSource(
        "the text", lambda advance: iter([Table("the text", [column], [{column: text}])]), {"text": column}
    )


@dataclass(frozen=True)
class OutputPlan:
    """Result of checking: columns of all rows, columns that predictions add, number of rows, schema for Parquet,
    delimiter for .csv."""

    columns: list[str]
    added: list[str]
    rows: int
    schema: Any = None
    delimiter: str = ","


def check_rows(model: TaskPredictor, source: RowSource, kind: str, progress: Progress) -> OutputPlan:
    """Read all rows; raise UserError for one that cannot be predicted or stored in a file of this `kind`."""
    found, delimiter = first_columns(source)
    columns = dict.fromkeys(found)
    check_columns(model.kind, source.columns, found, source.name, delimiter=delimiter)
    rows, answers, schema = 0, 0, None
    show = source.size >= PROGRESS_MIN_BYTES
    if show:
        progress.begin(f"checking {source.name}", source.size, unit="bytes")
    for block in source.blocks(progress.advance if show else None):
        columns |= dict.fromkeys(block.columns)
        block = fill_missing(block, columns)
        examples = read_examples(block.rows, model.kind, source.columns, block.locate_row, labeled=False)
        answers = max(answers, *(len(example.answers) for example in examples))
        rows += len(block)
        if kind == "tsv":
            check_tsv(block)
        if kind == "parquet":
            schema = merge_schema(schema, block.columns, block.rows)
        else:
            check_bytes(block, kind)
    if show:
        progress.end()
    # Decode a row for the names and types of the added columns; its probabilities of several labels are 1, because a
    # list without labels has no type.
    outputs = answers if model.kind.multiple_choice else model.target.outputs
    (sample,) = decode_predictions(model.target, torch.full((1, outputs), CERTAIN_LOGIT))
    if kind == "tsv":
        for label in map(str, model.labels):
            if has_break(label):
                raise tsv_error(f"the label {label!r}", "it contains a tab or a line break")
    if schema is not None:
        kept = [field.name for field in schema if field.name not in sample]
        added = merge_schema(None, list(sample), [sample])
        schema = join_schemas(schema, kept, added, list(dict.fromkeys([*columns, *sample])))
    return OutputPlan(list(columns), list(sample), rows, schema, csv_delimiter(source.name, delimiter))


def first_columns(source: RowSource) -> tuple[list[str], str]:
    """(columns, delimiter) of the first block; of more blocks while a column is missing, as can happen in .jsonl."""
    found: dict[str, None] = {}
    delimiter = ""
    for block in source.blocks(None):
        delimiter = block.delimiter
        found |= dict.fromkeys(block.columns)
        if not source.lacks(found):
            break
    return list(found), delimiter


def has_break(text: str) -> bool:
    return any(character in text for character in "\t\n\r")


def check_tsv(block: Table) -> None:
    if any(map(has_break, block.columns)):
        raise tsv_error("the header", "a cell contains a tab or a line break")
    for i, row in enumerate(block.rows):
        if any(has_break(format_cell(value)) for value in row.values()):
            raise tsv_error(block.locate_row(i), "a cell contains a tab or a line break")


def check_bytes(block: Table, kind: str) -> None:
    for i, row in enumerate(block.rows):
        for column, value in row.items():
            if has_lossy_bytes(value):
                raise UserError(
                    f"{block.locate_row(i)}, column '{column}': bytes that are not UTF-8 cannot be written as .{kind}.",
                    "Use --out with .parquet, or remove the column.",
                )


def join_schemas(rows: Any, kept: Sequence[str], added: Any, order: Sequence[str]) -> Any:
    """Schema of the existing and the added columns, in output order."""
    import pyarrow

    fields = {name: rows.field(name) for name in kept} | {field.name: field for field in added}
    return pyarrow.schema([fields[name] for name in order])


def predict_blocks(
    model: TaskPredictor, source: RowSource, plan: OutputPlan, progress: Progress
) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows with their predictions, block by block; log statistics of the input at the end."""
    statistics, done, empty = InputStatistics(), 0, 0
    progress.begin("predicting", plan.rows, unit="rows")
    for block in source.blocks(None):
        block = fill_missing(block, plan.columns)
        if done + len(block) > plan.rows or any(name not in plan.columns for name in block.columns):
            raise input_changed_error(source.name)
        examples = read_examples(block.rows, model.kind, source.columns, block.locate_row, labeled=False)

        def advance(rows: int, before: int = done) -> None:
            progress.advance(before + rows)

        added = model.decode(examples, model.logits(examples, statistics, advance))
        done += len(block)
        empty += sum(not example.has_text for example in examples)
        yield [{**row, **new} for row, new in zip(block.rows, added, strict=True)]
    progress.end()
    if done < plan.rows:
        raise input_changed_error(source.name)
    progress.log(statistics.summary(source.name, model.gpt.config.context, model.long))
    if empty:
        progress.log(f"{format_rows_have(empty)} no text, so no prediction")


def input_changed_error(name: str) -> UserError:
    return UserError(f"{name} changed while it was being read.", "Wait until the program that writes it has finished.")


def write_glue_submission(
    data: DataSet, run: str | Path, rows: str | Path, out: Path, data_dir: Any, progress: Progress, overwrite: bool
) -> str:
    """Write the predictions for a test split of GLUE as files for gluebenchmark.com."""
    table = data.read("test", data_dir)
    ensure_writable(out)
    for file in plan_submission(data, len(table), out):
        if file.exists() and not overwrite:
            raise UserError(f"{file} exists.", "Choose another --out, or replace it with --overwrite.")
    predicted = predict(run, rows, data_dir=data_dir, progress=progress)
    answers = [row["score" if data.score else "prediction"] for row in predicted]
    files = " and ".join(map(str, write_submission(data, answers, out)))
    return f"{files}: {formatting.count_noun(len(predicted), 'row')}, in the format of gluebenchmark.com"


def glue_task(rows: str | Path) -> DataSet | None:
    """The GLUE task if `rows` is the name of its test split, else None."""
    named = None if os.path.isfile(rows) else parse_data_set(str(rows))
    return named.data if named and named.split == "test" and not named.subset and named.data.glue else None
