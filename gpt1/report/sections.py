"""report.html of a run, from the files in its folder alone, so that killed runs have a report too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpt1 import formatting
from gpt1.config import descriptions
from gpt1.report import charts, curves
from gpt1.report.page import Cell, Mistake, Page
from gpt1.report.run_reader import Prediction, Run, as_dict, is_number

MAX_MISTAKES = 20
MAX_CONFUSIONS = 12
MAX_MATRIX_LABELS = 12  # for more labels, the most frequent confusions are listed
DATA_DESCRIPTIONS = {  # keys of results.json that need an explanation
    "rows": "rows of the table",
    "duplicates": "duplicates removed",
    "leaked": "rows also in the validation file, removed",
    "unknown": "unknown tokens",
    "cut": "texts truncated to the context",
    "train": "training rows",
    "validation": "validation rows",
}
HEADLINE_METRICS = ("accuracy", "matthews", "f1", "pearson", "spearman")  # the first one available is the headline


def write_report(run: Path) -> Path:
    """Write report.html of a run, finished or not, and return its path."""
    contents = Run.open(Path(run))
    page = Page(headline(contents), kicker=kicker(contents), lead=lead_sentence(contents))
    facts = key_facts(contents)
    if facts:
        page.facts(facts)
    for section in (
        add_results,
        add_curves,
        add_predictions,
        add_mistakes,
        add_samples,
        add_data,
        add_settings,
        add_next_steps,
    ):
        _add_section(section, page, contents)
    return page.write(Path(run) / "report.html")


def _add_section(section: Callable[[Page, Run], None], page: Page, run: Run) -> None:
    """Add a section; an error in it must not fail the run, so the page shows the error instead."""
    try:
        section(page, run)
    except Exception as error:
        page.paragraph(f"The section '{section.__name__.removeprefix('add_')}' could not be rendered: {error!r}")


# Head of the page


def headline(run: Run) -> str:
    text = _finetune_headline(run) if run.stage == "finetune" else _pretrain_headline(run)
    if text:
        return text
    loss = run.last_value("train", "loss")
    if loss is None:
        return "No metrics yet"
    validation = "no validation set" if run.is_finished else "no validation yet"
    return f"Training loss {formatting.format_number(loss)} after {run.last_step:,} steps; {validation}"


def _pretrain_headline(run: Run) -> str:
    perplexity, steps = as_dict(run.results.get("validation")).get("perplexity"), run.results.get("steps")
    so_far = ""
    if not is_number(perplexity) or not is_number(steps):
        at, values = run.series("validation", "perplexity")
        if not values:
            return ""
        perplexity, steps, so_far = values[-1], at[-1], " so far,"
    text = f"Validation perplexity {formatting.format_number(perplexity)}{so_far} after {steps:,} steps"
    unigram = as_dict(run.results.get("unigram")).get("perplexity")
    return text + (f"; a unigram model has {formatting.format_number(unigram)}" if is_number(unigram) else "")


def _finetune_headline(run: Run) -> str:
    name, value = main_metric(run)
    if value is None:
        return ""
    text = f"{name.capitalize()} {formatting.format_number(value)}"
    if not run.is_finished:
        return f"{text} so far, on validation rows"
    low_high = metric_interval(run, name)
    if low_high:
        text += f" {_format_interval(low_high)}"
    rows = as_dict(run.results.get("validation")).get("rows")
    text += f" on {rows:,} validation rows" if is_number(rows) else ""
    others = "; ".join(f"{who} has {formatting.format_number(other)}" for who, other in baseline_scores(run, name))
    learned = "The model has learned nothing. " if "learned nothing" in str(run.results.get("warning")) else ""
    return learned + text + (f"; {others}" if others else "")


def _format_interval(interval: tuple[float, float]) -> str:
    return f"[{formatting.format_number(interval[0])},\u00a0{formatting.format_number(interval[1])}]"


def kicker(run: Run) -> str:
    stage = {"pretrain": "pre-training", "finetune": "fine-tuning"}[run.stage]
    kind = run.results.get("kind") or as_dict(run.settings.get("command")).get("kind")
    return "  ·  ".join(["gpt1", stage, *([str(kind)] if kind else []), run.name])


def lead_sentence(run: Run) -> str:
    if run.is_finished:
        warning = str(run.results.get("warning") or "")
        return " ".join([*([f"Warning: {warning}"] if warning else []), *run.problems])
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
        facts["time"] = Cell(seconds, formatting.format_duration(seconds))
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


def metric_interval(run: Run, name: str) -> tuple[float, float] | None:
    """95% confidence interval of a metric."""
    pair = as_dict(as_dict(run.results.get("validation")).get("interval")).get(name)
    if isinstance(pair, list) and len(pair) == 2 and is_number(pair[0]) and is_number(pair[1]):
        return pair[0], pair[1]
    return None


def baseline_scores(run: Run, metric: str) -> list[tuple[str, float]]:
    """(name, value of `metric` on the validation rows) of TF-IDF and of the trivial answer."""
    stored = [as_dict(one) for one in reversed([*as_dict(run.results.get("baselines")).values()])]
    if not stored:  # runs of earlier versions
        return [blind] if metric == "accuracy" and (blind := blind_baseline(run)) else []
    values = [(str(one.get("name")), as_dict(one.get("metrics")).get(metric)) for one in stored]
    return [(name, value) for name, value in values if is_number(value)]


def blind_baseline(run: Run) -> tuple[str, float] | None:
    """(name, accuracy on the validation rows) of the best prediction without reading the texts."""
    rows = run.predictions
    if not rows or any(not row.probabilities for row in rows):
        return None
    if not run.labels:
        return "random guessing", sum(1 / len(row.probabilities) for row in rows) / len(rows)
    label, count = Counter(row.label for row in rows).most_common(1)[0]
    return f"always predicting ‘{formatting.escape_controls(label)}’", count / len(rows)


# Sections


def add_results(page: Page, run: Run) -> None:
    validation = as_dict(run.results.get("validation"))
    if not validation:
        return
    page.heading("Results", "On the validation set.")
    if run.stage == "pretrain":
        _add_language_model_table(page, run, validation)
        return
    measured = as_dict(validation.get("metrics"))
    baselines = {name: dict(baseline_scores(run, name)) for name in measured}
    titles = list(dict.fromkeys(title for found in baselines.values() for title in found))
    rows: list[list[Any]] = []
    for name, value in measured.items():
        low_high = metric_interval(run, name)
        interval = _format_interval(low_high) if low_high else None
        average = f" ({validation['f1_of']})" if name == "f1" and validation.get("f1_of") else ""
        rows.append([name + average, value, interval, *(baselines[name].get(title) for title in titles)])
    columns = ["", "this model", "95% confidence interval", *titles]
    used = [i for i in range(len(columns)) if i < 2 or any(row[i] is not None for row in rows)]
    page.table([columns[i] for i in used], [[row[i] for i in used] for row in rows])
    calibration = as_dict(run.results.get("calibration"))
    temperature, before, after = (calibration.get(name) for name in ("temperature", "ece_before", "ece_after"))
    if reason := calibration.get("reason"):
        page.paragraph(f"Probabilities are not calibrated: {reason}. Expected calibration error: {before:.3f}.")
    elif is_number(temperature) and is_number(before) and is_number(after):
        page.paragraph(
            f"Probabilities are calibrated on these rows (temperature {formatting.format_number(temperature)}). "
            f"Expected calibration error: {before:.3f} before, {after:.3f} after, each row with a temperature that was "
            "fitted on other rows."
        )


def _add_language_model_table(page: Page, run: Run, validation: dict[str, Any]) -> None:
    measures = [name for name in ("loss", "perplexity", "bits_per_byte") if is_number(validation.get(name))]
    names = {"loss": "loss (nats per token)", "perplexity": "perplexity", "bits_per_byte": "bits per byte"}
    rows = []
    for name, values in (("this model", validation), ("unigram model", as_dict(run.results.get("unigram")))):
        if values:
            numbers = [values.get(measure) for measure in measures]
            rows.append([name, *(Cell(n, formatting.format_number(n, 4)) if is_number(n) else None for n in numbers)])
    page.table(["", *(names[measure] for measure in measures)], rows)
    if is_number(run.results.get("train_loss")):
        last = formatting.format_number(run.results["train_loss"], 4)
        page.paragraph(f"Final training loss: {last}. The unigram model knows token frequencies only.")


def add_curves(page: Page, run: Run) -> None:
    if not run.metrics:
        return
    page.heading("Curves", "Loss is in nats per token." if run.stage == "pretrain" else "")
    with charts.chart_style():
        curves.draw_loss(page, run)
        if run.stage == "pretrain":
            curves.draw_perplexity(page, run)
        else:
            curves.draw_metric(page, run, main_metric(run)[0])


def add_predictions(page: Page, run: Run) -> None:
    """Confusion matrix, list of confusions, or scatter plot of scores; calibration."""
    scores = [row for row in run.predictions if row.is_score]
    before, after = run.reliability_bins("bins_before"), run.reliability_bins("bins")
    if scores and not run.labels:
        page.heading("Predicted and true scores")
        with charts.chart_style():
            curves.draw_scatter(page, scores)
    elif run.labels and run.predictions:
        _add_confusion(page, run)
    if before or after:
        page.heading("Calibration")
        with charts.chart_style():
            curves.draw_reliability(page, before, after)


def _add_confusion(page: Page, run: Run) -> None:
    counts = Counter((row.label, row.prediction) for row in run.predictions)
    if len(run.labels) <= MAX_MATRIX_LABELS:
        page.heading(
            "Confusion matrix", "Rows are labels, columns are predictions; shading shows the share of the row."
        )
        page.matrix(run.labels, [[counts[label, prediction] for prediction in run.labels] for label in run.labels])
        return
    rows_of = Counter(row.label for row in run.predictions)
    confusions = [(pair, n) for pair, n in counts.most_common() if pair[0] != pair[1]][:MAX_CONFUSIONS]
    page.heading("Most frequent confusions", f"Of {len(run.labels):,} labels.")
    page.table(
        ["label", "prediction", "rows", "share of the label"],
        [[*pair, n, Cell(n / rows_of[pair[0]], f"{100 * n / rows_of[pair[0]]:.0f} %")] for pair, n in confusions],
    )


def add_mistakes(page: Page, run: Run) -> None:
    wrong = [row for row in run.predictions if row.is_score or row.is_wrong]
    if not run.predictions:
        return
    worst = sorted(wrong, key=lambda row: -row.loss)[:MAX_MISTAKES]
    if not worst:
        page.heading("Worst mistakes", "None: all predictions on validation rows are correct.")
        return
    scores = worst[0].is_score
    note = "Rows with the largest errors." if scores else (
        f"{len(wrong):,} of {len(run.predictions):,} validation rows are predicted wrongly. The most "
        "confident mistakes come first: check whether the prediction or the label is wrong."
    )  # fmt: skip
    page.heading(f"{len(worst)} worst mistakes" if len(worst) > 1 else "Worst mistake", note)
    page.mistakes([_to_mistake(row) for row in worst])


def _to_mistake(row: Prediction) -> Mistake:
    if row.is_score:
        texts = formatting.format_number(float(row.label)), formatting.format_number(float(row.prediction))
        return Mistake(row.fields, *texts, loss=f"error {formatting.format_number(row.loss)}")
    ranked = sorted(row.probabilities.items(), key=lambda item: -item[1])
    probabilities = ranked[:3] + [item for item in ranked[3:] if item[0] == row.label]
    loss = f"loss {formatting.format_number(row.loss)}" if row.probabilities else ""
    return Mistake(row.fields, str(row.label), str(row.prediction), loss, probabilities)


def add_samples(page: Page, run: Run) -> None:
    samples = [as_dict(sample) for sample in run.results.get("samples") or []]
    if not samples:
        return
    page.heading("Samples", "Random samples, not selected; the prompt is in bold.")
    page.texts((str(sample.get("prompt", "")), str(sample.get("text", ""))) for sample in samples)


def add_data(page: Page, run: Run) -> None:
    rows: list[list[Any]] = []
    for name, value in {**as_dict(run.results.get("corpus")), **as_dict(run.results.get("data"))}.items():
        description = DATA_DESCRIPTIONS.get(name, str(name).replace("_", " "))
        is_share = isinstance(value, float) and 0 <= value <= 1
        rows.append(
            [
                description,
                Cell(value, f"{formatting.format_setting(float(f'{100 * value:.3g}'))} %") if is_share else value,
            ]
        )
    if rows:
        page.heading("Data")
        page.table(["", ""], rows)


def add_settings(page: Page, run: Run) -> None:
    explanations, defaults = descriptions(run.config_class), run.default_settings
    changed, unchanged = [], []
    other_values = {
        name: value for name, value in run.settings.items() if name not in (*explanations, "command", "stage")
    }
    other_values |= as_dict(run.settings.get("command"))
    if "train" in other_values:
        other_values["rows"] = other_values.pop("train")  # the setting `train` selects the trained weights
    others = [[name, _setting_cell(value)] for name, value in other_values.items() if value]
    for name, value in run.settings.items():
        if name not in explanations:
            continue
        if value == defaults[name]:
            unchanged.append([name, _setting_cell(value), explanations[name]])
        else:
            changed.append(
                [name, _setting_cell(value, note=f"default {_setting_cell(defaults[name]).text}"), explanations[name]]
            )
    if not run.settings:
        return
    page.heading("Settings", "Settings that differ from the defaults come first.")
    columns = ["setting", "value", "description"]
    if changed:
        page.table(columns, changed, prose=True)
    if unchanged:
        page.table(columns, unchanged, prose=True, summary=f"{len(unchanged)} settings at their defaults")
    if others:
        page.table(["other", ""], others)


def _setting_cell(value: Any, note: str = "") -> Cell:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        if isinstance(value, dict):
            text = ", ".join(f"{name} = {inner}" for name, inner in value.items())
        else:
            text = str(value).lower() if isinstance(value, bool) else str("" if value is None else value)
        return Cell(text, text or "–", note)
    return Cell(value, formatting.format_setting(value), note)


def add_next_steps(page: Page, run: Run) -> None:
    page.heading("Next steps")
    folder = formatting.shell_quote(run.name)
    if not run.is_finished:
        if run.resume_command:
            page.code(run.resume_command, "Resume this run:")
        return
    if run.stage == "pretrain":
        page.code(f'gpt1 next {folder} "once upon a time"', "Next-token probabilities, and generated text:")
        page.code(f'gpt1 generate {folder} "once upon a time" --max-tokens 100')
        page.code(
            f"gpt1 finetune reviews.csv --kind classification --text text --label label --from {folder} --out runs/new",
            "Fine-tune on your labelled rows:",
        )
    else:
        page.code(f"gpt1 predict {folder} new.csv --out predictions.csv", "Predictions and probabilities for new rows:")
        page.code(
            f"gpt1 evaluate {folder} test.csv",
            "Metrics on test rows (the validation rows above selected the epoch):",
        )
