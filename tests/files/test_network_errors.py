"""What a web server or the network does wrong is one error with its reason, also in the middle of a file."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from gpt1.corpus.corpus import Corpus
from gpt1.errors import UserError
from gpt1.files.reading import open_input
from gpt1.tables.table import read_table

pytest.importorskip("aiohttp")


class Handler(BaseHTTPRequestHandler):
    """/STATUS/… answers with the status; /cut/… ends the connection early; /sizeless/… gives no Content-Length."""

    def log_message(self, *args: Any) -> None: ...

    def do_GET(self) -> None:
        kind = self.path.split("/")[1]
        self.send_response(int(kind) if kind.isdigit() else 200)
        if kind == "cut":
            self.send_header("Content-Length", "100000")
        self.end_headers()
        if self.command == "GET" and not kind.isdigit():
            self.wfile.write(b"text,label\ngood,1\n")

    do_HEAD = do_GET


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


@pytest.mark.parametrize(
    ("kind", "reason"), [("403", "403"), ("503", "503"), ("cut", "not completed|disconnected|closed")]
)
def test_a_failure_of_a_server_is_named(kind: str, reason: str, server: str):
    with pytest.raises(UserError, match=rf"/rows\.csv cannot be read: .*({reason})") as refused:
        read_table(f"{server}/{kind}/rows.csv")
    assert "network" in refused.value.fix


def test_a_file_that_is_not_there_is_called_missing(server: str):
    with pytest.raises(UserError, match=r"404/rows\.csv does not exist"):
        read_table(f"{server}/404/rows.csv")


def test_a_server_that_refuses_connections_is_named(server: str):
    with pytest.raises(UserError, match=r"cannot be read: .*[Cc]onnect"), open_input("http://127.0.0.1:1/rows.csv"):
        pass


@pytest.mark.parametrize(
    ("kind", "reason"), [("503", "503"), ("sizeless", "does not say the size"), ("404", "no manifest")]
)
def test_a_corpus_on_a_server_that_fails_is_one_error(kind: str, reason: str, server: str):
    with pytest.raises(UserError, match=reason):
        Corpus.open(f"{server}/{kind}/corpus")


def test_other_errors_pass(tmp_path: Path):
    (path := tmp_path / "a.txt").write_text("a")
    with pytest.raises(ConnectionError), open_input(path):
        raise ConnectionError("of something else")
