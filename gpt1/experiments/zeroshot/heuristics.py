"""Zero-shot scores: a pre-trained model on tasks that it was not trained on (paper, section 5, last part)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gpt1.config import flag_name
from gpt1.console import default_progress
from gpt1.datasets import DataSet
from gpt1.datasets.labeled import LabeledTable, examples_from_table, load_labeled_table
from gpt1.errors import UserError, require_count
from gpt1.experiments.reserved import refuse_reserved
from gpt1.experiments.train_test_data import ExampleSet, limit_rows
from gpt1.experiments.zeroshot.minimal_pairs import BLIMP, MinimalPairsTask, find_training_corpus, minimal_pairs_task
from gpt1.experiments.zeroshot.scoring import (
    ScoringQuery,
    encode_continuations,
    encode_document_starts,
    log_probabilities,
    mean_log_probability,
)
from gpt1.experiments.zeroshot.task import ZeroShotTask
from gpt1.experiments.zeroshot.winograd import WinogradSchema, find_schemas, read_schemas
from gpt1.formatting import count_noun
from gpt1.inference.evaluate import given_columns
from gpt1.inference.predictor import LanguageModel, load
from gpt1.progress import Progress
from gpt1.tables.frames import to_table
from gpt1.tables.table import Table
from gpt1.tasks.examples import check_columns, find_numbering, numbering_notes, parse_at
from gpt1.tasks.kinds import Example, Kind
from gpt1.tasks.labels import as_label

SST2_WORDS = {"1": "positive", "0": "negative"}
APPEND = "very"
WINOGRAD = "winograd"
THRESHOLD_ROWS = 2000
"""Number of training sentences on which CoLA's threshold is chosen; more would change it by less than its noise."""


def zeroshot(
    what: Any,
    *,
    run: str | Path,
    data_dir: str | Path | None = None,
    kind: str | None = None,
    words: Mapping[str, str] | None = None,
    append: str = APPEND,
    rows: int = 0,
    progress: Progress | None = None,
    **columns: str | None,
) -> dict[str, Any]:
    """Score a pre-trained model on a task that it was not trained on (paper, section 5 and figure 2, right).

    CoLA: the mean log-probability of the tokens against a threshold. SST-2 and other classifications: the most likely
    of the labels' `words` after `append`. RACE, Story Cloze and other choices: the answer with the highest mean
    log-probability of its tokens. Winograd schemas: the referent that gives the rest the highest one. BLiMP, which the
    paper does not have: the sentence with the higher log-probability.

    Args:
        what: cola, sst2, race, storycloze, winograd or blimp; a file of Winograd schemas (.txt); or a table: a file, a
            DataFrame, a list of rows (dicts) or a `Table`.
        run: run or model folder of the pre-trained model.
        data_dir: folder with the files of data sets.
        kind: of a table: "choice", or "classification" with `words`.
        words: label → the word that stands for it.
        append: text between a row's text and the word; by default "very".
        rows: maximum number of rows, 0 for all; always the same sample. BLiMP: as many of each paradigm.
        progress: shows the progress; by default nothing is printed.
        **columns: columns of a table, such as `text` and `label`.

    Returns:
        `metrics` and their 95% confidence intervals (`interval`), `rows`, the main `metric`, its value for a random
        guess (`guess`), and the heuristic in a sentence (`how`). BLiMP: the mean over its paradigms, and the same for
        each of its `phenomena` and `paradigms`; `baselines` and `published` scores.

    Raises:
        UserError: there is no heuristic for `what`, or an input is invalid.
    """
    progress = progress or default_progress()
    task = build_zeroshot_task(
        what, data_dir=data_dir, kind=kind, words=words, append=append, rows=rows, progress=progress, **columns
    )
    progress.log(f"{task.name}: {count_noun(len(task.gold), 'row')}; {task.how}")
    model = load(run)
    if isinstance(task, MinimalPairsTask):
        task = replace(task, corpus=find_training_corpus(run, model.tokenizer))
    return task.evaluate(model, progress)


