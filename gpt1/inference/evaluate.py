"""Evaluation: metrics of a task with confidence intervals and calibration; perplexity on a corpus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpt1 import formatting
from gpt1.console import default_progress
from gpt1.corpus.corpus import Corpus
from gpt1.corpus.split import CorpusPart
from gpt1.corpus.windows import CorpusWindows
from gpt1.datasets import KnownTable
from gpt1.datasets.labeled import load_labeled_table
from gpt1.devices import prepare_model, resolve_precision
from gpt1.errors import UserError
from gpt1.files.names import MANIFEST, RUN_CONFIG_FILE
from gpt1.inference.advice import tfidf_advice
from gpt1.inference.baselines import baselines_on_test_rows
from gpt1.inference.label_checks import (
    check_has_labels,
    check_labels_match,
    encode_known_labels,
    log_unseen_labels,
    read_test_examples,
)
from gpt1.inference.predictor import LanguageModel, TaskPredictor, load, load_task_predictor
from gpt1.inference.task_logits import PREDICTION_BATCH_TOKENS, ignore_empty
from gpt1.model.losses import PretrainMicroBatch, l1
from gpt1.progress import Progress
from gpt1.report.evaluation import check_report_path, predict_command, write_evaluation_report
from gpt1.runs.folder import read_run_config
from gpt1.tables.facts import format_rows_have
from gpt1.tables.frames import to_table
from gpt1.tables.table import Table
from gpt1.tasks import metrics
from gpt1.tasks.baselines import quality_warning
from gpt1.tasks.examples import input_columns
from gpt1.tasks.kinds import Example
from gpt1.tasks.multilabel import MultiLabel
from gpt1.tasks.targets import Target, calibration_rows, label_decimal, predicted_answers, withhold_predictions


def evaluate(
    run: str | Path,
    test: Any,
    *,
    data_dir: str | Path | None = None,
    unseen: str = "wrong",
    unlabeled: str = "refuse",
    baselines: bool = True,
    report: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    verify: bool = True,
    **columns: str | None,
) -> dict[str, Any]:
    """Evaluate a fine-tuned model on labeled rows, or a pre-trained one on a corpus.

    Args:
        run: A run or model folder.
        test: A table file, DataFrame or list of rows (dicts) with labels, a known data set (name or name:split), or a
            corpus folder.
        data_dir: Folder with the files of known data sets.
        unseen: Rows with a label that was not in training: `wrong` counts them as mistakes (the loss leaves them out;
            of several labels each is a false negative), `refuse` is an error.
        unlabeled: Rows without a label: `refuse` is an error, `drop` leaves them out.
        baselines: Score the trivial answer and, if the training rows are still there and unchanged, TF-IDF as well.
        report: HTML page to write: confusion matrix or scatter plot, calibration, the worst mistakes.
        overwrite: Replace a page that is there.
        progress: Receives messages and progress.
        verify: See `load`.
        **columns: Columns that are not named as in training, by role: text="review", label="stars".

    Returns:
        `metrics`: {name: value}, `interval`: {name: [low, high]} (95% confidence), `f1_of`, `rows`, `cut` (truncated
        rows), `unseen` {label: rows}; `spread` of scores: the standard deviation of the predictions as a share of that
        of the labels; `calibration` of probabilities: temperature, expected calibration error, bins, before and after;
        `subsets` (MNLI m and mm, RACE middle and high): the same per subset; `baselines`: `trivial` and `tfidf`, each
        with `name` and `metrics`; `warning`: if the model learned nothing or TF-IDF is better, else empty; `advice`:
        commands for a better model. For a corpus: loss, perplexity, bits per byte.

    Raises:
        UserError: For missing labels, and unknown ones where they are refused, naming the row.
    """
    progress, test = progress or default_progress(), to_table(test)
    check_options(test, unseen, report, overwrite)
    if is_corpus_path(test):
        return evaluate_on_corpus(load(run, verify=verify), Corpus.open(test), progress, precision_of_run(run))
    model = load_task_predictor(run, verify=verify)
    table, chosen = load_labeled_rows(model, run, test, data_dir, progress, given_columns(columns), unlabeled)
    check_has_labels(model, table, chosen["label"], run, test)
    examples = read_test_examples(model, table, chosen)
    check_labels_match(model, table, chosen["label"])
    targets, unseen_labels = encode_known_labels(model.target, examples, table.locate_row, unseen == "refuse")
    found, logits = score_rows(model, table, examples, targets, progress)
    found["unseen"] = dict(log_unseen_labels(unseen_labels, progress).most_common())
    if baselines:
        found |= compare_with_baselines(model, run, examples, found, progress)
    if report:
        command = "" if isinstance(test, Table) else predict_command(run, test, data_dir, columns, verify)
        records = prediction_records(model, examples, logits)
        save_page(Path(report), run, table.name, model, chosen, found, records, command)
    return found


def compare_with_baselines(
    model: TaskPredictor, run: str | Path, examples: Sequence[Example], scored: Mapping[str, Any], progress: Progress
) -> dict[str, Any]:
    """`baselines`, `warning` and `advice`; see `evaluate`."""
    baselines = baselines_on_test_rows(model, run, examples, progress)
    advice = tfidf_advice(run, None, scored["cut"] / scored["rows"])
    warning = quality_warning(model.target, scored, baselines, model_metric(model), advice.sentence)
    commands = list(advice.commands) if advice.sentence in warning else []
    return {"baselines": baselines, "warning": warning, "advice": commands}


def is_corpus_path(test: str | Path | Table) -> bool:
    return not isinstance(test, Table) and (Path(test) / MANIFEST).exists()


def check_options(test: str | Path | Table, unseen: str, report: str | Path | None, overwrite: bool) -> None:
    """UserError for an option of `evaluate` that is invalid, or does not apply to `test`."""
    if unseen not in ("wrong", "refuse"):
        raise UserError(f"--unseen {unseen} is not a valid choice.", "Choices: wrong, refuse.")
    if report:
        check_report_path(Path(report), overwrite)
        if is_corpus_path(test):
            raise UserError(f"--report does not apply to a corpus ({test}): it has no rows.", "Omit --report.")


def save_page(
    path: Path,
    run: str | Path,
    test: str,
    model: TaskPredictor,
    columns: Mapping[str, str],
    found: Mapping[str, Any],
    records: Sequence[dict[str, Any]],
    command: str,
) -> None:
    write_evaluation_report(
        path,
        run=run,
        test=test,
        kind=model.kind.name,
        columns=columns,
        labels=getattr(model.target, "labels", []),
        main=model_metric(model),
        found=found,
        records=records,
        command=command,
    )


def model_metric(model: TaskPredictor) -> str:
    return str(model.task.get("metric") or model.target.primary_metric)


def score_rows(
    model: TaskPredictor, table: Table, examples: Sequence[Example], targets: Tensor, progress: Progress
) -> tuple[dict[str, Any], Tensor]:
    """(metrics, calibration and counts of truncated rows, also by subset; logits at the model's temperature)."""
    labels, encoded = [example.label for example in examples], model.encode(examples)
    unscaled = ignore_empty(examples, model.logits_with_progress(encoded, table.name, progress))
    has_text = [example.has_text for example in examples]
    if empty := has_text.count(False):
        counted = count_empty_as(model.target)
        progress.log(f"{format_rows_have(empty)} no text, so no prediction; counted as {counted}")
    logits = unscaled / model.temperature

    def scores(rows: list[int]) -> dict[str, Any]:
        texts = [has_text[i] for i in rows]
        own = compute_metrics(model.target, logits[rows], targets[rows], [labels[i] for i in rows], has_text=texts)
        return {**own, "rows": len(rows)}

    found = {**scores([*range(len(examples))]), "cut": sum(example.is_truncated for example in encoded)}
    pairs = calibration_rows(model.target, unscaled[has_text], targets[has_text])
    if pairs and any(has_text):
        found["calibration"] = calibration_metrics(model.temperature, *pairs)
        progress.log(calibration_summary(found["calibration"]))
    if model.long == "windows":
        found["read_in_windows"] = sum(example.windows > 1 for example in encoded)
    if len(subsets := subset_rows(table)) > 1:
        found["subsets"] = {name: scores(rows) for name, rows in subsets.items()}
    return found, logits


def count_empty_as(target: Target) -> str:
    """What a row without text counts as in the metrics."""
    if target.activated_name == "score":
        (score,) = predicted_answers(target, torch.zeros(1, target.outputs))
        return f"the score {score:.6g}"
    return "the prediction of no label" if isinstance(target, MultiLabel) else "wrong"


def calibration_summary(calibration: Mapping[str, Any]) -> str:
    before, after = calibration["ece_before"], f"{calibration['ece_after']:.3f}"
    if interval := calibration.get("ece_interval"):
        after += f" {formatting.three_decimals(interval)}"
    if calibration["temperature"] == 1:
        return f"probabilities: expected calibration error {after} (temperature 1)"
    t = formatting.format_number(calibration["temperature"])
    return f"probabilities at temperature {t}: expected calibration error {after}, uncalibrated {before:.3f}"


def subset_rows(table: Table) -> dict[str, list[int]]:
    """Positions of the rows of each subset of a known data set."""
    found: dict[str, list[int]] = {}
    for i, row in enumerate(table.rows if isinstance(table, KnownTable) else []):
        if "subset" in row:
            found.setdefault(row["subset"], []).append(i)
    return found


def precision_of_run(run: str | Path) -> str:
    """`fp32` if the run was trained so; else `auto`, because a model folder does not record it."""
    is_run = (Path(run) / RUN_CONFIG_FILE).exists()
    return "fp32" if is_run and read_run_config(Path(run)).get("precision") == "fp32" else "auto"


@torch.inference_mode()
def evaluate_on_corpus(
    model: LanguageModel, corpus: Corpus, progress: Progress, precision: str = "auto"
) -> dict[str, Any]:
    """Loss, perplexity and bits per byte on non-overlapping windows over the whole corpus."""
    if corpus.tokenizer_fingerprint != model.tokenizer.fingerprint:
        problem = f"{corpus.name} was created with a different tokenizer than the model."
        raise UserError(problem, "Create it again with: gpt1 tokenize TEXTS --out NEW --tokenizer RUN")
    activations, shown = resolve_precision(precision, model.device)
    prepare_model(model.gpt, model.device, activations)
    context = model.gpt.config.context
    count = (corpus.tokens - 1) // context
    if not count:
        problem = f"{corpus.name} has {corpus.tokens:,} tokens: too few for a window of {context}."
        raise UserError(problem, "Use a larger corpus.")
    windows = CorpusWindows(CorpusPart.from_ranges(corpus, [(0, corpus.tokens)]), context, shifted=False)
    progress.begin(f"perplexity of {corpus.name}, {shown}", count, unit="windows")
    total, batch = 0.0, max(1, PREDICTION_BATCH_TOKENS // context)
    for first in range(0, count, batch):
        ids = torch.from_numpy(windows.read(np.arange(first, min(count, first + batch)))).to(model.device)
        total += float(l1(model.gpt, PretrainMicroBatch(ids, 1)).total)  # sum over tokens
        progress.advance(min(count, first + batch))
    progress.end()
    return {"metrics": windows.loss_metrics(total / (count * context)), "rows": count, "tokens": count * context}


def predict(
    run: str | Path,
    rows: Any,
    *,
    data_dir: str | Path | None = None,
    progress: Progress | None = None,
    verify: bool = True,
    **columns: str | None,
) -> list[dict[str, Any]]:
    """Predict every row of a table.

    Args:
        run: A run or model folder.
        rows: A table file, DataFrame or list of rows (dicts), or the name of a known data set.
        data_dir: Folder with the files of known data sets.
        progress: Receives messages and progress.
        verify: See `load`.
        **columns: As for `evaluate`.

    Returns:
        The rows with `prediction` and `probability_<label>`, or with `score`, added.
    """
    progress, rows = progress or default_progress(), to_table(rows)
    model = load_task_predictor(run, verify=verify)
    table, chosen = load_labeled_rows(model, run, rows, data_dir, progress, given_columns(columns))
    added = model.predict_table(table, input_columns(chosen), progress)
    if replaced := [name for name in table.columns if any(name in new for new in added)]:
        progress.log(f"{table.name}: existing columns are replaced by predictions: {', '.join(replaced)}")
    return [{**row, **new} for row, new in zip(table.rows, added, strict=True)]


def given_columns(columns: Mapping[str, str | None]) -> dict[str, str]:
    """The columns that the user has named, by role."""
    return {role: column for role, column in columns.items() if column is not None}


def load_labeled_rows(
    model: TaskPredictor,
    run: str | Path,
    source: str | Path | Table,
    data_dir: str | Path | None,
    progress: Progress,
    columns: Mapping[str, str],
    unlabeled: str = "",
) -> tuple[Table, dict[str, str]]:
    """(rows, column by role): the given columns, else those of a known data set, else those of training.

    `unlabeled`: what to do with rows without a label, as in `evaluate`; nothing by default, to predict them.
    """
    found = load_labeled_table(source, "evaluation", data_dir)
    chosen = {"label": "label", **(found.columns or model.task["columns"]), **columns}
    if unlabeled:
        numbers, decimal = model.target.activated_name == "score", label_decimal(model.target)
        found = found.with_labels(model.kind, chosen["label"], unlabeled, numbers, decimal)
    for note in found.notes:
        progress.log(note)
    if found.data_set and found.data_set.kind_name != model.kind.name:
        raise UserError(
            f"{source} is a {found.data_set.kind_name} task; {run} was fine-tuned for {model.kind.name}.",
            "Use data of that kind, or fine-tune another model.",
        )
    return found.table, chosen


def compute_metrics(
    target: Target,
    logits: Tensor,
    targets: Tensor,
    labels: Sequence[Any],
    with_intervals: bool = True,
    cross_fit: bool = False,
    has_text: Sequence[bool] | None = None,
) -> dict[str, Any]:
    """Metrics and their 95% confidence intervals.

    Args:
        target: The target of the task.
        logits: [examples, outputs], divided by the temperature.
        targets: Encoded labels, [examples, ...]; -1 for a label that the target does not have.
        labels: The labels as read.
        with_intervals: Whether to compute confidence intervals.
        cross_fit: Whether these are validation rows, which choose the thresholds of several labels: those of each row
            then come from other rows. Else they are the thresholds of the target, as in predictions.
        has_text: Whether each row has a text, by default all. Without one no label is predicted (see `ignore_empty`).

    Returns:
        `metrics` (with the mean `loss`), `interval` (of several labels also of `matthews`), `f1_of` (classes) and
        `spread` (scores; see `evaluate`).
    """
    gold = metrics.gold_answers(target, labels)
    predicted = predicted_answers(target, logits, targets if cross_fit else None)
    if has_text is not None:
        predicted = withhold_predictions(target, predicted, has_text)
    scores = metrics.target_scores(target, gold, predicted)
    extra = {"f1_of": scores.pop("f1_of")} if "f1_of" in scores else {}
    if with_intervals:
        trained = getattr(target, "labels", ())
        names = [*scores, "matthews"] if isinstance(target, MultiLabel) else [*scores]
        extra["interval"] = {name: list(metrics.confidence_interval(name, gold, predicted, trained)) for name in names}
    if target.activated_name == "score":
        extra["spread"] = float(np.std(predicted) / np.std(gold)) if np.std(gold) else 0.0
    elif targets.dim() == 1 and any(known := (targets >= 0).tolist()):
        logits, targets = logits[known], targets[known]
    return {"metrics": {**scores, "loss": float(target.loss(logits, targets).mean())}, **extra}


def fit_calibration(target: Target, logits: Tensor, targets: Tensor) -> dict[str, Any]:
    """Fit the temperature on validation rows (see `metrics.cross_fit_temperature`); empty for scores."""
    pairs = calibration_rows(target, logits, targets)
    return metrics.cross_fit_temperature(pairs[0].numpy(), pairs[1].numpy()) if pairs else {}


def calibration_metrics(temperature: float, logits: Tensor, targets: Tensor) -> dict[str, Any]:
    """Calibration of logits [rows, outputs] at temperature 1 and at `temperature`, named as by
    `metrics.cross_fit_temperature`."""
    gold = targets.numpy()
    p_before, p_after = ((logits.double() / t).softmax(-1).numpy() for t in (1.0, temperature))
    before, after = (metrics.calibration(p, gold) for p in (p_before, p_after))
    return {
        "temperature": temperature,
        "ece_before": before["ece"],
        "ece_after": after["ece"],
        **metrics.calibration_interval(p_after, gold),
        "bins_before": before["bins"],
        "bins": after["bins"],
    }


def prediction_records(model: TaskPredictor, examples: Sequence[Any], logits: Tensor) -> list[dict[str, Any]]:
    """One record per row for predictions.jsonl: texts, label, prediction."""
    roles = [role for role in model.kind.columns if role != "choices"]
    records = []
    labels = metrics.gold_answers(model.target, [example.label for example in examples])
    rows = model.target.decode(logits)
    answers = [decoded.get("prediction") for decoded in rows]
    answers = withhold_predictions(model.target, answers, [example.has_text for example in examples])
    for example, decoded, answer, gold in zip(examples, rows, answers, labels, strict=True):
        fields = {role: text for role, text in zip(roles, example.fields, strict=True) if text}
        if example.answers:
            fields |= {f"answer {k}": answer for k, answer in enumerate(example.answers)}
        probabilities = {k.removeprefix("probability_"): v for k, v in decoded.items() if k.startswith("probability_")}
        record: dict[str, Any] = {"fields": fields, "label": gold}
        if "score" in decoded:
            record["score"] = decoded["score"]
        else:
            record |= {"prediction": answer, "probabilities": probabilities}
        records.append(record)
    return records
