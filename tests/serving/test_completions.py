"""`/v1/completions` with the real `openai` client: texts, streams, log-probabilities, errors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from running_server import RunningServer, server_thread

from gpt1.generation import continuous
from gpt1.inference.predictor import LanguageModel, load
from gpt1.serving.completions import token_string
from gpt1.tokenization.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def server(workspace: Path) -> Iterator[RunningServer]:
    with server_thread([workspace / "runs/books", workspace / "runs/reviews"], max_queue=40) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: RunningServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="unused", max_retries=0)


@pytest.fixture(scope="module")
def model(workspace: Path) -> LanguageModel:
    return load(workspace / "runs/books")


def complete(client: openai.OpenAI, prompt: Any, **options: Any) -> Any:
    extra = {key: options.pop(key) for key in ("top_k",) if key in options}
    return client.completions.create(model="books", prompt=prompt, extra_body=extra or None, **options)


def test_a_text_is_continued_as_by_generate(client: openai.OpenAI, model: LanguageModel):
    found = complete(client, "the file", max_tokens=10, temperature=0)
    assert "the file" + found.choices[0].text == model.generate("the file", 10, 0.0)
    assert found.choices[0].finish_reason == "length"
    assert (found.object, found.model) == ("text_completion", "books")
    prompt = len(model.tokenizer.encode("the file"))
    usage = found.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (prompt, 10, prompt + 10)


def test_token_ids_continue_the_text_where_it_was_cut(server: RunningServer, model: LanguageModel):
    request = {"model": "books", "prompt": "the file", "max_tokens": 8, "temperature": 0, "return_token_ids": True}
    (whole,) = server.ask("/v1/completions", request).json["choices"]
    assert whole["prompt_token_ids"] == model.tokenizer.encode("the file")
    assert "the file" + whole["text"] == model.tokenizer.decode(whole["prompt_token_ids"] + whole["token_ids"])
    rest = {**request, "prompt": whole["prompt_token_ids"] + whole["token_ids"][:3], "max_tokens": 5, "stream": True}
    lines = server.ask("/v1/completions", rest).body.decode().split("\n\n")
    parts = [json.loads(line.removeprefix("data: "))["choices"][0] for line in lines if line and "[DONE]" not in line]
    assert [id for part in parts for id in part["token_ids"]] == whole["token_ids"][3:]
    assert [part["prompt_token_ids"] for part in parts] == [rest["prompt"]] + [None] * (len(parts) - 1)


def test_choice_i_uses_seed_plus_i_as_in_generate(client: openai.OpenAI, model: LanguageModel):
    prompts = ["the file", "a list of "]
    found = complete(client, prompts, max_tokens=6, temperature=0.9, top_p=0.95, top_k=30, seed=7, n=2)
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
    for i, choice in enumerate(found.choices):
        prompt = prompts[i // 2]
        assert prompt + choice.text == model.generate(prompt, 6, 0.9, 30, 0.95, seed=7 + i)


def test_texts_and_their_ids_are_the_same_prompts(client: openai.OpenAI, model: LanguageModel):
    texts = ["the file", "a list"]
    ids = [model.tokenizer.encode(text) for text in texts]
    expected = [complete(client, text, max_tokens=5, temperature=0).choices[0].text for text in texts]
    for prompt in (texts, ids):
        found = complete(client, prompt, max_tokens=5, temperature=0)
        assert [choice.text for choice in found.choices] == expected
    assert complete(client, ids[0], max_tokens=5, temperature=0).choices[0].text == expected[0]


@pytest.mark.parametrize(
    "options", [{}, {"stop": ["e"]}, {"logprobs": 2}, {"echo": True}, {"echo": True, "logprobs": 1}]
)
def test_a_stream_joins_to_the_answer(client: openai.OpenAI, options: dict[str, Any]):
    given = {"max_tokens": 12, "temperature": 1, "seed": 3, "n": 2, **options}
    whole = complete(client, ["the file", "a"], **given)
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(complete(client, ["the file", "a"], **given, **usage))
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1
    for choice in whole.choices:
        parts = [part for chunk in chunks for part in chunk.choices if part.index == choice.index]
        assert "".join(part.text for part in parts) == choice.text
        assert [part.finish_reason for part in parts][-1] == choice.finish_reason
        if "logprobs" in options:
            for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
                joined = [item for part in parts for item in getattr(part.logprobs, name)]
                assert joined == getattr(choice.logprobs, name)


def test_a_text_ends_before_its_stop_string(client: openai.OpenAI):
    whole = complete(client, "the file", max_tokens=20, temperature=0).choices[0].text
    stop = whole[5:8]
    choice = complete(client, "the file", max_tokens=20, temperature=0, stop=stop, logprobs=0).choices[0]
    assert choice.text == whole[: whole.find(stop)]
    assert choice.finish_reason == "stop"
    assert all(offset < len("the file") + len(choice.text) for offset in choice.logprobs.text_offset)


@torch.no_grad()
@pytest.mark.parametrize("max_tokens", [0, 1])
def test_echoed_log_probabilities_are_those_of_the_forward_pass(
    client: openai.OpenAI, model: LanguageModel, max_tokens: int
):
    """As lm-eval's `local-completions` asks: the sum over a continuation, and whether it is the greedy one."""
    text = "Return the first name of the list."
    options: Any = {"max_tokens": max_tokens, "temperature": 0, "logprobs": 3, "echo": True}
    choice = complete(client, text, **options).choices[0]
    ids = model.tokenizer.encode(text)
    expected = model.gpt(torch.tensor([ids]))[0].log_softmax(-1)
    logprobs = choice.logprobs
    assert len(logprobs.tokens) == len(ids) + max_tokens
    assert (logprobs.token_logprobs[0], logprobs.top_logprobs[0]) == (None, None)
    for i in range(1, len(ids)):
        assert logprobs.token_logprobs[i] == pytest.approx(float(expected[i - 1, ids[i]]), abs=1e-5)
        top = logprobs.top_logprobs[i]
        assert 3 <= len(top) <= 4
        assert max(top.values()) == pytest.approx(float(expected[i - 1].max()), abs=1e-5)
        assert (logprobs.token_logprobs[i] == max(top.values())) == (int(expected[i - 1].argmax()) == ids[i])
    assert "".join(logprobs.tokens) == choice.text
    assert choice.text.startswith(text)
    assert logprobs.text_offset == [len("".join(logprobs.tokens[:i])) for i in range(len(logprobs.tokens))]


