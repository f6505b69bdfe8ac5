"""Zero-shot: what a pre-trained model knows of a task that it was never trained on (paper, section 5, last part)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpt1.datasets import DataSet
from gpt1.datasets.labelled import Labelled, labelled_rows
from gpt1.errors import UserError
from gpt1.experiments.reserved import refuse_reserved
from gpt1.experiments.samples import Rows, read_rows
from gpt1.experiments.zeroshot.scoring import Question, begun, following, log_probabilities, mean
from gpt1.experiments.zeroshot.winograd import HOME, Schema, find_schemas, read_schemas
from gpt1.inference.predictor import LanguageModel, load
from gpt1.progress import Progress, Silent
from gpt1.tables.table import Table
from gpt1.tasks import metrics
from gpt1.tasks.kinds import Example
from gpt1.tasks.targets import as_label

SST2_WORDS = {"1": "positive", "0": "negative"}
WINOGRAD = "winograd"
THRESHOLD_ROWS = 2000
"""Training sentences by which CoLA's threshold is chosen: more move it by less than its own noise."""


@dataclass(frozen=True)
class Trial:
    """Rows and a heuristic: `predict` gives every row's label from a model; `how` says in a sentence by what."""

    name: str
    how: str
    metric: str
    gold: list[Any]
    predict: Callable[[LanguageModel, Progress], list[Any]]
    guess: float
    """The metric of a random guess."""
    labels: tuple[str, ...] = ()

    def measure(self, model: LanguageModel, progress: Progress | None = None) -> dict[str, Any]:
        """{"metrics": …, "interval": …, "rows": n, "metric": its main one, "guess": …, "how": …}"""
        given = self.predict(model, progress or Silent())
        told = {"task": self.name, "metric": self.metric, "guess": self.guess, "how": self.how}
        if self.labels:
            scores = metrics.class_scores(self.gold, given, self.labels)
            told["f1_of"] = scores.pop("f1_of")
        else:
            scores = metrics.choice_scores(self.gold, given)
        between = {name: list(metrics.interval(name, self.gold, given, self.labels)) for name in scores}
        return {**told, "metrics": scores, "interval": between, "rows": len(self.gold)}


def zeroshot(
    what: str | Path | Table, *, run: str | Path, progress: Progress | None = None, **options: Any
) -> dict[str, Any]:
    """Score the pre-trained model of `run` on `what` by the paper's heuristic for it. options: see `trial_of`."""
    progress = progress or Silent()
    trial = trial_of(what, progress=progress, **options)
    progress.say(f"{trial.name}: {len(trial.gold):,} rows; {trial.how}")
    return trial.measure(load(run), progress)


def trial_of(
    what: str | Path | Table,
    *,
    data_dir: str | Path | None = None,
    kind: str | None = None,
    words: Mapping[str, str] | None = None,
    append: str = "very",
    rows: int = 0,
    progress: Progress | None = None,
    **columns: str | None,
) -> Trial:
    """The rows of `what`: cola, sst2, race, storycloze or winograd, a file of Winograd schemas (.txt), or a table.

    A table of kind choice is answered as RACE is; one of kind classification as SST-2 is: `words` has for each label
    the word that is expected after `append`. rows: at most so many, drawn once (0: all).
    """
    progress = progress or Silent()
    refuse_reserved("zeroshot", columns)
    named = {role: column for role, column in columns.items() if column is not None}
    split = str(what).lower().partition(":")[2] or "test"
    if str(what).lower().partition(":")[0] == WINOGRAD or str(what).endswith(".txt"):
        return winograd(str(what), data_dir, split, rows)
    source = labelled_rows(what, "evaluation", data_dir)
    data = source.data_set
    record, named = source.kind_and_columns(kind, named)
    chosen = read_rows(source, record, named, rows)
    for note in source.notes:
        progress.say(note)
    if data and data.name == "cola":
        return acceptability(chosen, data, data_dir)
    if record.each:
        return answers(chosen)
    if words is None and data and data.name == "sst2":
        words = SST2_WORDS
    if record.name == "classification" and words:
        return sentiment(chosen, words, append)
    raise UserError(
        f"there is no zero-shot heuristic for {source.table.name} (kind {record.name}).",
        "There are some for cola, sst2, race, storycloze, winograd, tables of kind choice, and tables of kind "
        "classification with --words LABEL=WORD,LABEL=WORD.",
    )


# --- CoLA ------------------------------------------------------------------------------------------------------------


def acceptability(rows: Rows, data: DataSet, data_dir: str | Path | None) -> Trial:
    training, _ = data.train_table(data_dir)
    source = read_rows(Labelled(training, data), data.record, data.columns, THRESHOLD_ROWS)
    labelled = [as_label(example.label) for example in source.examples]

    def predict(model: LanguageModel, progress: Progress) -> list[str]:
        threshold = best_threshold(means(model, source.examples, progress), [label == "1" for label in labelled])
        return ["1" if score >= threshold else "0" for score in means(model, rows.examples, progress)]

    how = "acceptable where the mean log-probability of its tokens is above a threshold, chosen on "
    how += f"{len(source):,} training sentences"
    gold = [as_label(example.label) for example in rows.examples]
    return Trial(rows.table.name, how, "matthews", gold, predict, 0.0, ("0", "1"))


