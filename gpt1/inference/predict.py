"""`gpt1 predict`: rows are read, predicted and written in blocks, so that a table of any length takes bounded memory.

The rows are read twice. The first time nothing is computed: whatever can be refused is refused then, before the work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gpt1 import formatting
from gpt1.datasets import DataSet, parse_data_set, plan_submission, write_submission
from gpt1.errors import UserError
from gpt1.files.atomic import ensure_writable
from gpt1.files.reading import file_format as file_ending
from gpt1.files.reading import is_url
from gpt1.inference.evaluate import load_labelled_rows, predict
from gpt1.inference.predictor import Seen, TaskPredictor, load_task_predictor
from gpt1.progress import NullProgress, Progress
from gpt1.tables.rows import TABLE_FORMATS
from gpt1.tables.table import BLOCK_ROWS, Table, check_table_output, fill_missing, read_blocks
from gpt1.tables.writer import format_cell, merge_schema, output_kind, table_writer, tsv_error
from gpt1.tasks.examples import check_columns, choice_columns, read_examples

BAR_FROM_BYTES = 2**24
"""Smaller files are checked in a moment."""


def predict_into(
    run: str | Path,
    rows: str | Path,
    out: str | Path | None = None,
    *,
    data_dir: str | Path | None = None,
    excel_safe: bool = False,
    progress: Progress | None = None,
    verify: bool = True,
) -> str:
    """`predict`, written as a table while it goes on.

    Args:
        run: A run or model folder.
        rows: A table, or the name of a known data set.
        out: The file to write, which appears whole at the end; None is standard output. Into a folder, the test split
            of a GLUE task goes in the files that GLUE takes.
        data_dir: Where the files of known data sets lie.
        excel_safe: Put an apostrophe before cells of .csv and .tsv that a spreadsheet would take for formulas.
        progress: What is told while it works.
        verify: See `load`.

    Returns:
        What to say of it.

    Raises:
        UserError: before the work, for rows that cannot be predicted or that the format of `out` cannot hold.
    """
    progress = progress or NullProgress()
    if out is not None and file_ending(out)[0] not in TABLE_FORMATS and (data := glue_task(rows)):
        return submit(data, run, rows, Path(out), data_dir, progress)
    if out is not None:
        check_table_output(out)
        if Path(out).exists() and Path(rows).exists() and Path(out).samefile(rows):
            raise UserError(f"--out {out} is the table that is read.", "Choose another --out.")
    kind = output_kind(out, like := rows if Path(rows).is_file() else "rows.jsonl")
    if excel_safe and kind not in ("csv", "tsv"):
        raise UserError(f"--excel-safe goes with .csv and .tsv, not .{kind}.", "Leave it out.")
    model = load_task_predictor(run, verify=verify)
    source = open_source(model, run, rows, data_dir, progress)
    plan = check_rows(model, source, kind, progress)
    if replaced := [name for name in plan.columns if name in plan.added]:
        progress.log(f"{source.name} has columns of these names already, which are replaced: {', '.join(replaced)}")
    columns = list(dict.fromkeys([*plan.columns, *plan.added]))
    with table_writer(out, columns, like=like, excel_safe=excel_safe, schema=plan.schema) as writer:
        for block in predicted(model, source, plan, progress):
            writer.write(block)
    if writer.formulas and not excel_safe:
        progress.log(
            f"{formatting.count_noun(writer.formulas, 'cell')} begin with =, +, - or @: a spreadsheet would take them for "
            "formulas. For a spreadsheet write with --excel-safe."
        )
    answer = "score" if "score" in plan.added else "prediction"
    return f"{out}: {formatting.count_noun(plan.rows, 'row')}; see the column {answer}" if out is not None else ""


@dataclass(frozen=True)
class Source:
    """Rows that can be read more than once, a block at a time, and the columns of the texts by role."""

    name: str
    blocks: Callable[[Callable[[int], None] | None], Iterator[Table]]
    columns: dict[str, str]
    size: int = 0

    @property
    def needed(self) -> list[str]:
        """Columns that every row has to have."""
        parts = (choice_columns(name) if role == "choices" else [name] for role, name in self.columns.items())
        return [name for part in parts for name in part]


def open_source(
    model: TaskPredictor, run: str | Path, rows: str | Path, data_dir: str | Path | None, progress: Progress
) -> Source:
    """A file is read from the disk each time; a known data set, which is small, is kept in memory."""
    if Path(rows).is_file() or (is_url(rows) and parse_data_set(str(rows)) is None):
        size = Path(rows).stat().st_size if Path(rows).is_file() else 0
        return Source(str(rows), lambda advance: read_blocks(rows, advance=advance), model.text_columns, size)
    table, columns = load_labelled_rows(model, run, rows, data_dir, progress)

    def blocks(advance: Callable[[int], None] | None) -> Iterator[Table]:
        for first in range(0, len(table), BLOCK_ROWS):
            numbers = (table.row_numbers or range(1, len(table) + 1))[first : first + BLOCK_ROWS]
            own = table.rows[first : first + BLOCK_ROWS]
            yield Table(table.name, table.columns, own, list(numbers), table.unit)

    return Source(table.name, blocks, {role: name for role, name in columns.items() if role != "label"})


@dataclass(frozen=True)
class Plan:
    """What the first reading found: the columns of all rows, those that predictions add, and a schema for Parquet."""

    columns: list[str]
    added: list[str]
    rows: int
    schema: Any = None


def check_rows(model: TaskPredictor, source: Source, kind: str, progress: Progress) -> Plan:
    """Reads all rows; UserError for one that cannot be predicted, or that a file of this `kind` cannot hold."""
    columns = dict.fromkeys(first_columns(source))
    check_columns(model.kind, source.columns, list(columns), source.name)
    rows, answers, schema = 0, 0, None
    show = source.size >= BAR_FROM_BYTES
    if show:
        progress.begin(f"checking {source.name}", source.size, unit="bytes")
    for block in source.blocks(progress.advance if show else None):
        columns |= dict.fromkeys(block.columns)
        block = fill_missing(block, columns)
        examples = read_examples(block.rows, model.kind, source.columns, block.locate_row, labelled=False)
        answers = max(answers, *(len(example.answers) for example in examples))
        rows += len(block)
        if kind == "tsv":
            check_tsv(block)
        elif kind == "parquet":
            schema = merge_schema(schema, block.columns, block.rows)
    if show:
        progress.end()
    # The row of an example without tokens, for the names and types of what is added.
    (sample,) = model.target.decode(torch.zeros(1, answers if model.kind.multiple_choice else model.target.outputs))
    if kind == "tsv":
        for label in model.labels:
            if has_break(label):
                raise tsv_error(f"the label {label!r}", "it holds a tab or a line break")
    if schema is not None:
        kept = [field.name for field in schema if field.name not in sample]
        added = merge_schema(None, list(sample), [sample])
        schema = joined_schema(schema, kept, added, list(dict.fromkeys([*columns, *sample])))
    return Plan(list(columns), list(sample), rows, schema)


def first_columns(source: Source) -> list[str]:
    """The columns of the first block; those of all rows where it lacks one that is needed, as it may in .jsonl."""
    found: dict[str, None] = {}
    for block in source.blocks(None):
        found |= dict.fromkeys(block.columns)
        if all(name in found for name in source.needed):
            break
    return list(found)


def has_break(text: str) -> bool:
    return any(character in text for character in "\t\n\r")


def check_tsv(block: Table) -> None:
    if any(map(has_break, block.columns)):
        raise tsv_error("the header", "a cell holds a tab or a line break")
    for i, row in enumerate(block.rows):
        if any(has_break(format_cell(value)) for value in row.values()):
            raise tsv_error(block.locate_row(i), "a cell holds a tab or a line break")


def joined_schema(rows: Any, kept: Sequence[str], added: Any, order: Sequence[str]) -> Any:
    """The schema of the rows' own columns and of those that are added, in the order in which they are written."""
    import pyarrow

    fields = {name: rows.field(name) for name in kept} | {field.name: field for field in added}
    return pyarrow.schema([fields[name] for name in order])


