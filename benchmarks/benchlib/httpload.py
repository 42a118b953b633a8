"""A load generator for one small request over kept-alive connections, cheap enough not to be the limit itself."""

from __future__ import annotations

import selectors
import socket
import time
from pathlib import Path


class _Client:
    """One connection with one request under way at a time."""

    def __init__(self, path: Path, request: bytes) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30.0)
        self.sock.connect(str(path))
        self._request = request
        self._buffer = b""
        self._sent = 0.0

    def send(self) -> None:
        """Send the request."""
        self._sent = time.perf_counter()
        self.sock.sendall(self._request)

    def receive(self) -> float | None:
        """Take what has come; give the request's seconds once the answer is whole. Errors: RuntimeError."""
        data = self.sock.recv(1 << 18)
        if not data:
            raise RuntimeError("the daemon closed a kept-alive connection")
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return None
        if not head.startswith(b"HTTP/1.1 20"):
            raise RuntimeError(f"the daemon answered {head[:60]!r}")
        mark = head.lower().index(b"content-length:") + len(b"content-length:")
        if len(rest) < int(head[mark:].split(b"\r\n", 1)[0]):
            return None
        self._buffer = b""
        return time.perf_counter() - self._sent


def run(path: Path, target: str, *, clients: int, seconds: float) -> tuple[float, list[float]]:
    """Ask as fast as the answers come.

    Args:
        path: of the unix socket.
        target: path and query of the request.
        clients: connections. seconds: how long.

    Returns: requests per second, and the seconds each took.

    """
    request = f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    connected = [_Client(path, request) for _ in range(clients)]
    times: list[float] = []
    with selectors.DefaultSelector() as selector:
        try:
            for client in connected:
                selector.register(client.sock, selectors.EVENT_READ, client)
            started = time.perf_counter()
            for client in connected:
                client.send()
            while (now := time.perf_counter()) - started < seconds:
                for key, _ in selector.select(1.0):
                    took = key.data.receive()
                    if took is not None:
                        times.append(took)
                        key.data.send()
            return len(times) / (now - started), times
        finally:
            for client in connected:
                client.sock.close()
