"""report.html: what a run shows. It reads the run's folder and nothing else, so a killed run gets a page too."""

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
MAX_MATRIX_LABELS = 12  # a larger matrix is a wall of zeros: then the most frequent mix-ups are listed
DATA_DESCRIPTIONS = {  # names in results.json that do not explain themselves
    "rows": "rows of the table",
    "duplicates": "duplicates, left out",
    "leaked": "rows that also stand in the validation file, left out",
    "unknown": "tokens unknown to the tokenizer",
    "cut": "texts cut to fit the context",
    "train": "rows trained on",
    "validation": "rows held out",
}
HEADLINE_METRICS = ("accuracy", "matthews", "f1", "pearson", "spearman")  # the first that is there makes the headline


def write_report(run: Path) -> Path:
    """Write `run`/report.html, whatever of the run is there, and return its path."""
    found = Run.open(Path(run))
    page = Page(headline(found), kicker=kicker(found), lead=lead_sentence(found))
    facts = key_facts(found)
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
        _add_section(section, page, found)
    return page.write(Path(run) / "report.html")


def _add_section(section: Callable[[Page, Run], None], page: Page, run: Run) -> None:
    """Hours of training are not lost because a figure could not be drawn; the page says what is missing and why."""
    try:
        section(page, run)
    except Exception as error:
        name = section.__name__.removeprefix("add_").replace("_", " ")
        page.paragraph(f"The part '{name}' could not be drawn: {error!r}")


# The head of the page


def headline(run: Run) -> str:
    said = _finetune_headline(run) if run.stage == "finetune" else _pretrain_headline(run)
    if said:
        return said
    loss = run.last_value("train", "loss")
    if loss is None:
        return "Nothing was measured yet"
    held_out = "nothing was held out" if run.is_finished else "no held-out measurement yet"
    return f"Training loss {formatting.format_number(loss)} after {run.last_step:,} updates; {held_out}"


def _pretrain_headline(run: Run) -> str:
    perplexity, steps = as_dict(run.results.get("validation")).get("perplexity"), run.results.get("steps")
    so_far = ""
    if not is_number(perplexity) or not is_number(steps):
        at, values = run.series("validation", "perplexity")
        if not values:
            return ""
        perplexity, steps, so_far = values[-1], at[-1], " so far,"
    text = f"Held-out perplexity {formatting.format_number(perplexity)}{so_far} after {steps:,} updates"
    unigram = as_dict(run.results.get("unigram")).get("perplexity")
    return text + (f"; a unigram model has {formatting.format_number(unigram)}" if is_number(unigram) else "")


def _finetune_headline(run: Run) -> str:
    name, value = main_metric(run)
    if value is None:
        return ""
    text = f"{name.capitalize()} {formatting.format_number(value)}"
    if not run.is_finished:
        return f"{text} so far, on held-out rows"
    low_high = metric_interval(run, name)
    if low_high:
        text += f" {_format_interval(low_high)}"
    rows = as_dict(run.results.get("validation")).get("rows")
    text += f" on {rows:,} held-out rows" if is_number(rows) else ""
    unread = blind_baseline(run) if name == "accuracy" else None
    return text + (f"; {unread[0]} would have {formatting.format_number(unread[1])}" if unread else "")


def _format_interval(interval: tuple[float, float]) -> str:
    return f"[{formatting.format_number(interval[0])},\u00a0{formatting.format_number(interval[1])}]"


def kicker(run: Run) -> str:
    stage = {"pretrain": "pre-training", "finetune": "fine-tuning"}[run.stage]
    kind = run.results.get("kind") or as_dict(run.settings.get("command")).get("kind")
    return "  ·  ".join(["gpt1", stage, *([str(kind)] if kind else []), run.name])


def lead_sentence(run: Run) -> str:
    if run.is_finished:
        return " ".join(run.problems)
    at = f"The last measurement is of update {run.last_step:,}." if run.last_step else ""
    return " ".join(["This run is not finished.", at, *run.problems]).replace("  ", " ")


def key_facts(run: Run) -> dict[str, Any]:
    results, facts = run.results, {}
    parameters = results.get("parameters", results.get("parameters_trained"))
    if is_number(parameters):
        name = "weights" if "parameters" in results else "weights trained"
        facts[name] = Cell(parameters, formatting.format_large_count(parameters))
    if is_number(results.get("steps")) or run.last_step:
        facts["updates"] = results.get("steps", run.last_step)
    tokens = results.get("tokens_seen", run.last_value("train", "tokens"))
    if is_number(tokens):
        facts["tokens seen"] = Cell(tokens, formatting.format_large_count(tokens))
    if is_number(results.get("best_epoch")):
        facts["best epoch" if results.get("validation") else "epochs"] = results["best_epoch"]
    seconds = results.get("seconds", run.last_value("train", "seconds"))
    if is_number(seconds):
        facts["time"] = Cell(seconds, formatting.format_duration(seconds))
    if is_number(seconds) and is_number(tokens) and seconds:
        facts["tokens a second"] = Cell(tokens / seconds, formatting.format_number(round(tokens / seconds)))
    return facts


