"""`/v1/classify`, `/v1/next`, `/v1/score`, `/v1/attention` and `/v1/embeddings`."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpt1.generation.continuous import Continuation, TokenScore
from gpt1.generation.sampling import Sampler
from gpt1.inference.predictor import TaskPredictor
from gpt1.inference.scoring import text_measures
from gpt1.inference.streaming import ContinuationText
from gpt1.kernels.attention import split_heads
from gpt1.model.gpt import GPT, Block
from gpt1.serving.completions import check_context, check_ids, check_limit
from gpt1.serving.engine import Engine
from gpt1.serving.errors import ApiError
from gpt1.serving.schemas import AttentionRequest, ClassifyRequest, EmbeddingRequest, NextRequest, ScoreRequest
from gpt1.serving.settings import ServeConfig
from gpt1.tasks.kinds import EncodedExample

MAX_EXPLAINED_ROWS = 16
EMBEDDED_TOKENS = 4096
"""Tokens of the texts that are embedded at a time, while other requests wait."""


def list_response(name: str, data: list[dict[str, Any]], tokens: int) -> dict[str, Any]:
    usage = {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens}
    return {"object": "list", "model": name, "data": data, "usage": usage}


def check_texts(param: str, texts: Sequence[str], config: ServeConfig) -> None:
    check_limit(param, len(texts), config.max_texts, "texts")
    check_limit(param, max(map(len, texts)), config.max_characters, "characters")


# ---- rows


async def classify(request: ClassifyRequest, name: str, engine: Engine, config: ServeConfig) -> dict[str, Any]:
    """Predictions of rows."""
    check_limit("rows", len(request.rows), config.max_texts, "rows")
    check_limit("rows", max(map(count_characters, request.rows)), config.max_characters, "characters")
    if request.explain:
        check_limit("rows", len(request.rows), MAX_EXPLAINED_ROWS, "explained rows")
    with engine.admit(len(request.rows)):
        encoded = await engine.tokenize(engine.encode_rows, request.rows)
        predictions = await engine.predict_encoded(encoded)
        explanations = await engine.explain(request.rows, request.label) if request.explain else None
    data = []
    for index, prediction in enumerate(predictions):
        row = {"index": index, **prediction_json(prediction)}
        if explanations:
            row["explanation"] = explanations[index]
        if request.layout:
            row["layout"] = token_layout(engine.task, encoded[index])
        data.append(row)
    return list_response(name, data, sum(example.tokens for example in encoded))


def count_characters(value: Any) -> int:
    """Characters of a row, in its keys and its values at any depth (the depth of a request is bounded)."""
    if isinstance(value, dict):
        return sum(map(count_characters, [*value, *value.values()]))
    if isinstance(value, list):
        return sum(map(count_characters, value)) + len(value)
    return len(value) if isinstance(value, str) else 1


def prediction_json(prediction: dict[str, Any]) -> dict[str, Any]:
    """`probability_<label>` as `probabilities`; null and a note for a row without text."""
    prefix = "probability_"
    rest = {key: value for key, value in prediction.items() if not key.startswith(prefix)}
    if None in rest.values():
        return {**rest, "note": NO_TEXT}
    probabilities = {key.removeprefix(prefix): p for key, p in prediction.items() if key.startswith(prefix)}
    return rest | ({"probabilities": probabilities} if probabilities else {})


NO_TEXT = "the row has no text, so no prediction"


def token_layout(model: TaskPredictor, example: EncodedExample) -> list[list[str]]:
    """The token sequences of a row as the model reads them (figure 1 of the paper)."""
    return [[model.tokenizer.display_token(id) for id in sequence] for sequence in example.sequences]


# ---- texts


async def next_tokens(request: NextRequest, name: str, engine: Engine, config: ServeConfig) -> dict[str, Any]:
    """The most likely next tokens of a text and `ids`, and these ids as text. Its beginning may be in the cache."""
    check_texts("text", [request.text], config)
    check_limit("ids", len(request.ids), config.max_characters, "ids")
    check_ids(engine.model.tokenizer, request.ids, "ids")
    with engine.admit(1):
        start = await engine.encode_prompt(request.text)
        ids = [*start, *request.ids]
        scores = await score_ids(engine, ids[-engine.model.gpt.config.context :], request.top, new=1)
    show = engine.model.tokenizer.display_token
    data = [{"token": show(id), "id": id, "probability": math.exp(logprob)} for id, logprob in scores[-1].top]
    answer = list_response(name, data, len(ids))
    if not request.ids:
        return answer
    added = ContinuationText(engine.model.tokenizer, start, ends_with_space=request.text[-1:].isspace())
    text = "".join(added.push(TokenScore(id, None)).text for id in request.ids)
    return answer | {"continuation": {"text": text, "tokens": [show(id) for id in request.ids]}}


async def score_ids(engine: Engine, ids: Sequence[int], top: int, new: int = 0) -> list[TokenScore]:
    """The scores of a prompt's tokens, or with `new` of that many greedy tokens after it."""
    stream = engine.stream(Continuation(list(ids), new, Sampler(0), top, score_prompt=not new))
    return [score async for result in stream for score in [*result.prompt, *([result.token] if result.token else [])]]


