"""Checks before the application (host, key, limits, deadline), and headers of every response.

A pure ASGI middleware: it reads the body itself, so that no byte beyond the limit is kept, and it cancels the
application when the client leaves or the time is over.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AsyncExitStack, suppress
from typing import Any

from gpt1.serving.errors import RETRY_SECONDS, ApiError, api_error
from gpt1.serving.metrics import Metrics
from gpt1.serving.settings import ServeConfig, split_list

AsgiMessage = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[AsgiMessage]]
Send = Callable[[AsgiMessage], Awaitable[None]]

BODY_SECONDS = 30
"""Maximum time for a client to send its request."""
CLIENT_LEFT = 499
"""Status in the log for a request whose client left."""
STACK = "gpt1.stack"
"""Key of the scope: an ExitStack that is closed when the request ends in any way."""
PROTECTED = ("/v1/", "/metrics")
SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Gate:
    """The outermost application.

    Args:
        app: The application.
        config: The settings.
        key: The API key; None: none is needed.
        metrics: Counts requests.
        log: Receives a line of JSON for each request, without any text of it.
    """

    def __init__(
        self, app: Any, config: ServeConfig, key: bytes | None, metrics: Metrics, log: Callable[[str], None]
    ) -> None:
        self.app, self.config, self.key, self.metrics, self.log = app, config, key, metrics, log
        self.hosts, self.origins = config.hosts, frozenset(split_list(config.cors_origins))
        self.draining = False
        self.in_flight = 0
        self.cut_off = 0
        """Accepted requests that were not answered before the server ended."""
        metrics.in_flight.set_function(lambda: self.in_flight)

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        exchange = Exchange(scope, send, self.origins)
        self.in_flight += 1
        try:
            await self.answer(exchange, receive)
        except asyncio.CancelledError:
            if self.draining:  # otherwise another server, such as Ray Serve's, cancels it when its client leaves
                self.cut_off += 1
                await exchange.fail(shutting_down_error())
            raise
        finally:
            self.in_flight -= 1
            self.record(exchange)

    async def answer(self, exchange: Exchange, receive: Receive) -> None:
        try:
            self.check_head(exchange)
            async with asyncio.timeout(BODY_SECONDS):
                body = await read_body(receive, self.config.max_body)
        except TimeoutError:
            await exchange.fail(ApiError(408, "the request did not arrive in time.", "timeout"))
        except ClientLeft:
            exchange.status = CLIENT_LEFT
        except ApiError as error:
            await exchange.fail(error)
        else:
            await self.run(exchange, receive, body)

    def check_head(self, exchange: Exchange) -> None:
        """Raise ApiError for a request that is refused before its body is read."""
        headers = dict(exchange.scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1").lower()
        name = host if host.endswith("]") else host.rpartition(":")[0] if ":" in host else host
        if self.hosts and name not in self.hosts:
            raise ApiError(400, f"{name[:80]!r} is not an allowed host name; see --allowed-hosts.", "invalid_host")
        if not exchange.path.startswith(PROTECTED):
            return
        if self.key is not None and exchange.scope["method"] != "OPTIONS":
            given = headers.get(b"authorization", b"").partition(b" ")
            if given[0].lower() != b"bearer" or not hmac.compare_digest(given[2].strip(), self.key):
                problem = "a valid API key is needed: Authorization: Bearer KEY."
                raise ApiError(401, problem, "invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        if self.draining and exchange.path != "/metrics":
            raise shutting_down_error()
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length[:20]) > self.config.max_body:
            raise body_too_large_error(self.config.max_body)

    async def run(self, exchange: Exchange, receive: Receive, body: bytes) -> None:
        """Run the application until it has answered, the client has left, or the time is over."""
        async with AsyncExitStack() as stack:
            exchange.scope[STACK] = stack
            app = asyncio.create_task(self.app(exchange.scope, replay(body), exchange.send))
            left = asyncio.create_task(wait_until_client_leaves(receive))
            try:
                done, _ = await asyncio.wait((app, left), timeout=self.config.timeout, return_when="FIRST_COMPLETED")
                if left in done and exchange.complete and app not in done:
                    await asyncio.wait((app,), timeout=1)  # the server reports the end of a response as a disconnect
            finally:
                for task in (app, left):
                    task.cancel()
                await asyncio.gather(app, left, return_exceptions=True)
        error: BaseException | None = TimeoutError()
        if not app.cancelled() and (error := app.exception()):
            self.log(json.dumps({"request": exchange.id, "error": type(error).__name__, "at": error_location(error)}))
        if exchange.complete:
            return
        if left in done:
            exchange.status = CLIENT_LEFT
        else:
            await exchange.fail(api_error(error or RuntimeError()))

    def record(self, exchange: Exchange) -> None:
        seconds = time.perf_counter() - exchange.start
        endpoint = exchange.endpoint
        self.metrics.requests.labels(endpoint, str(exchange.status)).inc()
        self.metrics.seconds.labels(endpoint).observe(seconds)
        client = exchange.scope.get("client")
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "client": client[0] if client else None,
            "method": exchange.scope["method"],
            "endpoint": endpoint,
            "status": exchange.status,
            "ms": round(1000 * seconds, 1),
            "bytes": exchange.bytes,
            "request": exchange.id,
        }
        self.log(json.dumps(line))


def error_location(error: BaseException) -> str:
    """File and line, without the message, which may hold texts."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""


