"""The report of a run is self-contained, shows the numbers of its files, and is safe for any text."""

from __future__ import annotations

import json
import random
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_runs import (
    HOSTILE_TEXT,
    PHASES_WITHOUT_SHRINK,
    RUN_FILES,
    PageParser,
    write_finetuning_run,
    write_jsonl,
    write_pretraining_run,
    write_regression_run,
)

from gpt1.report.charts import chart_style, new_chart
from gpt1.report.page import Cell, Page
from gpt1.report.sections import write_report

RUNS = {"pretraining": write_pretraining_run, "finetuning": write_finetuning_run, "scoring": write_regression_run}


@pytest.fixture(params=RUNS)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    made: Path = RUNS[request.param](tmp_path)
    return made


def test_the_page_loads_no_resources_and_runs_no_scripts(run: Path) -> None:
    page = PageParser(write_report(run))
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "iframe", "img", "object", "embed", "base")
        assert not {"src", "srcset", "action", "onclick", "onload", "onerror"} & set(attributes)
        assert (attributes.get("href") or "#").startswith("#")
    policy = next(a["content"] for t, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    style_text = re.findall(r"<style>(.*?)</style>", (run / "report.html").read_text(encoding="utf-8"), re.DOTALL)
    assert len(style_text) == 1
    assert "@import" not in style_text[0]
    assert "url(" not in style_text[0]
    assert "prefers-color-scheme: dark" in style_text[0]


@pytest.fixture(scope="module")
def plain_shapes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """The elements of both pages if every text is one letter."""
    return (
        PageParser(write_report(write_finetuning_run(tmp_path_factory.mktemp("run"), "x"))).structure,
        PageParser(write_report(write_pretraining_run(tmp_path_factory.mktemp("run"), "x"))).structure,
    )


@settings(max_examples=10, phases=PHASES_WITHOUT_SHRINK)
@given(text=st.text(max_size=80) | st.sampled_from([HOSTILE_TEXT, "</style>", "]]>", "-->", "\ud800", "\x00\x1b[31m"]))
def test_no_text_changes_the_elements_of_the_page(
    text: str, plain_shapes: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    finetuned = write_finetuning_run(tmp_path_factory.mktemp("run"), text, (f"0{text}".strip(), f"1{text}".strip()))
    pretrained = write_pretraining_run(tmp_path_factory.mktemp("run"), text + "x")
    assert (
        PageParser(write_report(finetuned)).structure,
        PageParser(write_report(pretrained)).structure,
    ) == plain_shapes


def test_texts_are_shown_unchanged(tmp_path: Path) -> None:
    page = PageParser(write_report(write_finetuning_run(tmp_path, HOSTILE_TEXT, ("neg", HOSTILE_TEXT))))
    assert page.text.count(HOSTILE_TEXT) > 3
    page = PageParser(write_report(write_pretraining_run(tmp_path, HOSTILE_TEXT)))
    assert HOSTILE_TEXT in page.text


def test_the_report_of_pretraining_has_its_sections_and_the_numbers_of_its_files(tmp_path: Path) -> None:
    page = PageParser(write_report(write_pretraining_run(tmp_path)))
    assert page.headings == [
        "Validation perplexity 20.2 after 40 steps; a unigram model has 812",
        "Results", "Curves", "Samples", "Data", "Settings", "Next steps",
    ]  # fmt: skip
    results = json.loads((tmp_path / "results.json").read_text())
    wanted = [*results["validation"].values(), *results["unigram"].values(), 1_234_567, 40, 4000, 61.0, 98_765, 12]
    assert set(wanted) <= set(page.numbers)
    measured = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {line["perplexity"] for line in measured if line["split"] == "validation"} <= set(page.numbers)
    assert sum(tag == "svg" for tag, _ in page.elements) == 2


def test_the_report_of_finetuning_has_its_sections_and_the_numbers_of_its_files(tmp_path: Path) -> None:
    page = PageParser(write_report(write_finetuning_run(tmp_path)))
    assert page.headings == [
        "Accuracy 0.750 [0.406,\xa00.938] on 8 validation rows; always ‘neg’ (most frequent label here) has 0.500",
        "Results", "Curves", "Confusion matrix", "2 worst mistakes",
        "Data", "Settings", "Next steps",
    ]  # fmt: skip
    assert {0.75, 0.7333, 0.5, 0.51, 7_654_321, 80, 3, 0.01, 0.02} <= set(page.numbers)
    assert "F1 (macro)" in page.text
    assert re.search(r"rows\s+r\.csv\s", page.text)
    assert "label = stars, text = review" in page.text
    assert "0.125 before, 0.031 after." in page.text
    assert "2 of 8 validation rows are predicted wrongly" in page.text
    assert page.text.index("a fine film 7") < page.text.index("a fine film 6")  # the most confident mistake first
    assert "a fine film 5" not in page.text


def test_the_header_and_the_table_show_the_baselines_and_the_warning(tmp_path: Path) -> None:
    write_finetuning_run(tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    results["baselines"] = {
        "trivial": {"name": "always ‘pos’", "metrics": {"accuracy": 0.625, "f1": 0.385}},
        "tfidf": {"name": "TF-IDF", "metrics": {"accuracy": 0.875, "f1": 0.871}},
    }
    results["warning"] = "TF-IDF is better (accuracy 0.875). Try --train head."
    results["calibration"] |= {"temperature": 1.0, "reason": "no temperature helps"}
    (tmp_path / "results.json").write_text(json.dumps(results))
    page = PageParser(write_report(tmp_path))
    assert page.headings[0] == (
        "Accuracy 0.750 [0.406,\xa00.938] on 8 validation rows; TF-IDF has 0.875; always ‘pos’ has 0.625"
    )
    assert "Warning: TF-IDF is better (accuracy 0.875). Try --train head." in page.text
    assert {0.871, 0.385, 0.875, 0.625} <= set(page.numbers)
    assert "Probabilities are not calibrated: no temperature helps." in page.text
    results["warning"] = "this model has learned nothing: accuracy 0.5."
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert PageParser(write_report(tmp_path)).headings[0].startswith("The model has learned nothing. Accuracy 0.750")


def test_the_confusion_matrix_counts_every_validation_row(tmp_path: Path) -> None:
    write_report(write_finetuning_run(tmp_path))
    matrix = re.search(r'<table class="matrix">(.*?)</table>', (tmp_path / "report.html").read_text(), re.DOTALL)
    assert matrix is not None
    counts = [int(n) for n in re.findall(r'<data value="(\d+)">', matrix[1])]
    assert counts == [3, 1, 1, 3]  # neg as neg, neg as pos, pos as neg, pos as pos


def test_scores_have_a_scatter_plot_and_the_largest_errors_come_first(tmp_path: Path) -> None:
    page = PageParser(write_report(write_regression_run(tmp_path)))
    assert page.headings[0] == "Pearson correlation 0.875 on 11 validation rows"
    assert "Predicted and true scores" in page.headings
    assert "Confusion matrix" not in page.headings
    assert page.text.index("text 10") < page.text.index("text 9")


@pytest.mark.parametrize("absent", [(name,) for name in RUN_FILES] + [RUN_FILES, RUN_FILES[1:], RUN_FILES[2:]])
def test_a_run_with_missing_files_has_a_report(run: Path, absent: tuple[str, ...]) -> None:
    for name in absent:
        (run / name).unlink(missing_ok=True)
    page = PageParser(write_report(run))
    assert "could not be rendered" not in page.text
    for name in {"config.yaml", "metrics.jsonl", "results.json"} & set(absent):
        assert f"{name} is missing" in page.text
    if "results.json" in absent:
        assert "not finished" in page.text


@settings(max_examples=15, phases=PHASES_WITHOUT_SHRINK)
@given(
    name=st.sampled_from(RUN_FILES),
    share=st.floats(0, 1),
    rest=st.sampled_from([b"", b"\n5\n[1]\nnull\n{}\n\xff\xfe\x00"]),
    kind=st.sampled_from(list(RUNS)),
)
def test_a_run_with_truncated_or_damaged_files_has_a_report(
    name: str, share: float, rest: bytes, kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = RUNS[kind](tmp_path_factory.mktemp("run"))
    if (folder / name).exists():
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(share * len(content))] + rest)
    assert "could not be rendered" not in PageParser(write_report(folder)).text


def test_the_axis_of_a_metric_ends_at_1(tmp_path: Path) -> None:
    write_finetuning_run(tmp_path)
    lines = [{"step": 10 * n, "epoch": n, "split": "validation", "accuracy": 1 - 0.01 * (n == 1)} for n in (1, 2)]
    write_jsonl(tmp_path / "metrics.jsonl", lines)
    chart = re.findall(r"<svg.*?</svg>", write_report(tmp_path).read_text(), re.DOTALL)[1]
    ticks = [float(text) for text in re.findall(r">([01]\.\d+)</text>", chart)]
    assert max(ticks) == 1
    assert min(ticks) < 1


def test_long_labels_are_shortened_in_the_confusion_matrix(tmp_path: Path) -> None:
    write_finetuning_run(tmp_path, labels=("neg", "p" * 500))
    html = write_report(tmp_path).read_text()
    matrix = html[html.index('<table class="matrix tall">') : html.index('<section id="2-worst-mistakes')]
    assert matrix.count("p" * 500) == matrix.count(f'title="{"p" * 500}"') * 2 == 4
    assert matrix.count('class="name"') == matrix.count('class="number name"') == 2


def test_a_finished_run_without_validation_says_so(tmp_path: Path) -> None:
    write_finetuning_run(tmp_path)
    (tmp_path / "predictions.jsonl").unlink()
    write_jsonl(tmp_path / "metrics.jsonl", [{"step": 3, "split": "train", "loss": 0.835, "lr": 1e-3}])
    results = json.loads((tmp_path / "results.json").read_text()) | {"validation": {}, "calibration": {}}
    (tmp_path / "results.json").write_text(json.dumps(results))
    page = PageParser(write_report(tmp_path))
    assert page.headings[0] == "Training loss 0.835 after 3 steps; no validation set"
    shown = page.text[: page.text.index("Settings")]
    assert "best epoch" not in shown
    assert "validation rows" not in shown
    chart, _ = re.findall(r"<svg.*?</svg>", (tmp_path / "report.html").read_text(), re.DOTALL)  # narrow and wide
    assert chart.count(">3</text>") == 1  # no step occurs twice
    assert "learning rate" not in chart  # a single value would give an empty panel
    assert "fill: var(--c1" in chart  # the single value is a dot


def test_shares_up_to_1_are_percentages(tmp_path: Path) -> None:
    write_finetuning_run(tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    results["data"] = {"unknown": 0.123, "cut": 1.0}
    (tmp_path / "results.json").write_text(json.dumps(results))
    text = PageParser(write_report(tmp_path)).text
    assert "12.3 %" in text
    assert "100 %" in text


def test_the_later_line_counts_if_a_step_was_logged_twice(tmp_path: Path) -> None:
    write_pretraining_run(tmp_path)
    (tmp_path / "results.json").unlink()
    with (tmp_path / "metrics.jsonl").open("a") as file:  # logged again by a run that was killed and resumed at step 30
        file.write('{"step": 40, "split": "validation", "loss": 5.0, "perplexity": 17.5}\n')
    assert PageParser(write_report(tmp_path)).headings[0].startswith("Validation perplexity 17.5 so far")


def test_a_section_that_cannot_be_rendered_is_named_and_the_others_are_shown(tmp_path: Path) -> None:
    write_pretraining_run(tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    (tmp_path / "results.json").write_text(json.dumps({**results, "samples": 5}))
    page = PageParser(write_report(tmp_path))
    assert "'samples' could not be rendered" in page.text
    assert "Settings" in page.headings


def test_the_size_of_the_page_does_not_grow_with_the_length_of_a_run(tmp_path: Path) -> None:
    write_pretraining_run(tmp_path)
    small = write_report(tmp_path).stat().st_size
    noise = random.Random(0)
    lines = [{"step": s, "split": "train", "loss": noise.gauss(5, 0.1), "lr": 1e-3} for s in range(50_000)]
    write_jsonl(tmp_path / "metrics.jsonl", lines)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns if a chart does not fit
        assert write_report(tmp_path).stat().st_size < small + 15_000


def test_a_chart_uses_the_colors_of_the_page_and_escapes_its_labels(tmp_path: Path) -> None:
    page = Page("title")
    with chart_style():
        figure, axes = new_chart("cost in $", "labels <b>")
        axes.plot([1, 2], [1, 2], label="from $5 to $6")
        axes.legend()
        page.svg(figure, "caption")
    page.svg(figure, "the same again")
    html = page.write(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "from $5 to $6</text>" in html
    assert "labels &lt;b&gt;</text>" in html
    svg = html[html.index("<svg") : html.index("</svg>")]
    assert set(re.findall(r"(?:stroke|fill): ([^;\"]+)", svg)) <= {
        "none", "var(--ink, #22262a)", "var(--muted, #666b72)", "var(--rule, #dedcd5)", "var(--c1, #2563a8)",
    }  # fmt: skip
    assert html.count('<div class="figures">') == 1  # consecutive charts share a line


def test_a_table_keeps_exact_numbers_and_aligns_them_right(tmp_path: Path) -> None:
    page = Page("Table 4", kicker="reproduce")
    page.heading("Comparison with the paper", "Median of 3 seeds.")
    rows = [["CoLA", 45.4, Cell(31.23456, note="[30.1–32.9]"), None], ["a <i>task</i>", 1000, 2, "none"]]
    page.table(["task", "paper", "ours", "why"], rows)
    reader = PageParser(page.write(tmp_path / "page.html"))
    assert reader.numbers == [45.4, 31.23456, 1000, 2]
    assert "31.2 [30.1–32.9]" in reader.text
    numeric = [attributes.get("class") for tag, attributes in reader.elements if tag == "th"][:4]
    assert numeric == [None, "number", "number", None]
