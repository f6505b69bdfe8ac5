"""Inspect a labeled table: columns, likely task, labels, lengths, tokens, warnings."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpt1.config import FinetuneConfig, flag_name
from gpt1.datasets.labeled import LabeledTable
from gpt1.datasets.task_guess import TaskGuess, guess_task, is_list
from gpt1.errors import UserError
from gpt1.files.reading import file_format
from gpt1.formatting import shell_quote
from gpt1.inference.predictor import TaskPredictor, load
from gpt1.progress import Progress
from gpt1.runs.folder import STARTER, has_starter
from gpt1.tables.cells import cell_number, cell_to_show, is_date, is_empty, resolve_thousands
from gpt1.tables.facts import MAX_GROUPS_NAMED, describe_table, format_rows_have, label_warnings, score_summary
from gpt1.tables.rows import QUOTED_TSV_FIX
from gpt1.tables.table import Table
from gpt1.tasks.examples import (
    choice_columns,
    find_numbering,
    input_columns,
    label_columns,
    numbering_notes,
    read_examples,
    target_from_examples,
)
from gpt1.tasks.kinds import KINDS, Example, encode_examples, example_texts, truncated_share, windowed_share
from gpt1.tasks.labels import as_label, as_number, format_labels
from gpt1.tasks.multilabel import MultiLabel

Facts = dict[str, Any]
MAX_TOKENIZED_ROWS = 20_000
"""Maximum number of rows whose tokens are counted; evenly spaced in a larger table."""
EXAMPLE_CHARS = 40
"""Maximum number of characters of a cell that are shown."""
MAJORITY_SHARE = 0.75
"""Warn if a label has at least this share of the rows."""
ENGLISH_ROWS, ENGLISH_ASCII_SHARE = 200, 0.95
"""Texts with fewer ASCII characters in the first rows are not English."""
LEAK_SHARE, LEAK_RATIO = 0.3, 4.0
"""Warn if a label occurs in this share of the texts of its rows, and this many times as often as in other texts."""


def inspect_table(
    table: Table, from_: str | Path | None, progress: Progress, known_task: TaskGuess | None = None
) -> Facts:
    """Facts about a table; `known_task` is the task of a known data set, otherwise it is guessed."""
    task = known_task or guess_task(table)
    if not {*label_columns(KINDS[task.kind], task.columns.get("label", ""))} <= {*table.columns}:  # a test split
        task = replace(task, columns=input_columns(task.columns))
    texts = [column for role, column in task.columns.items() if role not in ("label", "choices")]
    texts += choice_columns(task.columns["choices"]) if "choices" in task.columns else []
    label = task.columns.get("label")
    one_label = task.kind not in ("choice", "multilabel")
    facts = describe_table(table, label if one_label else None, texts or None, label_reader(task))
    examples, error = try_read_examples(table, task)
    labels = [example.label for example in examples if example.label is not None]
    warnings = [
        sentence for sentence in facts.pop("warnings") if not (error and sentence.startswith("all rows have the same"))
    ]
    if task.kind == "choice" and labels:
        facts["labels"] = {f"answer {k}": n for k, n in sorted(Counter(labels).items())}
    if task.score:
        facts.pop("labels", None)
        facts |= score_summary(labels)
    elif task.kind == "multilabel" and labels and not error:
        target = MultiLabel.from_labels(labels)
        facts["labels"] = dict(Counter(name for value in labels for name in target.split(value)).most_common())
    elif "labels" in facts and one_label:
        facts["labels"] = count_labels(table, task.columns["label"])
    facts = {
        "type": "table",
        **facts,
        "columns": {name: column_facts([row.get(name) for row in table.rows]) for name in table.columns},
        "task": {"kind": task.kind, "columns": task.columns, "score": task.score, "flags": task.flags},
    }
    warnings += [error] * bool(error) + task_warnings(table, task, examples, facts)
    if task.unused:
        warnings.append(task.unused_note)
    if task.kind == "choice" and labels:
        warnings += numbering_notes(find_numbering(table.rows, KINDS[task.kind], task.columns), examples)
    if from_ is not None:
        facts["tokens"] = token_facts(examples, task, from_, progress)
    following = next_commands(table, task, texts, from_) if texts else []
    return {**facts, "warnings": warnings, "next": following[:-1] if error and label else following}


def label_reader(task: TaskGuess) -> Callable[[Any], str]:
    """A function that returns a cell of the label as training reads it; as text if it is empty or invalid."""

    def read(cell: Any) -> str:
        try:
            return f"{as_number(cell):.15g}" if KINDS[task.kind].predicts_number(task.score) else as_label(cell)
        except UserError:
            return cell_to_show(cell)

    return read


def next_commands(table: Table, task: TaskGuess, texts: Sequence[str], from_: str | Path | None) -> list[str]:
    """The commands to type next. They name `starter`, if it is installed, for texts that may be English."""
    name = shell_quote(table.name)
    english = has_starter() and ascii_share(table, texts) > ENGLISH_ASCII_SHARE
    model = shell_quote(str(from_ or (STARTER if english else "RUN")))
    about = "   (starter: for English texts)" if from_ is None and english else ""
    tokens = [f"gpt1 inspect {name} --from {model}   (counts unknown and truncated tokens)"] * (from_ is None)
    if "label" not in task.columns:
        return [*tokens, f"gpt1 predict RUN {name} --out predictions.csv"]
    return [*tokens, f"gpt1 finetune {name} {task.flags} --from {model} --out runs/NAME{about}"]


def ascii_share(table: Table, texts: Sequence[str]) -> float:
    """Share of ASCII characters in the texts of the first rows."""
    sample = "".join(cell_to_show(row.get(name)) for row in table.rows[:ENGLISH_ROWS] for name in texts)
    return sum(map(str.isascii, sample)) / max(1, len(sample))


def try_read_examples(table: Table, task: TaskGuess) -> tuple[list[Example], str]:
    """(rows as gpt1 finetune would read them, its error message or "")."""
    labeled = "label" in task.columns
    columns = dict(task.columns)
    kind = KINDS[task.kind]
    if missing := [flag_name(role) for role in kind.columns if role not in columns and role not in kind.optional]:
        named = " ".join(f"{flag} COLUMN" for flag in missing)
        problem = f"no column with texts was found for {', '.join(missing)}."
        return [], finetune_error(UserError(problem, f"Name the column: {named}"))
    numbering = find_numbering(table.rows, kind, columns) if labeled else "0"
    try:
        if labeled:
            numbers = kind.predicts_number(task.score)
            table = LabeledTable(table).with_labels(kind, columns["label"], "refuse", numbers).table
        examples = read_examples(table.rows, kind, columns, table.locate_row, labeled, numbering)
    except UserError as error:
        try:
            return read_examples(table.rows, kind, columns, table.locate_row, labeled=False), finetune_error(error)
        except UserError:
            return [], finetune_error(error)
    try:
        if labeled:
            target_from_examples(kind, task.score, examples, table.locate_row, table.name)
    except UserError as error:
        return examples, finetune_error(error)
    return examples, ""


def finetune_error(error: UserError) -> str:
    return f"gpt1 finetune would fail: {error.problem} {error.fix}".strip()


def column_facts(cells: Sequence[Any]) -> Facts:
    filled = [cell for cell in cells if not is_empty(cell)]
    texts = [str(cell) if isinstance(cell, list | tuple) else cell_to_show(cell) for cell in filled]
    example = " ".join(texts[0].split()) if texts else ""
    filled = resolve_thousands(filled)
    cell_type = content_type(filled)
    mean = score_summary(filled).get("scores", {}).get("mean") if cell_type in ("integers", "numbers") else None
    return {
        "type": cell_type,
        **({} if mean is None else {"mean": mean}),
        "empty": len(cells) - len(filled),
        "distinct": len(set(texts)),
        "example": example if len(example) <= EXAMPLE_CHARS else example[: EXAMPLE_CHARS - 1] + "…",
    }


def content_type(cells: Sequence[Any]) -> str:
    if not cells:
        return "empty"
    if all(map(is_list, cells)):
        return "lists"
    if all(isinstance(cell, bool) for cell in cells):
        return "booleans"
    if all(map(is_date, cells)):
        return "dates"
    if all(isinstance(cell, bytes) for cell in cells) and not all(map(is_utf8, cells)):
        return "bytes"
    numbers = [cell_number(cell) for cell in cells]
    if None not in numbers:
        return "integers" if all(number is not None and number.is_integer() for number in numbers) else "numbers"
    return "texts" if sum(len(cell_to_show(cell).split()) for cell in cells) > 1.5 * len(cells) else "words"


def is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def count_labels(table: Table, label: str) -> dict[str, int]:
    """Number of rows of each label, as training reads labels, without empty ones."""
    cells = [row.get(label) for row in table.rows]
    counts: Counter[str] = Counter()
    for cell in cells:
        with suppress(UserError):  # an empty or invalid label
            counts[as_label(cell)] += 1
    return dict(counts.most_common())


def token_facts(examples: Sequence[Example], task: TaskGuess, from_: str | Path, progress: Progress) -> Facts:
    """Tokens per row, unknown tokens, and truncated or windowed rows with the model `from_`.

    Long texts are treated as in its fine-tuning, or by the defaults of `gpt1 finetune` if it is only pre-trained.
    """
    model = load(from_)
    tokenizer, config = model.tokenizer, model.gpt.config
    cut, long = (
        (model.cut, model.long) if isinstance(model, TaskPredictor) else (FinetuneConfig.cut, FinetuneConfig.long)
    )
    stride = -(-len(examples) // MAX_TOKENIZED_ROWS)
    sample = list(examples[:: max(1, stride)])
    if not sample:
        return {"model": str(from_), "rows": 0}
    progress.begin("counting tokens", len(sample), unit="rows")
    ids: list[list[int]] = []
    for first in range(0, len(sample), 256):
        ids += tokenizer.encode_batch(example_texts(sample[first : first + 256]))
        progress.advance(min(first + 256, len(sample)))
    encoded = encode_examples(KINDS[task.kind], sample, ids, config.vocab_size, config.context, cut, long)
    progress.end()
    parts = iter(ids)
    lengths = sorted(sum(len(next(parts)) for _ in (*example.fields, *example.answers)) for example in sample)
    tokens = sum(lengths)
    return {
        "model": str(from_),
        "rows": len(sample),
        "context": config.context,
        "min": lengths[0],
        "median": lengths[len(lengths) // 2],
        "p95": lengths[round(0.95 * (len(lengths) - 1))],
        "max": lengths[-1],
        "unknown_share": sum(tokenizer.count_unknown(text_ids) for text_ids in ids) / max(1, tokens),
        "truncated_share": truncated_share(encoded),
        "long": long,
        "windowed_share": windowed_share(encoded),
    }


DAMAGE = {
    "contain �: characters were lost when the file was written.": re.compile("\ufffd"),
    "look like UTF-8 that was read as Latin-1 (Ã©, â€™).": re.compile(r"Ã[\x80-\xbf©¨¤¶¼]|â€"),
    "contain HTML tags, which the model reads as text.": re.compile(
        r"<(br|p|div|a|span|b|i|li)\b[^<>]*>", re.IGNORECASE
    ),
}
"""What is wrong with texts → a pattern in them."""


def task_warnings(table: Table, task: TaskGuess, examples: Sequence[Example], facts: Facts) -> list[str]:
    warnings = []
    rows = max(1, len(table))
    label = task.columns.get("label")
    counts: dict[str, int] = (
        facts.get("labels", {}) if not (task.score or task.kind in ("choice", "multilabel", "regression")) else {}
    )
    if label in table.columns and (missing := sum(is_empty(row.get(label)) for row in table.rows)):
        warnings.append(f"{missing:,} of {rows:,} rows have no label.")
    if len(counts) > 1:
        most = max(counts, key=counts.__getitem__)
        if counts[most] >= MAJORITY_SHARE * rows:
            warnings.append(
                f"always predicting '{most}' is correct for {counts[most]:,} of {rows:,} rows: compare accuracy with "
                "that."
            )
        warnings += label_warnings(counts) + spelling_notes(table, task.columns["label"])
        once = [name for name, n in counts.items() if n == 1]
        if len(once) == 1:
            warnings.append(f"the label '{once[0]}' has a single row: none in the validation set.")
        elif once:
            warnings.append(
                f"{len(once):,} labels have a single row, '{once[0]}' for example: none in the validation set."
            )
        warnings += find_label_leaks(examples, counts)
    if label in table.columns and (number := first_number_with_comma([row.get(label) for row in table.rows])):
        text, value = number
        reading = f"a label; to predict numbers, use --kind regression, which reads {value}" if counts else value
        warnings.append(f"the number '{text}' is read as {reading}.")
    texts = [" ".join((*example.fields, *example.answers)) for example in examples]
    if file_format(table.name)[0] == "tsv" and (quoted := sum(map(is_quoted, texts))):
        warnings.append(f"{format_rows_have(quoted)} quotes around a text. {QUOTED_TSV_FIX}")
    for problem, pattern in DAMAGE.items():
        if n := sum(bool(pattern.search(text)) for text in texts):
            warnings.append(f"{n:,} of {rows:,} rows {problem}")
    return warnings


def first_number_with_comma(cells: Sequence[Any]) -> tuple[str, str] | None:
    """(text, its number) of the first cell whose number depends on a comma, in it or in other cells of the column."""
    for cell, resolved in zip(cells, resolve_thousands(cells), strict=True):
        text, number = cell_to_show(cell).strip(), cell_number(resolved)
        if number is not None and ("," in text or resolved is not cell):
            return text, f"{number:.15g}"
    return None


def spelling_notes(table: Table, label: str) -> list[str]:
    """A note about cells of several spellings that are read as one label, if there are any."""
    spellings: dict[str, set[str]] = {}
    for row in table.rows:
        with suppress(UserError):
            spellings.setdefault(as_label(row.get(label)), set()).add(cell_to_show(row[label]).strip())
    several = {name: sorted(found) for name, found in spellings.items() if len(found) > 1}
    shown = [f"{' and '.join(map(repr, found))} as '{name}'" for name, found in several.items()]
    return [f"several spellings are read as one label: {format_labels(shown, MAX_GROUPS_NAMED)}."] if shown else []


def is_quoted(text: str) -> bool:
    """Whether a text looks like a quoted CSV cell: with doubled quotes inside."""
    inner = text[1:-1]
    return len(text) > 2 and text[0] == text[-1] == '"' and '""' in inner and '"' not in inner.replace('""', "")


def find_label_leaks(examples: Sequence[Example], counts: Mapping[str, int]) -> list[str]:
    """Warnings about labels that occur as words in the texts of their own rows much more often than in others."""
    warnings = []
    rows = [
        (None if is_empty(example.label) else as_label(example.label), " ".join(example.fields).casefold())
        for example in examples
    ]
    for name, n in counts.items():
        if n < 3 or n == len(rows) or len(name) < 2 or len(counts) > 50:
            continue
        word = re.compile(rf"(?<!\w){re.escape(name.casefold())}(?!\w)")
        own = sum(label == name and bool(word.search(text)) for label, text in rows) / n
        if own < LEAK_SHARE:  # the usual case: no need to search the other rows
            continue
        other = sum(label != name and bool(word.search(text)) for label, text in rows) / (len(rows) - n)
        if own > LEAK_RATIO * other:
            warnings.append(
                f"the label '{name}' occurs in {own:.0%} of its own texts and in {other:.0%} of the others: "
                "check for label leakage."
            )
    return warnings