def means(model: LanguageModel, examples: Sequence[Example], progress: Progress) -> list[float]:
    """The mean log-probability of each text's tokens, as a document's first."""
    start = [model.tokenizer.newline_id]
    texts = model.tokenizer.encode_batch([example.fields[0] for example in examples])
    scored = log_probabilities(model.gpt, [Question(start, [ids]) for ids in texts], progress)
    return [mean(one) for (one,) in scored]


def best_threshold(scores: Sequence[float], is_positive: Sequence[bool]) -> float:
    """The threshold with the greatest Matthews correlation of `score ≥ threshold` with `is_positive`, half-way between
    two neighbouring scores."""
    order = np.argsort(scores, kind="stable")[::-1]
    values = np.asarray(scores, dtype=np.float64)[order]
    positive = np.asarray(is_positive, dtype=np.float64)[order]
    said = np.arange(1, len(values) + 1, dtype=np.float64)  # rows above a threshold below the k-th value
    right, n, found = positive.cumsum(), float(len(values)), positive.sum()
    covariance = n * right - said * found
    spread = np.sqrt(said * (n - said) * found * (n - found))
    matthews = np.divide(covariance, spread, out=np.zeros(len(values)), where=spread > 0)
    between = np.append(values[:-1] != values[1:], True)  # equal scores stay together
    k = int(np.where(between, matthews, -np.inf).argmax())
    return float((values[k] + values[min(k + 1, len(values) - 1)]) / 2)


# --- SST-2 -----------------------------------------------------------------------------------------------------------


def sentiment(rows: Rows, words: Mapping[str, str], append: str) -> Trial:
    gold = [as_label(example.label) for example in rows.examples]
    if unknown := sorted(set(gold) - set(words)):
        raise UserError(f"--words has no word for the label '{unknown[0]}'.", "Give one for each: --words 1=good,0=bad")
    labels = tuple(words)

    def predict(model: LanguageModel, progress: Progress) -> list[str]:
        start = [model.tokenizer.newline_id]
        texts = model.tokenizer.encode_batch([f"{e.fields[0]} {append}".strip() for e in rows.examples])
        expected = following(model, [words[label] for label in labels])
        given = [text[-(model.gpt.config.context - 1 - max(map(len, expected))) :] for text in texts]
        questions = [
            Question(start, [text + word for word in expected], given=len(text)) for text in given
        ]  # the sentence stands in the continuation: sentences then run side by side
        scored = log_probabilities(model.gpt, questions, progress)
        return [labels[int(np.argmax([float(word.sum()) for word in one]))] for one in scored]

    how = f"after “{append}”, the likeliest of {', '.join(f'“{word}” ({label})' for label, word in words.items())}"
    return Trial(rows.table.name, how, "accuracy", gold, predict, 1 / len(labels), labels)


# --- RACE, Story Cloze, any choice -----------------------------------------------------------------------------------


def answers(rows: Rows) -> Trial:
    def predict(model: LanguageModel, progress: Progress) -> list[int]:
        asked = begun(model, [example.fields[0] for example in rows.examples])
        question = following(model, [example.fields[1] for example in rows.examples])
        given = following(model, [answer for example in rows.examples for answer in example.answers])
        texts = iter(given)
        questions = [
            Question(asked[i], [question[i] * bool(e.fields[1]) + next(texts) for _ in e.answers],
                     given=len(question[i]) * bool(e.fields[1]))
            for i, e in enumerate(rows.examples)
        ]  # fmt: skip
        scored = log_probabilities(model.gpt, questions, progress)
        return [int(np.argmax([mean(answer) for answer in one])) for one in scored]

    how = "the answer whose tokens have the highest mean log-probability after the text and the question"
    gold = [int(example.label) for example in rows.examples]
    guess = float(np.mean([1 / len(example.answers) for example in rows.examples]))
    return Trial(rows.table.name, how, "accuracy", gold, predict, guess)


# --- Winograd schemas ------------------------------------------------------------------------------------------------


def winograd(what: str, data_dir: str | Path | None, split: str, rows: int) -> Trial:
    if what.endswith(".txt"):
        path = Path(what)
    elif data_dir is None:
        raise UserError("no folder with the Winograd schemas is named.", f"{HOME} Name its folder with --data-dir.")
    else:
        if split not in ("train", "test"):
            raise UserError(f"winograd has no split '{split}'.", "It has: train, test.")
        path = find_schemas(data_dir, split)
    schemas = read_schemas(path)
    name = what if not rows or rows >= len(schemas) else f"{what} ({rows:,} rows of {len(schemas):,})"
    return referents(name, schemas[: rows or None])


def referents(name: str, schemas: Sequence[Schema]) -> Trial:
    def predict(model: LanguageModel, progress: Progress) -> list[int]:
        replaced = begun(model, [f"{s.before} {one}".strip() for s in schemas for one in s.referents])
        rest = following(model, [s.after for s in schemas])
        start = [model.tokenizer.newline_id]
        questions = [Question(start, [text[1:] + rest[i // 2]], given=len(text) - 1) for i, text in enumerate(replaced)]
        scored = [mean(one) for (one,) in log_probabilities(model.gpt, questions, progress)]
        return [int(scored[2 * i + 1] > scored[2 * i]) for i in range(len(schemas))]

    how = "the referent that, put in place of the pronoun, gives the rest the highest mean log-probability"
    return Trial(name, how, "accuracy", [s.right for s in schemas], predict, 0.5)