def main_metric(run: Run) -> tuple[str, float | None]:
    """The metric of the headline and its value: of the best epoch, or of the last measurement of an unfinished run."""
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
    """The 95 % interval of a metric."""
    pair = as_dict(as_dict(run.results.get("validation")).get("interval")).get(name)
    if isinstance(pair, list) and len(pair) == 2 and is_number(pair[0]) and is_number(pair[1]):
        return pair[0], pair[1]
    return None


def blind_baseline(run: Run) -> tuple[str, float] | None:
    """What a model that reads nothing does, in words, and the accuracy that it reaches on the held-out rows."""
    rows = run.predictions
    if not rows or any(not row.probabilities for row in rows):
        return None
    if not run.labels:
        return "guessing", sum(1 / len(row.probabilities) for row in rows) / len(rows)
    label, count = Counter(row.label for row in rows).most_common(1)[0]
    return f"always saying ‘{formatting.escape_controls(label)}’", count / len(rows)


# The parts of the page


def add_results(page: Page, run: Run) -> None:
    validation = as_dict(run.results.get("validation"))
    if not validation:
        return
    page.heading("Result", "On text that was held out of training." if run.stage == "pretrain" else "On held-out rows.")
    if run.stage == "pretrain":
        _add_language_model_table(page, run, validation)
        return
    measured = as_dict(validation.get("metrics"))
    unread = blind_baseline(run)
    rows = []
    for name, value in measured.items():
        low_high = metric_interval(run, name)
        between = _format_interval(low_high) if low_high else None
        of = f" ({validation['f1_of']})" if name == "f1" and validation.get("f1_of") else ""
        rows.append([name + of, value, between, unread[1] if unread and name == "accuracy" else None])
    columns = ["", "this model", "95 % interval", unread[0] if unread else ""]
    used = [i for i in range(4) if i < 2 or any(row[i] is not None for row in rows)]
    page.table([columns[i] for i in used], [[row[i] for i in used] for row in rows])
    calibration = as_dict(run.results.get("calibration"))
    temperature, before, after = (calibration.get(name) for name in ("temperature", "ece_before", "ece_after"))
    if is_number(temperature) and is_number(before) and is_number(after):
        page.paragraph(
            f"The probabilities were calibrated on these rows (temperature {formatting.format_number(temperature)}): "
            f"their expected calibration error went from {before:.3f} to {after:.3f}."
        )


def _add_language_model_table(page: Page, run: Run, validation: dict[str, Any]) -> None:
    measures = [name for name in ("loss", "perplexity", "bits_per_byte") if is_number(validation.get(name))]
    names = {"loss": "loss, nats a token", "perplexity": "perplexity", "bits_per_byte": "bits a byte"}
    rows = []
    for who, values in (("this model", validation), ("unigram model", as_dict(run.results.get("unigram")))):
        if values:
            numbers = [values.get(name) for name in measures]
            rows.append([who, *(Cell(n, formatting.format_number(n, 4)) if is_number(n) else None for n in numbers)])
    page.table(["", *(names[name] for name in measures)], rows)
    if is_number(run.results.get("train_loss")):
        last = formatting.format_number(run.results["train_loss"], 4)
        page.paragraph(
            f"The training loss ended at {last}. The unigram model knows how frequent each token is and nothing else."
        )


def add_curves(page: Page, run: Run) -> None:
    if not run.metrics:
        return
    page.heading("Curves", "Loss is in nats a token." if run.stage == "pretrain" else "")
    with charts.chart_style():
        curves.draw_loss(page, run)
        if run.stage == "pretrain":
            curves.draw_perplexity(page, run)
        else:
            curves.draw_metric(page, run, main_metric(run)[0])


def add_predictions(page: Page, run: Run) -> None:
    """What was predicted for what: a matrix, a list of mix-ups or a cloud of scores; and how far to trust it."""
    scores = [row for row in run.predictions if row.is_score]
    before, after = run.reliability_bins("bins_before"), run.reliability_bins("bins")
    if scores and not run.labels:
        page.heading("Predicted and labelled")
        with charts.chart_style():
            curves.draw_scatter(page, scores)
    elif run.labels and run.predictions:
        _add_confusion(page, run)
    if before or after:
        page.heading("How far to trust the probabilities")
        with charts.chart_style():
            curves.draw_reliability(page, before, after)


def _add_confusion(page: Page, run: Run) -> None:
    counts = Counter((row.label, row.prediction) for row in run.predictions)
    if len(run.labels) <= MAX_MATRIX_LABELS:
        page.heading(
            "Confusion matrix", "A row for each label, a column for each prediction; shaded by share of the row."
        )
        page.matrix(run.labels, [[counts[label, said] for said in run.labels] for label in run.labels])
        return
    rows_of = Counter(row.label for row in run.predictions)
    mixed = [(pair, n) for pair, n in counts.most_common() if pair[0] != pair[1]][:MAX_CONFUSIONS]
    page.heading("The most frequent mix-ups", f"Of {len(run.labels):,} labels.")
    page.table(
        ["labelled", "predicted", "rows", "of the label"],
        [[*pair, n, Cell(n / rows_of[pair[0]], f"{100 * n / rows_of[pair[0]]:.0f} %")] for pair, n in mixed],
    )


