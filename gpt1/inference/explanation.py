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
OCCLUDED_ROWS, OCCLUDED_CHARACTERS = 4096, 2**22
"""Limits of the rows without a word that are in memory at a time: a text of n words has n of them."""


Word = tuple[int, dict[str, Any]]
"""(number of its text in a row, the facts of the word)."""


def explain_examples(model: TaskPredictor, examples: Sequence[Example], label: str | None) -> list[dict[str, Any]]:
    """See `TaskPredictor.explain`."""
    check_label(model, label)
    rows = [(example, find_words(model, example)) for example in examples]
    decoded = predict_lazily(model, occlude(rows))
    return [describe(example, words, decoded, label) for example, words in rows]


def occlude(rows: Iterable[tuple[Example, list[Word]]]) -> Iterator[Example]:
    """Each example, then the example without each of its words."""
    for example, words in rows:
        yield example
        yield from (remove_word(example, word) for word in words)


def predict_lazily(model: TaskPredictor, examples: Iterable[Example]) -> Iterator[dict[str, Any]]:
    """The decoded predictions for any number of examples, in blocks of bounded memory."""
    for block in split_blocks(examples):
        yield from decode_predictions(model.target, model.logits(block) / model.temperature)


def split_blocks(examples: Iterable[Example]) -> Iterator[list[Example]]:
    """Blocks of at most OCCLUDED_ROWS and OCCLUDED_CHARACTERS; at least one example each."""
    block: list[Example] = []
    characters = 0
    for example in examples:
        size = sum(map(len, (*example.fields, *example.answers)))
        if block and (len(block) == OCCLUDED_ROWS or characters + size > OCCLUDED_CHARACTERS):
            yield block
            block, characters = [], 0
        block.append(example)
        characters += size
    if block:
        yield block


def check_label(model: TaskPredictor, label: str | None) -> None:
    """Raise UserError for a label that the model does not have."""
    names = list(map(str, model.labels))
    if label is not None and str(label) not in names:
        labels = ", ".join(names) or "none: the model predicts a score"
        raise UserError(f"unknown label '{label}'.{did_you_mean(str(label), names)}", f"Labels: {labels}.")


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
    return [remove_word(example, word) for word in words]


def remove_word(example: Example, word: Word) -> Example:
    texts, (i, facts) = [*example.fields, *example.answers], word
    texts[i] = remove_span(texts[i], facts["start"], facts["end"])
    n = len(example.fields)
    return replace(example, fields=tuple(texts[:n]), answers=tuple(texts[n:]))


def remove_span(text: str, start: int, end: int) -> str:
    """The text without a word and one of the spaces around it."""
    before, after = text[:start], text[end:]
    if after[:1].isspace() and (not before or before[-1].isspace()):
        return before + after[1:]
    return before[:-1] if before[-1:].isspace() and not after else before + after