def predicted(model: TaskPredictor, source: Source, plan: Plan, progress: Progress) -> Iterator[list[dict[str, Any]]]:
    """The rows with their predictions, block by block; what a person should know of them is told at the end."""
    seen, done = Seen(), 0
    progress.begin("predicting", plan.rows, unit="rows")
    for block in source.blocks(None):
        block = fill_missing(block, plan.columns)
        if done + len(block) > plan.rows or any(name not in plan.columns for name in block.columns):
            raise changed(source.name)
        examples = read_examples(block.rows, model.kind, source.columns, block.locate_row, labelled=False)

        def advance(rows: int, before: int = done) -> None:
            progress.advance(before + rows)

        added = model.predict_examples(examples, seen, advance)
        done += len(block)
        yield [{**row, **new} for row, new in zip(block.rows, added, strict=True)]
    progress.end()
    if done < plan.rows:
        raise changed(source.name)
    progress.log(seen.line(source.name, model.gpt.config.context, model.long))


def changed(name: str) -> UserError:
    return UserError(f"{name} was changed while it was read.", "Wait until the program that writes it is done.")


def submit(data: DataSet, run: str | Path, rows: str | Path, out: Path, data_dir: Any, progress: Progress) -> str:
    """The predictions for a test split of GLUE, in its files."""
    table = data.read("test", data_dir)
    ensure_writable(out)
    plan_submission(data, len(table), out)
    found = predict(run, rows, data_dir=data_dir, progress=progress)
    answers = [row["score" if data.score else "prediction"] for row in found]
    files = " and ".join(map(str, write_submission(data, answers, out)))
    return f"{files}: {len(found):,} rows, as gluebenchmark.com takes them"


def glue_task(rows: str | Path) -> DataSet | None:
    """The GLUE task whose test split `rows` names."""
    named = None if Path(rows).is_file() else parse_data_set(str(rows))
    return named.data if named and named.split == "test" and not named.subset and named.data.glue else None
