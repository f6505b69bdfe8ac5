"""The pieces of a stream add up to the text, and stop strings end it wherever tokens begin."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt1.errors import UserError
from gpt1.inference.language_model import LanguageModel
from gpt1.inference.predictor import load
from gpt1.model.gpt import GPT
from gpt1.tokenization.tokenizer import Tokenizer

HOWS: list[dict[str, Any]] = [{"temperature": 0}, {"seed": 3, "temperature": 1.5}]
every_how = pytest.mark.parametrize("how", HOWS, ids=["greedy", "sampled"])


@pytest.fixture(scope="module")
def model(pretrained_run: Path) -> LanguageModel:
    return load(pretrained_run)


@every_how
def test_a_stream_is_the_text_without_the_prompt(model: LanguageModel, how: dict[str, Any]):
    whole = model.generate("return the", max_tokens=70, **how)  # more than fit into the context
    pieces = list(model.generate("return the", max_tokens=70, stream=True, **how))
    assert "return the" + "".join(pieces) == whole
    assert len(pieces) > 10


@every_how
@pytest.mark.parametrize("pipeline", ["lossless", "original"])
def test_text_ends_before_the_stop_string_however_it_is_tokenized(
    model: LanguageModel, prose: list[str], how: dict[str, Any], pipeline: str
):
    if pipeline == "original":
        model = LanguageModel(model.gpt, Tokenizer.train(prose, 300, "original"))
    prompt = "return the"
    whole = model.generate(prompt, max_tokens=40, **how)
    written = whole.removeprefix(prompt)
    for begin, end in pairwise(range(3, len(written), 4)):  # pieces of four characters span tokens
        stop = written[begin:end]
        expected = prompt + written[: written.find(stop)]
        assert model.generate(prompt, max_tokens=40, stop=[stop], **how) == expected
        assert prompt + "".join(model.generate(prompt, max_tokens=40, stop=stop, stream=True, **how)) == expected


def test_every_text_of_a_batch_ends_at_its_own_stop_string(model: LanguageModel):
    prompts = ["return the", "a list", "", "the file is not"]
    how: dict[str, Any] = {"max_tokens": 30, "temperature": 1.5, "seed": 1}
    whole = model.generate(prompts, **how)
    stop = ["a", "e"]
    expected = []
    for prompt, text in zip(prompts, whole, strict=True):
        new = text.removeprefix(prompt)
        expected.append(prompt + new[: min([new.find(string) for string in stop if string in new] or [len(new)])])
    assert model.generate(prompts, stop=stop, **how) == expected
    assert expected != whole


@every_how
def test_log_probabilities_are_those_of_the_forward_pass(model: LanguageModel, how: dict[str, Any]):
    found = model.generate("return the", max_tokens=12, logprobs=3, **how)
    prompt = model.tokenizer.encode("return the")
    new = [token["id"] for token in found["tokens"]]
    with torch.no_grad():
        logits = model.gpt(torch.tensor([prompt + new]))[0, len(prompt) - 1 : -1].log_softmax(-1)
    assert [token["log_probability"] for token in found["tokens"]] == pytest.approx(
        logits.gather(1, torch.tensor(new)[:, None])[:, 0].tolist(), abs=1e-4
    )
    for token, row in zip(found["tokens"], logits, strict=True):
        assert [one["id"] for one in token["top"]] == row.topk(3).indices.tolist()
        assert [one["log_probability"] for one in token["top"]] == pytest.approx(row.topk(3).values.tolist(), abs=1e-4)
    assert found["text"] == model.generate("return the", max_tokens=12, **how)
    pieces = list(model.generate("return the", max_tokens=12, logprobs=3, stream=True, **how))
    assert [token for piece in pieces for token in piece["tokens"]] == found["tokens"]
    batch = model.generate(["return the", "a"], max_tokens=12, logprobs=3, **how)
    assert batch[0]["text"] == found["text"]
    assert [token["id"] for token in batch[0]["tokens"]] == new


def test_tokens_from_the_stop_string_on_have_no_log_probabilities(model: LanguageModel):
    whole = model.generate("return the", max_tokens=30, temperature=0, logprobs=1)
    stop = whole["text"].removeprefix("return the")[8:10]
    cut = model.generate("return the", max_tokens=30, temperature=0, logprobs=1, stop=stop)
    kept = [token["id"] for token in cut["tokens"]]
    assert kept == [token["id"] for token in whole["tokens"]][: len(kept)]
    assert model.tokenizer.decode(kept).startswith(cut["text"].removeprefix("return the"))
    assert len(kept) < 30


def test_a_draft_model_changes_neither_text_nor_log_probabilities(model: LanguageModel, monkeypatch: Any):
    drafted = LanguageModel(model.gpt, model.tokenizer)
    draft = GPT(model.gpt.config).eval()  # an untrained one, which is nearly always wrong
    monkeypatch.setitem(drafted.__dict__, "decoding_models", (model.gpt, draft))
    how: dict[str, Any] = {"max_tokens": 64, "seed": 1, "logprobs": 2}
    one, other = model.generate("the", **how), drafted.generate("the", **how)
    assert one["text"] == other["text"]
    for a, b in zip(one["tokens"], other["tokens"], strict=True):
        assert a["log_probability"] == pytest.approx(b["log_probability"], abs=1e-4)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"stop": [""]}, "the stop string ''"),
        ({"stop": [3]}, "the stop string 3"),
        ({"stop": 3}, "the stop string 3"),
        ({"logprobs": -1}, "logprobs -1 is not a whole number"),
        ({"max_tokens": -1}, "max_tokens=-1 is not a whole number"),
        ({"max_tokens": "ten"}, "max_tokens='ten' is not a whole number"),
        ({"seed": 1.5}, "seed=1.5 is not a whole number"),
        ({"seed": 2**70}, f"seed={2**70} is not a whole number from 0 to {2**63 - 1}"),
        ({"top_k": 2.5}, "top_k=2.5 is not a whole number"),
        ({"temperature": -1}, "temperature -1"),
        ({"temperature": "hot"}, "temperature hot"),
    ],
)
def test_settings_out_of_range_are_an_error_before_anything_is_generated(
    model: LanguageModel, options: Any, problem: str
):
    with pytest.raises(UserError, match=problem):
        model.generate("a", stream=True, **options)


@pytest.mark.parametrize("text", [None, 5, {"text": "a"}, ["a", None]])
def test_what_is_not_a_text_is_an_error(model: LanguageModel, text: Any):
    for call in (model.generate, model.next_tokens, model.score, model.features):
        with pytest.raises(UserError, match=r"not a string|list of texts"):
            call(text)


def test_a_stream_of_two_prompts_is_an_error(model: LanguageModel):
    with pytest.raises(UserError, match="one prompt, not 2"):
        model.generate(["a", "b"], stream=True)