def test_an_echo_that_is_scored_in_several_steps_has_every_character(workspace: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(continuous, "BLOCK", 4)
    text = "日本語 😀 é"  # characters of several tokens: steps begin within some
    with server_thread([workspace / "runs/books"], step_tokens=4) as server:
        answer = server.ask("/v1/completions", {"prompt": text, "max_tokens": 0, "logprobs": 0, "echo": True})
    (choice,) = answer.json["choices"]
    assert choice["text"] == text
    offsets = choice["logprobs"]["text_offset"]
    assert len(offsets) > 8
    assert offsets == sorted(offsets)


def test_the_tokens_after_an_empty_text_begin_at_0(client: openai.OpenAI):
    for echo in (False, True):
        choice = complete(client, "", max_tokens=6, temperature=0, logprobs=0, echo=echo).choices[0]
        tokens = choice.logprobs.tokens
        assert choice.logprobs.text_offset == [len("".join(tokens[:i])) for i in range(len(tokens))]


def test_an_empty_text_has_no_echo(client: openai.OpenAI):
    assert complete(client, "", max_tokens=0, echo=True).choices[0].text == ""
    choice = complete(client, "", max_tokens=2, echo=True, logprobs=0, temperature=0).choices[0]
    assert len(choice.logprobs.tokens) == 2
    assert choice.text == complete(client, "", max_tokens=2, temperature=0).choices[0].text


def test_a_text_of_the_original_pipeline_continues_with_a_space(workspace: Path, tmp_path: Path):
    from gpt1.inference.convert import import_model

    import_model("huggingface", workspace / "theirs", tmp_path / "theirs")
    with server_thread([tmp_path / "theirs"]) as server:
        ask = {"prompt": "Return the", "max_tokens": 6, "temperature": 0}
        plain = server.ask("/v1/completions", ask).json["choices"][0]["text"]
        echoed = server.ask("/v1/completions", {**ask, "echo": True, "logprobs": 1}).json["choices"][0]
        expected = load(tmp_path / "theirs").generate("Return the", 6, 0.0)
        assert "Return the" + plain == expected
        assert echoed["text"] == "return the" + plain
        for offset, token in zip(echoed["logprobs"]["text_offset"], echoed["logprobs"]["tokens"], strict=True):
            assert echoed["text"][offset:].lstrip().startswith(token.strip())


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"prompt": "a", "model": "nobody"}, "model_not_found", "no model 'nobody'"),
    ({"prompt": []}, "value_error", "prompt: the list is empty"),
    ({"prompt": 7}, "value_error", "prompt: use a text"),
    ({"prompt": ["a", 1]}, "value_error", "use a text"),
    ({"prompt": [[]]}, "value_error", "use a text"),
    ({"prompt": [[10**9]]}, "invalid_token", "token ids are 0 to"),
    ({"prompt": "a", "max_tokens": -1}, "greater_than_equal", "max_tokens"),
    ({"prompt": "a", "max_tokens": 10**6}, "limit_exceeded", "new tokens; the limit is 4,096"),
    ({"prompt": "a", "temperature": "hot"}, "float_type", "temperature"),
    ({"prompt": "a", "n": 513}, "limit_exceeded", "513 texts"),
    ({"prompt": "a " * 200}, "context_length_exceeded", "maximum context length is 32"),
    ({"prompt": "a" * 200_000}, "limit_exceeded", "200,000 characters"),
    ({"prompt": "a", "stop": ["x"] * 17}, "too_long", "stop"),
    ({"prompt": "a", "stop": ""}, "string_too_short", "stop"),
    ({"prompt": "a", "logprobs": 21}, "less_than_equal", "logprobs"),
    ({"prompt": "a", "best_of": 3}, "unsupported_value", "best_of"),
    ({"prompt": "a", "presence_penalty": 0.5}, "less_than_equal", "presence_penalty"),
    ({"prompt": "a", "made_up": 1}, "unknown_field", "there is no field 'made_up'"),
    ({"prompt": "a", "seed": 2**53}, "less_than_equal", "seed"),
    ({"prompt": "a", "stream": "yes"}, "bool_type", "stream"),
    ({}, "missing", "prompt"),
]


