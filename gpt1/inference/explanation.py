"""Explain predictions by occlusion (Zeiler and Fergus 2014): predict again without each word."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gpt1.errors import UserError, did_you_mean
from gpt1.tasks.examples import choice_columns
from gpt1.tasks.kinds import Example
from gpt1.tasks.targets import decode_predictions

if TYPE_CHECKING:
    from gpt1.inference.task_predictor import TaskPredictor

UNSPACED = "぀-ヿ㐀-䶿一-鿿"
"""Kana and Chinese characters, which are written without spaces: each counts as a word."""
EXPLAINED_WORD = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")
OCCLUDED_ROWS = 4096
"""Rows without a word that are in memory at a time."""


Word = tuple[int, dict[str, Any]]
"""(number of its text in a row, the facts of the word)."""


def explain_examples(model: TaskPredictor, examples: Sequence[Example], label: str | None) -> list[dict[str, Any]]:
    """See `TaskPredictor.explain`."""
    check_label(model, label)
    found: list[dict[str, Any]] = []
    pending: list[tuple[Example, list[Word]]] = []
    for example in examples:
        pending.append((example, find_words(model, example)))
        if sum(len(words) for _, words in pending) >= OCCLUDED_ROWS:
            found += explain_block(model, pending, label)
            pending = []
    return found + explain_block(model, pending, label)


def check_label(model: TaskPredictor, label: str | None) -> None:
    """Raise UserError for a label that the model does not have."""
    names = list(map(str, model.labels))
    if label is not None and str(label) not in names:
        labels = ", ".join(names) or "none: the model predicts a score"
        raise UserError(f"unknown label '{label}'.{did_you_mean(str(label), names)}", f"Labels: {labels}.")


def explain_block(
    model: TaskPredictor, rows: Sequence[tuple[Example, list[Word]]], label: str | None
) -> list[dict[str, Any]]:
    examples = [one for example, words in rows for one in (example, *remove_each(example, words))]
    if not examples:
        return []
    decoded = iter(decode_predictions(model.target, model.logits(examples) / model.temperature))
    return [describe(example, words, decoded, label) for example, words in rows]


def describe(
    example: Example, words: Sequence[Word], decoded: Iterator[dict[str, Any]], label: str | None
) -> dict[str, Any]:
    """The explanation of an example from the predictions for it and for it without each word."""
    own = next(decoded)
    name = select_explained_key(own, label)
    own = own if example.has_text else dict.fromkeys(own)
    values = [next(decoded)[name] for _ in words]
    contributions = [
        {**word, "contribution": own[name] - value} for (_, word), value in zip(words, values, strict=True)
    ]
    result: dict[str, Any] = {key: own[key] for key in ("prediction", "score") if key in own}
    return result | {"explained": name, "value": own[name], "words": contributions}


def select_explained_key(decoded: dict[str, Any], label: str | None) -> str:
    """The key of the number to explain: the probability of `label`, by default the highest one; or the score."""
    if "score" in decoded:
        return "score"
    if label is not None and f"probability_{label}" in decoded:
        return f"probability_{label}"
    return max((name for name in decoded if name.startswith("probability_")), key=decoded.__getitem__)


def text_sources(model: TaskPredictor, example: Example) -> list[tuple[str, int | None]]:
    """(column, number of the answer or None) of each text of an example, fields first."""
    columns = model.text_columns
    fields = [(columns.get(role, role), None) for role in model.kind.columns if role != "choices"]
    if not example.answers:
        return [*fields]
    names = choice_columns(columns["choices"])
    own = len(names) > 1  # a column for each answer, else one with lists
    return [*fields, *((names[k] if own else columns["choices"], k) for k in range(len(example.answers)))]


def find_words(model: TaskPredictor, example: Example) -> list[Word]:
    """Every word of an example, in the order of its texts."""
    words: list[Word] = []
    texts = [*example.fields, *example.answers]
    for i, (text, (column, answer)) in enumerate(zip(texts, text_sources(model, example), strict=True)):
        for match in EXPLAINED_WORD.finditer(text):
            word = {"column": column, "word": match[0], "start": match.start(), "end": match.end()}
            words.append((i, word if answer is None else {**word, "answer": answer}))
    return words


def remove_each(example: Example, words: Iterable[Word]) -> list[Example]:
    """The example without each of these words."""
    texts, without = [*example.fields, *example.answers], []
    for i, word in words:
        shortened = [*texts[:i], remove_span(texts[i], word["start"], word["end"]), *texts[i + 1 :]]
        fields, answers = shortened[: len(example.fields)], shortened[len(example.fields) :]
        without.append(replace(example, fields=tuple(fields), answers=tuple(answers)))
    return without


def remove_span(text: str, start: int, end: int) -> str:
    """The text without a word and one of the spaces around it."""
    before, after = text[:start], text[end:]
    if after[:1].isspace() and (not before or before[-1].isspace()):
        return before + after[1:]
    return before[:-1] if before[-1:].isspace() and not after else before + after
