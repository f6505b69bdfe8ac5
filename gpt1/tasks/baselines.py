"""The baselines of a fine-tuned model (trivial answer, TF-IDF), and the warning if it does not beat them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpt1.formatting import count_noun, escape_controls, format_number, metric_name, three_decimals
from gpt1.progress import Progress
from gpt1.tasks import metrics
from gpt1.tasks.examples import stratified_order
from gpt1.tasks.kinds import Example, Kind
from gpt1.tasks.labels import as_number
from gpt1.tasks.multilabel import MultiLabel, best_constant_labels
from gpt1.tasks.targets import Answers, Classes, Target
from gpt1.tasks.tfidf import fitting_work, tfidf_scores

MAX_TFIDF_WORK = 12_000_000
"""Maximum work (see `fitting_work`) of the TF-IDF baseline beside a fine-tuned model: up to 50 seconds of one core of
an AMD EPYC (9,014 of 20,000 reviews of IMDB). Of larger tables it gets a stratified sample of the rows."""
MIN_ROWS = 10
"""Minimum number of rows to conclude that a model has learned nothing."""
MIN_SPREAD = 0.1
"""Standard deviation of predicted scores, as a share of that of the labels, below which they hardly vary."""


def trivial_answer(target: Target, labels: Sequence[Any], metric: str = "f1_micro") -> str | int | float | list[str]:
    """The best constant prediction: the most frequent label (or answer), or the mean score.

    For several labels: the set with the best value of `metric` on these rows.
    """
    if isinstance(target, MultiLabel):
        return best_constant_labels(target, [target.sort_labels(label) for label in labels], metric)
    if isinstance(target, Classes):
        counts = Counter(map(target.canonical_label, labels))
        return max(target.labels, key=lambda label: counts[label])
    if isinstance(target, Answers):
        return min(Counter(map(int, labels)).items(), key=lambda item: (-item[1], item[0]))[0]
    return float(np.mean([as_number(label) for label in labels]))


def trivial_name(answer: str | int | float | list[str]) -> str:
    if isinstance(answer, list):
        return f"always ‘{escape_controls(', '.join(answer))}’" if answer else "always no label"
    if isinstance(answer, float):
        return f"always the mean ({format_number(answer)})"
    return f"always ‘{escape_controls(answer)}’" if isinstance(answer, str) else f"always answer {answer}"


def trivial_baseline(target: Target, answer: str | int | float | list[str], labels: Sequence[Any]) -> dict[str, Any]:
    """Metrics of the trivial answer on rows with these labels."""
    gold = metrics.gold_answers(target, labels)
    found = metrics.target_scores(target, gold, [answer] * len(gold))
    scores = {name: value for name, value in found.items() if name != "f1_of"}
    return {"name": trivial_name(answer), "answer": answer, "metrics": scores}


def tfidf_baseline(
    kind: Kind,
    target: Target,
    training: Sequence[Example],
    rows: Sequence[Example],
    seed: int,
    progress: Progress,
    chosen: Mapping[str, Any] | None = None,
    validation: Sequence[Example] = (),
    metric: str = "",
) -> dict[str, Any]:
    """Metrics on `rows` of a linear model on TF-IDF features of `training`, or of a sample of it (MAX_TFIDF_WORK).

    `chosen`: the baseline that an earlier call returned for the same `training`. Its choices are used again: one fit,
    where cross-validation takes 52. `validation`, `metric`: see `tfidf_scores`.

    Returns:
        `metrics`; `rows` it was trained on, `of` all training rows; what was chosen (see `tfidf_scores`). Empty if
        the texts have no words.
    """
    sample = training
    if (work := fitting_work(target, training)) > MAX_TFIDF_WORK:
        fewest = len(target.labels) if isinstance(target, Classes) else 2
        n = max(fewest, int(len(training) * MAX_TFIDF_WORK / work))
        sample = [training[i] for i in sorted(stratified_order(training, target, seed)[:n])]
    if not any(text.strip() for example in sample for text in (*example.fields, *example.answers)):
        return {}
    part = f" of {len(training):,}, to limit its time" if len(sample) < len(training) else ""
    progress.begin(f"TF-IDF baseline, trained on {count_noun(len(sample), 'row')}{part}", len(rows), unit="rows")
    found = tfidf_scores(kind, target, sample, rows, seed, chosen, validation, metric)
    progress.advance(len(rows))
    progress.end()
    choice = ("features", "C", "class_weight")
    about = {name: found.pop(name) for name in choice if name in found}
    return {"name": "TF-IDF", "metrics": found, "rows": len(sample), "of": len(training), **about}


def is_better(metric: str, a: float, b: float) -> bool:
    """Whether `a` is better than `b`; values that print the same are equal."""
    if format_compared(metric, a) == format_compared(metric, b):
        return False
    return a < b if metric in metrics.LOWER_IS_BETTER else a > b


def format_compared(metric: str, value: float) -> str:
    """A value as warnings print it: three decimals of a share or correlation, three digits of an error."""
    return format_number(value) if metric in metrics.LOWER_IS_BETTER else f"{value:.3f}"


def no_learning_reason(target: Target, scored: Mapping[str, Any], trivial: Mapping[str, Any], metric: str) -> str:
    """Why the model has learned nothing, by its metrics; empty if it has learned something.

    Args:
        target: The target of the task.
        scored: `rows`, `metrics`, `interval` and, for scores, `spread` (see `compute_metrics`).
        trivial: The trivial answer on the same rows.
        metric: The main metric, for several labels.
    """
    own, interval = scored["metrics"], scored["interval"]
    if scored["rows"] < MIN_ROWS:
        return ""
    if isinstance(target, MultiLabel):
        value, other, name = own[metric], trivial["metrics"][metric], metric_name(metric)
        if value > other or interval.get("matthews", (0.0, 0.0))[0] > 0:
            return ""
        return f"{name} {value:.3f} is not above that of {trivial['name']} ({other:.3f})"
    if isinstance(target, Classes | Answers):
        value, other = own["accuracy"], trivial["metrics"]["accuracy"]
        if value > other or interval.get("matthews", (0.0, 0.0))[0] > 0:
            return ""
        return f"accuracy {value:.3f} is not above that of the trivial answer ({trivial['name']}: {other:.3f})"
    if scored["spread"] < MIN_SPREAD:
        share = f"{100 * scored['spread']:.2g}%"
        return f"its scores hardly depend on the text: their standard deviation is {share} of that of the labels"
    known = interval["pearson"]
    return f"the interval of its Pearson correlation, {three_decimals(known)}, includes 0" if known[0] <= 0 else ""


def error_above_mean(scored: Mapping[str, Any], trivial: Mapping[str, Any]) -> str:
    """The error of scores if it is larger than that of the mean, as `RMSE 1.30 instead of 1.16`; else empty.

    Training minimizes the RMSE, and so does the mean. The MAE is not compared: the median minimizes it.
    """
    own, other = scored["metrics"].get("rmse"), trivial["metrics"].get("rmse")
    if scored["rows"] < MIN_ROWS or own is None or other is None or not is_better("rmse", other, own):
        return ""
    return f"RMSE {format_number(own)} instead of {format_number(other)}"


def quality_warning(
    target: Target, scored: Mapping[str, Any], baselines: Mapping[str, Any], metric: str, advice: str = ""
) -> str:
    """A warning if the model learned nothing, is worse than the mean score, or if TF-IDF is better; else empty.

    docs/finetuning.md explains the rules.

    Args:
        target: The target of the task.
        scored: The model's `rows`, `metrics`, `interval` and `spread`.
        baselines: `trivial` and, if it was fitted, `tfidf`, on the same rows.
        metric: The metric to compare.
        advice: Advice for a model that is worse than TF-IDF or the mean (see `inference.advice`).
    """
    trivial, tfidf, name = baselines.get("trivial"), baselines.get("tfidf"), metric_name(metric)
    if trivial and (reason := no_learning_reason(target, scored, trivial, metric)):
        cause = "Likely causes: too few steps or rows, or a model pre-trained on too little text."
        if tfidf and is_better(metric, tfidf["metrics"][metric], trivial["metrics"][metric]):
            learned = format_compared(metric, tfidf["metrics"][metric])
            cause = f"TF-IDF learns from the same rows ({name} {learned}). {advice}"
        elif tfidf:
            cause = "TF-IDF also learns nothing: there are too few rows, or the labels do not depend on the texts."
        return f"this model has learned nothing: {reason}. {cause}".strip()
    warning = ""
    if trivial and (larger := error_above_mean(scored, trivial)):
        warning = f"this model is worse than predicting {trivial['name']}: {larger}. "
    if tfidf and is_better(metric, tfidf["metrics"][metric], scored["metrics"][metric]):
        warning += f"TF-IDF is better ({name} {format_compared(metric, tfidf['metrics'][metric])}). "
    return f"{warning}{advice}".strip() if warning else ""


def summarize_baselines(baselines: Mapping[str, Any], metric: str) -> str:
    """`TF-IDF 0.861, always ‘pos’ 0.506`; for scores `TF-IDF 0.808, RMSE 0.75; always the mean (3.11) RMSE 1.16`."""
    ordered = reversed([*baselines.values()])
    parts = [f"{one['name']} {describe_score(metric, one['metrics'])}" for one in ordered]
    return ("; " if any("rmse" in one["metrics"] for one in baselines.values()) else ", ").join(parts)


def describe_score(metric: str, scores: Mapping[str, float], interval: str = "") -> str:
    """The value of `metric` with its interval; for a correlation also the RMSE, or only the RMSE if there is none."""
    rmse = f"RMSE {format_number(scores['rmse'])}" if "rmse" in scores and metric not in ("rmse", "mae") else ""
    own = f"{scores[metric]:.3f}{interval}" if interval or scores[metric] or not rmse else ""
    return ", ".join(filter(None, (own, rmse)))
