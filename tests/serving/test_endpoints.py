"""The other endpoints of the API: rows, next tokens, scores, attention, embeddings, models, runs, documentation."""

from __future__ import annotations

import asyncio
import base64
import math
import shutil
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families
from running_server import RunningServer, request_bytes, server_thread, wait_for

from gpt1.inference.predictor import LanguageModel, TaskPredictor, load
from gpt1.serving import endpoints, models

TEXT = "Return the first name of the list."


@pytest.fixture(scope="module")
def server(workspace: Path) -> Iterator[RunningServer]:
    with server_thread([workspace / "runs/books", workspace / "runs/reviews"]) as server:
        yield server


@pytest.fixture(scope="module")
def model(workspace: Path) -> LanguageModel:
    return load(workspace / "runs/books")


@pytest.fixture(scope="module")
def task(workspace: Path) -> TaskPredictor:
    found = load(workspace / "runs/reviews")
    assert isinstance(found, TaskPredictor)
    return found


def ask_data(server: RunningServer, path: str, content: Any) -> Any:
    answer = server.ask(path, content)
    assert answer.status == 200, answer.body
    return answer.json["data"]


# ---- rows


def test_rows_get_the_predictions_of_predict(server: RunningServer, task: TaskPredictor):
    rows: list[Any] = ["the file is valid", {"text": "the list is broken"}, {"text": "x", "more": [1, {"a": None}]}]
    found = ask_data(server, "/v1/classify", {"model": "reviews", "rows": rows})
    for index, (row, expected) in enumerate(zip(found, task.predict(rows), strict=True)):
        assert (row["index"], row["prediction"]) == (index, expected["prediction"])
        for label, probability in row["probabilities"].items():
            assert probability == pytest.approx(expected[f"probability_{label}"], abs=1e-5)
        assert sum(row["probabilities"].values()) == pytest.approx(1)


def test_a_row_without_text_gets_no_prediction(server: RunningServer, task: TaskPredictor):
    found = ask_data(
        server, "/v1/classify", {"model": "reviews", "rows": [" ", "a file", {"text": ""}], "explain": True}
    )
    assert [row["prediction"] is None for row in found] == [True, False, True]
    assert found[0]["note"] == "the row has no text, so no prediction"
    assert "probabilities" not in found[0]
    assert (found[0]["explanation"]["prediction"], found[0]["explanation"]["words"]) == (None, [])
    assert "note" not in found[1]
    refused = server.ask("/v1/embeddings", {"input": ["a", " "]})
    assert (refused.status, refused.error["param"]) == (400, "input")
    assert refused.error["message"] == "input[1] has no text."


def test_the_layout_is_that_of_figure_1(server: RunningServer, task: TaskPredictor):
    (row,) = ask_data(server, "/v1/classify", {"model": "reviews", "rows": ["a file"], "layout": True})
    (sequence,) = row["layout"]
    assert (sequence[0], sequence[-1]) == ("<start>", "<extract>")
    assert sequence[1:-1] == [task.tokenizer.display_token(id) for id in task.tokenizer.encode("a file")]


def test_an_explanation_is_that_of_explain(server: RunningServer, task: Any):
    (row,) = ask_data(server, "/v1/classify", {"model": "reviews", "rows": ["the file is valid"], "explain": True})
    (expected,) = task.explain(["the file is valid"])
    assert [word["word"] for word in row["explanation"]["words"]] == [word["word"] for word in expected["words"]]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"rows": ["a"]}, "not fine-tuned"),
        ({"model": "reviews", "rows": [{"wrong": "a"}]}, "rows[0]"),
        ({"model": "reviews", "rows": []}, "rows"),
        ({"model": "reviews", "rows": ["a"] * 513}, "513 rows; the limit is 512"),
        ({"model": "reviews", "rows": [["a"]]}, "rows.0"),
        ({"model": "reviews", "rows": [{"text": "a" * 100_001}]}, "the limit is 100,000"),
        ({"model": "reviews", "rows": ["a"] * 17, "explain": True}, "17 explained rows"),
    ],
)
def test_a_wrong_row_is_one_error(server: RunningServer, content: Any, words: str):
    answer = server.ask("/v1/classify", content)
    assert answer.status == 400
    assert words in answer.error["message"]


# ---- texts