def build_zeroshot_task(
    what: Any,
    *,
    data_dir: str | Path | None = None,
    kind: str | None = None,
    words: Mapping[str, str] | None = None,
    append: str = APPEND,
    rows: int = 0,
    progress: Progress | None = None,
    **columns: str | None,
) -> ZeroShotTask:
    """The rows and the heuristic of `zeroshot`, with the same arguments."""
    progress = progress or default_progress()
    refuse_reserved("zeroshot", columns)
    require_count(rows, "--rows")
    check_words(words)
    given, with_words = given_columns(columns), {"words": words, "append": None if append == APPEND else append}
    what = to_table(what)
    source_name = "" if isinstance(what, Table) else str(what)
    name, _, split = source_name.lower().partition(":")
    if name == WINOGRAD or source_name.endswith(".txt"):
        refuse_unused("Winograd schemas", {"kind": kind, **given, **with_words})
        return winograd_task(source_name, data_dir, split or "test", rows)
    source = load_labeled_table(what, "evaluation", data_dir)
    data = source.data_set
    for note in source.notes:
        progress.log(note)
    if data and data.name == BLIMP:
        refuse_unused(data.title, {"kind": kind, **given, **with_words})
        return minimal_pairs_task(source.table, rows)
    task_kind, all_columns = source.kind_and_columns(kind, given)
    examples = read_rows(source, task_kind, all_columns, progress)
    if task_kind.multiple_choice or (data and data.name == "cola"):
        refuse_unused(data.title if data else f"kind {task_kind.name}", with_words)
    chosen = limit_rows(ExampleSet(source.table, examples), task_kind, data, rows)
    if data and data.name == "cola":
        return cola_task(chosen, data, data_dir)
    if task_kind.multiple_choice:
        return choice_task(chosen)
    if words is None and data and data.name == "sst2":
        words = SST2_WORDS
    if task_kind.name == "classification" and words:
        return sentiment_task(chosen, words, append)
    raise UserError(
        f"no zero-shot heuristic for {source.table.name} (kind {task_kind.name}).",
        "Use cola, sst2, race, storycloze, winograd, blimp, a table of kind choice, or a table of kind classification "
        "with --words LABEL=WORD,LABEL=WORD.",
    )


def check_words(words: Any) -> None:
    """UserError for an argument from Python that is not a mapping of labels to words, none of them empty."""
    if words is not None and not (
        isinstance(words, Mapping) and all(isinstance(word, str) and word.strip() for word in words.values())
    ):
        raise UserError(f"--words must map labels to words, not be {words!r}.", 'Use {"pos": "good", "neg": "bad"}.')


def refuse_unused(name: str, options: Mapping[str, Any]) -> None:
    """UserError for an option that the heuristic of `name` does not use."""
    for option, value in options.items():
        if value is not None:
            raise UserError(f"{flag_name(option)} does not apply to {name}.", f"Remove {flag_name(option)}.")


def read_rows(source: LabeledTable, kind: Kind, columns: Mapping[str, str], progress: Progress) -> list[Example]:
    """The examples, with labels of multiple choice that count from 0, from 1 or as letters, as in `finetune`."""
    if source.data_set or not kind.multiple_choice:
        return examples_from_table(source, kind, columns)
    table = source.table
    check_columns(kind, columns, table.columns, table.name, delimiter=table.delimiter)
    numbering = find_numbering(table.rows, kind, columns)
    examples = examples_from_table(source, kind, columns, numbering)
    for note in numbering_notes(numbering, examples):
        progress.log(note)
    return examples


def read_labels(rows: ExampleSet) -> list[str]:
    """The labels of a classification; UserError for a row without one."""
    where = rows.table.locate_row
    return [parse_at(where(i), as_label, example.label) for i, example in enumerate(rows.examples)]


# --- CoLA ------------------------------------------------------------------------------------------------------------


def cola_task(rows: ExampleSet, data: DataSet, data_dir: str | Path | None) -> ZeroShotTask:
    training, _ = data.train_table(data_dir)
    examples = [Example((row["text"],), label=row["label"]) for row in training.rows]
    sample = limit_rows(ExampleSet(training, examples), data.kind, data, THRESHOLD_ROWS)
    acceptable = [as_label(example.label) == "1" for example in sample.examples]

    def predict(model: LanguageModel, progress: Progress) -> list[str]:
        threshold = best_matthews_threshold(mean_log_probabilities(model, sample.examples, progress), acceptable)
        return ["1" if score >= threshold else "0" for score in mean_log_probabilities(model, rows.examples, progress)]

    how = "acceptable if the mean log-probability of the tokens is above a threshold chosen on "
    how += f"{len(sample):,} training sentences"
    return ZeroShotTask(rows.table.name, how, "matthews", read_labels(rows), predict, 0.0, ("0", "1"))


def mean_log_probabilities(model: LanguageModel, examples: Sequence[Example], progress: Progress) -> list[float]:
    """The mean log-probability of each text's tokens, as the start of a document."""
    start = [model.tokenizer.newline_id]
    texts = model.tokenizer.encode_batch([example.fields[0] for example in examples])
    scored = log_probabilities(model.gpt, [ScoringQuery(start, [ids]) for ids in texts], progress)
    return [mean_log_probability(one) for (one,) in scored]


