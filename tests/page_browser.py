"""The page of a server in Debian's chromium through Playwright: fixtures and helpers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import pytest
from browser import find_browser
from running_server import RunningServer

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
EXPECTED_PROBLEMS = ("401", "429", "503", "Failed to load")
"""Answers and lines of the console that a test may cause on purpose."""
Open = Callable[..., Any]


def browser_test(function: Any) -> Any:
    """Mark a test that needs chromium and Playwright."""
    for mark in (
        pytest.mark.slow,
        pytest.mark.skipif(not find_browser(), reason="no Chromium is installed"),
        pytest.mark.skipif(not find_spec("playwright"), reason="playwright is not installed: pip install playwright"),
    ):
        function = mark(function)
    return function


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser for the tests of a file: while it runs, the thread has an event loop, which others must not see."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Any, server: RunningServer) -> Iterator[Open]:
    """Opens a link of the page. Afterwards, neither a script nor the policy may have complained, and no request was
    wrong unless it is `refused` on purpose."""
    contexts, problems, allowed = [], [], [*EXPECTED_PROBLEMS]

    def open_(
        link: str, server: RunningServer = server, width: int = 1280, scheme: str = "light", refused: bool = False
    ) -> Any:
        allowed.extend(["400"] * refused)
        context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("dialog", lambda dialog: (problems.append("a script ran"), dialog.dismiss()))
        page.on("response", lambda r: problems.append(f"{r.status} {r.url} {r.text()}") if r.status >= 400 else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda line: problems.append(line.text) if line.type in ("error", "warning") else None)
        page.goto(f"http://127.0.0.1:{server.port}/{link}")
        page.wait_for_selector("h1")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert [problem for problem in problems if not problem.startswith(tuple(allowed))] == []


def texts(locator: Any) -> list[str]:
    return [text.strip() for text in locator.all_inner_texts()]


def bar_names(page: Any) -> list[str]:
    return texts(page.locator(".bar-name"))


def display_token(token: str) -> str:
    """A token as the page writes it."""
    return re.sub("^ +| +$", lambda spaces: "␣" * len(spaces[0]), token.replace("\\n", "↵"))


def wait_for_page(page: Any, condition: Callable[[], bool], seconds: int = 30) -> None:
    """Wait until a condition holds, while the page keeps running."""
    for _ in range(20 * seconds):
        if condition():
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"the condition did not come true: {page.locator('main').inner_text()}")
