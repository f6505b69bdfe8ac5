"""The page when the link, the server, the key or the text is wrong: it reports the problem and is never blank."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page_browser import Open, bar_names, browser_test, texts, wait_for_page
from running_server import RunningServer, server_process, server_thread

from gpt1.inference.predictor import TaskPredictor, load
from gpt1.inference.task import save_task
from gpt1.model.gpt import GPT
from gpt1.model.head import Head, TaskModel
from gpt1.tasks.multilabel import MultiLabel

SCRIPT = "<img src=x onerror=alert()>"
LABELS = ("anger", "joy", SCRIPT)
BUSY = {"error": {"message": "the queue is full (8 of 8 places). Try again later.", "type": "rate_limit_error"}}
ODD_TEXTS = {
    "a word of 3,000 letters": "a" * 3000,
    "from right to left": "مرحبا بالعالم " * 20,
    "pictures": "👩\u200d👩\u200d👧\u200d👦🏳️\u200d🌈" * 30,
    "marks without end": "Z" + "\u0334\u0335\u0336" * 100,
}


@pytest.fixture(scope="module")
def mood_model(pretrained_run: Path, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of several labels: every text has joy, none has anger, and the last label is decided by the text."""
    folder = tmp_path_factory.mktemp("models") / "moods"
    folder.mkdir()
    gpt = GPT.from_pretrained(pretrained_run / "model")
    gpt.add_special_tokens()
    target = MultiLabel(LABELS, thresholds=(1.0, 0.0, 0.9))
    task = {"kind": "multilabel", "columns": {"text": "text", "label": "label"}}
    save_task(folder, TaskModel(gpt, Head(gpt.config.n_embd, target.outputs, False)), tokenizer, task, target)
    return folder


@pytest.fixture(scope="module")
def server(workspace: Path, mood_model: Path) -> Iterator[RunningServer]:
    with server_thread([workspace / "runs/books", workspace / "runs/reviews", mood_model]) as server:
        yield server


def read_words(page: Any) -> str:
    return str(page.locator("main").inner_text())


# ---- several labels


@browser_test
def test_each_of_several_labels_is_shown_beside_its_threshold(open_page: Open, mood_model: Path):
    model = load(mood_model)
    assert isinstance(model, TaskPredictor)
    page = open_page("#task?model=moods&field.text=a+file")
    page.get_by_text("Prediction: joy").wait_for()
    bars = page.locator("button.bar-row")
    assert bar_names(page)[0] == "✓ joy"
    assert sorted(bar_names(page)[1:]) == sorted(["anger", SCRIPT])
    assert all("threshold" in text for text in texts(bars))
    bars.filter(has_text="anger").click()
    page.get_by_text("The probability of “anger” is").wait_for()
    (explained,) = model.explain(["a file"], "anger")
    options = page.locator(".panel .token[role=option]")
    assert texts(options) == [word["word"] for word in explained["words"]]
    options.first.focus()
    page.keyboard.press("ArrowRight")
    change = f"{100 * abs(explained['words'][1]['contribution']):.1f} percentage points"
    wait_for_page(page, lambda: change in page.locator(".panel [role=status]").inner_text())


@browser_test
def test_a_row_without_any_label_is_shown_as_such(open_page: Open, server: RunningServer):
    page = open_page("#task?model=moods&field.text=a+file")
    page.route("**/v1/classify", lambda route: route.fulfill(json=classify_without_labels(route, server)))
    page.locator("#field-0").fill("another file")
    page.get_by_text("Prediction: no label").wait_for()
    page.locator("#task-table").fill("a file")
    page.get_by_role("button", name="Predict the rows").click()
    page.get_by_text("Rows predicted: 1").wait_for()
    assert texts(page.locator("tbody td")) == ["a file", "no label"]


def classify_without_labels(route: Any, server: RunningServer) -> Any:
    answer = server.ask("/v1/classify", json.loads(route.request.post_data)).json
    for row in answer["data"]:
        row["prediction"] = []
    return answer


