"""The end of a fine-tuning run: evaluate on the validation rows, and write the files of the run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from gpt1.config import FinetuneConfig
from gpt1.datasets.labeled import TaskData
from gpt1.files.atomic import atomic_write_text
from gpt1.files.names import PREDICTIONS, RUN_NAME
from gpt1.formatting import count_noun, metric_name, printable_json, three_decimals
from gpt1.inference.advice import tfidf_advice
from gpt1.inference.evaluate import compute_metrics, fit_calibration, prediction_records
from gpt1.inference.predictor import TaskPredictor
from gpt1.inference.task import save_task
from gpt1.progress import Progress
from gpt1.runs import folder as runs
from gpt1.tasks.baselines import (
    describe_score,
    quality_warning,
    summarize_baselines,
    tfidf_baseline,
    trivial_answer,
    trivial_baseline,
)
from gpt1.tasks.targets import Target, choose_thresholds
from gpt1.tasks.weights import with_weights
from gpt1.training.finetune_setup import FinetuneSetup, FullTrainingSource
from gpt1.training.head_only import HeadOnlySource
from gpt1.training.loop import Outcome


def finish_finetuning(
    run: Path,
    setup: FinetuneSetup,
    source: FullTrainingSource | HeadOnlySource,
    outcome: Outcome,
    cfg: FinetuneConfig,
    progress: Progress,
    with_tfidf: bool,
) -> None:
    """Validate the trained model, and write the model folder, the results and the validation predictions."""
    task = setup.task
    answer = trivial_answer(task.target, [example.label for example in task.training], task.primary_metric)
    facts = setup.facts["tokens"], setup.facts["cut"]
    validated, advice = ValidatedModel(task.target), tfidf_advice(run, *facts)
    if task.validation:
        validated = evaluate_trained_model(
            setup, source.validation_logits(), answer, cfg, progress, with_tfidf, advice.sentence
        )
    description = {
        "kind": task.kind.name,
        "columns": task.columns,
        "cut": cfg.cut,
        "long": cfg.long,
        "temperature": validated.calibration.get("temperature", 1.0),
        "train": cfg.train,
        "metric": task.primary_metric,
        "trivial_answer": answer,
    }
    with runs.new_model(run) as folder:
        save_task(folder, setup.model, setup.tokenizer, description, validated.target)
    if validated.logits is not None:
        predictor = TaskPredictor(setup.model, setup.tokenizer, description, validated.target)
        write_validation_predictions(run, predictor, task, validated.logits)
    results = finetuning_results(setup, validated, outcome)
    advised = advice.sentence in validated.warning
    # The same bits in every folder.
    results["advice"] = list(tfidf_advice(run, *facts, RUN_NAME).commands) if advised else []
    runs.write_results(run, results)
    if validated.metrics:
        log_results(results, task.primary_metric, progress)
        for command in advice.commands if advised else ():
            progress.log(f"  {command}")


@dataclass(frozen=True)
class ValidatedModel:
    """Metrics and calibration of a trained model on the validation rows; without such rows, only the target."""

    target: Target  # with the thresholds that they choose
    logits: Tensor | None = None  # [validation rows, outputs], divided by the temperature
    calibration: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    baselines: Mapping[str, Any] = field(default_factory=dict)
    warning: str = ""  # nothing was learned, or TF-IDF is better


def evaluate_trained_model(
    setup: FinetuneSetup,
    logits: Tensor,
    answer: Any,
    cfg: FinetuneConfig,
    progress: Progress,
    with_tfidf: bool,
    advice: str,
) -> ValidatedModel:
    """Calibrate on the validation rows, and compare with the baselines: the trivial answer and TF-IDF."""
    task = setup.task
    targets, labels = setup.encode_targets(task.validation), [example.label for example in task.validation]
    calibration = fit_calibration(task.target, logits, targets)
    logits = logits / calibration.get("temperature", 1.0)
    target = choose_thresholds(task.target, logits, targets)
    metrics = {**compute_metrics(target, logits, targets, labels, cross_fit=True), "rows": len(labels)}
    baselines = {"trivial": trivial_baseline(target, answer, labels)}
    rows = with_weights(task.training, task.weights), task.validation
    if with_tfidf:
        validation, metric = task.validation, task.primary_metric
        if tfidf := tfidf_baseline(task.kind, target, *rows, cfg.seed, progress, None, validation, metric):
            baselines["tfidf"] = tfidf
    warning = quality_warning(target, metrics, baselines, task.primary_metric, advice)
    return ValidatedModel(target, logits, calibration, metrics, baselines, warning)


def finetuning_results(setup: FinetuneSetup, validated: ValidatedModel, outcome: Outcome) -> dict[str, Any]:
    """The content of results.json."""
    task = setup.task
    best = next((h for h in outcome.history if h["step"] == (outcome.best or outcome.step)), {})
    return {
        "stage": "finetune",
        "kind": task.kind.name,
        "labels": list(getattr(validated.target, "labels", [])),
        "main": task.primary_metric,
        "best_epoch": best.get("epoch"),
        "validation": validated.metrics,
        "baselines": validated.baselines,
        "warning": validated.warning,
        "calibration": validated.calibration,
        "parameters_trained": setup.facts["trained"],
        "data": {name: fact for name, fact in setup.facts.items() if name != "trained"}
        | {"train": len(task.training), "validation": len(task.validation)},
        "rows_fingerprint": task.fingerprint(),
        "seconds": outcome.seconds,
        "history": outcome.history,
    }


def write_validation_predictions(run: Path, model: TaskPredictor, task: TaskData, logits: Tensor) -> None:
    records = prediction_records(model, task.validation, logits)
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    atomic_write_text(run / PREDICTIONS, printable_json(lines))  # texts of Python may have half a character


def describe_calibration(calibration: Mapping[str, Any], rows: int) -> str:
    """Whether the probabilities are calibrated, and what it changed; where the rows are few, with their number."""
    ece, loss = ([calibration[f"{name}_{when}"] for when in ("before", "after")] for name in ("ece", "loss"))
    few = f" on {count_noun(rows, 'row')}" if "ece_interval" in calibration else ""
    if calibration["reason"]:
        return f"not calibrated (ECE {ece[0]:.3f}{few}): {calibration['reason']}"
    changes = [f"{name} {before:.3f} → {after:.3f}" for name, (before, after) in (("loss", loss), ("ECE", ece))]
    return f"calibrated ({', '.join(changes)}{few}, cross-fitted)"


def log_results(results: Mapping[str, Any], metric: str, progress: Progress) -> None:
    """The line of the best epoch, and the warning."""
    validation, calibration = results["validation"], results["calibration"]
    interval = f" {three_decimals(validation['interval'][metric])}"
    parts = [f"{metric_name(metric)} {describe_score(metric, validation['metrics'], interval)}"]
    parts.append(summarize_baselines(results["baselines"], metric))
    if calibration:
        parts.append(describe_calibration(calibration, validation["rows"]))
    progress.log(f"best epoch {results['best_epoch'] or 0:g}: {'; '.join(parts)}")
    if results["warning"]:
        progress.log(f"warning: {results['warning']}")
