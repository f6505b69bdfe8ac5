"""What a labelled table is: columns, a guess at the task, labels, lengths, tokens as a model sees them, oddities."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpt1.config import FinetuneConfig
from gpt1.errors import UserError
from gpt1.formatting import shell_quote
from gpt1.inference.predictor import TaskPredictor, load
from gpt1.inspect.task_guess import TaskGuess, guess_task, is_list
from gpt1.progress import Progress
from gpt1.tables.facts import describe_table, is_numeric, normalize_text, score_summary
from gpt1.tables.table import Table
from gpt1.tasks.examples import choice_columns, parse_text, read_examples, target_from_examples
from gpt1.tasks.kinds import KINDS, Example, encode_examples, example_texts, truncated_share, windowed_share
from gpt1.tasks.targets import as_label

Facts = dict[str, Any]
MAX_TOKENIZED_ROWS = 20_000
"""Rows whose tokens are counted; of a larger table, so many at even distances."""
EXAMPLE_CHARS = 40  # characters of a cell that are shown
MAJORITY_SHARE = 0.75
LEAK_SHARE, LEAK_RATIO = 0.3, 4.0
"""A label that stands in this share of its own rows' texts, and so many times as often as in the others', is told."""


def inspect_table(
    table: Table, from_: str | Path | None, progress: Progress, known_task: TaskGuess | None = None
) -> Facts:
    """Facts about a table. known_task: what a known data set says of its columns; for other tables it is guessed."""
    task = known_task or guess_task(table)
    if task.columns.get("label") not in table.columns:  # a test split whose labels are not handed out
        task = replace(task, columns={role: name for role, name in task.columns.items() if role != "label"})
    texts = [column for role, column in task.columns.items() if role not in ("label", "choices")]
    texts += choice_columns(task.columns["choices"]) if "choices" in task.columns else []
    label = task.columns.get("label")
    facts = describe_table(table, label if task.kind != "choice" else None, texts or None)
    examples, refused = try_read_examples(table, task)
    labels = [example.label for example in examples if example.label is not None]
    odd = [sentence for sentence in facts.pop("odd") if not (refused and sentence.startswith("all rows have the same"))]
    if task.kind == "choice" and labels:
        facts["labels"] = {f"answer {k}": n for k, n in sorted(Counter(labels).items())}
    if task.score:
        facts = with_score_facts(facts, labels)
    elif "labels" in facts and task.kind != "choice":
        facts["labels"] = count_labels(table, task.columns["label"])
    facts = {
        "what": "table",
        **{name: value for name, value in facts.items() if name != "also_in"},
        "columns": {name: column_facts([row.get(name) for row in table.rows]) for name in table.columns},
        "task": {"kind": task.kind, "columns": task.columns, "score": task.score, "flags": task.flags},
    }
    odd += [refused] * bool(refused) + find_oddities(table, task, examples, facts)
    if from_ is not None:
        facts["tokens"] = token_facts(examples, task, from_, progress)
    return {**facts, "odd": odd, "next": next_commands(table.name, task, from_, bool(refused))}


def next_commands(name: str, task: TaskGuess, from_: str | Path | None, is_refused: bool) -> list[str]:
    run = shell_quote(str(from_ or "RUN"))
    tokens = [] if from_ is not None else [f"gpt1 inspect {shell_quote(name)} --from RUN   (unknown and cut tokens)"]
    if "label" not in task.columns:
        return [*tokens, f"gpt1 predict RUN {shell_quote(name)} --out predictions.csv"]
    train = f"gpt1 finetune {shell_quote(name)} {task.flags} --from {run} --out runs/NAME".replace("  ", " ")
    return [*tokens, *[train] * (not is_refused)]


def try_read_examples(table: Table, task: TaskGuess) -> tuple[list[Example], str]:
    """(the rows as gpt1 finetune would read them, why it would refuse them)."""
    labelled = "label" in task.columns
    columns = dict(task.columns)
    kind = KINDS[task.kind]
    if any(role not in columns for role in kind.columns if role not in kind.optional):
        return [], ""
    try:
        examples = read_examples(table.rows, kind, columns, table.locate_row, labelled)
    except UserError as error:
        try:
            return read_examples(table.rows, kind, columns, table.locate_row, labelled=False), refusal_message(error)
        except UserError:
            return [], refusal_message(error)
    try:
        if labelled:
            target_from_examples(kind, task.score, examples, table.locate_row, table.name)
    except UserError as error:
        return examples, refusal_message(error)
    return examples, ""


def refusal_message(error: UserError) -> str:
    return f"gpt1 finetune would refuse it: {error.problem} {error.fix}".strip()


def column_facts(cells: Sequence[Any]) -> Facts:
    filled = [cell for cell in cells if not is_empty(cell)]
    shown = [parse_text(cell) if not isinstance(cell, list | dict) else str(cell) for cell in filled]
    example = " ".join(shown[0].split()) if shown else ""
    return {
        "holds": content_type(filled),
        "empty": len(cells) - len(filled),
        "different": len(set(shown)),
        "example": example if len(example) <= EXAMPLE_CHARS else example[: EXAMPLE_CHARS - 1] + "…",
    }


def is_empty(cell: Any) -> bool:
    return cell is None or cell != cell or (isinstance(cell, str) and not cell.strip()) or cell == []


def content_type(cells: Sequence[Any]) -> str:
    if not cells:
        return "nothing"
    if all(map(is_list, cells)):
        return "lists"
    if all(isinstance(cell, bool) for cell in cells):
        return "truth values"
    if all(map(is_numeric, cells)):
        return "whole numbers" if all(float(cell).is_integer() for cell in cells) else "numbers"
    return "texts" if sum(len(str(cell).split()) for cell in cells) > 1.5 * len(cells) else "words"


def with_score_facts(facts: Facts, labels: Sequence[Any]) -> Facts:
    return {**{name: value for name, value in facts.items() if name != "labels"}, **score_summary(labels)}


def count_labels(table: Table, label: str) -> dict[str, int]:
    """Rows of each label, as training reads labels; empty ones are told elsewhere."""
    cells = [row.get(label) for row in table.rows]
    readable = [cell for cell in cells if not is_empty(cell) and not isinstance(cell, list | tuple | dict)]
    return dict(Counter(map(as_label, readable)).most_common())


def token_facts(examples: Sequence[Example], task: TaskGuess, from_: str | Path, progress: Progress) -> Facts:
    """Tokens of each row as the model of `from_` would see them, the unknown ones, the rows that it would cut or read
    in windows: by its own rule once it is fine-tuned, by that of `gpt1 finetune` before."""
    model = load(from_)
    tokenizer, config = model.tokenizer, model.gpt.config
    cut, long = (
        (model.cut, model.long) if isinstance(model, TaskPredictor) else (FinetuneConfig.cut, FinetuneConfig.long)
    )
    every = -(-len(examples) // MAX_TOKENIZED_ROWS)
    some = list(examples[:: max(1, every)])
    if not some:
        return {"model": str(from_), "rows": 0}
    progress.begin("counting tokens", len(some), unit="rows")
    ids: list[list[int]] = []
    for first in range(0, len(some), 256):
        ids += tokenizer.encode_batch(example_texts(some[first : first + 256]))
        progress.advance(min(first + 256, len(some)))
    coded = encode_examples(KINDS[task.kind], some, ids, config.vocab_size, config.context, cut, long)
    progress.end()
    parts = iter(ids)
    lengths = sorted(sum(len(next(parts)) for _ in (*example.fields, *example.answers)) for example in some)
    tokens = sum(lengths)
    return {
        "model": str(from_),
        "rows": len(some),
        "context": config.context,
        "least": lengths[0],
        "median": lengths[len(lengths) // 2],
        "95 %": lengths[round(0.95 * (len(lengths) - 1))],
        "greatest": lengths[-1],
        "unknown": sum(tokenizer.count_unknown(one) for one in ids) / max(1, tokens),
        "cut": truncated_share(coded),
        "long": long,
        "in_windows": windowed_share(coded),
    }


DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")


@dataclass(frozen=True)
class DamagePattern:
    """A pattern in texts that says something went wrong before gpt1 got them."""

    pattern: re.Pattern[str]
    message: str


DAMAGE_PATTERNS = [
    DamagePattern(re.compile("\ufffd"), "hold �: characters were lost when the file was written."),
    DamagePattern(re.compile(r"Ã[\x80-\xbf©¨¤¶¼]|â€"), "look like UTF-8 that was read as Latin-1 (Ã©, â€™)."),
    DamagePattern(
        re.compile(r"<(br|p|div|a|span|b|i|li)\b[^<>]*>", re.IGNORECASE),
        "hold HTML tags, which the model reads as text.",
    ),
]


def find_oddities(table: Table, task: TaskGuess, examples: Sequence[Example], facts: Facts) -> list[str]:
    odd = []
    rows = max(1, len(table))
    label = task.columns.get("label")
    counts: dict[str, int] = (
        facts.get("labels", {}) if not (task.score or task.kind in ("choice", "regression")) else {}
    )
    if label and (missing := sum(is_empty(row.get(label)) for row in table.rows)):
        odd.append(f"{missing:,} of {rows:,} rows have no label.")
    if len(counts) > 1:
        most = max(counts, key=counts.__getitem__)
        if counts[most] >= MAJORITY_SHARE * rows:
            odd.append(f"always saying '{most}' is right in {counts[most]:,} of {rows:,} rows: that is what to beat.")
        alike: dict[str, list[str]] = {}
        for name in counts:
            if not is_numeric(name):  # -1 and 1 are two labels
                alike.setdefault(normalize_text(name.casefold()), []).append(f"'{name}'")
        for same in alike.values():
            if len(same) > 1:
                odd.append(f"the labels {' and '.join(same)} differ in case, spaces or signs only.")
        once = [name for name, n in counts.items() if n == 1]
        if len(once) == 1:
            odd.append(f"the label '{once[0]}' has a single row: nothing of it can be held out.")
        elif once:
            odd.append(f"{len(once):,} labels have a single row, '{once[0]}' for one: nothing of them can be held out.")
        if decimals := [name for name in counts if DECIMAL_COMMA.fullmatch(name)]:
            point = decimals[0].replace(",", ".")
            odd.append(f"'{decimals[0]}' is taken for a name: with a point ({point}) it would be a number to predict.")
        odd += find_label_leaks(examples, counts)
    texts = [" ".join((*example.fields, *example.answers)) for example in examples]
    for clue in DAMAGE_PATTERNS:
        if n := sum(bool(clue.pattern.search(text)) for text in texts):
            odd.append(f"{n:,} of {rows:,} rows {clue.message}")
    return odd


def find_label_leaks(examples: Sequence[Example], counts: Mapping[str, int]) -> list[str]:
    """Labels that stand, as a word, in the texts of their own rows far more often than in those of the others."""
    odd = []
    rows = [(str(example.label).strip(), " ".join(example.fields).casefold()) for example in examples]
    for name, n in counts.items():
        if n < 3 or n == len(rows) or len(name) < 2 or len(counts) > 50:
            continue
        word = re.compile(rf"(?<!\w){re.escape(name.casefold())}(?!\w)")
        own = sum(label == name and bool(word.search(text)) for label, text in rows) / n
        if own < LEAK_SHARE:  # as a rule; the other rows need not be searched
            continue
        other = sum(label != name and bool(word.search(text)) for label, text in rows) / (len(rows) - n)
        if own > LEAK_RATIO * other:
            odd.append(
                f"the label '{name}' stands in {own:.0%} of its own texts and in {other:.0%} of the others: "
                "do the texts give it away?"
            )
    return odd