@browser_test
def test_a_row_of_spaces_has_no_prediction_and_says_why(open_page: Open):
    page = open_page("#task?model=reviews&field.text=+")
    page.get_by_text("The row has no text, so no prediction.").wait_for()
    assert page.get_by_role("button", name="Which words mattered?").is_disabled()


# ---- links


@browser_test
@pytest.mark.parametrize(
    ("link", "heading", "message"),
    [
        ("#constructor", "What comes next?", ""),
        ("#nothing?text=%E0%A4%A", "What comes next?", ""),
        ("#next?model=nobody", "What comes next?", "This server has no model “nobody”. This is books."),
        ("#next?model=books&ids=abc,-1,1e3,", "What comes next?", ""),
        ("#next?model=books&ids=999999999", "What comes next?", "Token ids are 0 to"),
        ("#reading?model=books&text=a+file&token=-1", "How surprising was each token?", ""),
        ("#reading?model=books&text=a+file&token=99999", "How surprising was each token?", ""),
        ("#writing?model=books&temperature=abc&seed=1e99&max_tokens=-3&top_p=2", "Let it write", ""),
        ("#task?model=reviews&field.nothing=1&field.__proto__=2", "What does it predict?", ""),
        ("#task?model=books", "What does it predict?", "not fine-tuned"),
        ("#runs?left=nobody&right=__proto__", "Runs of this server", ""),
    ],
)
def test_a_broken_link_opens_a_view_that_works(open_page: Open, link: str, heading: str, message: str):
    page = open_page(link, refused="999999999" in link)
    page.get_by_role("heading", name=heading).wait_for()
    if message:
        page.get_by_text(message).wait_for()
    else:
        page.wait_for_timeout(500)
        assert texts(page.locator(".problem")) == []
    if "reading" in link:
        assert page.locator(".token[role=option][tabindex='0']").count() == 1
    if "writing" in link:
        page.get_by_role("button", name="Write", exact=True).click()
        page.get_by_text("80 tokens,").wait_for()


# ---- the server


@browser_test
def test_a_server_that_has_gone_is_named_in_every_view(open_page: Open, workspace: Path):
    with server_thread([workspace / "runs/books", workspace / "runs/reviews"]) as leaving:
        page = open_page("#next?model=books", leaving)
        page.wait_for_selector("button.bar-row")
        page.wait_for_timeout(2000)  # the other views have been loaded
    away = page.get_by_text("The server does not answer.")
    page.get_by_label("Text", exact=True).fill("the file")
    away.wait_for()
    for view, heading in (
        ("Reading", "How surprising was each token?"),
        ("Runs", "Runs of this server"),
        ("Writing", "Let it write"),
    ):
        page.get_by_role("link", name=view).click()
        page.get_by_role("heading", name=heading).wait_for()
        if view == "Writing":
            page.get_by_role("button", name="Write", exact=True).click()
        away.wait_for()


@browser_test
def test_a_page_without_a_server_can_be_tried_again(open_page: Open):
    page = open_page("#next?model=books")
    page.route("**/v1/**", lambda route: route.abort())
    page.reload()
    page.get_by_text("The server does not answer.").wait_for()
    page.get_by_role("link", name="Reading").click()
    page.wait_for_timeout(300)
    assert "The server does not answer." in read_words(page)
    page.unroute("**/v1/**")
    page.get_by_role("button", name="Try again").click()
    page.get_by_role("heading", name="How surprising was each token?").wait_for()


@browser_test
def test_a_stream_that_breaks_off_keeps_its_text_and_says_so(open_page: Open, workspace: Path):
    with server_process([workspace / "runs/books"]) as server:
        page = open_page("#writing?model=books&max_tokens=1000&seed=1", server)
        page.get_by_role("button", name="Write", exact=True).click()
        page.locator(".token[role=option]").first.wait_for()
        assert server.process
        server.process.kill()
        page.get_by_text("The connection to the server was lost.").wait_for()
    assert page.locator(".token[role=option]").count() > 0
    assert page.get_by_role("button", name="Stop").is_disabled()