class Exchange:
    """A request and the state of its response."""

    def __init__(self, scope: Any, send: Send, origins: frozenset[str]) -> None:
        self.scope, self._send = scope, send
        prefix, path = scope.get("root_path", ""), scope["path"]
        self.path: str = path[len(prefix) :] if path.startswith(f"{prefix}/") else path
        """As the application routes it: without the prefix of a proxy, such as Ray Serve's `route_prefix`."""
        self.id = uuid.uuid4().hex
        self.start = time.perf_counter()
        origin = dict(scope["headers"]).get(b"origin", b"").decode("latin-1")
        self.reader = origin if origin.lower() in origins or (origin and "*" in origins) else ""
        """The origin of a page that may read the answer, also one that is not the application's."""
        self.status = 0
        self.bytes = 0
        self.started = self.complete = False

    @property
    def endpoint(self) -> str:
        """The route, not the path: a path may hold anything."""
        route = self.scope.get("route")
        return str(getattr(route, "path", "") or "other")

    async def send(self, message: AsgiMessage) -> None:
        """Send a message, with the headers that every response has."""
        if message["type"] == "http.response.start":
            self.started, self.status = True, message["status"]
            given = {name.lower() for name, _ in message.get("headers", [])}
            own = {**SECURITY_HEADERS, "x-request-id": self.id}
            if self.path.startswith(PROTECTED):
                own["cache-control"] = "no-store"
            if self.reader:
                own |= {"access-control-allow-origin": self.reader, "vary": "Origin"}
            extra = [(name.encode(), value.encode()) for name, value in own.items() if name.encode() not in given]
            message = {**message, "headers": [*message.get("headers", []), *extra]}
        elif message["type"] == "http.response.body":
            self.bytes += len(message.get("body", b""))
            self.complete = not message.get("more_body", False)
        await self._send(message)

    async def fail(self, error: ApiError) -> None:
        """Answer with an error, unless the response has begun; then it stays incomplete, and the connection closes."""
        if self.started:
            return
        with suppress(OSError):
            await error.response()(self.scope, no_message, self.send)


class ClientLeft(Exception):
    """The client closed the connection before its request was complete."""


async def read_body(receive: Receive, limit: int) -> bytes:
    """The body of a request. Raises ApiError (413) as soon as it is longer than `limit`."""
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise body_too_large_error(limit)
        if not message.get("more_body", False):
            return b"".join(parts)


def body_too_large_error(limit: int) -> ApiError:
    return ApiError(413, f"the request is longer than {limit:,} bytes. Send less at a time.", "request_too_large")


def shutting_down_error() -> ApiError:
    later = {"Retry-After": str(RETRY_SECONDS), "Connection": "close"}
    return ApiError(503, "the server is shutting down.", "shutting_down", headers=later)


def replay(body: bytes) -> Receive:
    """A `receive` that gives the body, and then nothing: the gate itself waits for the client to leave."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> AsgiMessage:
        return messages.pop() if messages else await no_message()

    return receive


async def no_message() -> AsgiMessage:
    message: AsgiMessage = await asyncio.get_running_loop().create_future()
    return message


async def wait_until_client_leaves(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
