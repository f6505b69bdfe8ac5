"""The page of a server in Chromium: what the first view transfers and when it is there, and the bars after a keystroke.

The model is `starter`, of the size `mini`. Each view begins with an empty cache. Times end with the frame in which the
bars of the whole text are painted.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.measure import BenchmarkResult, ResultTable, summarize_rounds
from benchmarks.serving import percentile, server

ROUNDS = 7
BEGINNING, TYPED = "She opened the", " door and looked into the long dark garden behind the house"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
WATCH = """
const painted = (then) => requestAnimationFrame(() => setTimeout(then));
window.watched = { bars: 0, pressed: 0, answered: '', delays: [] };
const plainFetch = window.fetch;
window.fetch = async (path, options) => {
  const answer = await plainFetch(path, options);
  if (String(path).endsWith('v1/next')) watched.answered = JSON.parse(options.body).text;
  return answer;
};
const isAnswered = () => watched.answered === document.querySelector('#next-text').value;
addEventListener('input', (event) => { watched.pressed = event.timeStamp; }, true);
new MutationObserver((changes) => {
  const inBars = ({ target }) => (target.closest ? target : target.parentElement)?.closest('.bars, .columns');
  if (!document.querySelector('button.bar-row') || !changes.some(inBars)) return;
  if (!watched.bars) {
    watched.bars = -1;
    painted(() => { watched.bars = performance.now(); });
  } else if (watched.pressed && isAnswered()) {
    const pressed = watched.pressed;
    watched.pressed = 0;
    painted(() => watched.delays.push(performance.now() - pressed));
  }
}).observe(document, { childList: true, subtree: true, characterData: true, attributes: true });
"""
FIRST_VIEW = """(() => {
  const files = [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')];
  const paint = performance.getEntriesByName('first-contentful-paint')[0];
  const kilobytes = files.reduce((sum, file) => sum + file.transferSize, 0) / 1000;
  return { requests: files.length, kilobytes, painted: paint.startTime, bars: watched.bars };
})()"""
BARS = "[...document.querySelectorAll('.bar-name')].map((name) => name.textContent)"


def missing_requirement(quick: bool) -> str:
    if not importlib.util.find_spec("playwright"):
        return "it needs playwright: python -m pip install playwright"
    return "" if find_chromium() else "it needs chromium in PATH (Debian: apt-get install chromium)"


def find_chromium() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def run(rounds: int, quick: bool) -> BenchmarkResult:
    views, delays, same = [], [], True
    letters = TYPED[:8] if quick else TYPED
    with server(["gpt1", "serve", "starter", "--port", "0"]) as (port, _), chromium() as browser:
        for number in range(rounds + 1):
            context = browser.new_context(viewport={"width": 1280, "height": 800}, bypass_csp=True)
            page = context.new_page()
            page.add_init_script(WATCH)
            view, found = open_view(page, port), type_letters(page, letters)
            typed, linked = page.evaluate(BARS), bars_of_link(page, port, BEGINNING + letters)
            context.close()
            same = same and typed == linked
            if number:  # the first one warms up
                views.append(view)
                delays += found
    columns = ["", "requests", "kB", "first paint (ms)", "bars (ms)"]
    facts = [summarize_rounds(view[name] for view in views) for name in ("requests", "kilobytes", "painted", "bars")]
    first = ResultTable(f"First view, {len(views)} times", columns, [["starter", *facts]])
    row = ["starter", *(percentile(delays, p) for p in (50, 95))]
    keys = ResultTable(f"Keystroke to bars, {len(delays)} keystrokes", ["", "p50 (ms)", "p95 (ms)"], [row])
    return BenchmarkResult([first, keys], same_work={"the bars after typing are those of the whole text": same})


@contextmanager
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        yield browser
        browser.close()


def open_view(page: Any, port: int) -> dict[str, float]:
    page.goto(f"http://127.0.0.1:{port}/")
    page.wait_for_function("watched.bars > 0")
    found: dict[str, float] = page.evaluate(FIRST_VIEW)
    return found


def type_letters(page: Any, letters: str) -> list[float]:
    """Milliseconds from each letter to its bars; a space changes none."""
    page.get_by_label("Text", exact=True).fill(BEGINNING)
    page.wait_for_function("watched.delays.length === 1")
    counted = 1
    for letter in letters:
        page.keyboard.press("Space" if letter == " " else letter)
        if letter == " ":
            page.wait_for_timeout(200)
            page.evaluate(f"watched.pressed = 0; watched.delays.length = {counted}")
        else:
            counted += 1
            page.wait_for_function(f"watched.delays.length === {counted}")
    delays: list[float] = page.evaluate("watched.delays")
    return delays[1:]


def bars_of_link(page: Any, port: int, text: str) -> list[str]:
    """The bars of a text that is not typed."""
    page.goto("about:blank")
    page.goto(f"http://127.0.0.1:{port}/#next?text={text.replace(' ', '+')}")
    page.wait_for_function("watched.bars > 0")
    found: list[str] = page.evaluate(BARS)
    return found
