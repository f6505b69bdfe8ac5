"""Servers for tests: in a thread of this process, or in a process of their own; and a plain client."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from gpt1.serving.app import create_app
from gpt1.serving.gate import Gate
from gpt1.serving.metrics import Metrics
from gpt1.serving.models import ServedModels
from gpt1.serving.server import bind, make_server, run_server
from gpt1.serving.settings import serve_settings


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        return self.json["error"]


@dataclass
class RunningServer:
    """A running server."""

    port: int
    models: ServedModels | None = None
    gate: Gate | None = None
    process: subprocess.Popen[str] | None = None
    log: list[str] = field(default_factory=list)

    def ask(self, path: str, content: Any = None, method: str = "", headers: Mapping[str, str] | None = None) -> Answer:
        """Send a request: JSON of `content` if it is not bytes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        body = content if content is None or isinstance(content, bytes) else json.dumps(content).encode()
        given = {"Content-Type": "application/json", **(headers or {})}
        try:
            connection.request(method or ("GET" if content is None else "POST"), path, body, given)
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def exchange(self, data: bytes, half_close: bool = False) -> bytes:
        """Everything that comes back for raw bytes."""
        with self.connect() as connection:
            connection.sendall(data)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    parts = []
    try:
        while part := connection.recv(2**16):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def request_bytes(path: str, content: Any, close: bool = True) -> bytes:
    body = json.dumps(content).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*lines, *(["Connection: close"] if close else []), "", ""]).encode() + body


@contextmanager
def server_thread(runs: Sequence[Path], key: bytes | None = None, **settings: Any) -> Iterator[RunningServer]:
    """A server in a thread; afterwards it drains, as after SIGTERM."""
    config = serve_settings({"port": 0, "device": "cpu", **settings})
    listener, metrics, log = bind(config), Metrics(), []
    models = ServedModels(runs, config, metrics, log=log.append)
    gate = create_app(models, config, key, metrics, log.append)
    server, started = make_server(gate, config), threading.Event()
    thread = threading.Thread(target=run_server, args=(server, listener, started.set), daemon=True)
    thread.start()
    assert started.wait(60)
    try:
        yield RunningServer(listener.getsockname()[1], models, gate, log=log)
    finally:
        server.handle_exit(signal.SIGTERM, None)
        thread.join(60)
        models.close()
    assert not thread.is_alive()


@contextmanager
def server_process(runs: Sequence[Path], *flags: str) -> Iterator[RunningServer]:
    """`gpt1 serve` in a process of its own; killed if it still runs afterwards."""
    command = [sys.executable, "-m", "gpt1", "serve", *map(str, runs), "--port", "0", "--device", "cpu", *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    server = RunningServer(0, process=process)
    try:
        assert process.stderr is not None
        first = process.stderr.readline()
        assert " at http://127.0.0.1:" in first, first + process.stderr.read()
        server.port = int(first.partition(" at http://127.0.0.1:")[2].partition(";")[0])
        reader = threading.Thread(target=lambda: server.log.extend(process.stderr or []), daemon=True)
        reader.start()
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def wait_for(condition: Any, seconds: float = 30) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.01)
