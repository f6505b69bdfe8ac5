"""The files of the page. They are small and are held in memory: no request waits for the disk or a thread."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
"""Not from `mimetypes`, which reads the registry of the machine: on Windows it may call a script plain text."""
PAGE_FILE = "index.html"


def page_routes(folder: Path) -> list[Route]:
    """A route for each file, and for `/`. A mount at / would also answer wrong methods of the API's paths."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in MEDIA_TYPES)
    routes = {f"/{path.relative_to(folder).as_posix()}": PageFile(path) for path in files}
    if f"/{PAGE_FILE}" in routes:
        routes["/"] = routes[f"/{PAGE_FILE}"]
    return [Route(path, file.respond) for path, file in routes.items()]


class PageFile:
    """A file, also compressed. Browsers keep it, but ask each time whether it has changed: a newer version of gpt1 may
    have other modules under the same names."""

    def __init__(self, path: Path) -> None:
        self.content = path.read_bytes()
        self.compressed = gzip.compress(self.content, mtime=0)
        self.headers = {
            "Content-Type": MEDIA_TYPES[path.suffix],
            "ETag": f'"{hashlib.sha256(self.content).hexdigest()[:32]}"',
            "Cache-Control": "no-cache",
            "Vary": "Accept-Encoding",
        }

    async def respond(self, request: Request) -> Response:
        if request.headers.get("if-none-match", "").removeprefix("W/") == self.headers["ETag"]:
            return Response(status_code=304, headers=self.headers)
        accepted = [name.strip() for name in request.headers.get("accept-encoding", "").split(",")]
        if "gzip" in accepted and len(self.compressed) < len(self.content):
            return Response(self.compressed, headers={**self.headers, "Content-Encoding": "gzip"})
        return Response(self.content, headers=self.headers)