@pytest.mark.parametrize(("content", "code", "words"), WRONG, ids=[code for _, code, _ in WRONG])
def test_a_wrong_request_is_one_error_that_names_the_field(server: RunningServer, content: Any, code: str, words: str):
    answer = server.ask("/v1/completions", content)
    assert answer.status == (404 if code == "model_not_found" else 400)
    assert answer.error["code"] == code
    assert words in answer.error["message"]
    assert answer.error["type"] in ("invalid_request_error", "not_found_error")


def test_a_model_with_damaged_weights_is_unavailable(workspace: Path, tmp_path: Path):
    shutil.copytree(workspace / "runs/books/model", tmp_path / "books")
    model = load(tmp_path / "books")
    with torch.no_grad():
        model.gpt.tokens.weight.fill_(3e38)  # NaN is refused when the model is loaded
    shutil.rmtree(tmp_path / "books")
    model.gpt.save(tmp_path / "books")
    model.tokenizer.save(tmp_path / "books")
    with server_thread([tmp_path / "books"]) as server:
        for path, content in (("completions", {"prompt": "a"}), ("next", {"text": "a"})):
            answer = server.ask(f"/v1/{path}", content)
            assert (answer.status, answer.error["code"]) == (503, "model_unavailable")
            assert answer.error["message"] == "the model's logits are not finite."


def test_the_client_raises_its_own_errors(client: openai.OpenAI):
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        complete(client, "a " * 100, logprobs=0, echo=True)
    with pytest.raises(openai.NotFoundError, match="no model"):
        client.completions.create(model="nobody", prompt="a")
    with pytest.raises(openai.BadRequestError, match="exceed the queue of 40 places"):
        complete(client, ["a"] * 41)


def test_the_queue_recovers_when_clients_leave(server: RunningServer, client: openai.OpenAI):
    streams = [complete(client, ["the"] * 20, max_tokens=4000, stream=True) for _ in range(2)]
    for stream in streams:
        next(iter(stream))
    answer = server.ask("/v1/completions", {"prompt": "a"})
    assert answer.status == 429
    assert int(answer.headers["retry-after"]) >= 1
    with pytest.raises(openai.RateLimitError, match="queue is full"):
        complete(client, "a")
    for stream in streams:
        stream.close()
    while (answer := server.ask("/v1/completions", {"prompt": "a", "max_tokens": 1})).status == 429:
        continue
    assert answer.status == 200


def test_every_token_of_the_lossless_vocabulary_has_a_name_of_its_own():
    tokenizer = Tokenizer.train(["naïve café ☃ 한국어"], vocab_size=290, pipeline="lossless")
    assert len({token_string(tokenizer, i) for i in range(tokenizer.vocab_size)}) == tokenizer.vocab_size
