"""A registry with faults on demand, for what a real one does only on a bad day."""

from __future__ import annotations

import json
import re
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from tests.support.registry import DOCKER_MANIFEST, OCI_INDEX, Layer, digest_of


class FaultyRegistry:
    """Serves one repository from memory.

    Set ``fault`` to a function that gets the handler and the path and returns True when it has answered by itself.
    """

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[bytes, str]] = {}
        self.requests: list[tuple[str, str, Mapping[str, str]]] = []  # method, path, headers
        self.fault: Callable[[Any, str], bool] = lambda _handler, _path: False
        self.released = threading.Event()  # ends ``stall``
        self.uploads: dict[str, bytearray] = {}  # what has arrived, by path
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def host(self) -> str:
        """``127.0.0.1:port``."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def count(self, pattern: str) -> int:
        """Return the number of requests whose path fits a regular expression."""
        return sum(bool(re.search(pattern, path)) for _, path, _ in self.requests)

    def add(self, tag: str, layers: list[Layer], **overrides: Any) -> tuple[str, list[str]]:
        """Add an image; give its manifest's and its layers' digests. ``config`` and ``manifest`` override keys."""
        packed = [layer.packed for layer in layers]
        config = {
            "os": "linux",
            "architecture": "amd64",
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer.tar) for layer in layers]},
            **overrides.get("config", {}),
        }
        blob = json.dumps(config).encode()
        for data in [*packed, blob]:
            self.blobs[digest_of(data)] = data
        manifest = {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST,
            "config": {
                "mediaType": "application/vnd.docker.container.image.v1+json",
                "digest": digest_of(blob),
                "size": len(blob),
            },
            "layers": [
                {"mediaType": layer.media_type(oci=False), "digest": digest_of(data), "size": len(data)}
                for layer, data in zip(layers, packed, strict=True)
            ],
            **overrides.get("manifest", {}),
        }
        return self.add_manifest(tag, json.dumps(manifest).encode()), [digest_of(data) for data in packed]

    def add_manifest(self, tag: str, raw: bytes, media_type: str = DOCKER_MANIFEST) -> str:
        """Add a raw manifest under a tag and its digest; give the digest."""
        self.manifests[tag] = self.manifests[digest_of(raw)] = (raw, media_type)
        return digest_of(raw)

    def add_index(self, tag: str, entries: list[dict[str, Any]]) -> str:
        """Add an index."""
        raw = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
        return self.add_manifest(tag, raw, OCI_INDEX)

    def stall(self, seconds: float = 60.0) -> None:
        """Be silent until the end of the test."""
        self.released.wait(seconds)


class _Server(ThreadingHTTPServer):
    request_queue_size = 64  # as many as tests begin at once: one that finds no room would be lost for a second

    def handle_error(self, *_: object) -> None:
        """Clients that go away are what the tests are about."""


def send(handler: Any, body: bytes, *, status: int = 200, cut: int | None = None, **headers: str) -> None:
    """Answer; with ``cut`` only that many bytes of the body, then the connection ends."""
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body if cut is None else body[:cut])
    if cut is not None:
        handler.close_connection = True


def send_blob(handler: Any, body: bytes, *, cut: int | None = None, pace: float = 0.0, piece: int = 65536) -> None:
    """Answer with a blob, honouring Range; ``pace`` seconds between pieces."""
    start = int((re.match(r"bytes=(\d+)-", handler.headers.get("Range", "")) or [0, 0])[1])
    headers = {"Content_Range": f"bytes {start}-{len(body) - 1}/{len(body)}"} if start else {}
    if not pace or handler.command == "HEAD":
        send(handler, body[start:], status=206 if start else 200, cut=cut, **headers)
        return
    handler.send_response(206 if start else 200)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body) - start))
    handler.end_headers()
    for position in range(start, len(body), piece):
        handler.wfile.write(body[position : position + piece])
        time.sleep(pace)


def upload(registry: FaultyRegistry, handler: Any, path: str, query: str, *, most: int | None = None) -> None:
    """Answer a request of an upload; a PATCH breaks off after ``most`` bytes, which are kept."""
    if handler.command == "POST":
        path += f"u{len(registry.uploads)}"
        registry.uploads[path] = bytearray()
        send(handler, b"", status=202, Location=path)
        return
    if path not in registry.uploads:
        send(handler, b'{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}', status=404)
        return
    got = registry.uploads[path]
    if handler.command == "PATCH":
        offered = handler.headers.get("Content-Range", "")
        if got and not offered.startswith(f"{len(got)}-"):
            send(handler, b"", status=416)
            handler.close_connection = True
            return
        left = int(handler.headers["Content-Length"])
        take = left if most is None else min(left, most)
        while take and (piece := handler.rfile.read(min(take, 65536))):
            got += piece
            take -= len(piece)
        if most is not None:
            handler.close_connection = True
            handler.connection.close()
            return
    if handler.command == "PUT":
        data, digest = bytes(got) + handler.body, urllib.parse.unquote(query.partition("digest=")[2])
        if digest_of(data) != digest:
            send(handler, b'{"errors":[{"code":"DIGEST_INVALID"}]}', status=400)
            return
        registry.blobs[digest] = data
        send(handler, b"", status=201, Docker_Content_Digest=digest)
        return
    send(
        handler, b"", status=204 if handler.command == "GET" else 202, Range=f"0-{max(len(got) - 1, 0)}", Location=path
    )


def _handler(registry: FaultyRegistry) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.body = self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def do_PUT(self) -> None:
            self.do_POST()

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_PATCH(self) -> None:
            """A registry keeps what has come when the connection breaks; ``fault`` may look at ``registry.uploads``."""
            self.body = b""
            self.do_GET()

        def do_DELETE(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            registry.requests.append((self.command, self.path, dict(self.headers)))
            if self.path.startswith("http://"):  # asked as a proxy
                self.path = "/" + self.path.split("/", 3)[3]
            try:
                if not registry.fault(self, self.path):
                    self._answer()
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def _answer(self) -> None:
            path, _, query = self.path.partition("?")
            kind, _, name = path.rpartition("/")
            if "/blobs/uploads/" in path:
                upload(registry, self, path, query)
            elif self.command == "PUT" and kind.endswith("/manifests"):
                digest = registry.add_manifest(name, self.body, self.headers["Content-Type"])
                send(self, b"", status=201, Docker_Content_Digest=digest)
            elif self.path == "/v2/":
                send(self, b"{}")
            elif kind.endswith("/manifests") and name in registry.manifests:
                raw, media_type = registry.manifests[name]
                send(self, raw, Content_Type=media_type, Docker_Content_Digest=digest_of(raw))
            elif kind.endswith("/blobs") and name in registry.blobs:
                send_blob(self, registry.blobs[name])
            else:
                send(self, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}', status=404)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