def add_mistakes(page: Page, run: Run) -> None:
    wrong = [row for row in run.predictions if row.is_score or row.is_wrong]
    if not run.predictions:
        return
    worst = sorted(wrong, key=lambda row: -row.loss)[:MAX_MISTAKES]
    if not worst:
        page.heading("The worst mistakes", "None: every held-out row was predicted right.")
        return
    scores = worst[0].is_score
    note = "The rows that lie furthest from their label." if scores else (
        f"{len(wrong):,} of {len(run.predictions):,} held-out rows are predicted wrongly. Those at which the model was "
        "surest stand first: look whether the model or the label is mistaken."
    )  # fmt: skip
    page.heading(f"The {len(worst)} worst mistakes" if len(worst) > 1 else "The worst mistake", note)
    page.mistakes([_to_mistake(row) for row in worst])


def _to_mistake(row: Prediction) -> Mistake:
    if row.is_score:
        shown = formatting.format_number(float(row.label)), formatting.format_number(float(row.prediction))
        return Mistake(row.fields, *shown, loss=f"off by {formatting.format_number(row.loss)}")
    sure = sorted(row.probabilities.items(), key=lambda item: -item[1])
    listed = sure[:3] + [item for item in sure[3:] if item[0] == row.label]
    loss = f"loss {formatting.format_number(row.loss)}" if row.probabilities else ""
    return Mistake(row.fields, str(row.label), str(row.prediction), loss, listed)


def add_samples(page: Page, run: Run) -> None:
    given = [as_dict(sample) for sample in run.results.get("samples") or []]
    if not given:
        return
    page.heading("What it writes", "Drawn from the model, not chosen; the prompt is set in bold.")
    page.texts((str(sample.get("prompt", "")), str(sample.get("text", ""))) for sample in given)


def add_data(page: Page, run: Run) -> None:
    rows: list[list[Any]] = []
    for name, value in {**as_dict(run.results.get("corpus")), **as_dict(run.results.get("data"))}.items():
        said = DATA_DESCRIPTIONS.get(name, str(name).replace("_", " "))
        is_share = isinstance(value, float) and 0 <= value <= 1
        rows.append(
            [said, Cell(value, f"{formatting.format_setting(float(f'{100 * value:.3g}'))} %") if is_share else value]
        )
    if rows:
        page.heading("The data")
        page.table(["", ""], rows)


def add_settings(page: Page, run: Run) -> None:
    explained, usual = descriptions(run.config_class), run.default_settings
    changed, unchanged = [], []
    besides = {name: value for name, value in run.settings.items() if name not in (*explained, "command", "stage")}
    besides |= as_dict(run.settings.get("command"))
    if "train" in besides:
        besides["rows"] = besides.pop("train")  # `train` above says which weights are trained
    others = [[name, _setting_cell(value)] for name, value in besides.items() if value]
    for name, value in run.settings.items():
        if name not in explained:
            continue
        if value == usual[name]:
            unchanged.append([name, _setting_cell(value), explained[name]])
        else:
            changed.append(
                [name, _setting_cell(value, note=f"default {_setting_cell(usual[name]).text}"), explained[name]]
            )
    if not run.settings:
        return
    page.heading("Settings", "Those that differ from the defaults stand first.")
    columns = ["setting", "value", "what it is"]
    if changed:
        page.table(columns, changed, prose=True)
    if unchanged:
        page.table(columns, unchanged, prose=True, summary=f"{len(unchanged)} settings at their defaults")
    if others:
        page.table(["besides", ""], others)


def _setting_cell(value: Any, note: str = "") -> Cell:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        if isinstance(value, dict):
            text = ", ".join(f"{name} = {inner}" for name, inner in value.items())
        else:
            text = str(value).lower() if isinstance(value, bool) else str("" if value is None else value)
        return Cell(text, text or "–", note)
    return Cell(value, formatting.format_setting(value), note)


def add_next_steps(page: Page, run: Run) -> None:
    page.heading("How to go on")
    here = formatting.shell_quote(run.name)
    if not run.is_finished:
        if run.resume_command:
            page.code(run.resume_command, "From where this run was stopped:")
        return
    if run.stage == "pretrain":
        page.code(f'gpt1 next {here} "once upon a time"', "The probabilities of the next token, and text:")
        page.code(f'gpt1 generate {here} "once upon a time" --max-tokens 100')
        page.code(
            f"gpt1 finetune reviews.csv --kind classification --text text --label label --from {here} --out runs/new",
            "Teach it a task from your own labelled rows:",
        )
    else:
        page.code(f"gpt1 predict {here} new.csv --out predictions.csv", "Predictions and probabilities for new rows:")
        page.code(
            f"gpt1 evaluate {here} test.csv",
            "The score on rows that had no say in anything (the held-out ones above chose the epoch):",
        )
