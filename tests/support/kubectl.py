"""What kubectl sees of an API server and a kubelet: one pod, whose streams go to the URLs of a runtime."""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, urlsplit

POD = {
    "kind": "Pod",
    "apiVersion": "v1",
    "metadata": {"name": "web", "namespace": "default", "uid": "1"},
    "spec": {"containers": [{"name": "main", "image": "x", "stdin": True, "tty": False}]},
    "status": {"phase": "Running", "containerStatuses": [{"name": "main", "ready": True, "state": {"running": {}}}]},
}
RESOURCES = {
    "kind": "APIResourceList",
    "groupVersion": "v1",
    "resources": [{"name": "pods", "singularName": "pod", "namespaced": True, "kind": "Pod", "verbs": ["get"]}],
}

DISCOVERY = {
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
    "/api/v1": RESOURCES,
}

Query = dict[str, list[str]]


class KubeProxy:
    """A server on loopback; use it as a ``with`` block.

    Args:
        stream: gives the runtime's URL for a stream: ``exec``, ``attach`` or ``portforward``, and the query.

    """

    def __init__(self, stream: Callable[[str, Query], str], *, tty: bool = False) -> None:
        self._stream = stream
        self._pod = json.loads(json.dumps(POD))
        self._pod["spec"]["containers"][0]["tty"] = tty
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._home = tempfile.TemporaryDirectory()
        self.protocols: list[str] = []  # that the clients asked for

    def __enter__(self) -> Self:
        threading.Thread(target=self._run, daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._listener.close()
        self._home.cleanup()

    def command(self, *words: str) -> list[str]:
        """Return the words of a call of kubectl."""
        return ["kubectl", "--server", self.url, "--cache-dir", self._home.name, *words]

    def kubectl(self, *words: str, data: bytes = b"", spdy: bool = False) -> subprocess.CompletedProcess[bytes]:
        """Run kubectl to its end. ``spdy``: it is not to try WebSocket."""
        return subprocess.run(
            self.command(*words), input=data, capture_output=True, timeout=150, check=False, env=self.environment(spdy)
        )

    def environment(self, spdy: bool) -> dict[str, str]:
        """Return the variables of kubectl."""
        words = "false" if spdy else "true"
        return {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": self._home.name,
            "KUBECTL_REMOTE_COMMAND_WEBSOCKETS": words,
            "KUBECTL_PORT_FORWARD_WEBSOCKETS": words,
        }

    def _run(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            head = b""
            while b"\r\n\r\n" not in head:
                data = sock.recv(65_536)
                if not data:
                    return
                head += data
            line, _, rest = head.partition(b"\r\n")
            method, target, _ = line.decode().split(" ")
            place = urlsplit(target)
            kind = Path(place.path).name
            if kind in ("exec", "attach", "portforward"):
                self.protocols.append("spdy" if b"upgrade: spdy" in head.lower() else "websocket")
                url = urlsplit(self._stream(kind, parse_qs(place.query)))
                with socket.create_connection((url.hostname or "", url.port or 0)) as other:
                    other.sendall(f"{method} {url.path} HTTP/1.1\r\n".encode() + rest)
                    _both(sock, other)
                return
            answer = {**DISCOVERY, "/api/v1/namespaces/default/pods/web": self._pod}.get(place.path)
            body = json.dumps(
                answer or {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404}
            ).encode()
            status = "200 OK" if answer else "404 Not Found"
            sock.sendall(
                f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
                "Connection: close\r\n\r\n".encode()
                + body
            )


def _both(one: socket.socket, other: socket.socket) -> None:
    def copy(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65_536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            source.close()

    thread = threading.Thread(target=copy, args=(other, one), daemon=True)
    thread.start()
    copy(one, other)
    thread.join()
