"""A daemon that only pretends: it records every request and answers what a test has written down for it.

It is a real HTTP/1.1 server on a unix socket (or TCP), with keep-alive, chunked answers and hijacked streams, so that
hyperctl can be run against it as the process it is.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs

PATIENCE = 60.0  # seconds until a test gives up waiting for something that must come


@dataclass
class Exchange:
    """One request as it arrived, and for a hijacked one what its stdin said."""

    connection: int
    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    stdin: bytes = b""
    half_closed: threading.Event = field(default_factory=threading.Event)

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def parameters(self) -> dict[str, list[str]]:
        return parse_qs(self.target.partition("?")[2], keep_blank_values=True)

    @property
    def line(self) -> str:
        return f"{self.method} {self.target}"

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Reply:
    """A plain answer; `pieces` sends it chunked, `cut` ends the connection in the middle of it."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    reason: str = "Because"
    pieces: Sequence[bytes] = ()
    cut: bool = False
    before: Callable[[], object] = lambda: None


def ok(value: object, status: int = 200) -> Reply:
    return Reply(status=status, body=json.dumps(value).encode() + b"\n")


def refuse(status: int, text: str) -> Reply:
    return Reply(status=status, body=f"{text}\n".encode(), content_type="text/plain; charset=utf-8")


def lines(*objects: object) -> Reply:
    """A progress stream, cut into chunks that do not respect its lines."""
    data = b"".join(json.dumps(value).encode() + b"\r\n" for value in objects)
    return Reply(pieces=[data[start : start + 17] for start in range(0, len(data), 17)])


def frame(stream: int, payload: bytes) -> bytes:
    return struct.pack(">BxxxL", stream, len(payload)) + payload


class Talk:
    """The daemon's end of a hijacked stream."""

    def __init__(self, sock: socket.socket, exchange: Exchange, early: bytes, fake: FakeHyperd) -> None:
        self.sock = sock
        self.exchange = exchange
        self.fake = fake
        self._early = early

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def out(self, payload: bytes) -> None:
        self.send(frame(1, payload))

    def err(self, payload: bytes) -> None:
        self.send(frame(2, payload))

    def receive(self) -> bytes:
        """Return some of the client's stdin, nothing at its half-close."""
        data, self._early = self._early or self.sock.recv(65536), b""
        self.exchange.stdin += data
        if not data:
            self.exchange.half_closed.set()
        return data

    def receive_until(self, mark: bytes) -> None:
        while mark not in self.exchange.stdin:
            if not self.receive():
                raise AssertionError(f"stdin ended without {mark!r}: {self.exchange.stdin!r}")

    def receive_all(self) -> bytes:
        while self.receive():
            pass
        return self.exchange.stdin


_HEAD_101 = (
    b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\n"
    b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
)


@dataclass
class Hijack:
    """An answer of 101, with `glued` bytes in the same segment as the head, and then a talk."""

    talk: Callable[[Talk], object] = lambda _: None
    glued: bytes = b""
    head: bytes = _HEAD_101


class FakeHyperd:
    """The server; use it as a context manager.

    Args:
        tcp: listen on 127.0.0.1 and not on a unix socket.

    """

    def __init__(self, *, tcp: bool = False) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="hy", dir="/tmp"))
        self._answers: dict[tuple[str, str], list[Reply | Hijack]] = {}
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []
        self._closing = False
        self.exchanges: list[Exchange] = []
        self.failures: list[BaseException] = []
        if tcp:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(self._directory / "s"))
            self._listener.listen()
            self.address = f"unix://{self._directory / 's'}"

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        for sock in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join(PATIENCE)
        shutil.rmtree(self._directory)
        if self.failures:
            raise self.failures[0]

    def on(self, method: str, path: str, *answers: Reply | Hijack) -> FakeHyperd:
        """Answer requests for a path (with or without its version), in turn; the last answer stays."""
        self._answers[method, path] = list(answers)
        return self

    @property
    def requests(self) -> list[str]:
        with self._changed:
            return [exchange.line for exchange in self.exchanges]

    def find(self, path: str, count: int = 1) -> Exchange:
        """Return the count-th request whose path ends so, waiting for it."""

        def found() -> Exchange | None:
            matching = [exchange for exchange in self.exchanges if exchange.path.endswith(path)]
            return matching[count - 1] if len(matching) >= count else None

        with self._changed:
            exchange = self._changed.wait_for(found, PATIENCE)
        assert exchange is not None, f"no request for {path}: {self.requests}"
        return exchange

    def _spawn(self, function: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=function, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        number = 0
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            number += 1
            self._open.append(sock)
            self._spawn(self._serve, sock, number)

    def _serve(self, sock: socket.socket, number: int) -> None:
        try:
            with sock:
                early = b""
                while (request := _read_request(sock, early, number)) is not None:
                    exchange, early = request
                    if not self._respond(sock, exchange, early):
                        return
        except OSError:
            pass  # the client left, or the test is over
        except BaseException as error:
            if not self._closing:
                self.failures.append(error)

    def _respond(self, sock: socket.socket, exchange: Exchange, early: bytes) -> bool:
        answer = self._next_answer(exchange)
        with self._changed:
            self.exchanges.append(exchange)
            self._changed.notify_all()
        if isinstance(answer, Hijack):
            sock.sendall(answer.head + answer.glued)
            answer.talk(Talk(sock, exchange, early, self))
            return False
        answer.before()
        sock.sendall(_render(answer))
        return not answer.cut

    def _next_answer(self, exchange: Exchange) -> Reply | Hijack:
        bare = "/" + exchange.path.split("/", 2)[2] if exchange.path.startswith("/v") else exchange.path
        for key in ((exchange.method, exchange.path), (exchange.method, bare)):
            if key in self._answers:
                answers = self._answers[key]
                return answers.pop(0) if len(answers) > 1 else answers[0]
        return refuse(404, "404 page not found")


def _render(reply: Reply) -> bytes:
    head = [f"HTTP/1.1 {reply.status} {reply.reason}", f"Content-Type: {reply.content_type}"]
    if reply.pieces:
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in reply.pieces)
        body += b"" if reply.cut else b"0\r\n\r\n"
        head.append("Transfer-Encoding: chunked")
    else:
        body = reply.body
        if reply.status != 204:
            head.append(f"Content-Length: {len(body) + (10 if reply.cut else 0)}")
    return "\r\n".join([*head, "", ""]).encode() + body


def _read_request(sock: socket.socket, data: bytes, number: int) -> tuple[Exchange, bytes] | None:
    while b"\r\n\r\n" not in data:
        piece = sock.recv(65536)
        if not piece:
            assert not data, f"a request was cut off: {data!r}"
            return None
        data += piece
    head, _, data = data.partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    method, target, version = first.split(" ")
    assert version == "HTTP/1.1"
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
    if headers.get("transfer-encoding") == "chunked":
        body, data = _read_chunks(sock, data)
    else:
        size = int(headers.get("content-length", "0"))
        while len(data) < size:
            data += sock.recv(65536)
        body, data = data[:size], data[size:]
    return Exchange(number, method, target, headers, body), data


def _read_chunks(sock: socket.socket, data: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        while b"\r\n" not in data:
            data += sock.recv(65536)
        size_text, _, data = data.partition(b"\r\n")
        size = int(size_text, 16)
        while len(data) < size + 2:
            data += sock.recv(65536)
        body += data[:size]
        data = data[size + 2 :]
        if not size:
            return body, data
