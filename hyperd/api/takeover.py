"""Taking a client's connection over from gunicorn.

WSGI can neither answer 101 nor notice that a client left, and a stream inside a view would hold a thread. So the
socket leaves the HTTP server: we duplicate its descriptor, put one end of a dead socket pair in its place, write the
head ourselves and give the connection away. gunicorn then fails quietly to write its own answer to the dead socket
and counts the connection as closed. Proved on gunicorn 27 ``gthread`` only; ``tests/functional/test_takeover.py``
repeats the proof.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

import structlog
from flask import Response, request

from hyperd.errors import HostFault, InvalidInput, NotSupported
from hyperd.stream.client import MakeClient
from hyperd.stream.connection import ClientConnection

log = structlog.get_logger(__name__)

RAW_STREAM = "application/vnd.docker.raw-stream"
DRAIN_TIMEOUT = 1.0  # seconds, in which a thread of the HTTP server is held
DRAIN_READS = 16
WEBSOCKET_VERSION = "13"
HEAD_TIMEOUT = 10.0  # seconds; the head fits into any socket buffer


class Session(Protocol):
    """What a service gives for attach, exec and logs. Errors were raised before it was made."""

    tty: bool

    def run(self, sock: socket.socket, early: bytes, *, chunked: bool = False) -> None:
        """Own the socket from now on; return at once. ``early``: what the client sent behind its request."""

    def close(self) -> None:
        """Give up a session that is never run."""


class StreamSession(Session, Protocol):
    """A session whose client may speak more than plain bytes."""

    def run(self, sock: socket.socket, early: bytes, *, chunked: bool = False, make: MakeClient | None = None) -> None:
        """Own the socket; ``make`` makes the client of the relay."""


@dataclass(frozen=True)
class Taken:
    """A connection that is ours: ``chunked`` tells whether the body is framed as HTTP/1.1 chunks."""

    sock: socket.socket
    early: bytes
    chunked: bool


def upgrade(session: Session, content_type: str = RAW_STREAM) -> Response:
    """Turn the request into a raw two-way stream: 101 if the client asked for an upgrade, else 200.

    Errors: HostFault, NotSupported if this server cannot hand its connections over; the session is closed then.
    """
    return _give(session, _upgrade_head(content_type), chunked=False, status=101 if upgrade_asked() else 200)


def upgrade_framed(session: StreamSession, content_type: str, *, raw: bool) -> Response:
    """As ``upgrade``, for a client that gets output raw, or in Docker's frames, whatever its process is."""
    try:
        taken = take(_upgrade_head(content_type))
    except BaseException:
        session.close()
        raise
    session.run(taken.sock, taken.early, make=lambda relay: ClientConnection(relay, raw=raw))
    return gone()


def _upgrade_head(content_type: str) -> str:
    if upgrade_asked():
        return f"HTTP/1.1 101 UPGRADED\r\nContent-Type: {content_type}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    return f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n\r\n"


def websocket(session: StreamSession, *, text: bool = False) -> Response:
    """Turn the request into a WebSocket (RFC 6455) on the session; ``text``: see WebSocketClient.

    Errors: InvalidInput for a request that asks for none; HostFault, NotSupported. The session is closed then.
    """
    from hyperd.stream.websocket import WebSocketClient, accept_token  # wsproto only for those who use it

    given = request.headers
    key, version = given.get("Sec-WebSocket-Key", "").strip(), given.get("Sec-WebSocket-Version", "")
    if given.get("Upgrade", "").lower() != "websocket" or not key or version != WEBSOCKET_VERSION:
        session.close()
        raise InvalidInput(
            "this needs a WebSocket", details=f"Upgrade: {given.get('Upgrade', '')[:40]}, version {version[:10]}"
        )
    head = (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept_token(key)}\r\n\r\n"
    )
    try:
        taken = take(head)
    except BaseException:
        session.close()
        raise
    session.run(taken.sock, taken.early, make=lambda relay: WebSocketClient(relay, text=text))
    return gone()


def follow(session: Session, content_type: str) -> Response:
    """Turn the answer into a one-way stream of chunks. Errors: as ``upgrade``."""
    chunked = speaks_chunks()
    return _give(session, stream_head(content_type, chunked=chunked), chunked=chunked, status=200)


