"""SIGTERM: readiness off, new requests refused, accepted ones answered, exit code 0."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path

import pytest
from running_server import RunningServer, read_all, request_bytes, server_process, wait_for


def start_requests(server: RunningServer, count: int) -> tuple[list[threading.Thread], list[bytes]]:
    """Clients that each wait for a whole answer, half of them as a stream."""
    answers: list[bytes] = []

    def ask(i: int) -> None:
        content = {"prompt": f"the file {i}", "max_tokens": 150, "stream": i % 2 == 0}
        with server.connect() as connection:
            connection.sendall(request_bytes("/v1/completions", content))
            answers.append(read_all(connection))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    return threads, answers


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_every_accepted_request_is_answered_before_the_end(workspace: Path, number: int, code: int):
    with server_process([workspace / "runs/books"]) as server:
        assert server.process is not None
        threads, answers = start_requests(server, 40)
        wait_for(lambda: b"gpt1_requests_in_flight 41.0" in server.ask("/metrics").body)
        server.process.send_signal(number)
        refused = []
        while not refused or refused[-1].status != 503:
            refused.append(server.ask("/v1/completions", {"prompt": "late", "max_tokens": 1}))
        assert refused[-1].error["code"] == "shutting_down"
        assert int(refused[-1].headers["retry-after"]) >= 1
        assert server.ask("/health/ready").status == 503
        assert server.ask("/health/live").status == 200
        for thread in threads:
            thread.join(60)
        assert len(answers) == 40
        for answer in answers:
            head, _, body = answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            if b"event-stream" in head:
                assert body.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
            else:
                assert json.loads(body)["usage"]["completion_tokens"] == 150
        assert server.process.wait(60) == code
        wait_for(lambda: any("accepted requests were answered" in line for line in server.log))


def test_an_idle_server_ends_at_once_and_keep_alive_connections_do_not_hold_it(workspace: Path):
    with server_process([workspace / "runs/books"]) as server:
        assert server.process is not None
        with server.connect() as connection:
            connection.sendall(request_bytes("/v1/next", {"text": "a"}, close=False))
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")
            server.process.terminate()
            assert server.process.wait(30) == 0


@pytest.mark.parametrize("signals", [1, 2])
def test_a_drain_ends_after_its_time_or_at_a_second_signal(workspace: Path, signals: int):
    seconds = "0.5" if signals == 1 else "300"
    with server_process([workspace / "runs/books"], "--drain-timeout", seconds) as server:
        assert server.process is not None
        with server.connect() as connection:
            content = {"prompt": ["the"] * 32, "max_tokens": 4000}
            connection.sendall(request_bytes("/v1/completions", content))
            wait_for(lambda: b"gpt1_requests_in_flight 2.0" in server.ask("/metrics").body)
            server.process.terminate()
            if signals == 2:
                wait_for(lambda: server.ask("/health/ready").status == 503)
                server.process.terminate()
            head, _, body = read_all(connection).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503")
            assert b"shutting_down" in body
            assert server.process.wait(60) == 0
        wait_for(lambda: server.log[-1:] == ["stopped; 1 accepted request not answered\n"])
