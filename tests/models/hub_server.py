"""A hub on this machine: answers as the Hugging Face hub does, and fails when it is told to."""

from __future__ import annotations

import hashlib
import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from atenea.models.manifest import COMMIT, PARTS, REPOSITORY

_API = f"/api/models/{REPOSITORY}/paths-info/"
_RESOLVE = f"/{REPOSITORY}/resolve/"
_CONTENT = "/content/"


def bundle() -> dict[str, bytes]:
    """Every file of the bundle, small ones for the real."""
    chance = random.Random(1)
    sizes = {"hallo2/net.pth": 300_000}
    return {path: chance.randbytes(sizes.get(path, 1000)) for part in PARTS for path in part.paths}


def is_large(path: str) -> bool:
    """Whether the hub keeps a file beside git, and states its SHA-256."""
    return not path.endswith(".json")


@dataclass
class Request:
    """What was asked."""

    method: str
    path: str
    range: str | None
    token: str | None


@dataclass
class Failure:
    """What to do instead of answering well."""

    status: int = 200
    after: int = 0
    """Send so many bytes of the body, then..."""
    stall: bool = False
    """...nothing more; otherwise the connection is closed."""
    ignore_range: bool = False
    content: bytes | None = None


@dataclass
class FakeHub:
    """The state of the server."""

    files: dict[str, bytes] = field(default_factory=bundle)
    requests: list[Request] = field(default_factory=list)
    failures: dict[str, list[Failure]] = field(default_factory=dict)
    """By path in the bundle, or "api"; each is used once."""
    stated: dict[str, int] = field(default_factory=dict)
    """Sizes that are stated in place of the real ones."""
    endpoint: str = ""
    stalled: threading.Event = field(default_factory=threading.Event)
    """Set when a body has stalled."""
    end: threading.Event = field(default_factory=threading.Event)

    def fetched(self) -> list[tuple[str, str | None]]:
        """The files whose content was asked for, with the range, in order."""
        wanted = [request for request in self.requests if request.path.startswith(_CONTENT)]
        return [(request.path.removeprefix(_CONTENT), request.range) for request in wanted]

    def info(self, path: str) -> dict[str, Any]:
        """What the API states about a file."""
        content = self.files[path]
        size = self.stated.get(path, len(content))
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        info: dict[str, Any] = {"type": "file", "path": path, "size": size, "oid": blob}
        if is_large(path):
            info["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": size, "pointerSize": 134}
        return info


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def _note(self) -> str:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(Request(self.command, path, self.headers["Range"], self.headers["Authorization"]))
        return path

    def _failure(self, name: str) -> Failure | None:
        waiting = self.hub.failures.get(name)
        return waiting.pop(0) if waiting else None

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        path = self._note()
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        failure = self._failure("api")
        if failure:
            self._answer(failure.status, failure.content or b"", Content_Type="text/html")
        elif path != _API + COMMIT:
            self._answer(404, X_Error_Code="RevisionNotFound")
        else:
            infos = [self.hub.info(name) for name in form["paths"] if name in self.hub.files]
            self._answer(200, json.dumps(infos).encode(), Content_Type="application/json")

    def do_GET(self) -> None:
        path = self._note()
        if path.startswith(_RESOLVE + COMMIT):
            name = path.removeprefix(f"{_RESOLVE}{COMMIT}/")
            # Content comes from another host than the hub.
            place = f"http://localhost:{self.server.server_address[1]}{_CONTENT}{name}"
            self._answer(302, Location=place, X_Repo_Commit=COMMIT, X_Linked_Size=str(len(self.hub.files[name])))
        elif path.startswith(_CONTENT):
            self._content(path.removeprefix(_CONTENT))
        else:
            self._answer(404, X_Error_Code="RevisionNotFound")

    def _content(self, name: str) -> None:
        failure = self._failure(name) or Failure(after=-1)
        if failure.status != 200:
            self._answer(failure.status)
            return
        body = self.hub.files[name] if failure.content is None else failure.content
        asked = None if failure.ignore_range else self.headers["Range"]
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        body, size = body[start:], len(body)
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(body)))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.end_headers()
        cut = len(body) if failure.after < 0 or failure.content is not None else failure.after
        self.wfile.write(body[:cut])
        if cut < len(body):
            self.close_connection = True
            if failure.stall:
                self.wfile.flush()
                self.hub.stalled.set()
                self.hub.end.wait(120)


@contextmanager
def serve() -> Iterator[FakeHub]:
    """The server, while the context lasts."""
    hub = FakeHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield hub
        finally:
            hub.end.set()
            server.shutdown()
            thread.join()