def take(head: str) -> Taken:
    """Take the connection and send the head of the answer. Errors: HostFault, NotSupported; then nothing happened.

    A client that has left already is no error: the owner of the connection notices.
    """
    request.get_data(cache=False)
    sock, early = _take_socket()
    try:
        sock.settimeout(HEAD_TIMEOUT)
        sock.sendall(head.encode("ascii"))
    except OSError as error:
        log.debug("api.client_left", error=str(error))
    return Taken(sock, early, speaks_chunks())


def stream_head(
    content_type: str,
    *,
    chunked: bool,
    headers: Mapping[str, str] | None = None,
    status: HTTPStatus = HTTPStatus.OK,
) -> str:
    """Write the head of a streamed answer, after which the connection is closed."""
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"Content-Type: {content_type}",
        *(f"{key}: {value}" for key, value in (headers or {}).items()),
    ]
    if chunked:
        lines.append("Transfer-Encoding: chunked")
    return "\r\n".join([*lines, "Connection: close", "", ""])


def whole_head(status: HTTPStatus, content_type: str, length: int) -> str:
    """Write the head of a whole answer that is sent on a taken connection."""
    lines = [f"HTTP/1.1 {status.value} {status.phrase}"]
    if content_type:
        lines.append(f"Content-Type: {content_type}")
    if status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):  # these have no body (RFC 9110)
        lines.append(f"Content-Length: {length}")
    return "\r\n".join([*lines, "Connection: close", "", ""])


def upgrade_asked() -> bool:
    """Tell whether the client wants a raw stream on this connection."""
    return "upgrade" in request.headers.get("Connection", "").lower() and bool(request.headers.get("Upgrade"))


def close_failed_upgrade(response: Response) -> Response:
    """Close the connection after a refused upgrade: the original client takes whatever comes for a stream till EOF.

    gunicorn lets no application close a kept-alive connection, so the answer is sent by us.
    """
    if response.status_code < 400 or not upgrade_asked() or "gunicorn.socket" not in request.environ:
        return response
    body = response.get_data()
    status = HTTPStatus(response.status_code)
    sock = take(whole_head(status, response.headers.get("Content-Type", "text/plain"), len(body))).sock
    with sock, contextlib.suppress(OSError):
        sock.sendall(body)
        sock.shutdown(socket.SHUT_WR)
        # What the client had sent already must not turn into a reset that eats the answer.
        end = time.monotonic() + DRAIN_TIMEOUT
        for _ in range(DRAIN_READS):
            sock.settimeout(max(end - time.monotonic(), 0.001))
            if not sock.recv(65_536):
                break
    return gone()


def gone() -> Response:
    """Return the answer for gunicorn after a take-over; nobody ever sees it."""
    return Response(status=101)


def _give(session: Session, head: str, *, chunked: bool, status: int) -> Response:
    try:
        if request.method == "HEAD":
            session.close()
            return Response(status=status)
        taken = take(head)
    except BaseException:
        session.close()
        raise
    if chunked:
        session.run(taken.sock, taken.early, chunked=True)
    else:
        session.run(taken.sock, taken.early)
    return gone()


def speaks_chunks() -> bool:
    """Tell whether the client knows HTTP/1.1 and so chunks."""
    return bool(request.environ.get("SERVER_PROTOCOL") != "HTTP/1.0")


def _take_socket() -> tuple[socket.socket, bytes]:
    theirs = request.environ.get("gunicorn.socket")
    if theirs is None:
        raise HostFault("this HTTP server cannot hand its connections over", resolution="run hyperd by its own command")
    if isinstance(theirs, ssl.SSLSocket):
        raise NotSupported("streams over TLS are not supported")
    early = _leftover()
    mine = socket.socket(fileno=os.dup(theirs.fileno()))
    try:
        left, right = socket.socketpair()
    except OSError:
        mine.close()
        raise
    with left, right:
        # The server keeps its descriptor number, which now leads to a socket whose peer is about to close.
        os.dup2(left.fileno(), theirs.fileno(), inheritable=False)
    return mine, early


def _leftover() -> bytes:
    """Take bytes that the parser read behind the request."""
    reader = getattr(request.environ["wsgi.input"], "reader", None)
    # A reader of a chunked body knows the parser's buffer only through its request.
    source = getattr(reader, "unreader", None) or getattr(getattr(reader, "req", None), "unreader", None)
    return bytes(source.take_buffered()) if source is not None else b""