@pytest.mark.parametrize(
    ("path", "content", "status"),
    [
        ("/v1/next", {"model": "\ud800", "text": "a"}, 404),
        ("/v1/classify", {"model": "reviews", "rows": [{"\ud800": "a"}]}, 400),
        ("/v1/classify", {"model": "reviews", "rows": ["a"], "explain": True, "label": "\ud800"}, 400),
        ("/v1/classify", {"model": "reviews", "rows": ["a \ud800"], "explain": True}, 200),
    ],
)
def test_a_lone_surrogate_that_comes_back_is_a_question_mark(
    server: RunningServer, path: str, content: Any, status: int
):
    answer = server.ask(path, content)
    assert answer.status == status
    assert "?" in answer.body.decode()


def test_next_tokens_are_those_of_the_model(server: RunningServer, model: LanguageModel):
    for text in (TEXT, "", TEXT * 10):
        found = ask_data(server, "/v1/next", {"text": text, "top": 5})
        expected = model.top_next_tokens(text, 5)
        assert [(row["token"], row["id"]) for row in found] == [(token, id) for token, id, _ in expected]
        assert [row["probability"] for row in found] == pytest.approx([p for _, _, p in expected], abs=1e-5)


@torch.no_grad()
def test_ids_follow_the_text_and_come_back_as_text(server: RunningServer, model: LanguageModel):
    ids = model.tokenizer.encode(TEXT)
    for split in (1, 3):
        text = model.tokenizer.decode(ids[:split])
        assert model.tokenizer.encode(text) == ids[:split]
        found = server.ask("/v1/next", {"text": text, "ids": ids[split:], "top": 3}).json
        assert text + found["continuation"]["text"] == model.tokenizer.decode(ids)
        assert found["continuation"]["tokens"] == [model.tokenizer.display_token(id) for id in ids[split:]]
        expected = model.gpt(torch.tensor([ids]))[0, -1].log_softmax(-1).topk(3).indices.tolist()
        assert [row["id"] for row in found["data"]] == expected
    assert "continuation" not in server.ask("/v1/next", {"text": TEXT}).json
    wrong = server.ask("/v1/next", {"text": "a", "ids": [model.tokenizer.vocab_size]})
    assert (wrong.status, wrong.error["code"], wrong.error["param"]) == (400, "invalid_token", "ids")


@torch.no_grad()
def test_scores_are_those_of_the_forward_pass(server: RunningServer, model: LanguageModel):
    first, empty = ask_data(server, "/v1/score", {"texts": [TEXT, ""], "top": 2})
    ids = [model.tokenizer.newline_id, *model.tokenizer.encode(TEXT)]
    expected = model.gpt(torch.tensor([ids]))[0].log_softmax(-1)
    own = [float(expected[i, id]) for i, id in enumerate(ids[1:])]
    assert [token["log_probability"] for token in first["tokens"]] == pytest.approx(own, abs=1e-5)
    assert first["log_probability"] == pytest.approx(sum(own), abs=1e-4)
    assert first["perplexity"] == pytest.approx(math.exp(-sum(own) / len(own)), rel=1e-4)
    assert first["bits_per_byte"] == pytest.approx(-sum(own) / math.log(2) / len(TEXT), rel=1e-4)
    for i, token in enumerate(first["tokens"]):
        assert token["rank"] == 1 + int((expected[i] > expected[i, ids[i + 1]]).sum())
        assert [other["id"] for other in token["top"]] == expected[i].topk(2).indices.tolist()
    assert (empty["log_probability"], empty["perplexity"], empty["tokens"]) == (0, None, [])


