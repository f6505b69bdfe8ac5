"""The page: its files, and its views in a real browser."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from page_browser import Open, bar_names, browser_test, display_token, texts, wait_for_page
from running_server import RunningServer, server_thread, wait_for

from gpt1.inference.predictor import LanguageModel, TaskPredictor, load
from gpt1.serving.app import STATIC
from gpt1.tasks.targets import Classes

VENDOR = STATIC / "vendor"
FILES = sorted(path for path in STATIC.rglob("*") if path.is_file())
SCRIPTS = sorted(STATIC.glob("*.js"))
TYPES = {
    ".html": {"text/html"},
    ".js": {"text/javascript", "application/javascript"},
    ".css": {"text/css"},
    ".svg": {"image/svg+xml"},
    ".json": {"application/json"},
    ".txt": {"text/plain"},
}
VIEWS = ("next", "reading", "writing", "task", "runs")
SCRIPT = "<img src=x onerror=alert()>"


@pytest.fixture(scope="module")
def server(workspace: Path) -> Iterator[RunningServer]:
    with server_thread([workspace / "runs/books", workspace / "runs/reviews"]) as server:
        yield server


# ---- its files


def test_vendored_files_are_those_of_npm():
    known = json.loads((VENDOR / "vendor.json").read_text("utf-8"))
    assert {entry["name"] for entry in known} == {"preact", "htm"}
    for entry in known:
        assert hashlib.sha256((VENDOR / entry["file"]).read_bytes()).hexdigest() == entry["sha256"]
        assert entry["license"] in ("MIT", "Apache-2.0")
        assert (VENDOR / f"LICENSE-{entry['name']}.txt").read_text("utf-8").strip()
    assert {path.name for path in VENDOR.glob("*.js")} == {entry["file"] for entry in known}


class InlineFinder(HTMLParser):
    """Collects what a strict policy forbids, and the files that a page names."""

    def __init__(self) -> None:
        super().__init__()
        self.inline: list[str] = []
        self.files: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "style" or (tag == "script" and "src" not in given):
            self.inline.append(tag)
        self.inline += [name for name in given if name == "style" or name.startswith("on")]
        named = [str(given[name]) for name in ("src", "href") if name in given]
        self.files += [name for name in named if name not in ("docs", "v1/models")]


def test_nothing_is_inline_and_every_file_is_there():
    finder = InlineFinder()
    finder.feed((STATIC / "index.html").read_text("utf-8"))
    assert finder.inline == []
    assert finder.files
    imports = [
        name for path in SCRIPTS for name in re.findall(r"(?:from |import\()'\./(.+?)'", path.read_text("utf-8"))
    ]
    assert len(imports) > len(SCRIPTS)
    for name in (*finder.files, *imports):
        assert (STATIC / name).is_file(), name


def test_texts_are_never_parsed_as_html_and_nothing_comes_from_elsewhere():
    for path in [*SCRIPTS, STATIC / "index.html", STATIC / "style.css"]:
        text = path.read_text("utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            path
        )
        assert not re.search(r"https?://|url\(|@import", text), path


def test_the_page_is_below_100_kb_in_total():
    assert sum(path.stat().st_size for path in FILES if path.suffix != ".txt") < 100_000


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_is_served_with_its_type_and_a_strict_policy(server: RunningServer, path: Path):
    answer = server.ask(f"/{path.relative_to(STATIC).as_posix()}")
    assert (answer.status, answer.body) == (200, path.read_bytes())
    assert answer.headers["content-type"].partition(";")[0] in TYPES[path.suffix]
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "unsafe" not in policy


def test_the_page_is_at_the_root(server: RunningServer):
    assert server.ask("/").body == (STATIC / "index.html").read_bytes()


# ---- its views, in a browser


def next_names(server: RunningServer, text: str, ids: list[int]) -> tuple[list[str], list[int]]:
    rows = server.ask("/v1/next", {"text": text, "ids": ids}).json["data"]
    return [display_token(row["token"]) for row in rows], [row["id"] for row in rows]


@browser_test
def test_bars_follow_the_text_and_the_tokens_that_are_chosen(open_page: Open, server: RunningServer):
    page = open_page("#next?model=books")
    box = page.get_by_label("Text", exact=True)
    box.fill("the file")
    names, ids = next_names(server, "the file", [])
    wait_for_page(page, lambda: bar_names(page) == names)
    page.locator("button.bar-row").nth(1).click()
    second, _ = next_names(server, "the file", ids[1:2])
    wait_for_page(page, lambda: bar_names(page) == second)
    wait_for_page(page, lambda: f"ids={ids[1]}" in page.url)
    again = open_page(page.url.rpartition("/")[2])
    wait_for_page(again, lambda: bar_names(again) == second)
    assert texts(again.locator(".way")) == [names[1]]
    page.get_by_role("button", name="Undo").click()
    wait_for_page(page, lambda: bar_names(page) == names)
    page.locator("button.bar-row").nth(0).click()
    page.locator(".way[aria-current]").wait_for()
    assert texts(page.locator(".way")) == [names[1], names[0]]
    box.fill("a list")
    wait_for_page(page, lambda: bar_names(page) == next_names(server, "a list", [])[0])
    assert page.locator(".way").count() == 0


@browser_test
def test_a_request_that_is_no_longer_wanted_is_cancelled(open_page: Open, server: RunningServer):
    page = open_page("#next?model=books")
    page.wait_for_selector("button.bar-row")
    held, failed = [], []
    page.on("requestfailed", lambda request: failed.append(request.post_data_json["text"]))
    page.route("**/v1/next", lambda route: held.append(route) if not held else route.continue_())
    box = page.get_by_label("Text", exact=True)
    box.fill("the first")
    wait_for_page(page, lambda: bool(held))
    box.fill("the file")
    wait_for_page(page, lambda: bar_names(page) == next_names(server, "the file", [])[0])
    assert failed == ["the first"]


@browser_test
def test_reading_shows_the_scores_of_each_token(open_page: Open, server: RunningServer):
    page = open_page("#reading?model=books&text=return+the+first+file")
    (score,) = server.ask("/v1/score", {"texts": ["return the first file"], "top": 5}).json["data"]
    options = page.locator(".token[role=option]")
    options.first.wait_for()
    assert options.count() == len(score["tokens"])
    figures = texts(page.locator("dd"))
    assert figures[0] == str(len(score["tokens"]))
    assert float(figures[1].replace(",", "")) == pytest.approx(score["perplexity"], rel=0.01)
    options.first.focus()
    page.keyboard.press("End")
    panel = page.locator(".panel")
    last = score["tokens"][-1]
    wait_for_page(page, lambda: f"rank {last['rank']}" in panel.inner_text())
    assert bar_names(page) == [display_token(other["token"]) for other in last["top"]]
    page.get_by_text("Attention", exact=True).click()
    page.get_by_label("Head").select_option("1")
    body = {"text": "return the first file", "head": 1, "token": len(score["tokens"]) - 1}
    tokens = server.ask("/v1/attention", body).json["tokens"]
    wait_for_page(page, lambda: page.locator("details .token").count() == len(tokens))


@browser_test
def test_writing_streams_stops_and_continues_from_a_token(open_page: Open, server: RunningServer):
    page = open_page("#writing?model=books&text=the+file&temperature=0&max_tokens=8")
    page.get_by_role("button", name="Write", exact=True).click()
    page.get_by_text("8 tokens,").wait_for()
    request = {"prompt": "the file", "temperature": 0, "max_tokens": 8}
    text = server.ask("/v1/completions", request).json["choices"][0]["text"]
    written = page.locator(".written")
    assert written.inner_text().split() == f"the file{text}".split()
    options = page.locator(".token[role=option]")
    kept = texts(options)[:3]
    options.nth(3).click()
    other = page.locator(".panel button.bar-row").nth(1)
    other.wait_for()
    name = other.locator(".bar-name").inner_text().strip("…")
    other.click()
    wait_for_page(page, lambda: options.count() == 12 and "Writing" not in page.locator("section .status").inner_text())
    assert texts(options)[:3] == kept
    assert texts(options)[3].replace("↵", "") == name.replace("↵", "")
    page.get_by_label("Tokens (at most)").fill("1000")
    page.get_by_role("button", name="Write", exact=True).click()
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped after").wait_for()
    assert server.gate
    wait_for(lambda: server.gate and server.gate.in_flight == 0)


@browser_test
def test_a_task_predicts_the_form_and_a_pasted_table(open_page: Open, workspace: Path):
    task = load(workspace / "runs/reviews")
    assert isinstance(task, TaskPredictor)
    page = open_page("#task?model=books")
    page.get_by_role("button", name="reviews").click()
    page.locator("#field-0").fill("the file is valid")
    (expected,) = task.predict(["the file is valid"])
    page.get_by_text(f"Prediction: {expected['prediction']}").wait_for()
    page.get_by_text("The row as the model reads it").click()
    layout = texts(page.locator(".layout span"))
    assert (layout[0], layout[-1]) == ("<start>", "<extract>")
    rows = ["the list is broken", SCRIPT]
    page.locator("#task-table").fill("\n".join(["text", *rows]))
    page.get_by_role("button", name="Predict the rows").click()
    page.get_by_text("Rows predicted: 2").wait_for()
    found = [texts(row.locator("td"))[:2] for row in page.locator("tbody tr").all()]
    assert found == [[row, prediction["prediction"]] for row, prediction in zip(rows, task.predict(rows), strict=True)]


@browser_test
@pytest.mark.skipif(not hasattr(LanguageModel, "features"), reason="the Python face has no explanations yet")
def test_a_task_shows_which_words_mattered(open_page: Open):
    page = open_page("#task?model=reviews&field.text=the+file+is+valid")
    page.get_by_role("button", name="Which words mattered?").click()
    page.get_by_role("heading", name="Which words mattered").wait_for()
    assert texts(page.locator(".panel .token")) == ["the", "file", "is", "valid"]


@browser_test
def test_booleans_have_one_form(open_page: Open, write_model: Callable[..., Path]):
    folder = write_model("classification", Classes(("False", "True"), (False, True)))
    with server_thread([folder]) as booleans:
        page = open_page("#task?field.text=the+file+is+valid", server=booleans)
        page.get_by_text("Its labels: false, true.").wait_for()
        page.get_by_text(re.compile("Prediction: (false|true)")).wait_for()
        assert {*bar_names(page)} == {"false", "true"}
        page.get_by_role("button", name="Which words mattered?").click()
        page.get_by_text(re.compile("The probability of “(false|true)” is")).wait_for()


@browser_test
def test_runs_are_listed_and_compared(open_page: Open):
    page = open_page("#runs?left=reviews&right=books")
    page.get_by_role("heading", name="Side by side").wait_for()
    listed, compared = page.locator("table").all()
    assert texts(listed.locator("th[scope=row]")) == ["books", "reviews"]
    assert texts(compared.locator("thead th")) == ["result", "reviews", "books"]
    page.get_by_role("link", name="report of books").click()
    page.wait_for_url("**/v1/runs/books/report")
    assert page.locator("h1").count() >= 1


@browser_test
def test_scripts_in_texts_are_shown_as_text(open_page: Open):
    for view, field in (
        ("next", "#next-text"),
        ("reading", "#reading-text"),
        ("writing", "#prompt"),
        ("task", "#field-0"),
    ):
        page = open_page(f"#{view}?model={'reviews' if view == 'task' else 'books'}")
        page.fill(field, SCRIPT)
        if view == "writing":
            page.get_by_label("Stop text (optional)").fill(SCRIPT)
            page.get_by_role("button", name="Write", exact=True).click()
            wait_for_page(page, lambda page=page: SCRIPT in page.locator(".given").inner_text())
        page.wait_for_timeout(1000)
        assert page.locator("main img, main script").count() == 0
        again = open_page(page.url.rpartition("/")[2])
        assert again.locator(field).input_value() == SCRIPT


@browser_test
def test_a_server_with_a_key_asks_for_it(open_page: Open, workspace: Path):
    with server_thread([workspace / "runs/books"], key=b"a-long-key") as locked:
        page = open_page("", locked)
        page.locator("#key").fill("another")
        page.get_by_role("button", name="Use the key").click()
        page.get_by_text("does not accept this key").wait_for()
        page.locator("#key").fill("a-long-key")
        page.keyboard.press("Enter")
        page.locator("button.bar-row").first.wait_for()


@browser_test
@pytest.mark.skipif(not find_spec("axe_playwright_python"), reason="axe is not installed: axe-playwright-python")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_nothing_and_a_phone_needs_no_sideways_scrolling(open_page: Open, view: str, scheme: str):
    from axe_playwright_python.sync_playwright import Axe

    model = "reviews&field.text=a+file" if view == "task" else "books&text=a+file&seed=1"  # some tokens are invisible
    for width in (390, 1280):
        page = open_page(f"#{view}?model={model}", width=width, scheme=scheme)
        if view == "writing":
            page.get_by_role("button", name="Write", exact=True).click()
        if view == "task":
            page.get_by_role("button", name="Which words mattered?").click()
            page.locator(".panel .token").first.click()
        page.wait_for_timeout(1000)
        if view in ("reading", "writing"):
            page.locator(".token[role=option]").first.click()
        for summary in page.locator("summary").all():
            summary.click()
        page.wait_for_timeout(500)
        assert [(v["id"], v["nodes"][0]["html"]) for v in axe_violations(Axe(), page)] == []
        assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")


def axe_violations(axe: Any, page: Any) -> list[Any]:
    return list(axe.run(page).response["violations"])
