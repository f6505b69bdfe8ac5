"""How good a model is: a task's metrics with intervals and calibration; perplexity on a corpus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpt1 import formatting
from gpt1.corpus.corpus import Corpus
from gpt1.corpus.shards import CORPUS_MANIFEST
from gpt1.corpus.windows import CorpusWindows
from gpt1.datasets import KnownTable
from gpt1.datasets.labelled import load_labelled_table
from gpt1.devices import prepare_model, resolve_precision
from gpt1.errors import UserError, did_you_mean
from gpt1.inference.predictor import PREDICTION_BATCH_TOKENS, LanguageModel, TaskPredictor, load, load_task_predictor
from gpt1.model.losses import PretrainMicroBatch as Piece
from gpt1.model.losses import l1
from gpt1.progress import NullProgress, Progress
from gpt1.tables.table import Table
from gpt1.tasks import metrics
from gpt1.tasks.examples import check_columns, encode_labels, read_examples
from gpt1.tasks.targets import Answers, Classes, Target, as_number


def evaluate(
    run: str | Path,
    test: str | Path | Table,
    *,
    data_dir: str | Path | None = None,
    progress: Progress | None = None,
    verify: bool = True,
) -> dict[str, Any]:
    """{"metrics": {name: number}, "interval": {name: [low, high]}, "f1_of": …, "rows": n} on the labelled rows of
    `test`: a table, or the name of a known data set (its labelled evaluation split; name:split for another). Of classes
    and answers also "calibration": the model's temperature and its expected calibration error on these rows, with it
    and without. Of a data set with parts (MNLI m and mm, RACE middle and high) also "subsets": {part: the same of its
    rows}.

    On a corpus folder: loss, perplexity and bits per byte of the language model. Raises UserError for a label that the
    model does not know, naming the row. verify: see `load`.
    """
    progress = progress or NullProgress()
    if not isinstance(test, Table) and (Path(test) / CORPUS_MANIFEST).exists():
        return evaluate_on_corpus(load(run, verify=verify), Corpus.open(test), progress)
    model = load_task_predictor(run, verify=verify)
    table, columns = load_labelled_rows(model, run, test, data_dir, progress)
    if columns["label"] not in table.columns:
        again = formatting.shell_join(["gpt1", "predict", run, test])
        raise UserError(
            f"{table.name} has no labels: there is no column '{columns['label']}'; it has: {', '.join(table.columns)}."
            + did_you_mean(columns["label"], table.columns),
            f"Give labelled rows; for others there is: {again}",
        )
    check_columns(model.kind, columns, table.columns, table.name)
    if not table.rows:
        raise UserError(f"{table.name} has no rows.", "Give labelled rows.")
    examples = read_examples(table.rows, model.kind, columns, table.locate_row)
    labels = [example.label for example in examples]
    targets = encode_labels(model.target, examples, table.locate_row)
    coded = model.encode(examples)
    raw = model.logits_with_progress(coded, table.name, progress)
    logits = raw / model.temperature

    def scores(rows: list[int]) -> dict[str, Any]:
        own = [labels[i] for i in rows]
        return {**compute_metrics(model.target, logits[rows], targets[rows], own), "rows": len(rows)}

    found = {**scores([*range(len(examples))]), "cut": sum(example.is_truncated for example in coded)}
    if isinstance(model.target, Classes | Answers):
        found["calibration"] = calibration_metrics(model.temperature, raw, targets)
        del found["calibration"]["bins_before"], found["calibration"]["bins"]  # they are for a picture
        progress.log(calibration_summary(found["calibration"]))
    if model.long == "windows":
        found["read_in_windows"] = sum(example.windows > 1 for example in coded)
    if len(parts := subset_rows(table)) > 1:
        found["subsets"] = {name: scores(rows) for name, rows in parts.items()}
    return found


def calibration_summary(calibration: Mapping[str, float]) -> str:
    before, after = calibration["ece_before"], calibration["ece_after"]
    if calibration["temperature"] == 1:
        return f"probabilities: expected calibration error {after:.3f} (temperature 1)"
    t = formatting.format_number(calibration["temperature"])
    return f"probabilities at temperature {t}: expected calibration error {after:.3f}, uncalibrated {before:.3f}"


def subset_rows(table: Table) -> dict[str, list[int]]:
    """Positions of the rows of each subset of a known data set, in the order in which they come."""
    found: dict[str, list[int]] = {}
    for i, row in enumerate(table.rows if isinstance(table, KnownTable) else []):
        if "subset" in row:
            found.setdefault(row["subset"], []).append(i)
    return found


@torch.inference_mode()
def evaluate_on_corpus(model: LanguageModel, corpus: Corpus, progress: Progress) -> dict[str, Any]:
    """Figures of a whole corpus, cut into windows of the model's context that do not overlap."""
    if corpus.tokenizer_fingerprint != model.tokenizer.fingerprint:
        raise UserError(
            f"{corpus.name} was made with another tokenizer than the model's.",
            "Make it again with: gpt1 tokenize TEXTS --out NEW --tokenizer RUN",
        )
    activations, precision = resolve_precision(
        "auto", model.device
    )  # as in training: a sum over so much text can take it
    prepare_model(model.gpt, model.device, activations)
    context = model.gpt.config.context
    count = (corpus.tokens - 1) // context
    if not count:
        raise UserError(f"{corpus.name} has {corpus.tokens:,} tokens: no window of {context}.", "Give more text.")
    windows = CorpusWindows(corpus, 0, corpus.tokens, context)
    progress.begin(f"perplexity of {corpus.name}, {precision}", count, unit="windows")
    total, batch = 0.0, max(1, PREDICTION_BATCH_TOKENS // context)
    for first in range(0, count, batch):
        ids = torch.from_numpy(windows.read(np.arange(first, min(count, first + batch)))).to(model.device)
        total += float(l1(model.gpt, Piece(ids, 1)).total)  # a sum over the tokens
        progress.advance(min(count, first + batch))
    progress.end()
    return {"metrics": windows.loss_metrics(total / (count * context)), "rows": count, "tokens": count * context}


def predict(
    run: str | Path,
    rows: str | Path | Table,
    *,
    data_dir: str | Path | None = None,
    progress: Progress | None = None,
    verify: bool = True,
) -> list[dict[str, Any]]:
    """Every row of `rows` (a table, or the name of a known data set) with `prediction` and `probability_<label>`, or
    `score`, added."""
    progress = progress or NullProgress()
    model = load_task_predictor(run, verify=verify)
    table, columns = load_labelled_rows(model, run, rows, data_dir, progress)
    added = model.predict_table(table, {role: name for role, name in columns.items() if role != "label"}, progress)
    if replaced := [name for name in table.columns if any(name in new for new in added)]:
        progress.log(f"{table.name} has columns of these names already, which are replaced: {', '.join(replaced)}")
    return [{**row, **new} for row, new in zip(table.rows, added, strict=True)]


def load_labelled_rows(
    model: TaskPredictor, run: str | Path, source: str | Path | Table, data_dir: str | Path | None, progress: Progress
) -> tuple[Table, dict[str, str]]:
    """(rows, their columns by role): the model's own columns for a table, its own for a known data set."""
    found = load_labelled_table(source, "evaluation", data_dir)
    for note in found.notes:
        progress.log(note)
    if found.data_set and found.data_set.kind_name != model.kind.name:
        raise UserError(
            f"{source} is a task of {found.data_set.kind_name}; {run} has learnt {model.kind.name}.",
            "Name a table or a data set of that kind, or fine-tune another model.",
        )
    return found.table, {"label": "label", **(found.columns or model.task["columns"])}


def compute_metrics(
    target: Target, logits: Tensor, targets: Tensor, labels: Sequence[Any], with_intervals: bool = True
) -> dict[str, Any]:
    """Metrics and their 95 % intervals from logits [examples, outputs] at the temperature in use."""
    read = target.decode(logits)
    names: Sequence[str] = ()
    extra: dict[str, Any] = {}
    gold: list[Any]
    given: list[Any]
    if isinstance(target, Classes):
        names = target.labels
        gold, given = [names[int(i)] for i in targets], [row["prediction"] for row in read]
        scores = metrics.class_scores(gold, given, names)
        extra["f1_of"] = scores.pop("f1_of")
    elif isinstance(target, Answers):
        gold, given = [int(i) for i in targets], [int(row["prediction"]) for row in read]
        scores = metrics.choice_scores(gold, given)
    else:
        gold, given = [as_number(label) for label in labels], [row["score"] for row in read]
        scores = metrics.number_scores(gold, given)
    if with_intervals:
        extra["interval"] = {name: list(metrics.confidence_interval(name, gold, given, names)) for name in scores}
    return {"metrics": {**scores, "loss": float(target.loss(logits, targets).mean())}, **extra}


def fit_calibration(target: Target, logits: Tensor, targets: Tensor) -> dict[str, Any]:
    """The temperature that fits the validation rows best, the calibration error before and after; not for numbers."""
    if not isinstance(target, Classes | Answers):
        return {}
    return calibration_metrics(metrics.fit_temperature(logits.numpy(), targets.numpy()), logits, targets)


def calibration_metrics(temperature: float, logits: Tensor, targets: Tensor) -> dict[str, Any]:
    """The expected calibration error of logits [rows, outputs], and its bins, as they are and at a temperature."""
    before, after = (
        metrics.calibration((logits.double() / t).softmax(-1).numpy(), targets.numpy()) for t in (1.0, temperature)
    )
    return {
        "temperature": temperature,
        "ece_before": before["ece"],
        "ece_after": after["ece"],
        "bins_before": before["bins"],
        "bins": after["bins"],
    }


def prediction_records(model: TaskPredictor, examples: Sequence[Any], logits: Tensor) -> list[dict[str, Any]]:
    """One record a row for predictions.jsonl: its texts, its label, what was predicted."""
    roles = [role for role in model.kind.columns if role != "choices"]
    records = []
    for example, read in zip(examples, model.target.decode(logits), strict=True):
        fields = {role: text for role, text in zip(roles, example.fields, strict=True) if text}
        if example.answers:
            fields |= {f"answer {k}": answer for k, answer in enumerate(example.answers)}
        probabilities = {k.removeprefix("probability_"): v for k, v in read.items() if k.startswith("probability_")}
        record: dict[str, Any] = {"fields": fields, "label": model.target.parse(example.label)}
        if "score" in read:
            record["score"] = read["score"]
        else:
            record |= {"prediction": read["prediction"], "probabilities": probabilities}
        records.append(record)
    return records
