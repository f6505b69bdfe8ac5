"""The application: routes, errors, documentation and static files."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse, RedirectResponse

from gpt1.errors import GPT1Error, UserError
from gpt1.files.foreign import parse_json
from gpt1.serving import endpoints, schemas
from gpt1.serving.api_page import api_page
from gpt1.serving.completions import CompletionJob
from gpt1.serving.errors import Answer, ApiError, api_error
from gpt1.serving.gate import STACK, Gate
from gpt1.serving.metrics import Metrics
from gpt1.serving.models import ServedModels
from gpt1.serving.page_files import page_routes
from gpt1.serving.run_list import run_list, run_report
from gpt1.serving.settings import ServeConfig, split_list
from gpt1.version import __version__

STATIC = Path(__file__).parent / "static"
"""The page: static files, if they are installed."""
SLOW_JSON_BYTES = 2**16
"""Larger requests are parsed in a thread, so that other requests need not wait."""
JSON_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)  # possessive: linear, also without a closing quote
MAX_LISTS, MAX_VALUES = 20_000, 300_000
MAX_FIELDS = 64
"""Of a request: each unknown field would become an error of its own."""
Responses = dict[int | str, dict[str, Any]]
EVENT = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}
STREAM: Responses = {200: {"content": {"text/event-stream": {"schema": EVENT}}}}
HTML: Responses = {200: {"content": {"text/html": {"schema": {"type": "string"}}}}}
ERRORS: Responses = {
    status: {"model": schemas.ErrorResponse} for status in (400, 401, 404, 408, 413, 429, 500, 503, 504)
}


class BoundedRequest(Request):
    """A request whose JSON is read within bounds: depth, digits, no repeated keys."""

    async def json(self) -> Any:
        body = await self.body()
        check_size(body)
        try:
            if len(body) > SLOW_JSON_BYTES:
                content = await asyncio.to_thread(parse_json, body, "the request", fix="Send valid JSON.")
            else:
                content = parse_json(body, "the request", fix="Send valid JSON.")
        except UserError as error:
            raise ApiError(400, f"{error.problem} {error.fix}", "invalid_json") from None
        if isinstance(content, dict) and len(content) > MAX_FIELDS:
            raise ApiError(400, f"{len(content):,} fields: no request has that many.", "unknown_field")
        return content


def check_size(body: bytes) -> None:
    """Raise ApiError for JSON of too many lists or values, before objects are built from it."""
    structure = JSON_STRING.sub(b"", body)
    for what, count, limit in (
        ("lists and objects", structure.count(b"[") + structure.count(b"{"), MAX_LISTS),
        ("values", structure.count(b","), MAX_VALUES),
    ):
        if count > limit:
            raise ApiError(400, f"{count:,} {what}; the limit is {limit:,}.", "limit_exceeded")


class BoundedRoute(APIRoute):
    """Reads requests as `BoundedRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(BoundedRequest(request.scope, request.receive))

        return handle


def create_app(
    models: ServedModels, config: ServeConfig, key: bytes | None, metrics: Metrics, log: Callable[[str], None]
) -> Gate:
    """The ASGI application of a server.

    Args:
        models: The served models.
        config: The settings.
        key: The API key; None: none is needed.
        metrics: The metrics to update.
        log: Receives one line of JSON for each request.
    """
    app = FastAPI(
        title="gpt1",
        version=__version__,
        description="GPT-1 models: generate text, classify rows, score texts.",
        docs_url=None,
        redoc_url=None,
    )
    for handled in (HTTPException, GPT1Error, Exception):
        app.add_exception_handler(handled, answer_error)
    app.add_exception_handler(RequestValidationError, answer_invalid)
    gate = Gate(app, config, key, metrics, log)
    app.include_router(model_routes(models, config, metrics))
    app.include_router(server_routes(gate, models, metrics, app))
    if config.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=split_list(config.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],  # OpenAI's client in a browser sends a dozen of its own
        )
    app.router.routes += page_routes(STATIC)
    return gate


def model_routes(models: ServedModels, config: ServeConfig, metrics: Metrics) -> APIRouter:
    router = APIRouter(prefix="/v1", route_class=BoundedRoute, responses=ERRORS)

    @router.post("/completions", response_model=schemas.CompletionResponse, responses=STREAM, summary="Continue texts")
    async def completions(body: schemas.CompletionRequest, request: Request) -> Response:
        name, engine = await models.get(body.model)
        job = CompletionJob(body, name, engine, config, metrics)
        stack = request.scope[STACK]
        stack.enter_context(engine.admit(job.choices))
        await job.tokenize()
        return job.stream(stack) if body.stream else await job.answer()

    @router.post("/classify", response_model=schemas.ClassifyResponse, summary="Predict rows of a task")
    async def classify(body: schemas.ClassifyRequest) -> Response:
        return Answer(await endpoints.classify(body, *await models.get(body.model), config))

    @router.post("/next", response_model=schemas.NextResponse, summary="The most likely next tokens")
    async def next_tokens(body: schemas.NextRequest) -> Response:
        return Answer(await endpoints.next_tokens(body, *await models.get(body.model), config))

    @router.post("/score", response_model=schemas.ScoreResponse, summary="Score texts")
    async def score(body: schemas.ScoreRequest) -> Response:
        return Answer(await endpoints.score(body, *await models.get(body.model), config))

    @router.post("/attention", response_model=schemas.AttentionResponse, summary="Attention probabilities of a text")
    async def attention(body: schemas.AttentionRequest) -> Response:
        return Answer(await endpoints.attention(body, *await models.get(body.model), config))

    @router.post("/embeddings", response_model=schemas.EmbeddingResponse, summary="Embed texts")
    async def embeddings(body: schemas.EmbeddingRequest) -> Response:
        return Answer(await endpoints.embeddings(body, *await models.get(body.model), config))

    @router.get("/models", response_model=schemas.ModelList, summary="The models of this server")
    async def list_models() -> Response:
        return Answer({"object": "list", "data": [served.info() for served in models.models.values()]})

    @router.get("/models/{name:path}", response_model=schemas.ModelInfo, summary="A model and its task")
    async def one_model(name: str) -> Response:
        return Answer(models.models[(await models.get(name))[0]].info())

    @router.get("/runs", summary="The runs of this server and their results")
    async def runs() -> Response:
        return Answer({"object": "list", "data": await asyncio.to_thread(run_list, models)})

    @router.get("/runs/{name:path}/report", summary="The report page of a run", responses=HTML)
    async def report(name: str) -> Response:
        return await asyncio.to_thread(run_report, models, name)

    return router


def server_routes(gate: Gate, models: ServedModels, metrics: Metrics, app: FastAPI) -> APIRouter:
    router = APIRouter()

    @router.get("/health/live", summary="Liveness")
    async def live() -> Response:
        return Answer({"status": "ok"})

    @router.get("/health/ready", summary="Readiness", responses={503: {}})
    async def ready() -> Response:
        if gate.draining:
            return Answer({"status": "shutting down"}, 503)
        return Answer({"status": "ok", "models": len(models.models)})

    @router.get("/metrics", summary="Prometheus metrics", response_class=PlainTextResponse)
    async def prometheus() -> Response:
        return Response(metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @router.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response(api_page(app.openapi()), media_type="text/html; charset=utf-8")

    if not (STATIC / "index.html").exists():

        @router.get("/", include_in_schema=False)
        async def root() -> Response:
            return RedirectResponse("/docs")

    return router


async def answer_error(request: Request, error: Exception) -> Response:
    return api_error(error).response()


async def answer_invalid(request: Request, error: Exception) -> Response:
    """The first problem of a request that does not fit its schema."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"][1:] if re.fullmatch(r"\w+", str(part)))
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"there is no field '{place[:80]}'.", "unknown_field", place[:80]).response()
    if not place:
        return ApiError(400, "send a JSON object, with Content-Type: application/json.", "invalid_json").response()
    message = str(first["msg"]).removeprefix("Value error, ")[:200]  # pydantic's, before those of our own checks
    return ApiError(400, f"{place[:80]}: {message}.", first["type"], place[:80]).response()
