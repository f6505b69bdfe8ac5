"""report.html of a run, from the files in its folder alone, so that killed runs have a report too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gpt1 import formatting
from gpt1.config import descriptions
from gpt1.console import Console
from gpt1.files.names import REPORT_FILE, RUN_NAME
from gpt1.formatting import metric_name
from gpt1.recipes import COMPUTED_DEFAULTS
from gpt1.report import charts, curves
from gpt1.report.headline import headline, key_facts, kicker, lead_sentence, main_metric
from gpt1.report.page import Cell, Mistake, Page, format_interval
from gpt1.report.run_reader import Prediction, Run, as_dict, is_number

MAX_MISTAKES = 20
MAX_CONFUSIONS = 12
MAX_MATRIX_LABELS = 12  # for more labels, the most frequent confusions are listed
DATA_DESCRIPTIONS = {  # keys of results.json that need an explanation
    "rows": "rows",
    "duplicates": "duplicates removed",
    "empty": "rows without text",
    "leaked": "rows also in the validation file, removed",
    "unknown": "unknown tokens",
    "cut": "texts truncated to the context",
    "train": "training rows",
    "validation": "validation rows",
}


def write_report(run: Path) -> Path:
    """Write report.html of a run, finished or not, and return its path."""
    contents = Run.open(Path(run))
    page = Page(headline(contents), kicker=kicker(contents), lead=lead_sentence(contents), warning=contents.warning)
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
        add_section(section, page, contents)
    return page.write(Path(run) / REPORT_FILE)


@contextmanager
def report_on_exit(run: Path) -> Iterator[None]:
    """Write the report of `run` on exit, also after an exception, which is raised again."""
    try:
        yield
    except BaseException:
        with suppress(Exception):
            if run.is_dir():  # do not create a deleted folder again
                write_report(run)
        raise
    try:
        write_report(run)
    except Exception as error:  # the run is complete without its page, and says how to get it
        Console().log(
            f"warning: the page of {run} could not be written ({type(error).__name__}: {error}). The run is complete; "
            "with the same command and --resume, without --overwrite, the page is written again"
        )


def add_section(section: Callable[[Page, Run], None], page: Page, run: Run) -> None:
    """Add a section; an error in it must not fail the run, so the page shows the error instead."""
    try:
        section(page, run)
    except Exception as error:
        page.paragraph(f"The section '{section.__name__.removeprefix('add_')}' could not be rendered: {error!r}")


def add_results(page: Page, run: Run) -> None:
    validation = as_dict(run.results.get("validation"))
    if not validation:
        return
    page.heading(
        "Results", f"On {run.n_measured_rows:,} {run.rows_name}." if run.stage == "finetune" else "On held-out text."
    )
    if run.stage == "pretrain":
        _add_language_model_table(page, run, validation)
        return
    rows = []
    subsets = {str(name): as_dict(part) for name, part in as_dict(validation.get("subsets")).items()}
    for name, value in as_dict(validation.get("metrics")).items():
        low_high = run.interval(name)
        interval = format_interval(low_high) if low_high else None
        average = f" ({validation['f1_of']})" if name == "f1" and validation.get("f1_of") else ""
        others = [one.metrics.get(name) for one in run.competitors]
        others += [as_dict(part.get("metrics")).get(name) for part in subsets.values()]
        rows.append([metric_name(name) + average, value, interval, *others])
    columns = ["metric", "this model", "95% confidence interval", *(one.short_name for one in run.competitors)]
    columns += [f"{name}, {formatting.count_noun(part.get('rows', 0), 'row')}" for name, part in subsets.items()]
    used = [i for i in range(len(columns)) if i < 2 or any(row[i] is not None for row in rows)]
    page.table([columns[i] for i in used], [[row[i] for i in used] for row in rows])
    _add_calibration_sentence(page, as_dict(run.results.get("calibration")))


def _add_calibration_sentence(page: Page, calibration: dict[str, Any]) -> None:
    temperature, before, after = (calibration.get(name) for name in ("temperature", "ece_before", "ece_after"))
    if not (is_number(temperature) and is_number(before) and is_number(after)):
        return
    few = calibration.get("ece_interval")
    interval = f" {format_interval(tuple(few))} (few rows)" if isinstance(few, list) and len(few) == 2 else ""
    if temperature == 1:
        why = f": {calibration['reason']}" if calibration.get("reason") else ""
        page.paragraph(
            f"Probabilities are not calibrated{why}. Expected calibration error on these rows: {before:.3f}{interval}."
        )
        return
    how = ", each row with a temperature that was fitted on other rows" if "reason" in calibration else ""
    errors = f"{before:.3f} before, {after:.3f} after{interval}{' (worse)' * (after > before)}"
    loss_before, loss_after = calibration.get("loss_before"), calibration.get("loss_after")
    if is_number(loss_before) and is_number(loss_after):
        errors += f"; mean loss: {loss_before:.3f} before, {loss_after:.3f} after"
    page.paragraph(
        f"Probabilities are calibrated with temperature {formatting.format_number(temperature)}. Expected calibration "
        f"error on these rows: {errors}{how}."
    )


def _add_language_model_table(page: Page, run: Run, validation: dict[str, Any]) -> None:
    measures = [name for name in ("loss", "perplexity", "bits_per_byte") if is_number(validation.get(name))]
    names = {"loss": "loss (nats per token)", "perplexity": "perplexity", "bits_per_byte": "bits per byte"}
    rows = []
    for name, values in (("this model", validation), ("unigram model", as_dict(run.results.get("unigram")))):
        if values:
            numbers = [values.get(measure) for measure in measures]
            rows.append([name, *(Cell(n, formatting.format_number(n, 4)) if is_number(n) else None for n in numbers)])
    page.table(["model", *(names[measure] for measure in measures)], rows)
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
    several = any(row.labels is not None for row in run.predictions)
    before, after = run.reliability_bins("bins_before"), run.reliability_bins("bins")
    if scores and not run.labels:
        page.heading("Predicted and true scores")
        with charts.chart_style():
            curves.draw_scatter(page, scores, run.rows_name)
    elif several:
        _add_labels(page, run)
    elif any(row.label in run.labels for row in run.predictions):
        _add_confusion(page, run)
    if len(curves.merge_bins(after or before)) > 1:  # a single point is not a diagram
        note = "How often a prediction with a given probability is right."
        note += " A decision is whether one row has one label." * several
        page.heading("Calibration", note)
        with charts.chart_style():
            curves.draw_reliability(page, before, after, "decision" if several else "row")


def _add_labels(page: Page, run: Run) -> None:
    """Precision and recall of each label, for rows with several labels each."""
    pairs = [(row.labels or (), row.predicted) for row in run.predictions]
    have, predicted = (Counter(label for pair in pairs for label in pair[side]) for side in (0, 1))
    right = Counter(label for gold, found in pairs for label in found if label in gold)
    rows = [
        [
            label,
            have[label],
            predicted[label],
            right[label],
            right[label] / predicted[label] if predicted[label] else None,
            right[label] / have[label] if have[label] else None,
        ]
        for label in sorted(run.labels, key=lambda label: -have[label])
    ]
    without = sum(not found for _, found in pairs)
    page.heading("Labels", f"No label is predicted in {without:,} of {len(pairs):,} {run.rows_name}.")
    page.table(["label", "rows", "predicted", "right", "precision", "recall"], rows)


def _add_confusion(page: Page, run: Run) -> None:
    counts = Counter((row.label, row.prediction) for row in run.predictions if row.prediction)
    unseen = sum(row.label not in run.labels for row in run.predictions)
    left_out = f" Rows with a label that was not in training are left out: {unseen:,}." if unseen else ""
    if empty := sum(not row.prediction for row in run.predictions):
        left_out += f" Rows without text, which have no prediction, are left out: {empty:,}."
    if len(run.labels) <= MAX_MATRIX_LABELS:
        note = "Each row is a label, each column a prediction; shading shows the share of the row."
        page.heading("Confusion matrix", note + left_out)
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
        page.heading("Worst mistakes", f"None: all predictions on {run.rows_name} are correct.")
        return
    scores = worst[0].is_score
    note = "Rows with the largest errors." if scores else (
        f"{len(wrong):,} of {len(run.predictions):,} {run.rows_name} are predicted wrongly. The most "
        "confident mistakes come first: check whether the prediction or the label is wrong."
    )  # fmt: skip
    page.heading(f"{len(worst)} worst mistakes" if len(worst) > 1 else "Worst mistake", note)
    page.mistakes([_to_mistake(run, row) for row in worst])


def _to_mistake(run: Run, row: Prediction) -> Mistake:
    if row.is_score:
        texts = f"{row.label:,.6g}", formatting.format_number(float(row.prediction))
        return Mistake(row.fields, *texts, loss=f"error {formatting.format_number(row.loss)}")
    names = {} if run.labels else {str(k): name for k, name in enumerate(run.answer_names(len(row.probabilities)))}
    ranked = sorted(row.probabilities.items(), key=lambda item: -item[1])
    true_labels = (row.label,) if row.labels is None else row.labels
    probabilities = ranked[:3] + [item for item in ranked[3:] if item[0] in true_labels]
    shown = [(names.get(name, name), p, name in true_labels) for name, p in probabilities]
    label, prediction = (names.get(str(one), str(one)) for one in (row.label, row.prediction or "no prediction"))
    loss = f"loss {formatting.format_number(row.loss)}" if row.probabilities else ""
    return Mistake(row.fields, label, prediction, loss, shown)


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
        share = f"{formatting.format_setting(float(f'{100 * value:.3g}'))} %" if is_share else ""
        rows.append([description, Cell(value, share) if is_share else value])
    if rows:
        page.heading("Data")
        page.table(["fact", "value"], rows)


def add_settings(page: Page, run: Run) -> None:
    explanations, defaults = descriptions(run.config_class), run.default_settings
    computed = COMPUTED_DEFAULTS if run.has_computed_defaults else {}
    changed, unchanged = [], []
    known = (*explanations, "command", "stage")
    other_values = {name: value for name, value in run.settings.items() if name not in known}
    other_values |= as_dict(run.settings.get("command"))
    other_values.pop("given", None)  # names of settings
    if "train" in other_values:
        other_values["rows"] = other_values.pop("train")  # the setting `train` selects the trained weights
    others = [[name.replace("_", " "), _setting_cell(value)] for name, value in other_values.items() if value]
    for name, value in run.settings.items():
        if name not in explanations:
            continue
        if value == defaults[name]:
            unchanged.append([name, _setting_cell(value), explanations[name]])
        else:
            default = computed.get(name, _setting_cell(defaults[name]).text)
            changed.append([name, _setting_cell(value, note=f"default {default}"), explanations[name]])
    if not run.settings:
        return
    page.heading("Settings", "Settings that differ from the defaults come first.")
    columns = ["setting", "value", "description"]
    if changed:
        page.table(columns, changed, prose=True)
    if unchanged:
        page.table(columns, unchanged, prose=True, summary=f"{len(unchanged)} settings at their defaults")
    if others:
        page.table(["other", "value"], others)


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
            "Fine-tune on your labeled rows:",
        )
    else:
        add_advice(page, run)
        page.code(f"gpt1 predict {folder} new.csv --out predictions.csv", "Predictions and probabilities for new rows:")
        page.code(
            f"gpt1 evaluate {folder} test.csv", "Metrics on test rows (the validation rows above selected the epoch):"
        )


def add_advice(page: Page, run: Run) -> None:
    """The commands for a model that is worse than TF-IDF."""
    stored = run.results.get("advice")
    commands = [one for one in stored if isinstance(one, str)] if isinstance(stored, list) else []
    named = f" ({RUN_NAME} is {run.name})" if any(f"{RUN_NAME}-" in command for command in commands) else ""
    for command in commands:
        page.code(command, f"What the warning advises{named}:" if command is commands[0] else "")