def best_matthews_threshold(scores: Sequence[float], is_positive: Sequence[bool]) -> float:
    """The threshold with the highest Matthews correlation of `score ≥ threshold` with `is_positive`, midway between two
    neighboring scores."""
    order = np.argsort(scores, kind="stable")[::-1]
    values = np.asarray(scores, dtype=np.float64)[order]
    positive = np.asarray(is_positive, dtype=np.float64)[order]
    predicted = np.arange(1, len(values) + 1, dtype=np.float64)  # rows predicted positive by the k-th threshold
    true_positives, n, n_positive = positive.cumsum(), float(len(values)), positive.sum()
    covariance = n * true_positives - predicted * n_positive
    spread = np.sqrt(predicted * (n - predicted) * n_positive * (n - n_positive))
    matthews = np.divide(covariance, spread, out=np.zeros(len(values)), where=spread > 0)
    is_last = np.append(values[:-1] != values[1:], True)  # equal scores cannot be separated
    k = int(np.where(is_last, matthews, -np.inf).argmax())
    return float((values[k] + values[min(k + 1, len(values) - 1)]) / 2)


# --- SST-2 -----------------------------------------------------------------------------------------------------------


def sentiment_task(rows: ExampleSet, words: Mapping[str, str], append: str) -> ZeroShotTask:
    words = {as_label(label): word for label, word in words.items()}  # true and True are one label
    gold = read_labels(rows)
    if unknown := sorted(set(gold) - set(words)):
        raise UserError(
            f"--words has no word for the label '{unknown[0]}'.", "Add a word for each label: --words 1=good,0=bad"
        )
    labels = tuple(words)

    def predict(model: LanguageModel, progress: Progress) -> list[str]:
        start = [model.tokenizer.newline_id]
        texts = model.tokenizer.encode_batch([f"{e.fields[0]} {append}".strip() for e in rows.examples])
        expected = encode_continuations(model, [words[label] for label in labels])
        room = model.gpt.config.context - 1 - max(map(len, expected))
        # The sentence is part of the continuation, not of the prefix: sentences are then scored in one batch.
        queries = [
            ScoringQuery(start, [text[-room:] + word for word in expected], n_unscored=len(text[-room:]))
            for text in texts
        ]
        scored = log_probabilities(model.gpt, queries, progress)
        return [labels[int(np.argmax([float(word.sum()) for word in one]))] for one in scored]

    how = f"after “{append}”, the most likely of {', '.join(f'“{word}” ({label})' for label, word in words.items())}"
    return ZeroShotTask(rows.table.name, how, "accuracy", gold, predict, 1 / len(labels), labels)


# --- RACE, Story Cloze, any choice -----------------------------------------------------------------------------------


def choice_task(rows: ExampleSet) -> ZeroShotTask:
    def predict(model: LanguageModel, progress: Progress) -> list[int]:
        passages = encode_document_starts(model, [example.fields[0] for example in rows.examples])
        questions = encode_continuations(model, [example.fields[1] for example in rows.examples])
        answers = iter(encode_continuations(model, [answer for e in rows.examples for answer in e.answers]))
        queries = []
        for example, passage, encoded in zip(rows.examples, passages, questions, strict=True):
            question = encoded if example.fields[1] else []
            continuations = [question + next(answers) for _ in example.answers]
            queries.append(ScoringQuery(passage, continuations, n_unscored=len(question)))
        scored = log_probabilities(model.gpt, queries, progress)
        return [int(np.argmax([mean_log_probability(answer) for answer in one])) for one in scored]

    how = "the answer whose tokens have the highest mean log-probability after the text and the question"
    gold = [int(example.label) for example in rows.examples]
    guess = float(np.mean([1 / len(example.answers) for example in rows.examples]))
    return ZeroShotTask(rows.table.name, how, "accuracy", gold, predict, guess)


# --- Winograd schemas ------------------------------------------------------------------------------------------------


def winograd_task(what: str, data_dir: str | Path | None, split: str, rows: int) -> ZeroShotTask:
    if what.endswith(".txt"):
        path = Path(what)
    else:
        if split not in ("train", "test"):
            raise UserError(f"winograd has no split '{split}'.", "It has: train, test.")
        path = find_schemas(data_dir, split)
    schemas = read_schemas(path)
    name = what if not rows or rows >= len(schemas) else f"{what} ({rows:,} rows of {len(schemas):,})"
    return referent_task(name, schemas[: rows or None])


def referent_task(name: str, schemas: Sequence[WinogradSchema]) -> ZeroShotTask:
    def predict(model: LanguageModel, progress: Progress) -> list[int]:
        replaced = encode_document_starts(model, [f"{s.before} {one}".strip() for s in schemas for one in s.referents])
        rest = encode_continuations(model, [s.after for s in schemas])
        start = [model.tokenizer.newline_id]
        queries = [
            ScoringQuery(start, [text[1:] + rest[i // 2]], n_unscored=len(text) - 1) for i, text in enumerate(replaced)
        ]
        scored = [mean_log_probability(one) for (one,) in log_probabilities(model.gpt, queries, progress)]
        return [int(scored[2 * i + 1] > scored[2 * i]) for i in range(len(schemas))]

    how = (
        "the referent that gives the rest of the sentence the highest mean log-probability when it replaces the pronoun"
    )
    return ZeroShotTask(name, how, "accuracy", [s.answer_index for s in schemas], predict, 0.5)
