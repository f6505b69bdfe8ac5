"""Explain predictions by occlusion (Zeiler and Fergus 2014): predict again without each word."""

from __future__ import annotations

import re
from collections.abc import Sequence
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


def explain_examples(model: TaskPredictor, examples: Sequence[Example], label: str | None) -> list[dict[str, Any]]:
    """See `TaskPredictor.explain`."""
    names = list(map(str, model.labels))
    if label is not None and str(label) not in names:
        labels = ", ".join(names) or "none: the model predicts a score"
        raise UserError(f"unknown label '{label}'.{did_you_mean(str(label), names)}", f"Labels: {labels}.")
    found: list[dict[str, Any]] = []
    pending: list[tuple[Example, list[dict[str, Any]], list[Example]]] = []
    for example in examples:
        pending.append((example, *occlude(example, text_sources(model, example))))
        if sum(len(without) for _, _, without in pending) >= OCCLUDED_ROWS:
            found += explain_block(model, pending, label)
            pending = []
    return found + explain_block(model, pending, label)


def explain_block(
    model: TaskPredictor, rows: Sequence[tuple[Example, list[dict[str, Any]], list[Example]]], label: str | None
) -> list[dict[str, Any]]:
    examples = [one for example, _, without in rows for one in (example, *without)]
    if not examples:
        return []
    decoded = iter(decode_predictions(model.target, model.logits(examples) / model.temperature))
    found = []
    for example, words, _ in rows:
        own = next(decoded)
        name = select_explained_key(own, label)
        own = own if example.has_text else dict.fromkeys(own)
        values = [next(decoded)[name] for _ in words]
        contributions = [{**word, "contribution": own[name] - value} for word, value in zip(words, values, strict=True)]
        result: dict[str, Any] = {key: own[key] for key in ("prediction", "score") if key in own}
        found.append(result | {"explained": name, "value": own[name], "words": contributions})
    return found


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


def occlude(example: Example, columns: Sequence[tuple[str, int | None]]) -> tuple[list[dict[str, Any]], list[Example]]:
    """(every word of an example, the example without it)."""
    words: list[dict[str, Any]] = []
    without: list[Example] = []
    texts = [*example.fields, *example.answers]
    for i, (text, (column, answer)) in enumerate(zip(texts, columns, strict=True)):
        for match in EXPLAINED_WORD.finditer(text):
            start, end = match.span()
            word = {"column": column, "word": match[0], "start": start, "end": end}
            words.append(word if answer is None else {**word, "answer": answer})
            shortened = [*texts[:i], remove_span(text, start, end), *texts[i + 1 :]]
            fields, answers = shortened[: len(example.fields)], shortened[len(example.fields) :]
            without.append(replace(example, fields=tuple(fields), answers=tuple(answers)))
    return words, without


def remove_span(text: str, start: int, end: int) -> str:
    """The text without a word and one of the spaces around it."""
    before, after = text[:start], text[end:]
    if after[:1].isspace() and (not before or before[-1].isspace()):
        return before + after[1:]
    return before[:-1] if before[-1:].isspace() and not after else before + after
