"""The header of a run's page: the result in a sentence, compared with the baselines, and a few facts."""

from __future__ import annotations

from typing import Any

from gpt1 import formatting
from gpt1.formatting import metric_name
from gpt1.report.page import Cell, format_interval
from gpt1.report.run_reader import Run, as_dict, is_number

HEADLINE_METRICS = ("accuracy", "matthews", "f1", "pearson", "spearman", "f1_micro", "f1_macro")
"""Scores of at most 1; the first one available is the headline unless the run names another."""
CORRELATIONS = ("matthews", "pearson", "spearman")


def headline(run: Run) -> str:
    text = _finetune_headline(run) if run.stage == "finetune" else _pretrain_headline(run)
    if text:
        return text
    loss = run.last_value("train", "loss")
    if loss is None:
        return "No metrics yet"
    count = formatting.count_noun(run.last_step, "step")
    validation = "no validation set" if run.is_finished else "no validation yet"
    return f"Training loss {formatting.format_number(loss)} after {count}; {validation}"


def _pretrain_headline(run: Run) -> str:
    perplexity, steps = as_dict(run.results.get("validation")).get("perplexity"), run.results.get("steps")
    so_far = ""
    if not is_number(perplexity) or not is_number(steps):
        at, values = run.series("validation", "perplexity")
        if not values:
            return ""
        perplexity, steps, so_far = values[-1], at[-1], " so far,"
    trained = f"{so_far} after {formatting.count_noun(int(steps), 'step')}"
    text = f"Validation perplexity {formatting.format_number(perplexity)}{trained}"
    unigram = as_dict(run.results.get("unigram")).get("perplexity")
    return text + (f"; a unigram model has {formatting.format_number(unigram)}" if is_number(unigram) else "")


def _finetune_headline(run: Run) -> str:
    name, value = main_metric(run)
    if value is None:
        return ""
    text = f"{sentence_start(metric_name(name))} {formatting.format_number(value)}"
    if not run.is_finished:
        return f"{text} so far, on {run.rows_name}"
    low_high = run.interval(name)
    if low_high:
        text += f" {format_interval(low_high)}"
    rows = as_dict(run.results.get("validation")).get("rows")
    text += f" on {rows:,} {run.rows_name}" if is_number(rows) else ""
    others = [
        f"{one.short_name} has {formatting.format_number(one.metrics[name])}"
        for one in run.competitors
        if name in one.metrics and (one.metrics[name] or name not in CORRELATIONS)  # the mean has 0 by definition
    ]
    verdict = "The model has learned nothing. " if "learned nothing" in run.warning else ""
    if run.warning.startswith("this model is worse than"):
        verdict = "The model is worse than always predicting the mean. "
    return verdict + "; ".join([text, *others])


def sentence_start(text: str) -> str:
    """The text with a capital letter; `capitalize` would change the other letters as well."""
    return text[:1].upper() + text[1:]


def kicker(run: Run) -> str:
    stage = {"pretrain": "pre-training", "finetune": "fine-tuning"}[run.stage]
    kind = run.results.get("kind") or as_dict(run.settings.get("command")).get("kind")
    return "  ·  ".join(["gpt1", stage, *([str(kind)] if kind else []), run.name])


def lead_sentence(run: Run) -> str:
    if run.is_finished:
        return " ".join(run.problems)
    at = f"The last metrics are from step {run.last_step:,}." if run.last_step else ""
    return " ".join(["This run is not finished.", at, *run.problems]).replace("  ", " ")


def key_facts(run: Run) -> dict[str, Any]:
    results, facts = run.results, {}
    parameters = results.get("parameters", results.get("parameters_trained"))
    if is_number(parameters):
        name = "parameters" if "parameters" in results else "parameters trained"
        facts[name] = Cell(parameters, formatting.format_large_count(parameters))
    if is_number(results.get("steps")) or run.last_step:
        facts["steps"] = results.get("steps", run.last_step)
    tokens = results.get("tokens_seen", run.last_value("train", "tokens"))
    if is_number(tokens):
        facts["tokens seen"] = Cell(tokens, formatting.format_large_count(tokens))
    if is_number(results.get("best_epoch")):
        facts["best epoch" if results.get("validation") else "epochs"] = results["best_epoch"]
    seconds = results.get("seconds", run.last_value("train", "seconds"))
    if is_number(seconds):
        facts[f"time, {'h:' * (seconds >= 3599.5)}min:s"] = Cell(seconds, formatting.format_duration(seconds))
    if is_number(seconds) and is_number(tokens) and seconds:
        facts["tokens per second"] = Cell(tokens / seconds, formatting.format_number(round(tokens / seconds)))
    return facts


def main_metric(run: Run) -> tuple[str, float | None]:
    """Name and value of the main metric: of the best epoch, or the last value of an unfinished run."""
    measured = as_dict(as_dict(run.results.get("validation")).get("metrics"))
    names = [name for name in (str(run.results.get("main", "")), *HEADLINE_METRICS) if name]
    for name in names:
        if is_number(measured.get(name)):
            return name, measured[name]
    for name in names:
        value = run.last_value("validation", name)
        if value is not None:
            return name, value
    return "loss", measured.get("loss", run.last_value("validation", "loss"))
