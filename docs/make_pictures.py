"""Take the pictures of the server's page in docs/serving.md: python docs/make_pictures.py DEMO

DEMO is the folder of a finished `gpt1 demo`. Needs playwright and chromium (Pillow comes with matplotlib). Texts and
seeds are fixed: the same models give the same pictures, up to fonts.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.page import chromium, missing_requirement  # noqa: E402
from benchmarks.serving import server  # noqa: E402

DESKTOP, PHONE = 1100, 390
SERVED = ("pretrained", "finetuned/all-0", "finetuned/scratch-0")
"""Runs of the demo that are served next to `starter`: one pre-trained, one fine-tuned from it, one from scratch."""

SUN = "The sun is a star. It gives us light and heat, and all the planets move around the"
SAMPLING = {
    "model": "starter", "text": "The old man sat down by the fire and",
    "temperature": "0.7", "top_p": "0.9", "max_tokens": "40", "seed": "2",
}  # fmt: skip
DOCSTRING = "Return True if the directed graph G has a path from the source node to the target node."
ROWS = """\
Set the color and the width of the lines around the axes.
Apply a linear layer to the input tensor and keep the gradient.
Simplify the expression and solve it for the symbol x."""


def next_token(page: Any) -> None:
    """Two branches of a tree; the chosen path is the second."""
    for token in ("sun", "."):
        choose(page, token)
    request(page, lambda: page.get_by_role("button", name="Undo").click())
    for token in (",", "and", "the"):
        choose(page, token)


def reading(page: Any) -> None:
    page.get_by_role("heading", name="“garden” was").wait_for()


def writing(page: Any) -> None:
    page.get_by_role("button", name="Write").click()
    page.get_by_text("per second").wait_for()
    request(page, lambda: page.locator(".written .token").nth(8).click())


def task(page: Any) -> None:
    request(page, lambda: page.get_by_role("button", name="Which words mattered?").click())
    page.get_by_text("The row as the model reads it").click()
    page.get_by_label("Rows of a table").fill(ROWS)
    request(page, lambda: page.get_by_role("button", name="Predict the rows").click())


def runs(page: Any) -> None:
    page.get_by_role("heading", name="Side by side").wait_for()


@dataclass(frozen=True)
class Picture:
    """What `page-VIEW.png` shows: the state in the link of the view, the screen, and what is done there."""

    state: dict[str, str]
    width: int
    scheme: str
    act: Callable[[Any], None]


PICTURES = {
    "next": Picture({"model": "starter", "text": SUN}, DESKTOP, "light", next_token),
    "reading": Picture({"model": "starter", "text": f"{SUN} garden.", "token": "20"}, DESKTOP, "dark", reading),
    "writing": Picture(SAMPLING, PHONE, "light", writing),
    "task": Picture({"model": "all-0", "field.text": DOCSTRING}, DESKTOP, "light", task),
    "runs": Picture({"model": "starter", "left": "all-0", "right": "scratch-0"}, PHONE, "dark", runs),
}


def request(page: Any, act: Callable[[], None]) -> None:
    """Do something that sends a request, and wait for the end of the response."""
    with page.expect_response(lambda response: response.request.method == "POST") as found:
        act()
    found.value.finished()
    page.wait_for_timeout(200)  # until it is shown


def choose(page: Any, token: str) -> None:
    """Choose a bar of the next token."""
    name = page.get_by_text(token, exact=True)
    request(page, lambda: page.locator("button.bar-row").filter(has=name).click())


@contextmanager
def screen(browser: Any, width: int, scheme: str) -> Iterator[Any]:
    size = {"width": width, "height": 500}
    context = browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce")
    yield context.new_page()
    context.close()


def take_pictures(demo: Path) -> Iterator[Path]:
    words = ["gpt1", "serve", "starter", *(str(demo / run) for run in SERVED), "--port", "0", "--precision", "fp32"]
    with server(words) as (port, _), chromium() as browser:
        for view, picture in PICTURES.items():
            file = ROOT / "docs" / f"page-{view}.png"
            with screen(browser, picture.width, picture.scheme) as page:
                page.goto(f"http://127.0.0.1:{port}/#{view}?{urlencode(picture.state)}", wait_until="networkidle")
                picture.act(page)
                save_picture(page, file)
            yield file


def save_picture(page: Any, file: Path) -> None:
    """Write a PNG of 256 colors, a third of the size: of the whole page, or from the written text on."""
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur(), scrollTo(0, 0)")
    written = page.locator(".written")
    top = int(written.bounding_box()["y"]) if written.count() else 0
    image = Image.open(io.BytesIO(page.screenshot(full_page=True)))
    shown = image.convert("RGB").crop((0, top, *image.size))
    shown.quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/make_pictures.py DEMO")
    demo = Path(sys.argv[1])
    missing = [run for run in SERVED if not (demo / run).is_dir()]
    problem = f"{demo} has no {missing[0]}: run gpt1 demo --out {demo}" if missing else missing_requirement(False)
    if problem:
        sys.exit(problem)
    for file in take_pictures(demo):
        print(f"{file.relative_to(ROOT)}: {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
