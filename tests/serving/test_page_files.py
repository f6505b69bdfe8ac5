"""The files of the page: the same bytes in every encoding, kept by browsers that ask whether they have changed."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_server import RunningServer, server_thread

from gpt1.serving.app import STATIC
from gpt1.serving.page_files import MEDIA_TYPES, page_routes

FILES = sorted(path.relative_to(STATIC).as_posix() for path in STATIC.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def server(workspace: Path) -> Iterator[RunningServer]:
    with server_thread([workspace / "runs/books"]) as server:
        yield server


def test_every_file_of_the_page_has_a_route():
    assert {route.path for route in page_routes(STATIC)} == {"/", *(f"/{name}" for name in FILES)}
    assert {Path(name).suffix for name in FILES} <= set(MEDIA_TYPES)


@pytest.mark.parametrize("name", FILES)
def test_a_compressed_file_is_the_file(server: RunningServer, name: str):
    plain = server.ask(f"/{name}")
    packed = server.ask(f"/{name}", headers={"Accept-Encoding": "br, gzip"})
    if packed.headers.get("content-encoding") == "gzip":
        assert len(packed.body) < len(plain.body)
        assert gzip.decompress(packed.body) == plain.body
    else:
        assert packed.body == plain.body
    assert plain.body == (STATIC / name).read_bytes()
    assert plain.headers["vary"] == packed.headers["vary"] == "Accept-Encoding"


def test_a_browser_asks_whether_a_file_has_changed(server: RunningServer):
    first = server.ask("/app.js")
    assert first.headers["cache-control"] == "no-cache"
    for tag in (first.headers["etag"], f"W/{first.headers['etag']}"):
        again = server.ask("/app.js", headers={"If-None-Match": tag})
        assert (again.status, again.body) == (304, b"")
        assert again.headers["content-security-policy"] == first.headers["content-security-policy"]
    assert server.ask("/app.js", headers={"If-None-Match": '"another"'}).status == 200
    head = server.ask("/app.js", method="HEAD")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(first.body)))
    assert server.ask("/app.js", {}, method="POST").status == 405
