"""`POST /v1/completions`, as OpenAI's clients expect it."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import JSONResponse, Response, StreamingResponse

from gpt1.generation.continuous import Continuation, TokenScore
from gpt1.inference.streaming import ContinuationText, PlacedToken
from gpt1.serving.engine import Engine
from gpt1.serving.errors import ApiError, api_error
from gpt1.serving.metrics import Metrics
from gpt1.serving.schemas import CompletionRequest
from gpt1.serving.settings import ServeConfig
from gpt1.tokenization.tokenizer import Tokenizer

DEFAULT_MAX_TOKENS = 16


@dataclass(frozen=True)
class PromptTokens:
    """A prompt as tokens. The newline that stands for an empty text is not shown."""

    ids: list[int]
    shown: bool = True
    ends_with_space: bool = False


@dataclass
class ChoicePart:
    """A part of a choice, ready to be sent."""

    index: int
    text: str = ""
    tokens: list[PlacedToken] = field(default_factory=list)
    finish_reason: str | None = None
    new_tokens: int = 0


class CompletionJob:
    """One request: its prompts, its choices, and how their parts become JSON.

    Args:
        request: The request.
        name: The model's name.
        engine: Its engine.
        config: The limits.
        metrics: Counts the time to the first token.
    """

    def __init__(
        self, request: CompletionRequest, name: str, engine: Engine, config: ServeConfig, metrics: Metrics
    ) -> None:
        self.request, self.name, self.engine, self.config = request, name, engine, config
        self.metrics, self.started = metrics, time.perf_counter()
        self.id, self.created = f"cmpl-{uuid.uuid4().hex}", int(time.time())
        self.n = request.n or 1
        self.max_tokens = DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens
        self.prompts: list[PromptTokens] = []
        self.prompts_sent: set[int] = set()
        self.check_limits()

    @property
    def choices(self) -> int:
        return len(self.request.prompt) * self.n

    def check_limits(self) -> None:
        """Raise ApiError for a request that asks for too much, before anything is tokenized."""
        request, config = self.request, self.config
        check_limit("prompt", self.choices, config.max_texts, "texts (prompts times n)")
        check_limit("max_tokens", self.max_tokens, config.max_new_tokens, "new tokens")
        for prompt in request.prompt:
            check_limit("prompt", len(prompt), config.max_characters, "characters or ids")
        if request.best_of not in (None, self.n):
            raise ApiError(400, "best_of is not supported: it must be n.", "unsupported_value", "best_of")

    async def tokenize(self) -> None:
        """Turn the prompts into tokens. Raises ApiError for one that the model cannot read."""
        tokenizer, context = self.engine.model.tokenizer, self.engine.model.gpt.config.context
        texts = [prompt for prompt in self.request.prompt if isinstance(prompt, str)]
        encoded = iter(await self.engine.tokenize(tokenizer.encode_batch, texts) if texts else [])
        for prompt in self.request.prompt:
            if isinstance(prompt, str):
                ids = next(encoded)
                shown = bool(ids)
                found = PromptTokens(ids or [tokenizer.newline_id], shown, prompt[-1:].isspace())
            else:
                check_ids(tokenizer, prompt, "prompt")
                found = PromptTokens(prompt)
            check_context(len(found.ids), context, "prompt")
            self.prompts.append(found)

    async def run_choice(self, index: int) -> AsyncIterator[ChoicePart]:
        """The parts of a choice, until it is finished."""
        request, prompt = self.request, self.prompts[index // self.n]
        scored = bool(request.echo) and request.logprobs is not None
        text = ContinuationText(self.engine.model.tokenizer, prompt.ids, request.stop or [], prompt.ends_with_space)
        if not prompt.shown:
            text.prompt_text, text.length = "", 0
        if request.echo and not scored:
            yield ChoicePart(index, text.prompt_text)
        if not self.max_tokens and not scored:
            yield ChoicePart(index, finish_reason="length")
            return
        sequence = Continuation(list(prompt.ids), self.max_tokens, self.sampler(index), request.logprobs, scored)
        shown = 0  # tokens of the prompt: their scores may come in several steps
        stream = self.engine.stream(sequence)
        try:
            async for result in stream:
                part = ChoicePart(index)
                if result.prompt and prompt.shown:
                    begin, shown = shown, shown + len(result.prompt)
                    part.tokens = [*map(PlacedToken, result.prompt, text.prompt_offsets[begin:shown])]
                    part.text = text.prompt_text[text.prompt_offsets[begin] : prompt_offset(text, shown)]
                if result.token:
                    new = text.push(result.token, result.finished)
                    part.text, part.tokens, part.new_tokens = part.text + new.text, part.tokens + new.tokens, 1
                part.finish_reason = "stop" if text.stopped else "length" if result.finished else None
                yield part
                if text.stopped:
                    return
        finally:
            await stream.aclose()  # type: ignore[attr-defined]

    def sampler(self, index: int) -> Any:
        request = self.request
        temperature = 1.0 if request.temperature is None else request.temperature
        top_p = 1.0 if request.top_p is None else request.top_p
        seed = None if request.seed is None else request.seed + index
        return self.engine.sampler(temperature, request.top_k or 0, top_p, seed)

    # ---- answers

    async def answer(self) -> Response:
        """All choices at once."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.collect(index)) for index in range(self.choices)]
        parts = [task.result() for task in tasks]
        usage = self.usage(sum(part.new_tokens for part in parts))
        return JSONResponse(self.chunk([self.choice_json(part) for part in parts]) | {"usage": usage})

    async def collect(self, index: int) -> ChoicePart:
        whole = ChoicePart(index)
        async for part in self.run_choice(index):
            if part.new_tokens and not whole.new_tokens:
                self.metrics.first_token.labels(self.name).observe(time.perf_counter() - self.started)
            whole.text += part.text
            whole.tokens += part.tokens
            whole.new_tokens += part.new_tokens
            whole.finish_reason = part.finish_reason
        return whole

    def stream(self, stack: AsyncExitStack) -> Response:
        """Server-sent events. The tasks end with `stack`, however the response ends."""
        parts: asyncio.Queue[ChoicePart | BaseException | None] = asyncio.Queue()

        async def feed(index: int) -> None:
            try:
                async for part in self.run_choice(index):
                    parts.put_nowait(part)
                parts.put_nowait(None)
            except Exception as error:
                parts.put_nowait(error)

        for task in [asyncio.create_task(feed(index)) for index in range(self.choices)]:
            stack.callback(task.cancel)
        return StreamingResponse(self.events(parts), media_type="text/event-stream")

    async def events(self, parts: asyncio.Queue[ChoicePart | BaseException | None]) -> AsyncIterator[bytes]:
        open_choices, new_tokens = self.choices, 0
        while open_choices:
            ready = [await parts.get()]
            while not parts.empty():
                ready.append(parts.get_nowait())
            lines: list[bytes] = []
            for part in ready:
                if part is None:
                    open_choices -= 1
                elif isinstance(part, BaseException):
                    yield b"".join(lines) + event(api_error(part).body())
                    return
                else:
                    if part.new_tokens and not new_tokens:
                        self.metrics.first_token.labels(self.name).observe(time.perf_counter() - self.started)
                    new_tokens += part.new_tokens
                    if part.text or part.tokens or part.finish_reason:
                        lines.append(event(self.chunk([self.choice_json(part)])))
            if lines:
                yield b"".join(lines)
        if self.request.stream_options and self.request.stream_options.include_usage:
            yield event(self.chunk([]) | {"usage": self.usage(new_tokens)})
        yield b"data: [DONE]\n\n"

    def chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        head = {"id": self.id, "object": "text_completion", "created": self.created, "model": self.name}
        return head | {"choices": choices}

    def choice_json(self, part: ChoicePart) -> dict[str, Any]:
        logprobs = None
        if self.request.logprobs is not None:
            logprobs = logprobs_json(self.engine.model.tokenizer, part.tokens)
        choice = {"index": part.index, "text": part.text, "logprobs": logprobs, "finish_reason": part.finish_reason}
        if self.request.return_token_ids:
            prompt = self.prompts[part.index // self.n].ids
            choice["prompt_token_ids"] = None if part.index in self.prompts_sent else prompt
            self.prompts_sent.add(part.index)
            choice["token_ids"] = [token.score.id for token in part.tokens]
        return choice

    def usage(self, new_tokens: int) -> dict[str, int]:
        prompt = sum(len(prompt.ids) for prompt in self.prompts)
        return {"prompt_tokens": prompt, "completion_tokens": new_tokens, "total_tokens": prompt + new_tokens}


def prompt_offset(text: ContinuationText, index: int) -> int:
    """Where a token of the prompt begins; after the last one, where the prompt ends."""
    return text.prompt_offsets[index] if index < len(text.prompt_offsets) else len(text.prompt_text)


def logprobs_json(tokenizer: Tokenizer, tokens: Sequence[PlacedToken]) -> dict[str, Any]:
    """OpenAI's log-probabilities. The most likely tokens include the one that was chosen."""

    def top(score: TokenScore) -> dict[str, float] | None:
        if score.logprob is None:
            return None
        return {token_string(tokenizer, id): value for id, value in (*score.top, (score.id, score.logprob))}

    return {
        "tokens": [token_string(tokenizer, token.score.id) for token in tokens],
        "token_logprobs": [token.score.logprob for token in tokens],
        "top_logprobs": [top(token.score) for token in tokens],
        "text_offset": [token.offset for token in tokens],
    }


def token_string(tokenizer: Tokenizer, id: int) -> str:
    """A token as OpenAI's API writes it: its text, or `bytes:\\xe2` if it is a part of a character."""
    data = tokenizer.token_bytes(id)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def event(content: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def check_limit(param: str, value: int, limit: int, what: str) -> None:
    if value > limit:
        raise ApiError(400, f"{value:,} {what}; the limit is {limit:,}.", "limit_exceeded", param)


def check_ids(tokenizer: Tokenizer, ids: Sequence[int], param: str) -> None:
    if not all(0 <= id < tokenizer.vocab_size for id in ids):
        raise ApiError(400, f"token ids are 0 to {tokenizer.vocab_size - 1}.", "invalid_token", param)


def check_context(tokens: int, context: int, param: str) -> None:
    if tokens > context:
        problem = f"the text has {tokens:,} tokens; the model's maximum context length is {context:,}."
        raise ApiError(400, problem, "context_length_exceeded", param)
