"""Which requests are accepted, and for how long: key, Host, origins, deadlines; and their settings."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running_server import RunningServer, read_all, request_bytes, server_thread

from gpt1.errors import UserError
from gpt1.serving import gate as gate_module
from gpt1.serving import server as server_module
from gpt1.serving.settings import KEY_VARIABLE, ServeConfig, read_api_key, serve_settings

KEY = "sk-secret"
BEARER = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def locked_server(workspace: Path) -> Iterator[RunningServer]:
    """A server with a key, and one origin."""
    with server_thread([workspace / "runs/books"], KEY.encode(), cors_origins="https://page.example") as server:
        yield server


@pytest.mark.parametrize("given", [None, KEY, f"Bearer {KEY}x", f"Basic {KEY}", "Bearer "])
@pytest.mark.parametrize("path", ["/v1/models", "/v1/completions", "/metrics", "/v1/nothing"])
def test_without_the_key_requests_are_refused(locked_server: RunningServer, path: str, given: str | None):
    headers = {} if given is None else {"Authorization": given}
    answer = locked_server.ask(path, {"prompt": "a"} if "comp" in path else None, headers=headers)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.error["type"] == "authentication_error"
    assert KEY not in answer.body.decode()


@pytest.mark.parametrize("path", ["/v1/models", "/metrics"])
@pytest.mark.parametrize("prefix", ["/models", "/models/", "/v1"])
def test_behind_a_prefix_requests_also_need_the_key(locked_server: RunningServer, prefix: str, path: str):
    """Ray Serve with a `route_prefix`: the path of a request has it, and so has the root path."""
    app, sent = locked_server.gate, list[Any]()
    scope = {"type": "http", "method": "GET", "root_path": prefix, "path": prefix + path, "query_string": b""}

    async def ask(headers: list[tuple[bytes, bytes]]) -> int:
        body = iter([{"type": "http.request"}])

        async def receive() -> Any:
            return next(body, None) or await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        assert app
        await app({**scope, "headers": [(b"host", b"localhost"), *headers]}, receive, send)
        return int(next(message["status"] for message in reversed(sent) if "status" in message))

    assert asyncio.run(ask([])) == 401
    assert asyncio.run(ask([(b"authorization", BEARER["Authorization"].encode())])) == 200


def test_with_the_key_requests_are_answered(locked_server: RunningServer):
    assert locked_server.ask("/v1/models", headers=BEARER).status == 200
    assert locked_server.ask("/v1/models", headers={"Authorization": f"bearer {KEY}"}).status == 200
    assert locked_server.ask("/v1/next", {"text": "a"}, headers=BEARER).status == 200
    assert locked_server.ask("/metrics", headers=BEARER).status == 200


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/docs", "/openapi.json"])
def test_health_and_documentation_need_no_key(locked_server: RunningServer, path: str):
    assert locked_server.ask(path).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil", "", "[::2]"]
)
def test_a_page_that_calls_the_server_by_another_name_is_refused(locked_server: RunningServer, host: str):
    """DNS rebinding: the browser of a victim sends the attacker's name."""
    answer = locked_server.ask("/health/live", headers={"Host": host})
    assert (answer.status, answer.error["code"]) == (400, "invalid_host")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:99", "127.0.0.1:8000", "[::1]", "[::1]:8000"])
def test_the_names_of_this_machine_are_accepted(locked_server: RunningServer, host: str):
    assert locked_server.ask("/health/live", headers={"Host": host}).status == 200


def test_only_the_given_origin_may_call_from_a_browser(locked_server: RunningServer):
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    allowed = locked_server.ask("/v1/next", method="OPTIONS", headers={"Origin": "https://page.example", **ask})
    assert allowed.headers["access-control-allow-origin"] == "https://page.example"
    refused = locked_server.ask("/v1/next", method="OPTIONS", headers={"Origin": "https://evil.example", **ask})
    assert "access-control-allow-origin" not in refused.headers


def test_a_page_may_send_the_headers_of_openai_s_client(locked_server: RunningServer):
    names = "authorization,content-type,x-stainless-lang,x-stainless-retry-count"
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": names}
    answer = locked_server.ask("/v1/completions", method="OPTIONS", headers={"Origin": "https://page.example", **ask})
    assert answer.status == 200
    allowed = answer.headers["access-control-allow-headers"].lower().replace(" ", "").split(",")
    assert set(names.split(",")) <= set(allowed)


@pytest.mark.parametrize(("origin", "allowed"), [("https://page.example", True), ("https://evil.example", False)])
def test_a_page_can_read_why_it_was_refused_before_the_application(
    locked_server: RunningServer, origin: str, allowed: bool
):
    too_long = {"Content-Length": str(2**30), **BEARER}
    for status, headers in ((401, {}), (413, too_long), (400, {"Host": "evil.example"})):
        answer = locked_server.ask("/v1/models", headers={"Origin": origin, **headers})
        assert answer.status == status
        assert answer.headers.get("access-control-allow-origin") == (origin if allowed else None)


def test_no_origin_is_allowed_unless_asked_for(workspace: Path):
    with server_thread([workspace / "runs/books"]) as server:
        answer = server.ask("/v1/models", headers={"Origin": "http://localhost"})
        assert answer.status == 200
        assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("path", ["/", "/docs", "/v1/models", "/nothing", "/health/live"])
def test_every_response_has_the_security_headers(locked_server: RunningServer, path: str):
    headers = locked_server.ask(path).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert "server" not in headers
    assert headers["x-request-id"]


