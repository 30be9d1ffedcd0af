"""A stand-in for the Hub: a local HTTP server that speaks enough of its API for the real client."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

REPO = "acme/tiny-llama"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """One repository at one commit: the files below `root`; safetensors and `.bin` are LFS files.

    Attributes:
        published: SHA-256 by path that it publishes although they are not the files'.
        broken: answer the model's own page with this instead: a status and a body.
        asked: the requests it saw, method and path.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.published: dict[str, str] = {}
        self.broken: tuple[int, bytes] | None = None
        self.asked: list[str] = []
        self.url = ""

    def files(self) -> dict[str, Path]:
        return {p.relative_to(self.root).as_posix(): p for p in sorted(self.root.rglob("*")) if p.is_file()}

    def sibling(self, name: str, path: Path) -> dict[str, Any]:
        data = path.read_bytes()
        entry: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": git_sha1(data)}
        if is_lfs(name):
            sha256 = self.published.get(name, hashlib.sha256(data).hexdigest())
            entry["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 134}
        return entry

    def info(self) -> dict[str, Any]:
        siblings = [self.sibling(name, path) for name, path in self.files().items()]
        return {"_id": "1", "id": REPO, "modelId": REPO, "sha": COMMIT, "private": False, "siblings": siblings}

    def tree(self) -> list[dict[str, Any]]:
        found = []
        for name, path in self.files().items():
            entry = self.sibling(name, path)
            row = {"type": "file", "oid": entry["blobId"], "size": entry["size"], "path": name}
            if "lfs" in entry:
                row["lfs"] = {"oid": entry["lfs"]["sha256"], "size": entry["size"], "pointerSize": 134}
            found.append(row)
        return found


def is_lfs(name: str) -> bool:
    return name.endswith((".safetensors", ".bin"))


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@contextmanager
def serving(root: Path) -> Iterator[Hub]:
    hub = Hub(root)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def log_message(self, *arguments: object) -> None:
            pass

        def _answer(self, *, body: bool) -> None:
            path = self.path.partition("?")[0]
            hub.asked.append(f"{self.command} {path}")
            api, resolve = f"/api/models/{REPO}", f"/{REPO}/resolve/"
            if path == api or re.fullmatch(rf"{api}/revision/(main|{COMMIT})", path):
                if hub.broken is not None:
                    return self._send(hub.broken[0], hub.broken[1], {}, body=body)
                return self._send(200, json.dumps(hub.info()).encode(), {}, body=body)
            if re.fullmatch(rf"{api}/tree/(main|{COMMIT})/?", path):
                return self._send(200, json.dumps(hub.tree()).encode(), {}, body=body)
            if path.startswith(resolve):
                revision, _, name = path.removeprefix(resolve).partition("/")
                if revision in ("main", COMMIT) and name in hub.files():
                    data = hub.files()[name].read_bytes()
                    etag = hashlib.sha256(data).hexdigest() if is_lfs(name) else git_sha1(data)
                    headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'}
                    if is_lfs(name):
                        headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data))}
                    return self._send(200, data, headers, body=body)
            return self._send(404, b'{"error":"not found"}', {"X-Error-Code": "RepoNotFound"}, body=body)

        def _send(self, status: int, data: bytes, headers: dict[str, str], *, body: bool) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(data)), "Content-Type": "application/json", **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
