"""A small Hugging Face hub on the loopback interface, for the unmodified `huggingface_hub` (HF_ENDPOINT)."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_test"


@dataclass
class Repository:
    """Files by path; the status for a request without a token (0: it needs none); how often a file is cut off."""

    files: dict[str, bytes]
    refuses_with: str = ""
    cut_off: dict[str, int] = field(default_factory=dict)

    @property
    def sha(self) -> str:
        return hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()


class HubServer(ThreadingHTTPServer):
    """Repositories by name, the requested paths, and uploaded objects that are not committed yet."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.requests: list[tuple[str, str]] = []
        self.objects: dict[str, bytes] = {}
        self.refuses_uploads = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fetched(self) -> set[str]:
        return {path.rpartition("/")[2] for method, path in self.requests if method == "GET" and "/resolve/" in path}


@contextmanager
def run_hub() -> Iterator[HubServer]:
    with HubServer() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


def run_in_new_process(code: list[str], home: Path, server_url: str, cwd: Path, **environment: str) -> Any:
    """Run Python with HF_HOME and HF_ENDPOINT, which `huggingface_hub` reads when it is imported."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    own = {"HF_HOME": str(home), "HF_ENDPOINT": server_url, "HF_HUB_DISABLE_XET": "1", "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, *code], cwd=cwd, capture_output=True, text=True, env={**kept, **own, **environment}
    )


class Handler(BaseHTTPRequestHandler):
    """The part of the hub's HTTP interface that downloads and commits use."""

    server: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None: ...

    def answer(self, status: int, body: Any = b"", **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def repository(self, name: str) -> Repository | None:
        """The repository, or None after an error was answered, with the headers of the hub."""
        found, token = self.server.repositories.get(name), self.headers.get("Authorization")
        if found and (not found.refuses_with or token == f"Bearer {TOKEN}"):
            return found
        if found and found.refuses_with == "gated":
            self.answer(403, b"", X_Error_Code="GatedRepo", X_Error_Message=f"Access to {name} is restricted")
        else:  # the hub does not reveal which private repositories exist
            self.answer(401, b"", X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
        return None

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((self.command, path))
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            repository = self.repository("/".join(parts[2:4]))
            revision = "/".join(parts[5:]) or "main"
        elif parts[2:3] == ["resolve"]:
            repository, revision = self.repository("/".join(parts[:2])), parts[3]
        else:
            self.answer(404, {"error": path})
            return
        if repository is None:
            return
        if revision not in ("main", repository.sha):
            self.answer(404, b"", X_Error_Code="RevisionNotFound", X_Error_Message=f"Invalid rev id: {revision}")
        elif parts[0] != "api":
            self.send_file(repository, "/".join(parts[4:]))
        elif parts[4:5] == ["tree"]:
            self.answer(200, [self.entry(name, data) for name, data in repository.files.items()])
        else:
            siblings = [{"rfilename": name, "size": len(data)} for name, data in repository.files.items()]
            facts = {"id": "/".join(parts[2:4]), "sha": repository.sha, "private": repository.refuses_with == "private"}
            self.answer(200, {**facts, "siblings": siblings, "tags": []})

    def entry(self, name: str, data: bytes) -> dict[str, Any]:
        return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}

    def send_file(self, repository: Repository, name: str) -> None:
        data = repository.files.get(name)
        if data is None:
            self.answer(404, b"", X_Error_Code="EntryNotFound", X_Error_Message=f"{name} does not exist")
            return
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": repository.sha}
        first = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        rest = data[first:]
        if self.command == "GET" and repository.cut_off.get(name, 0):
            repository.cut_off[name] -= 1
            rest = rest[: len(rest) // 2]
            self.close_connection = True
        self.send_response(206 if first else 200)
        for key, value in {**headers, "Content-Length": str(len(data) - first)}.items():
            self.send_header(key, value)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(rest)

    def do_PUT(self) -> None:
        self.server.objects[self.path.rpartition("/")[2]] = self.body()
        self.answer(400 if self.server.refuses_uploads else 200)

    def do_POST(self) -> None:
        path, data = unquote(urlsplit(self.path).path), self.body()
        self.server.requests.append((self.command, path))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer(401, {"error": "Invalid username or password."})
        elif path == "/api/repos/create":
            wanted = json.loads(data)
            name = f"{wanted['organization']}/{wanted['name']}"
            private = wanted.get("private") or wanted.get("visibility") == "private"  # by version of the library
            self.server.repositories.setdefault(name, Repository({}, "private" if private else ""))
            self.answer(200, {"url": f"{self.server.url}/{name}"})
        elif path == "/api/validate-yaml":
            known = re.search(r"license: (mit|unknown|cc-by-4\.0)$", json.loads(data)["content"], re.MULTILINE)
            errors = [] if known else [{"message": '"license" must be one of [mit, ...]'}]
            self.answer(400 if errors else 200, {"errors": errors, "warnings": []})
        elif path.endswith("/objects/batch"):
            objects = [
                {**item, "actions": {"upload": {"href": f"{self.server.url}/objects/{item['oid']}"}}}
                for item in json.loads(data)["objects"]
            ]
            self.answer(200, {"transfer": "basic", "objects": objects})
        elif "/preupload/" in path:
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(data)["files"]
            ]
            self.answer(200, {"files": files})
        elif "/commit/" in path:
            self.commit("/".join(path.split("/")[3:5]), [json.loads(line) for line in data.splitlines()])
        else:
            self.answer(404, {"error": path})

    def commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        files = self.server.repositories[name].files
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        sha = self.server.repositories[name].sha
        self.answer(200, {"success": True, "commitOid": sha, "commitUrl": f"{self.server.url}/{name}/commit/{sha}"})