def test_static_files_are_served_at_the_root_and_the_api_before_them(workspace: Path, tmp_path: Path, monkeypatch):
    from gpt1.serving import app

    (tmp_path / "static").mkdir()
    (tmp_path / "static/index.html").write_text("<p>the page</p>")
    (tmp_path / "static/app.js").write_text("1")
    (tmp_path / "secret").write_text("secret")
    monkeypatch.setattr(app, "STATIC", tmp_path / "static")
    with server_thread([workspace / "runs/books"]) as server:
        assert server.ask("/").body == b"<p>the page</p>"
        assert "javascript" in server.ask("/app.js").headers["content-type"]
        assert server.ask("/v1/models").json["data"]
        for path in ("/../secret", "/%2e%2e/secret", "/..%2fsecret", "/nothing"):
            assert server.ask(path).status == 404


# ---- time


def test_a_request_that_does_not_arrive_times_out(workspace: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gate_module, "BODY_SECONDS", 0.2)
    monkeypatch.setattr(server_module, "HEAD_SECONDS", 0.5)
    with server_thread([workspace / "runs/books"]) as server:
        head = request_bytes("/v1/next", {"text": "a"})[:-3]  # the body is not complete
        assert b" 408 " in server.exchange(head)
        assert server.exchange(b"GET / HTTP/1.1\r\n") == b""
        assert server.exchange(b"") == b""


def test_a_client_that_keeps_sending_after_a_refusal_is_disconnected(workspace: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server_module, "HEAD_SECONDS", 0.5)
    with server_thread([workspace / "runs/books"], max_body=1000) as server, server.connect() as connection:
        connection.sendall(b"POST /v1/next HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        with pytest.raises(OSError):
            send_forever(connection)


def send_forever(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"400\r\n" + b"x" * 1024 + b"\r\n")


def test_a_large_answer_reaches_a_slow_reader(workspace: Path):
    with server_thread([workspace / "runs/books"]) as server, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(request_bytes("/v1/score", {"texts": ["a list of names " * 30] * 20, "top": 20}))
        response = read_all(connection)
    body = response.partition(b"\r\n\r\n")[2]
    assert len(body) > 100_000
    assert len(json.loads(body)["data"]) == 20


def test_more_connections_than_allowed_get_503(workspace: Path):
    with server_thread([workspace / "runs/books"], max_connections=3) as server:
        held = [server.connect() for _ in range(3)]
        assert server.ask("/health/live").status == 503
        for connection in held:
            connection.close()


# ---- settings


def test_the_key_comes_from_the_file_or_the_environment(tmp_path: Path):
    path = tmp_path / "key"
    path.write_text(f"{KEY}\n")
    assert read_api_key(ServeConfig(api_key_file=str(path)), {KEY_VARIABLE: "other"}) == KEY.encode()
    assert read_api_key(ServeConfig(), {KEY_VARIABLE: KEY}) == KEY.encode()
    assert read_api_key(ServeConfig(), {}) is None


@pytest.mark.parametrize("content", [b"", b"  \n", b"two words", b"k\xc3\xa9y", b"a\nb", b"a\0b", b"k" * 5000])
def test_a_file_without_a_usable_key_is_an_error(tmp_path: Path, content: bytes):
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(UserError, match="key"):
        read_api_key(ServeConfig(api_key_file=str(tmp_path / "key")), {})
    with pytest.raises(UserError, match="missing"):
        read_api_key(ServeConfig(api_key_file=str(tmp_path / "missing")), {})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_a_key_is_required_off_loopback(host: str):
    with pytest.raises(UserError, match="no API key"):
        read_api_key(ServeConfig(host=host), {})
    assert read_api_key(ServeConfig(host=host), {KEY_VARIABLE: KEY}) == KEY.encode()


@pytest.mark.parametrize(
    ("settings", "hosts"),
    [
        ({}, {"localhost", "127.0.0.1", "[::1]"}),
        ({"host": "::1"}, {"localhost", "127.0.0.1", "[::1]"}),
        ({"host": "Box.local"}, {"localhost", "127.0.0.1", "[::1]", "box.local"}),
        ({"host": "0.0.0.0"}, set()),
        ({"host": "0.0.0.0", "allowed_hosts": "A.example, b.example,"}, {"a.example", "b.example"}),
    ],
)
def test_the_allowed_hosts_follow_the_address(settings: dict[str, Any], hosts: set[str]):
    assert ServeConfig(**settings).hosts == hosts


@pytest.mark.parametrize("flags", [{"port": "70000"}, {"timeout": "0"}, {"max_batch": "0"}, {"precision": "fp8"}])
def test_settings_out_of_range_are_errors(flags: dict[str, Any]):
    with pytest.raises(UserError):
        serve_settings(flags)


# ---- the command


def test_the_command_refuses_what_it_cannot_serve(run_cli, workspace: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(workspace)
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        wrong = {
            "does not exist": ("runs/nobody",),
            "have the same name, 'books'": ("runs/books", "runs/books"),
            "no finished run": (str(tmp_path),),
            "no API key": ("runs/books", "--host", "0.0.0.0"),
            "cannot be used: address already in use": ("runs/books", "--port", str(taken.getsockname()[1])),
            "out of range": ("runs/books", "--max-batch", "0"),
        }
        (tmp_path / "unfinished").mkdir()
        for words, arguments in wrong.items():
            result = run_cli("serve", *(arguments if "--port" in arguments else (*arguments, "--port", "0")))
            assert result.exit_code == 2, words
            assert words in result.stderr
