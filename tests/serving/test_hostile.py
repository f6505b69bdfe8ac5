"""Hostile clients against a server process: every connection is bounded and answered, and memory stays flat."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running_server import RunningServer, read_all, request_bytes, server_process, wait_for

MIB = 2**20
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def server(workspace: Path) -> Iterator[RunningServer]:
    with server_process([workspace / "runs/books"], "--timeout", "4", "--max-body", str(4 * MIB)) as server:
        server.ask("/v1/completions", {"prompt": "a", "max_tokens": 30})  # warm
        yield server


@pytest.fixture(autouse=True)
def check_health_and_memory(server: RunningServer) -> Iterator[None]:
    """After each test the server still answers, holds no request, and has not grown by much."""
    before = read_memory(server)
    yield
    assert server.ask("/v1/completions", {"prompt": "the", "max_tokens": 2}).status == 200
    wait_for(lambda: b"gpt1_requests_in_flight 1.0" in server.ask("/metrics").body)  # this one
    assert read_memory(server) - before < 48 * MIB


def read_memory(server: RunningServer) -> int:
    """Resident bytes; 0 where there is no /proc."""
    assert server.process is not None
    status = Path(f"/proc/{server.process.pid}/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS")), 0)


def read_status(response: bytes) -> int:
    return int(response.split(b" ", 2)[1]) if response.startswith(b"HTTP/1.1 ") else 0


def test_a_body_of_100_mb_is_refused_and_its_sender_gets_the_answer(server: RunningServer):
    answer = server.ask("/v1/completions", b"x" * (100 * MIB))
    assert answer.status == 413
    assert answer.error["code"] == "request_too_large"


def test_a_body_without_a_length_is_read_up_to_the_limit(server: RunningServer):
    chunk = b"%x\r\n%s\r\n" % (MIB, b"x" * MIB)
    with server.connect() as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(100):
            connection.sendall(chunk)
        connection.sendall(b"0\r\n\r\n")
        assert read_status(connection.recv(4096)) == 413


def test_a_small_body_without_a_length_is_answered(server: RunningServer):
    body = json.dumps({"prompt": "a", "max_tokens": 1}).encode()
    request = HEAD + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    assert read_status(server.exchange(request)) == 200


@pytest.mark.parametrize("length", [b"-1", b"x", b"9" * 5000, b"1, 2"])
def test_a_wrong_length_is_refused(server: RunningServer, length: bytes):
    assert read_status(server.exchange(HEAD + b"Content-Length: " + length + b"\r\n\r\n")) in (400, 413)


@pytest.mark.parametrize(
    "content",
    [
        {"prompt": "a", "stop": ["xyz"] * 500_000},
        {"prompt": "a" * 1_000_000},
        {"prompt": ["a"] * 500_000},
        {"prompt": [1] * 1_000_000},
        {"prompt": [[1]] * 500_000},
        {"prompt": [{}] * 500_000},
        {"prompt": "a", "logit_bias": {str(i): 1 for i in range(100_000)}},
        {"prompt": "a", **{f"field{i}": i for i in range(100_000)}},
    ],
    ids=["stop strings", "long text", "many texts", "many ids", "lists", "objects", "biases", "fields"],
)
def test_too_much_of_anything_is_one_short_error(server: RunningServer, content: Any):
    answer = server.ask("/v1/completions", content)
    assert answer.status == 400
    assert len(answer.body) < 1000


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 1_000_000,
        b'{"a":' * 500_000,
        b'{"prompt": "a", "stop": ' + b"[" * 40 + b"]" * 40 + b"}",
        b'{"prompt": ' + b"9" * 1_000_000 + b"}",
        b'{"prompt": "a", "temperature": NaN}',
        b'{"prompt": "a", "temperature": 1e999}',
        b'{"prompt": "a", "prompt": "b"}',
        b'{"prompt": "\\ud800"',
        b"\xff\xfe\x00",
        b"null",
        b'"prompt"',
        b"",
    ],
    ids=lambda body: str(body[:20]),
)
def test_broken_and_deep_json_is_one_short_error(server: RunningServer, body: bytes):
    answer = server.ask("/v1/completions", body, "POST")
    assert answer.status == 400
    assert len(answer.body) < 1000


def test_a_text_with_a_lone_surrogate_is_continued_and_echoed(server: RunningServer):
    answer = server.ask("/v1/completions", b'{"prompt": "\\ud800", "max_tokens": 2, "echo": true, "logprobs": 1}')
    assert answer.status == 200
    assert server.ask("/v1/score", b'{"texts": ["\\udfff"]}').status == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_closes_its_half_of_the_connection_gets_its_answer(server: RunningServer, stream: bool):
    request = request_bytes("/v1/completions", {"prompt": "the", "max_tokens": 50, "stream": stream})
    response = server.exchange(request, half_close=True)
    final = response[response.index(b"HTTP/1.1 200") :]
    assert final.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n" if stream else b"}}")


def test_a_request_that_was_cut_off_ends_its_connection(server: RunningServer):
    assert server.exchange(HEAD + b"Content-Length: 1000\r\n\r\n{", half_close=True) == b""
    assert server.exchange(HEAD[:20], half_close=True) == b""


@pytest.mark.parametrize("stream", [False, True])
def test_work_for_a_client_that_is_gone_ends(server: RunningServer, stream: bool):
    connection = server.connect()
    connection.sendall(request_bytes("/v1/completions", {"prompt": "the", "max_tokens": 4000, "stream": stream}))
    wait_for(lambda: read_metric(server, 'gpt1_queue{model="books"}') == 1)
    connection.close()
    wait_for(lambda: read_metric(server, 'gpt1_queue{model="books"}') == 0, 3)  # before its deadline


def read_metric(server: RunningServer, name: str) -> float:
    lines = server.ask("/metrics").body.decode().splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)), 0.0)


def test_a_client_that_does_not_read_is_disconnected_at_the_deadline(server: RunningServer):
    content = {"prompt": ["the"] * 6, "max_tokens": 4000, "stream": True, "logprobs": 20}
    slow = []
    for _ in range(4):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(request_bytes("/v1/completions", content))
        slow.append(connection)
    wait_for(lambda: read_metric(server, "gpt1_requests_in_flight") > 4)
    assert server.ask("/v1/completions", {"prompt": "a", "max_tokens": 1}).status == 200  # meanwhile
    wait_for(lambda: read_metric(server, "gpt1_requests_in_flight") == 1)
    for connection in slow:
        connection.close()


def test_a_request_that_takes_too_long_is_answered_with_504(server: RunningServer):
    answer = server.ask("/v1/completions", {"prompt": ["the"] * 32, "max_tokens": 4096, "n": 16})
    assert (answer.status, answer.error["code"]) == (504, "timeout")


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100,
        b"GET / HTTP/1.1\r\n" + b"A: " + b"x" * 100_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /\x80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"FETCH / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /v1/runs/..%2f..%2fetc/report HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /v1/models HTTP/1.0\r\n\r\n",
    ],
    ids=["tls", "large head", "two hosts", "path", "method", "absolute", "traversal", "no host"],
)
def test_malformed_requests_are_refused(server: RunningServer, data: bytes):
    assert 400 <= read_status(server.exchange(data)) < 500


def test_idle_connections_take_no_place_from_others(server: RunningServer):
    idle = [server.connect() for _ in range(200)]
    assert server.ask("/health/ready").status == 200
    for connection in idle:
        connection.close()


def test_pipelined_requests_are_answered_in_order(server: RunningServer):
    first = request_bytes("/v1/next", {"text": "a", "top": 1}, close=False)
    last = request_bytes("/v1/next", {"text": "a", "top": 2})
    response = server.exchange(first + last)
    assert response.count(b"HTTP/1.1 200") == 2
    assert response.count(b'"probability"') == 3


def test_a_trickle_of_bytes_does_not_hold_the_server(server: RunningServer):
    start = time.monotonic()
    with server.connect() as connection:
        for byte in HEAD[:30]:
            connection.sendall(bytes([byte]))
        assert server.ask("/health/live").status == 200
    assert time.monotonic() - start < 60


def test_many_clients_at_once_are_all_answered(server: RunningServer):
    connections = [server.connect() for _ in range(100)]
    for i, connection in enumerate(connections):
        connection.sendall(request_bytes("/v1/completions", {"prompt": "the", "max_tokens": 3, "seed": i}))
    statuses = {read_status(read_all(connection)) for connection in connections}
    for connection in connections:
        connection.close()
    assert statuses == {200}


def test_answers_are_never_of_the_kind_5xx_except_for_deadlines(server: RunningServer):
    """The log of everything above."""
    lines = [json.loads(line) for line in server.log]
    assert not [line for line in lines if "error" in line]
    assert {line["status"] for line in lines if line["status"] >= 500} <= {504}
