"""A model hub on this machine that misbehaves on purpose: busy answers, and lines that break in the middle of a file."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

REVISION = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(ThreadingHTTPServer):
    """Serves the files of one folder as ``org/model``.

    ``busy``: requests that are answered by ``status`` before the first honest one. ``cut``: bytes of a large file after which
    the line breaks, as often as ``cuts`` says. ``log``: method, path and the Range asked for, of every request.
    """

    daemon_threads = True

    def __init__(self, folder: Path, *, busy: int = 0, status: int = 503, cut: int = 0, cuts: int = 0) -> None:
        self.folder, self.busy, self.status, self.cut, self.cuts = folder, busy, status, cut, cuts
        self.log: list[tuple[str, str, str | None]] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def sent(self) -> list[str | None]:
        """The Range of every GET of the weights."""
        return [range_ for method, path, range_ in self.log if method == "GET" and path.endswith(".safetensors")]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeHub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, path = self.server, urlsplit(self.path).path
        hub.log.append((self.command, path, self.headers.get("Range")))
        if hub.busy > 0:
            hub.busy -= 1
            self._send(hub.status, b'{"error": "busy"}', {"Retry-After": "0"})
        elif path.startswith("/api/models/org/model/tree/"):
            self._json([self._entry(file) for file in sorted(hub.folder.iterdir())])
        elif path.startswith("/api/models/org/model"):
            files = [{"rfilename": file.name} for file in sorted(hub.folder.iterdir())]
            self._json(
                {"id": "org/model", "modelId": "org/model", "sha": REVISION, "siblings": files, "private": False}
            )
        elif path.startswith(f"/org/model/resolve/{REVISION}/"):
            self._file(hub.folder / path.rpartition("/")[2])
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _entry(self, file: Path) -> dict[str, Any]:
        return {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": _etag(file)}

    def _file(self, file: Path) -> None:
        if not file.is_file():
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            return
        content, start, status = file.read_bytes(), 0, 200
        if (asked := self.headers.get("Range")) and not asked.startswith("bytes=0-0"):
            start, status = int(asked.removeprefix("bytes=").split("-")[0]), 206
        headers = {"ETag": f'"{_etag(file)}"', "X-Repo-Commit": REVISION, "Accept-Ranges": "bytes"}
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._send(status, content[start:], headers, cut=file.name.endswith(".safetensors"))

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str], *, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if cut and self.server.cuts > 0 and len(body) > self.server.cut:
            self.server.cuts -= 1
            self.wfile.write(body[: self.server.cut])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Silent."""


def _etag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


@contextmanager
def serving(folder: Path, **behaviour: int) -> Iterator[FakeHub]:
    """A hub that runs while the block does."""
    hub = FakeHub(folder, **behaviour)
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
