"""Scores of texts agree with the plain forward pass; long texts are read in overlapping windows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt1.config import GPTConfig
from gpt1.errors import UserError
from gpt1.inference.language_model import LanguageModel
from gpt1.inference.predictor import load
from gpt1.inference.scoring import overlapping_windows, surprising_words
from gpt1.model.gpt import GPT
from gpt1.tokenization.tokenizer import Tokenizer

CONTEXT = 32
some = settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def model(pretrained_run: Path) -> LanguageModel:
    return load(pretrained_run)


def plain_log_probabilities(gpt: GPT, ids: list[int]) -> torch.Tensor:
    """log P of each token but the first, by the model's forward pass."""
    if len(ids) == 1:
        return torch.zeros(0, dtype=torch.float64)
    with torch.no_grad():
        logits = gpt(torch.tensor([ids[:-1]], dtype=torch.int64))[0]
    return logits.double().log_softmax(-1).gather(1, torch.tensor(ids[1:], dtype=torch.int64)[:, None])[:, 0]


@some
@given(texts=st.lists(st.text("abcdefgh .\nλ", max_size=25), min_size=1, max_size=6))
def test_the_score_of_a_text_is_that_of_the_forward_pass(model: LanguageModel, texts: list[str]):
    for text, score in zip(texts, model.score(texts), strict=True):
        ids = model.tokenizer.encode(text)
        assert [token["id"] for token in score["tokens"]] == ids
        expected = plain_log_probabilities(model.gpt, [model.tokenizer.newline_id, *ids])
        found = [token["log_probability"] for token in score["tokens"]]
        assert found == pytest.approx(expected.tolist(), abs=1e-5)
        assert score["log_probability"] == pytest.approx(float(expected.sum()), abs=1e-5)
        if ids:
            assert score["perplexity"] == pytest.approx(math.exp(-expected.mean()), rel=1e-5)
            bits = -float(expected.sum()) / math.log(2) / len(text.encode())
            assert score["bits_per_byte"] == pytest.approx(bits, rel=1e-5)
        else:
            assert (score["perplexity"], score["bits_per_byte"]) == (None, None)


@given(length=st.integers(1, 200), context=st.integers(1, 40), data=st.data())
def test_windows_cover_every_position_once_with_enough_before_it(length: int, context: int, data: Any):
    stride = data.draw(st.integers(1, context))
    windows = overlapping_windows(length, context, stride)
    new = [position for _, first, stop in windows for position in range(first, stop)]
    assert new == list(range(length))
    for start, first, stop in windows:
        assert 0 < stop - start <= context
        assert start == 0 or first - start >= context - stride


@pytest.mark.parametrize("stride", [1, 7, 32, None])
def test_a_long_text_is_scored_in_windows_that_move_by_the_stride(model: LanguageModel, stride: int | None):
    text = "the list of the files is a list, not a path. " * 5
    (score,) = model.score([text], stride=stride)
    ids = [model.tokenizer.newline_id, *model.tokenizer.encode(text)]
    assert len(ids) > 2 * CONTEXT
    expected: list[float] = []
    for start, first, stop in overlapping_windows(len(ids) - 1, CONTEXT, stride or CONTEXT // 2):
        own = plain_log_probabilities(model.gpt, ids[start : stop + 1])
        expected += own[first - start :].tolist()
    assert [token["log_probability"] for token in score["tokens"]] == pytest.approx(expected, abs=1e-5)


def test_a_stride_out_of_range_is_an_error(model: LanguageModel):
    for stride in (0, 33, "5", 2.5):
        with pytest.raises(UserError, match=f"stride={stride!r} is not a whole number from 1 to 32"):
            model.score(["a"], stride=stride)


@pytest.mark.parametrize("texts", ["a text", {"text": "a"}, [3], [None], pd.DataFrame({"text": ["a"]})])
def test_anything_but_a_list_of_texts_is_an_error(model: LanguageModel, texts: Any):
    for ask in (model.score, model.features):
        with pytest.raises(UserError):
            ask(texts)


def test_a_series_gives_a_frame_with_its_index(model: LanguageModel):
    texts = ["a list", "the file"]
    expected = [score["log_probability"] for score in model.score(texts)]
    frame = model.score(pd.Series(texts, index=[5, 7]))
    assert list(frame.index) == [5, 7]
    assert frame["log_probability"].tolist() == expected
    assert model.score(pl.Series(texts))["log_probability"].to_list() == expected
    assert model.features(pl.Series(texts)).shape == (2, 32)
    with pytest.raises(UserError, match="missing"):
        model.score(pd.Series(["a", None]))


@some
@given(texts=st.lists(st.text("abc def", max_size=20), min_size=1, max_size=5))
def test_features_of_a_pretrained_model_are_the_mean_of_the_states(model: LanguageModel, texts: list[str]):
    found = model.features(texts)
    assert found.dtype == np.float32
    for text, own in zip(texts, found, strict=True):
        if not text.strip():
            assert np.isnan(own).all()
            continue
        ids = model.tokenizer.encode(text)
        with torch.no_grad():
            expected = model.gpt.hidden_states(torch.tensor([ids]))[0].mean(0)
        np.testing.assert_allclose(own, expected, atol=1e-5)


def test_no_texts_have_no_scores_and_no_features(model: LanguageModel):
    assert model.score([]) == []
    assert model.features([]).shape == (0, 32)


def test_an_lstm_scores_texts(tokenizer: Tokenizer):
    config = GPTConfig(300, n_layer=1, n_head=1, n_embd=16, context=16, architecture="lstm", lstm_units=8)
    model = LanguageModel(GPT(config).eval(), tokenizer)
    (short, long) = model.score(["a list", "a list of the files " * 4])
    ids = [tokenizer.newline_id, *tokenizer.encode("a list")]
    assert short["log_probability"] == pytest.approx(float(plain_log_probabilities(model.gpt, ids).sum()), abs=1e-5)
    assert long["log_probability"] < short["log_probability"]


@pytest.mark.parametrize("pipeline", ["lossless", "original"])
def test_the_words_of_a_score_add_up_to_the_text_and_its_bits(
    pipeline: str, pretrained_run: Path, prose: list[str], model: LanguageModel
):
    tokenizer = model.tokenizer if pipeline == "lossless" else Tokenizer.train(prose, 300, "original")
    model = LanguageModel(model.gpt, tokenizer)
    text = "the zebra of the list"
    (score,) = model.score([text])
    words = surprising_words(score, tokenizer)
    assert "".join(word for word, _ in words) == text
    assert [word.strip() for word, _ in words] == text.split()
    assert sum(bits for _, bits in words) == pytest.approx(-score["log_probability"] / math.log(2))