@browser_test
def test_a_busy_server_is_asked_again_before_a_problem_is_shown(open_page: Open):
    page = open_page("#next?model=books")
    page.wait_for_selector("button.bar-row")
    refused: list[str] = []

    def refuse(route: Any, times: float) -> None:
        if len(refused) >= times:
            route.continue_()
            return
        refused.append("")
        route.fulfill(status=429, headers={"Retry-After": "1"}, json=BUSY)

    page.route("**/v1/next", lambda route: refuse(route, 1))
    before = bar_names(page)
    page.get_by_label("Text", exact=True).fill("the file")
    wait_for_page(page, lambda: bar_names(page) != before)
    assert (len(refused), texts(page.locator(".problem"))) == (1, [])
    page.unroute("**/v1/next")
    page.route("**/v1/next", lambda route: refuse(route, 100))
    page.get_by_label("Text", exact=True).fill("a list")
    page.get_by_text("The queue is full").wait_for()


@browser_test
def test_another_model_can_be_chosen_if_one_cannot_be_loaded(open_page: Open):
    page = open_page("#reading?model=books&text=a+file")
    damaged = {"error": {"message": "books: its weights are damaged."}}
    page.route("**/v1/models", lambda route: route.fulfill(json=list_unloaded_models(route)))
    page.route("**/v1/models/books", lambda route: route.fulfill(status=503, json=damaged))
    page.reload()
    page.get_by_text("Books: its weights are damaged.").wait_for()
    page.get_by_label("Model").select_option("reviews")
    page.locator(".token[role=option]").first.wait_for()
    assert texts(page.locator(".problem")) == []


def list_unloaded_models(route: Any) -> Any:
    answer = route.fetch().json()
    return {**answer, "data": [{**model, "details": None} for model in answer["data"]]}


@browser_test
def test_a_key_that_changes_is_asked_for_again(open_page: Open, workspace: Path):
    with server_thread([workspace / "runs/books"], key=b"a-long-key") as locked:
        page = open_page("", locked)
        page.locator("#key").fill("schlüssel")
        page.get_by_role("button", name="Use the key").click()
        page.get_by_text("A key has letters, digits and signs only").wait_for()
        page.locator("#key").fill("a-long-key")
        page.keyboard.press("Enter")
        page.locator("button.bar-row").first.wait_for()
        assert locked.gate
        locked.gate.key = b"another-key"
        page.get_by_label("Text", exact=True).fill("the file")
        page.get_by_text("The server does not accept this key.").wait_for()
        page.locator("#key").fill("another-key")
        page.keyboard.press("Enter")
        page.locator("button.bar-row").first.wait_for()
        assert page.locator("#key").count() == 0
        assert page.get_by_label("Text", exact=True).input_value() == "the file"


# ---- texts


@browser_test
@pytest.mark.parametrize("name", ODD_TEXTS)
def test_odd_texts_fit_on_a_phone_in_every_view(open_page: Open, name: str):
    text = ODD_TEXTS[name]
    for view, field in (
        ("next", "#next-text"),
        ("reading", "#reading-text"),
        ("writing", "#prompt"),
        ("task", "#field-0"),
    ):
        page = open_page(
            f"#{view}?model={'moods' if view == 'task' else 'books'}", width=390, refused=view == "writing"
        )
        page.fill(field, text)
        if view == "writing":
            page.get_by_role("button", name="Write", exact=True).click()
        if view == "task":
            page.fill("#task-table", text)
            page.get_by_role("button", name="Predict the rows").click()
            page.get_by_text("Rows predicted: 1").wait_for()
        page.wait_for_timeout(1000)
        assert all("maximum context length" in problem for problem in texts(page.locator(".problem")))
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
