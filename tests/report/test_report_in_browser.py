"""In a real browser: nothing leaves a narrow screen, charts are legible, both color schemes apply."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

import matplotlib.image
import pytest
from browser import Browser, find_browser
from report_runs import (
    write_choice_run,
    write_finetuning_run,
    write_many_labels_run,
    write_multilabel_run,
    write_pretraining_run,
    write_regression_run,
)

from gpt1.experiments.experiment_report import ExperimentReport, SeedScores
from gpt1.report.charts import chart_style, new_chart
from gpt1.report.sections import write_report

WIDTHS = (390, 1280)
PAGES = {
    "pretraining": write_pretraining_run,
    "finetuning": write_finetuning_run,
    "scores": write_regression_run,
    "choice": write_choice_run,
    "labels": write_many_labels_run,
    "several labels": write_multilabel_run,
}
OUTSIDE = """[...document.querySelectorAll('body *')].filter(e => {
  if (e.closest('.scroll') && !e.matches('.scroll')) return false;
  const box = e.getBoundingClientRect();
  return box.width && (box.right > innerWidth + 0.5 || box.left < -0.5);
}).map(e => e.tagName + ' ' + e.textContent.slice(0, 40))"""
SMALLEST_TEXT = """Math.min(...[...document.querySelectorAll('svg text')].filter(e => e.getBoundingClientRect().width)
  .map(e => parseFloat(getComputedStyle(e).fontSize) * e.getScreenCTM().a))"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    executable = find_browser()
    if executable is None:
        pytest.skip("needs chromium in PATH (Debian: apt-get install chromium)")
    with Browser(executable, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {name: write_report(write(tmp_path_factory.mktemp(name))) for name, write in PAGES.items()}
    return {**found, "experiment": write_experiment(tmp_path_factory.mktemp("experiment"))}


def write_experiment(folder: Path) -> Path:
    """A page with a chart that is alone, and a table that is wider than a phone."""
    report = ExperimentReport("A title", "kicker", "A lead of a few words.")
    with chart_style():
        figure, axes = new_chart("accuracy", "labels")
        axes.plot([1, 2], [0.5, 0.6], label="a name")
        report.figure("chart", figure, "A caption.")
    scores = SeedScores((0.5, 0.6, 0.7)).to_cell()
    report.table(["labels", *(f"a method with a name {k}" for k in range(5))], [[8, *[scores] * 5]])
    report.code("gpt1 reproduce " + "--a-long-option value " * 10, "The command:")
    report.write(folder, {})
    return folder / "report.html"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", [*PAGES, "experiment"])
def test_nothing_leaves_the_viewport(name: str, width: int, browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages[name], width)
    assert browser.ask("document.documentElement.scrollWidth") <= width
    assert browser.ask(OUTSIDE) == []


@pytest.mark.parametrize("name", [*PAGES, "experiment"])
def test_the_text_of_charts_has_a_legible_size(name: str, browser: Browser, pages: dict[str, Path]) -> None:
    for width in WIDTHS:
        browser.open(pages[name], width)
        assert browser.ask(SMALLEST_TEXT) >= 9.5  # CSS pixels


def test_a_chart_that_is_alone_fills_the_line_of_a_desktop(browser: Browser, pages: dict[str, Path]) -> None:
    share = """(() => { const seen = [...document.querySelectorAll('.figures svg')].filter(e => e.clientWidth);
      return [seen.length, seen[0].clientWidth / document.querySelector('main section').clientWidth]; })()"""
    for width in WIDTHS:
        browser.open(pages["experiment"], width)
        assert browser.ask(share) == [1, pytest.approx(1, abs=0.01)]


def test_a_confusion_matrix_of_eight_labels_fits_on_a_phone(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["labels"], 390)
    region = "document.querySelector('.matrix').parentElement"
    assert browser.ask(f"{region}.scrollWidth - {region}.clientWidth") <= 0


def test_a_table_wider_than_a_phone_scrolls_and_takes_the_focus(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["experiment"], 390)
    region = "document.querySelector('.scroll')"
    assert browser.ask(f"{region}.scrollWidth > {region}.clientWidth")
    assert browser.ask(f"{region}.focus(); document.activeElement === {region}")
    assert browser.ask(f"{region}.scrollLeft = 50; {region}.scrollLeft") == 50


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_drawn_beside_a_narrow_table(scheme: str, browser: Browser, pages: dict[str, Path]) -> None:
    boxes = """[...document.querySelectorAll('.scroll:not(details:not([open]) *)')]
      .map(e => [e, e.getBoundingClientRect()])
      .filter(([e, box]) => box.width && e.firstElementChild.getBoundingClientRect().right < box.right - 20)
      .map(([e, box]) => ({x: box.right - 16, y: box.top - 2, width: 20, height: box.height + 4}))"""
    browser.open(pages["finetuning"], 1280, scheme)
    paper = re.findall(r"\d+", browser.ask("getComputedStyle(document.body).backgroundColor"))
    found = browser.ask(boxes)
    assert found
    for box in found:
        pixels = matplotlib.image.imread(io.BytesIO(browser.screenshot(**box)))  # [height, width, channel], 0 … 1
        assert abs(255 * pixels[..., :3] - [int(channel) for channel in paper]).max() < 0.5, box


def test_dark_and_light_pages_have_the_background_of_their_scheme(browser: Browser, pages: dict[str, Path]) -> None:
    paper = {}
    for scheme in ("light", "dark"):
        browser.open(pages["finetuning"], 390, scheme)
        paper[scheme] = browser.ask("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(251, 250, 247)", "dark": "rgb(21, 23, 26)"}