async def score(request: ScoreRequest, name: str, engine: Engine, config: ServeConfig) -> dict[str, Any]:
    """Log-probability, rank and alternatives of each token of the texts."""
    check_texts("texts", request.texts, config)
    tokenizer = engine.model.tokenizer
    with engine.admit(len(request.texts)):
        encoded = await engine.tokenize(tokenizer.encode_batch, request.texts)
        data = []
        for index, (text, ids) in enumerate(zip(request.texts, encoded, strict=True)):
            scores = await score_long(engine, [tokenizer.newline_id, *ids], request.top)
            measures = text_measures(text, len(ids), sum(token.logprob or 0.0 for token in scores))
            data.append({"index": index, **measures, "tokens": [score_json(engine, token) for token in scores]})
    return list_response(name, data, sum(map(len, encoded)))


async def score_long(engine: Engine, ids: Sequence[int], top: int) -> list[TokenScore]:
    """The scores of all ids but the first. Texts longer than the context are read in windows that overlap by half."""
    context = engine.model.gpt.config.context
    found = (await score_ids(engine, ids[:context], top))[1:]
    while (done := len(found) + 1) < len(ids):
        end = min(len(ids), done + max(1, context // 2))
        window = await score_ids(engine, ids[max(0, end - context) : end], top)
        found += window[-(end - done) :]
    return found


def score_json(engine: Engine, token: TokenScore) -> dict[str, Any]:
    show = engine.model.tokenizer.display_token
    top = [{"token": show(id), "id": id, "log_probability": logprob} for id, logprob in token.top]
    return {"token": show(token.id), "id": token.id, "log_probability": token.logprob, "rank": token.rank, "top": top}


async def attention(request: AttentionRequest, name: str, engine: Engine, config: ServeConfig) -> dict[str, Any]:
    """The attention probabilities of a head: a row for each token, over the tokens up to itself."""
    check_texts("text", [request.text], config)
    gpt = engine.model.gpt
    if gpt.recurrent:
        raise ApiError(400, f"{name} is an LSTM, which has no attention.", param="model")
    check_limit("layer", request.layer + 1, gpt.config.n_layer, "layers")
    check_limit("head", request.head + 1, gpt.config.n_head, "heads")
    with engine.admit(1):
        ids = await engine.encode_prompt(request.text)
        check_context(len(ids), gpt.config.context, "text")
        if request.token is not None:
            check_limit("token", request.token + 1, len(ids), "tokens")
        weights = await engine.call(attention_weights, gpt, ids, request.layer, request.head)
    rows = [[round(p, 6) for p in row[: i + 1]] for i, row in enumerate(weights.tolist())]
    rows = rows if request.token is None else [rows[request.token]]
    tokens = [engine.model.tokenizer.display_token(id) for id in ids]
    return {"model": name, "layer": request.layer, "head": request.head, "tokens": tokens, "weights": rows}


@torch.inference_mode()
def attention_weights(gpt: GPT, ids: Sequence[int], layer: int, head: int) -> Tensor:  # → [time, time]
    """softmax(q kᵀ / √(head width) + mask) of one head (paper, eq. 2)."""
    tokens = torch.tensor([ids], device=gpt.tokens.weight.device)
    h = (gpt.tokens(tokens) + gpt.positions.weight[: len(ids)]).to(gpt.activation_dtype)
    for block in gpt.blocks[:layer]:
        h = block(h)
    block = gpt.blocks[layer]
    assert isinstance(block, Block)
    q, k, _ = split_heads(block.attention.qkv(h), 3, gpt.config.n_head)[:, 0, head].float()  # each [time, head width]
    scores = q @ k.T / math.sqrt(q.shape[-1])
    return scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf).softmax(-1).cpu()


async def embeddings(request: EmbeddingRequest, name: str, engine: Engine, config: ServeConfig) -> dict[str, Any]:
    """A vector for each text, in OpenAI's shape."""
    texts = request.input
    check_texts("input", texts, config)
    if empty := [i for i, text in enumerate(texts) if not text.strip()]:
        raise ApiError(400, f"input[{empty[0]}] has no text.", "invalid_value", "input")
    width = engine.model.gpt.config.n_embd
    if request.dimensions not in (None, width):
        raise ApiError(400, f"the vectors of {name} have {width} dimensions.", "unsupported_value", "dimensions")
    with engine.admit(len(texts)):
        encoded = await engine.tokenize(engine.model.tokenizer.encode_batch, texts)
        found = [await engine.call(engine.model.features, texts[part]) for part in split_texts(list(map(len, encoded)))]
    vectors = np.concatenate(found).astype("<f4")
    as_base64 = request.encoding_format == "base64"
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(vector.tobytes()).decode() if as_base64 else vector.tolist(),
        }
        for index, vector in enumerate(vectors)
    ]
    return list_response(name, data, sum(map(len, encoded)))


def split_texts(lengths: Sequence[int]) -> Iterator[slice]:
    """Parts of a list of texts of these lengths, of at most EMBEDDED_TOKENS tokens, but at least one text."""
    start, tokens = 0, 0
    for end, length in enumerate(lengths):
        if end > start and tokens + length > EMBEDDED_TOKENS:
            yield slice(start, end)
            start, tokens = end, 0
        tokens += length
    yield slice(start, len(lengths))
