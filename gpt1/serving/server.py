"""The server process: uvicorn with guarded connections, and a shutdown that answers what was accepted."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from gpt1.errors import UserError
from gpt1.serving.gate import Gate
from gpt1.serving.settings import ServeConfig

HEAD_SECONDS = 15
"""Maximum time for a client to send the head of a request."""
GRACE_SECONDS = 30
"""Maximum time for a client to read the last bytes, or to send the rest of a refused request."""
PROBE_SECONDS = 0.5
"""Time between two signs of life to a client that has closed its half of the connection."""


class GuardedProtocol(H11Protocol):
    """A connection that always ends: every state of it has a time limit.

    A client that has closed its half of the connection gets its answer. Interim responses (102) are sent until the
    answer begins: they show whether the client has closed the other half as well.
    """

    guard: asyncio.TimerHandle | None = None
    guarded_cycle: Any = None
    half_closed = False
    request_seconds = 300.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.limit(HEAD_SECONDS)

    def limit(self, seconds: float) -> None:
        """Abort the connection after this time, unless another limit is set before."""
        if self.guard:
            self.guard.cancel()
        self.guard = self.loop.call_later(seconds, self.transport.abort)

    def data_received(self, data: bytes) -> None:
        idle = self.cycle is None or self.cycle.response_complete
        waited = self.timeout_keep_alive_task is not None
        super().data_received(data)
        if self.cycle is not None and self.cycle is not self.guarded_cycle:
            self.guarded_cycle = self.cycle
            self.limit(self.request_seconds + GRACE_SECONDS)
        elif idle and waited:
            self.limit(HEAD_SECONDS)

    def on_response_complete(self) -> None:
        self.limit(GRACE_SECONDS)
        super().on_response_complete()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        cycle = self.cycle
        if cycle is None or cycle.response_complete or cycle.more_body:
            return None
        self.half_closed, cycle.keep_alive = True, False
        self.probe()
        return True

    def probe(self) -> None:
        """Write something that a closed client refuses, which ends the connection."""
        cycle = self.cycle
        if self.transport.is_closing() or cycle.response_complete or cycle.response_started:
            return
        if cycle.scope["http_version"] == "1.1":
            interim = h11.InformationalResponse(status_code=102, headers=[], reason=b"Processing")
            self.transport.write(self.conn.send(interim) or b"")
            self.loop.call_later(PROBE_SECONDS, self.probe)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.guard:
            self.guard.cancel()
        super().connection_lost(exc)


class DrainingServer(uvicorn.Server):
    """On SIGTERM or Ctrl-C: readiness off, new requests refused, accepted ones answered, then the end.

    A second signal ends the server at once.
    """

    def __init__(self, config: uvicorn.Config, gate: Gate, drain_timeout: float) -> None:
        super().__init__(config)
        self.gate, self.drain_timeout = gate, drain_timeout
        self.signal: int | None = None
        self.drain_since = 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.gate.draining:
            self.should_exit = self.force_exit = True
            return
        self.signal, self.drain_since, self.gate.draining = sig, time.monotonic(), True

    async def on_tick(self, counter: int) -> bool:
        late = time.monotonic() - self.drain_since > self.drain_timeout
        if self.gate.draining and (late or not self.gate.in_flight):
            self.should_exit = True
            if late:
                self.config.timeout_graceful_shutdown = 1
        return await super().on_tick(counter)


def bind(config: ServeConfig) -> socket.socket:
    """The listening socket. Raises UserError if the address cannot be used."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    # asyncio turns off Nagle's algorithm for sockets that name their protocol only. With it, the body of an answer
    # waits until the client has acknowledged the head, up to 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((config.host, config.port))
    except OSError as error:
        listener.close()
        raise address_error(config.host, config.port, error) from None
    return listener


def address_error(host: str, port: int, error: OSError) -> UserError:
    problem = f"--host {host} --port {port} cannot be used: {(error.strerror or str(error)).lower()}."
    return UserError(problem, "Use another --port (0: any free one), or a --host of this machine.")


def address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def make_server(gate: Gate, config: ServeConfig) -> DrainingServer:
    """The server of an application; see `run_server`."""
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # the gate logs, without texts
    protocol = type("TimedProtocol", (GuardedProtocol,), {"request_seconds": config.timeout})
    options = uvicorn.Config(
        gate,
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=config.max_connections,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    return DrainingServer(options, gate, config.drain_timeout)


def run_server(server: DrainingServer, listener: socket.socket, started: Callable[[], None]) -> None:
    """Serve until a signal comes and the accepted requests are answered.

    Args:
        server: From `make_server`.
        listener: From `bind`.
        started: Called when the server answers.

    Raises:
        UserError: Another program has begun to listen at the address since `bind`, while the models were loaded.
    """

    async def run() -> None:
        serving = asyncio.create_task(server.serve([listener]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        if server.started:
            started()
        await serving

    try:
        asyncio.run(run())
    except OSError as error:
        if server.started:
            raise
        host, port = listener.getsockname()[:2]
        raise address_error(host, port, error) from None
