"""What holds for every page: accessible tables and charts, honest points, the user's own names, sufficient contrast."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from report_runs import (
    PageParser,
    write_choice_run,
    write_finetuning_run,
    write_jsonl,
    write_many_labels_run,
    write_multilabel_run,
    write_pretraining_run,
    write_regression_run,
)

from gpt1.report.charts import COLORS, chart_style, new_chart, plot_band, to_svg
from gpt1.report.curves import MIN_BIN_ROWS, merge_bins
from gpt1.report.page import Page
from gpt1.report.run_reader import ReliabilityBin, Run
from gpt1.report.sections import write_report

RUNS: list[Callable[[Path], Path]] = [
    write_pretraining_run, write_finetuning_run, write_regression_run, write_choice_run, write_many_labels_run,
]  # fmt: skip
CSS = (Path(__file__).parents[2] / "gpt1/report/templates/page.css").read_text(encoding="utf-8")


@pytest.fixture(params=RUNS, ids=lambda write: write.__name__)
def page(request: pytest.FixtureRequest, tmp_path: Path) -> PageParser:
    return PageParser(write_report(request.param(tmp_path)))


def edit_results(run: Path, **changes: Any) -> None:
    results = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps({**results, **changes}))


def find_charts(run: Path, heading: str) -> list[str]:
    """The charts of a section, without the wide drawings."""
    html = write_report(run).read_text(encoding="utf-8")
    section = html[html.index(f"<h2>{heading}</h2>") :].split("</section>")[0]
    return re.findall(r'<div class="narrow">(<svg.*?</svg>)', section, re.DOTALL)


# --- accessible ------------------------------------------------------------------------------------------------------


def test_every_table_is_in_a_named_group_that_scrolls_and_takes_the_focus(page: PageParser) -> None:
    previous: tuple[str, dict[str, str | None]] = ("", {})
    tables = 0
    for element in page.elements:
        if element[0] == "table":
            tag, attributes = previous
            assert (tag, attributes["role"], attributes["tabindex"]) == ("div", "group", "0")
            assert "scroll" in (attributes["class"] or "").split()
            assert attributes["aria-label"]
            tables += 1
        previous = element
    assert tables


def test_every_header_of_a_table_has_a_scope_and_a_text(tmp_path: Path, page: PageParser) -> None:
    headers = re.findall(r"<th ([^>]*)>(.*?)</th>", (tmp_path / "report.html").read_text(), re.DOTALL)
    assert headers
    for attributes, content in headers:
        assert re.search(r'scope="(col|row|colgroup)"', attributes)
        assert re.sub("<[^>]*>", "", content).strip()


def test_every_chart_is_an_image_with_a_title_and_a_description(page: PageParser) -> None:
    charts = [i for i, (tag, _) in enumerate(page.elements) if tag == "svg"]
    assert charts
    for i in charts:
        assert page.elements[i][1]["role"] == "img"
        assert [tag for tag, _ in page.elements[i + 1 : i + 3]] == ["title", "desc"]


def test_no_id_occurs_twice(page: PageParser) -> None:
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_a_description_says_where_each_named_line_begins_and_ends() -> None:
    with chart_style():
        figure, axes = new_chart("accuracy", "epochs")
        axes.plot([1, 2, 3], [0.5, 0.9, 0.75], label="validation")
        axes.plot([1, 3], [0, 0])
    title, description = re.findall(r"<(?:title|desc)>(.*?)</", to_svg(figure, "A caption"))
    assert title == "A caption"
    assert description == "accuracy, validation: 0.500 at 1, then 0.750 at 3 (epochs)."


def test_every_series_of_a_chart_has_a_marker_or_a_dash_of_its_own(tmp_path: Path) -> None:
    loss = find_charts(write_finetuning_run(tmp_path), "Curves")[0]
    training, validation = (re.search(rf"<path [^>]*stroke: var\(--{c}[^>]*>", loss) for c in ("c1", "c2"))
    assert training
    assert validation
    assert "stroke-dasharray" not in training[0]
    assert "stroke-dasharray" in validation[0]


def luminance(color: tuple[float, ...]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Contrast ratio of WCAG 2."""
    bright, dim = sorted((luminance(a), luminance(b)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_lines_contrast_with_the_background(scheme: str) -> None:
    block = CSS.split(":root {")[1 if scheme == "light" else 2].split("}")[0]
    hexes = dict(re.findall(r"--(\w+): #([0-9a-f]{6});", block))
    color = {name: tuple(int(text[i : i + 2], 16) / 255 for i in (0, 2, 4)) for name, text in hexes.items()}
    deepest = float(re.findall(r"--deepest: (\d+)%", block)[0]) / 100
    for paper in (color["paper"], color["raised"]):
        assert contrast(color["ink"], paper) > 7
        assert contrast(color["muted"], paper) >= 4.5
        assert contrast(color["c2"], paper) >= 4.5  # wrong predictions are written in it
        for name in ("c1", "c2", "c3", "c4", "c5"):
            assert contrast(color[name], paper) >= 3
    for name in ("c1", "c2"):  # numbers on the darkest cells of a confusion matrix
        cell = tuple(deepest * c + (1 - deepest) * p for c, p in zip(color[name], color["paper"], strict=True))
        assert contrast(color["ink"], cell) >= 4.5
    if scheme == "light":
        assert {name: "#" + hexes[name] for name in COLORS} == COLORS  # charts are drawn in these


# --- honest ----------------------------------------------------------------------------------------------------------


def test_every_point_of_accuracy_has_the_interval_of_its_rows(tmp_path: Path) -> None:
    chart = find_charts(write_finetuning_run(tmp_path), "Curves")[1]
    assert chart.count('class="interval"') == 2
    assert "<title>epoch 1: accuracy 0.625 [0.306,\xa00.863]</title>" in chart  # 5 of 8 rows
    assert "<title>epoch 2: accuracy 0.750 [0.409,\xa00.929]</title>" in chart


def test_a_metric_without_a_formula_has_an_interval_as_wide_as_that_of_the_best_epoch(tmp_path: Path) -> None:
    write_finetuning_run(tmp_path)
    lines = [{"step": n, "epoch": n, "split": "validation", "matthews": 0.2 + 0.1 * n} for n in (1, 2)]
    write_jsonl(tmp_path / "metrics.jsonl", lines)
    validation = {"metrics": {"matthews": 0.4}, "interval": {"matthews": [0.2, 0.5]}, "rows": 8}
    edit_results(tmp_path, main="matthews", validation=validation)
    (chart,) = find_charts(tmp_path, "Curves")
    assert "<title>epoch 1: Matthews correlation 0.300 [0.100,\xa00.400]</title>" in chart


def test_without_intervals_the_axis_of_a_score_is_the_whole_range(tmp_path: Path) -> None:
    write_finetuning_run(tmp_path)
    lines = [{"step": n, "epoch": n, "split": "validation", "f1": 0.5 + 0.01 * n} for n in (1, 2)]
    write_jsonl(tmp_path / "metrics.jsonl", lines)
    edit_results(tmp_path, main="f1", validation={"metrics": {"f1": 0.52}, "rows": 8})
    (chart,) = find_charts(tmp_path, "Curves")
    assert 'class="interval"' not in chart
    assert {">0.0</text>", ">1.0</text>"} <= set(re.findall(r">[01]\.\d</text>", chart))


def test_an_error_in_units_of_the_labels_has_an_axis_beyond_1(tmp_path: Path) -> None:
    write_regression_run(tmp_path)
    lines = [{"step": n, "epoch": n, "split": "validation", "rmse": 20.0 - n} for n in (1, 2)]
    write_jsonl(tmp_path / "metrics.jsonl", lines)
    edit_results(
        tmp_path, main="rmse", validation={"metrics": {"rmse": 18.0}, "interval": {"rmse": [15, 21]}, "rows": 11}
    )
    (chart,) = find_charts(tmp_path, "Curves")
    assert "<title>epoch 1: root mean squared error 19.0 [16.0,\xa022.0]</title>" in chart
    assert max(map(float, re.findall(r">(\d+\.?\d*)</text>", chart))) >= 20


def test_a_band_needs_more_than_one_seed() -> None:
    for values, bands in (([[0.5], [0.6]], 0), ([[0.4, 0.5], [0.6]], 1)):
        with chart_style():
            figure, axes = new_chart("accuracy", "labels")
            plot_band(axes, [1, 2], values, ["a", "b"], style={"color": "black"}, label="method")
        assert to_svg(figure).count('class="band"') == bands


def test_bins_with_few_rows_are_merged_and_no_row_is_lost() -> None:
    bins = [
        ReliabilityBin(n, c, a, c - 0.02, c + 0.02)
        for n, c, a in [(1, 0.5, 0), (2, 0.6, 1), (30, 0.7, 0.6), (3, 0.9, 1)]
    ]
    merged = merge_bins(bins)
    assert sum(one.rows for one in merged) == 36
    assert all(one.rows >= MIN_BIN_ROWS for one in merged)
    assert sum(one.rows * one.accuracy for one in merged) == pytest.approx(sum(b.rows * b.accuracy for b in bins))
    assert merge_bins([]) == []


def test_the_reliability_diagram_has_an_interval_and_the_rows_of_every_point(tmp_path: Path) -> None:
    write_finetuning_run(tmp_path)
    bins = [
        {"low": low, "high": low + 0.1, "confidence": low + 0.05, "accuracy": 0.5, "count": 40}
        for low in (0.5, 0.6, 0.7)
    ]
    edit_results(tmp_path, calibration={"temperature": 1.5, "ece_before": 0.1, "ece_after": 0.1, "bins": bins,
                                        "bins_before": bins[:2]})  # fmt: skip
    diagram, rows = find_charts(tmp_path, "Calibration")
    assert diagram.count('class="interval"') == 5
    assert "before: 40 rows, confidence 0.55, accuracy 0.50 [0.352,\xa00.648]" in diagram
    assert rows.count("<title>40 rows with confidence 0.") == 3
    assert "(worse)" not in PageParser(tmp_path / "report.html").text


def test_rows_of_several_labels_show_precision_and_recall_of_each_label(tmp_path: Path) -> None:
    page = PageParser(write_report(write_multilabel_run(tmp_path)))
    assert "Confusion matrix" not in page.headings
    assert "No label is predicted in 2 of 5 validation rows." in page.text
    table = page.text[page.text.index("precision") :]
    for label, *counts in (("joy", 2, 2, 2), ("love", 2, 1, 1), ("anger", 1, 1, 0)):
        assert re.search(rf"{label}\s+" + r"\s+".join(map(str, counts)) + r"\s", table), table[:400]
    wrong = [("joy, love", "joy"), ("anger", "no label"), ("joy", "anger, joy")]
    verdicts = re.findall("label <b>(.*?)</b>.*?predicted <b .*?>(.*?)</b>", (tmp_path / "report.html").read_text())
    assert sorted(verdicts) == sorted(wrong)
    assert "loss 69" not in page.text  # -log(1e-30): a label that has no probability


def test_the_code_in_descriptions_of_settings_is_code(tmp_path: Path) -> None:
    page = write_report(write_finetuning_run(tmp_path)).read_text(encoding="utf-8")
    assert "<code>bf16</code>" in page
    assert "&lt;code&gt;" not in page


def test_only_the_best_and_the_last_of_many_epochs_have_their_value_beside_them(tmp_path: Path) -> None:
    for epochs, shown in ((3, 3), (6, 2)):
        write_finetuning_run(tmp_path)
        lines = [{"step": n, "epoch": n, "split": "validation", "accuracy": n / 8} for n in range(1, epochs + 1)]
        write_jsonl(tmp_path / "metrics.jsonl", lines)
        edit_results(tmp_path, best_epoch=2)
        (chart,) = find_charts(tmp_path, "Curves")
        assert sum(f">{n / 8:.3f}</text>" in chart for n in range(1, epochs + 1)) == shown


def test_rows_with_an_unknown_label_are_named_beside_the_confusion_matrix(tmp_path: Path) -> None:
    write_finetuning_run(tmp_path)
    lines = (tmp_path / "predictions.jsonl").read_text().replace('"label": "pos"', '"label": "new"', 1)
    (tmp_path / "predictions.jsonl").write_text(lines)
    page = PageParser(write_report(tmp_path))
    assert "Confusion matrix" in page.headings
    assert "Rows with a label that was not in training are left out: 1." in page.text


def test_a_temperature_of_1_is_not_called_calibrated(tmp_path: Path) -> None:
    write_finetuning_run(tmp_path)
    edit_results(
        tmp_path, calibration={"temperature": 1.0, "ece_before": 0.1, "ece_after": 0.1, "reason": "it does not help"}
    )
    text = PageParser(write_report(tmp_path)).text
    assert "Probabilities are not calibrated: it does not help." in text
    assert "are calibrated" not in text


def test_a_calibration_that_increases_the_error_says_so(tmp_path: Path) -> None:
    write_finetuning_run(tmp_path)
    edit_results(tmp_path, calibration={"temperature": 2.0, "ece_before": 0.087, "ece_after": 0.309})
    assert "0.087 before, 0.309 after (worse)." in PageParser(write_report(tmp_path)).text
    losses = {"loss_before": 1.2, "loss_after": 0.6}
    edit_results(tmp_path, calibration={"temperature": 2.0, "ece_before": 0.087, "ece_after": 0.309} | losses)
    text = PageParser(write_report(tmp_path)).text
    assert "0.309 after (worse); mean loss: 1.200 before, 0.600 after." in text


def test_scores_show_how_far_predictions_and_labels_spread(tmp_path: Path) -> None:
    scatter, spread = find_charts(write_regression_run(tmp_path), "Predicted and true scores")
    assert "predicted score" in scatter
    assert {">true</text>", ">predicted</text>"} <= set(re.findall(">[a-z]+</text>", spread))
    assert "standard deviation of 1.90, the true scores of 1.58" in PageParser(tmp_path / "report.html").text


# --- what a model must beat ------------------------------------------------------------------------------------------

BASELINES = {
    "trivial": {"name": "always ‘pos’", "answer": "pos", "metrics": {"accuracy": 0.5, "f1": 0.333}},
    "tfidf": {"name": "TF-IDF", "metrics": {"accuracy": 0.875, "f1": 0.87}, "rows": 72, "of": 72},
}


def test_the_header_and_the_table_show_the_stored_baselines(tmp_path: Path) -> None:
    write_finetuning_run(tmp_path)
    edit_results(tmp_path, baselines=BASELINES, warning="TF-IDF is better (accuracy 0.875).")
    page = PageParser(write_report(tmp_path))
    head = page.text[: page.text.index("Results")]
    assert page.headings[0].endswith(" on 8 validation rows; TF-IDF has 0.875; always ‘pos’ has 0.500")
    assert "Warning: TF-IDF is better (accuracy 0.875)." in head
    assert "most frequent label here" not in page.text  # the most frequent label of the training rows counts
    assert {0.333, 0.87} <= set(page.numbers)


def test_the_headline_does_not_compare_with_the_correlation_of_the_mean(tmp_path: Path) -> None:
    write_regression_run(tmp_path)
    mean = {"name": "always the mean (2.50)", "metrics": {"pearson": 0.0, "rmse": 1.5}}
    edit_results(tmp_path, baselines={"trivial": mean, "tfidf": {"name": "TF-IDF", "metrics": {"pearson": 0.3}}})
    assert (
        PageParser(write_report(tmp_path)).headings[0]
        == "Pearson correlation 0.875 on 11 validation rows; TF-IDF has 0.300"
    )


def test_a_pretrained_model_no_better_than_token_frequencies_is_warned_of(tmp_path: Path) -> None:
    write_pretraining_run(tmp_path)
    assert "Warning" not in PageParser(write_report(tmp_path)).text
    edit_results(tmp_path, validation={"loss": 6.8, "perplexity": 898.0, "bits_per_byte": 3.1})
    text = PageParser(write_report(tmp_path)).text
    assert "Warning: this model has learned nothing: its validation loss of 6.80 is not below" in text


def test_the_commands_that_the_warning_advises_come_before_the_other_next_steps(tmp_path: Path) -> None:
    write_finetuning_run(tmp_path)
    assert "What the warning advises" not in PageParser(write_report(tmp_path)).text
    advised = ["gpt1 tokenize TEXTS --out RUN-corpus   # TEXTS: files", "gpt1 pretrain RUN-corpus --out b"]
    edit_results(tmp_path, warning="TF-IDF is better.", advice=advised)
    text = PageParser(write_report(tmp_path)).text
    parts = ["Next steps", f"What the warning advises (RUN is {tmp_path}):", *advised, "gpt1 predict"]
    places = [text.rindex(part) for part in parts]
    assert places == sorted(places)


@pytest.mark.parametrize("damaged", [5, [1], {"trivial": None}, {"trivial": {"name": 3, "metrics": [1]}}, {"a": {}}])
def test_damaged_baselines_are_left_out(damaged: Any, tmp_path: Path) -> None:
    write_finetuning_run(tmp_path)
    edit_results(tmp_path, baselines=damaged, warning=damaged, advice=damaged)
    assert "could not be rendered" not in PageParser(write_report(tmp_path)).text


# --- the user's own names --------------------------------------------------------------------------------------------


def test_texts_are_shown_under_the_names_of_the_users_columns(tmp_path: Path) -> None:
    html = write_report(write_finetuning_run(tmp_path)).read_text()
    assert html.count("<dt>review</dt>") == 2
    assert "<dt>text</dt>" not in html


def test_the_columns_of_the_model_win_over_those_of_the_command(tmp_path: Path) -> None:
    write_finetuning_run(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "task.json").write_text(json.dumps({"columns": {"text": "sentence", "label": "label"}}))
    assert "<dt>sentence</dt>" in write_report(tmp_path).read_text()


def test_answers_are_named_by_their_columns(tmp_path: Path) -> None:
    html = write_report(write_choice_run(tmp_path)).read_text()
    for name in ("passage", "first", "second"):
        assert f"<dt>{name}</dt>" in html
    assert "label <b>second</b>" in html
    assert "answer 0" not in html


def test_a_question_with_fewer_answers_than_columns_has_the_first_columns() -> None:
    run = Run(Path("run"), columns={"choices": "end1, end2,end3"})
    names = [run.answer_names(n) for n in (2, 3, 4)]
    assert names == [["end1", "end2"], ["end1", "end2", "end3"], ["end1 0", "end1 1", "end1 2", "end1 3"]]


def test_answers_of_one_column_are_numbered(tmp_path: Path) -> None:
    write_choice_run(tmp_path)
    config = (tmp_path / "config.yaml").read_text().replace("choices: first,second", "choices: options")
    (tmp_path / "config.yaml").write_text(config)
    assert "label <b>options 1</b>" in write_report(tmp_path).read_text()


def test_a_long_text_is_folded_between_two_words() -> None:
    page = Page("title")
    page.facts({})
    text = "word " * 300
    from gpt1.report.page import Mistake

    page.mistakes([Mistake({"text": text}, "a", "b")])
    html = page.render()
    shown, rest = re.search(
        r'<dd dir="auto">(.*?)<details><summary>.*?</summary>(.*?)</details>', html, re.DOTALL
    ).groups()  # type: ignore[union-attr]
    assert shown.endswith("word")
    assert shown + rest == text