@torch.no_grad()
def test_each_token_of_a_long_text_is_scored_once_with_at_least_half_a_context(
    server: RunningServer, model: LanguageModel
):
    text = TEXT * 9
    (found,) = ask_data(server, "/v1/score", {"texts": [text]})
    ids, context = [model.tokenizer.newline_id, *model.tokenizer.encode(text)], model.gpt.config.context
    assert [token["id"] for token in found["tokens"]] == ids[1:]
    assert len(ids) > 3 * context
    for i in range(1, len(ids)):
        likely = [
            float(model.gpt(torch.tensor([ids[start:i]]))[0, -1].log_softmax(-1)[ids[i]])
            for start in ({max(0, i - n) for n in range(context // 2, context + 1)} if i >= context else {0})
        ]
        assert min(abs(found["tokens"][i - 1]["log_probability"] - p) for p in likely) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize(("layer", "head"), [(0, 1), (1, 0)])
def test_attention_is_that_inside_the_model(server: RunningServer, model: LanguageModel, layer: int, head: int):
    seen: list[torch.Tensor] = []
    block: Any = model.gpt.blocks[layer]
    handle = block.attention.qkv.register_forward_hook(lambda module, given, out: seen.append(out))
    ids = model.tokenizer.encode(TEXT)
    model.gpt(torch.tensor([ids]))
    handle.remove()
    width = model.gpt.config.n_embd // model.gpt.config.n_head
    q, k, _ = (part[0, :, head * width : (head + 1) * width] for part in seen[0].chunk(3, -1))
    found = server.ask("/v1/attention", {"text": TEXT, "layer": layer, "head": head}).json
    assert found["tokens"] == [model.tokenizer.display_token(id) for id in ids]
    for i, row in enumerate(found["weights"]):
        expected = (q[i] @ k[: i + 1].T / math.sqrt(width)).softmax(-1)
        assert row == pytest.approx(expected.tolist(), abs=1e-5)
    one = server.ask("/v1/attention", {"text": TEXT, "layer": layer, "head": head, "token": 4}).json
    assert one["weights"] == [found["weights"][4]]
    for wrong in ({"layer": 2}, {"head": 2}, {"token": 999}, {"text": TEXT * 20}):
        assert server.ask("/v1/attention", {"text": TEXT, **wrong}).status == 400


def test_embeddings_are_features_in_the_shape_of_openai(server: RunningServer, model: Any):
    texts = [TEXT, "a list"]
    expected = model.features(texts)
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="unused")
    found = client.embeddings.create(model="books", input=texts)  # base64
    for row, vector in zip(found.data, expected, strict=True):
        assert np.allclose(row.embedding, vector, atol=1e-5)
    plain = ask_data(server, "/v1/embeddings", {"input": TEXT, "encoding_format": "float"})
    assert np.allclose(plain[0]["embedding"], expected[0], atol=1e-5)
    encoded = ask_data(server, "/v1/embeddings", {"input": TEXT, "encoding_format": "base64"})
    assert np.allclose(np.frombuffer(base64.b64decode(encoded[0]["embedding"]), "<f4"), expected[0], atol=1e-5)
    assert server.ask("/v1/embeddings", {"input": TEXT, "dimensions": 3}).error["code"] == "unsupported_value"


def test_many_texts_are_embedded_in_parts_between_which_others_get_answers(server: RunningServer, monkeypatch):
    texts = [TEXT, "a list of " * 40, "a", "the file " * 30]
    (whole, alone) = (ask_data(server, "/v1/embeddings", {"input": part}) for part in (texts, texts[:1]))
    calls: list[int] = []
    assert server.models
    model = asyncio.run(server.models.get("books"))[1].model
    monkeypatch.setattr(endpoints, "EMBEDDED_TOKENS", 30)
    monkeypatch.setattr(model, "features", lambda part: calls.append(len(part)) or type(model).features(model, part))
    in_parts = ask_data(server, "/v1/embeddings", {"input": texts})
    assert len(calls) > 1
    assert sum(calls) == len(texts)
    for one, other in zip(in_parts, whole, strict=True):
        assert np.allclose(one["embedding"], other["embedding"], atol=1e-5)
    assert np.allclose(whole[0]["embedding"], alone[0]["embedding"], atol=1e-5)


# ---- what is served


def test_models_are_listed_with_their_tasks(server: RunningServer):
    books, reviews = ask_data(server, "/v1/models", None)
    assert (books["id"], books["details"]["task"], books["details"]["context"]) == ("books", None, 32)
    task = {"kind": "classification", "columns": {"text": "text"}, "labels": ["no", "yes"], "thresholds": None}
    assert reviews["details"]["task"] == task
    assert server.ask("/v1/models/reviews").json == reviews
    assert server.ask("/v1/models/nobody").status == 404


def test_models_of_a_folder_of_runs_are_loaded_when_they_are_used(workspace: Path):
    with server_thread([workspace / "runs"]) as server:
        loaded = {model["id"]: model["loaded"] for model in ask_data(server, "/v1/models", None)}
        assert loaded.keys() >= {"books", "reviews"}
        assert not any(loaded.values())
        assert ask_data(server, "/v1/classify", {"model": "reviews", "rows": ["a"]})
        loaded = {model["id"]: model["loaded"] for model in ask_data(server, "/v1/models", None)}
        assert [name for name, is_loaded in loaded.items() if is_loaded] == ["reviews"]


def test_clients_that_leave_while_a_model_is_loaded_share_one_copy(workspace: Path, monkeypatch: pytest.MonkeyPatch):
    loads, ready = list[Any](), threading.Event()

    def load_slowly(*arguments: Any) -> LanguageModel:
        loads.append(arguments)
        ready.wait(30)
        return load(*arguments)

    monkeypatch.setattr(models, "load", load_slowly)
    with server_thread([workspace / "runs"]) as server:
        assert server.gate
        for _ in range(3):
            with server.connect() as connection:
                connection.sendall(request_bytes("/v1/next", {"model": "books", "text": "a"}))
                wait_for(lambda: loads and server.gate.in_flight)
            wait_for(lambda: not server.gate.in_flight)
        ready.set()
        assert server.ask("/v1/next", {"model": "books", "text": "a"}).status == 200
        assert len(loads) == 1


def test_a_damaged_model_is_an_error_503_whose_reason_only_the_log_has(workspace: Path, tmp_path: Path):
    shutil.copytree(workspace / "runs/books", tmp_path / "runs/books")
    with server_thread([tmp_path / "runs"]) as server:
        weights = tmp_path / "runs/books/model/model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"x")
        for _ in range(2):
            answer = server.ask("/v1/next", {"model": "books", "text": "a"})
            assert (answer.status, answer.error["code"]) == (503, "model_unavailable")
            assert str(tmp_path) not in answer.body.decode()
        assert any(str(weights) in line for line in server.log)


def test_runs_are_listed_with_their_results_and_reports(server: RunningServer):
    books, reviews = ask_data(server, "/v1/runs", None)
    assert (books["id"], books["stage"], reviews["stage"]) == ("books", "pretrain", "finetune")
    assert books["results"]["validation"]["loss"] > 0
    assert books["report"]
    page = server.ask("/v1/runs/books/report")
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    assert b"<html" in page.body
    assert server.ask("/v1/runs/nobody/report").status == 404


class PageReader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value or "" for name, value in attrs if name == "href"]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_documentation_needs_no_script_and_no_network_and_names_every_endpoint(server: RunningServer):
    page, schema = PageReader(), server.ask("/openapi.json").json
    page.feed(server.ask("/docs").body.decode())
    assert not page.tags & {"script", "style", "img"}
    assert all("//" not in link for link in page.links)
    assert not page.attributes & {"style", "onclick", "src"}
    assert all(f"{method.upper()} {path}" in page.text for path, found in schema["paths"].items() for method in found)
    assert "built-in" not in page.text
    assert all(name in page.text for name in ("max_tokens", "logprobs", "integer 0…20"))


def test_health_and_metrics_endpoints_answer(server: RunningServer):
    assert server.ask("/health/live").json == {"status": "ok"}
    assert server.ask("/health/ready").json == {"status": "ok", "models": 2}
    before = read_metrics(server)
    ask_data(server, "/v1/next", {"text": TEXT})
    server.ask("/v1/completions", {"prompt": "a", "max_tokens": 7, "temperature": 0})
    server.ask("/v1/classify", {"model": "reviews", "rows": ["a", "b"]})
    after = read_metrics(server)

    def metric_increase(name: str, **labels: str) -> float:
        key = (name, tuple(sorted(labels.items())))
        return after.get(key, 0) - before.get(key, 0)

    assert metric_increase("gpt1_requests_total", endpoint="/v1/next", status="200") == 1
    assert metric_increase("gpt1_tokens_total", model="books", kind="generated") == 8
    assert metric_increase("gpt1_request_seconds_count", endpoint="/v1/completions") == 1
    assert metric_increase("gpt1_first_token_seconds_count", model="books") == 1
    assert metric_increase("gpt1_batch_size_sum", model="reviews") == 2
    assert after["gpt1_queue", (("model", "books"),)] == 0


def read_metrics(server: RunningServer) -> dict[Any, float]:
    families = text_string_to_metric_families(server.ask("/metrics").body.decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_the_log_has_a_line_for_each_request_and_none_of_their_texts(server: RunningServer):
    secret = "the-secret-of-the-user"
    wait_for(lambda: server.gate and not server.gate.in_flight)  # a line is written after the response
    server.log.clear()
    server.ask("/v1/completions", {"prompt": secret, "max_tokens": 1})
    server.ask("/v1/next", {"text": secret, secret: 1})
    server.ask(f"/{secret}?{secret}", headers={"User-Agent": secret})
    wait_for(lambda: server.gate and not server.gate.in_flight)
    assert len(server.log) == 3
    assert secret not in "".join(server.log)
