"""Exec, attach and port-forward: an HTTP server of their own on this host's loopback, in the relay's loop.

A call over gRPC gets a URL with a token that is good once and for a short time; who has it upgrades the connection to
WebSocket or SPDY/3.1. No stream holds a thread: those of a small pool only make the sessions.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

import h11
import structlog

from hyperd.api.cri import remote
from hyperd.api.cri.forwards import Forwards
from hyperd.api.cri.remote import ERROR, ROLES, RemoteClient
from hyperd.container.process import AttachSession
from hyperd.errors import Busy, HostFault, HyperError
from hyperd.stream.connection import ClientConnection
from hyperd.stream.frames import STDERR, STDOUT
from hyperd.stream.links import Link, SpdyLink, WebSocketLink
from hyperd.stream.websocket import WebSocketClient, accept_token

if TYPE_CHECKING:
    from hyperd.stream.relay import Relay

log = structlog.get_logger(__name__)

ADDRESS = "127.0.0.1"
INNER = "cri-streams.sock"  # behind TLS
TOKENS = 1000  # that may be under way
TOKEN_SECONDS = 60.0
HEAD_SECONDS = 30.0  # for the head of a request, and for the streams behind it
MAX_HEAD = 16_384  # bytes
MAX_CLIENTS = 4096  # connections at a time that have not said what they want
BACKLOG = 128
THREADS = 4
SPDY = "SPDY/3.1"
CHANNELS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
FORWARD = "portforward.k8s.io"
TUNNEL = f"{SPDY}+{FORWARD}"  # SPDY in messages of a WebSocket
SPDY_PROTOCOL = "x-stream-protocol-version"


@dataclass(frozen=True, kw_only=True)
class Streams:
    """What a client asked for: an exec or an attach.

    Args:
        roles: the channels it has, by their numbers over WebSocket.
        make: makes the session, in a thread of a service. Errors: HyperError.
        tells_code: the status has the exit code.

    """

    roles: frozenset[int]
    make: Callable[[], AttachSession]
    tells_code: bool


@dataclass(frozen=True, kw_only=True)
class Ports:
    """What a client asked for: connections to ports.

    Args:
        ports: that WebSocket's channels are for; SPDY's streams name their own.
        connect: makes the session of one. Errors: HyperError.

    """

    ports: tuple[int, ...]
    connect: Callable[[int], AttachSession]


@dataclass
class _Refused(Exception):
    """The request is answered so."""

    status: HTTPStatus
    message: str
    headers: tuple[tuple[str, str], ...] = ()


# Takes a listening socket: who comes by TLS is led to the unix socket.
Secure = Callable[[socket.socket, Path], None]


class StreamingServer:
    """See the module's docstring.

    Args:
        relay: its loop carries all connections.
        directory: for a unix socket. secure: makes streams to be over TLS; None = they are not.

    """

    def __init__(self, relay: Relay, *, directory: Path = Path("/"), secure: Secure | None = None) -> None:
        self._relay = relay
        self._inner = directory / INNER
        self._secure = secure
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="cri-stream")
        self._offers: dict[str, tuple[str, Streams | Ports, float]] = {}
        self._sock: socket.socket | None = None
        self._places = asyncio.Semaphore(MAX_CLIENTS)
        self.port = 0

    def open(self) -> None:
        """Listen. Errors: HostFault."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.bind((ADDRESS, 0))
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            raise HostFault(f"cannot listen on {ADDRESS}", details=str(error)) from error
        self.port = sock.getsockname()[1]
        if self._secure is not None:
            sock = self._behind_tls(sock, self._secure)
        sock.setblocking(False)
        self._sock = sock
        self._relay.spawn(self._accept(sock))
        log.info("server.listening", address=self._url, api="cri streams")

    def _behind_tls(self, outer: socket.socket, secure: Secure) -> socket.socket:
        """Return the unix socket to which TLS leads. Errors: HostFault."""
        inner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._inner.unlink(missing_ok=True)
            inner.bind(str(self._inner))
            inner.listen(BACKLOG)
        except OSError as error:
            inner.close()
            outer.close()
            raise HostFault(f"cannot listen on {self._inner}", details=str(error)) from error
        secure(outer, self._inner)
        return inner

    @property
    def _url(self) -> str:
        return f"{'http' if self._secure is None else 'https'}://{ADDRESS}:{self.port}"

    def close(self) -> None:
        """Take no more clients; those who are there stay. Calling it twice is fine."""
        sock, self._sock = self._sock, None
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            self._relay.soon(sock.close)
            self._pool.shutdown(wait=False)
            if self._secure is not None:
                self._inner.unlink(missing_ok=True)

    def offer(self, kind: str, what: Streams | Ports) -> str:
        """Return the URL where it can be had once. Errors: Busy."""
        now = time.monotonic()
        for token, (_, _, until) in tuple(self._offers.items()):
            if until < now:
                self._offers.pop(token, None)
        if len(self._offers) >= TOKENS:
            raise Busy(f"{TOKENS} streams have been asked for and not been fetched", resolution="ask again later")
        token = secrets.token_urlsafe(16)
        self._offers[token] = (kind, what, now + TOKEN_SECONDS)
        return f"{self._url}/{kind}/{token}"

    # -- loop's thread

    async def _accept(self, listener: socket.socket) -> None:
        loop = self._relay.loop
        while self._sock is not None:
            await self._places.acquire()
            try:
                sock, _ = await loop.sock_accept(listener)
            except OSError as error:
                self._places.release()
                if self._sock is None:
                    return
                log.error("server.accept_failed", api="cri streams", error=str(error))
                await asyncio.sleep(1)
                continue
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._relay.task(self._serve(sock))

    async def _serve(self, sock: socket.socket) -> None:
        taken = False
        try:
            async with asyncio.timeout(HEAD_SECONDS):
                request, early = await self._read(sock)
            await self._answer(sock, request, early)
            taken = True
        except _Refused as refused:
            await self._refuse(sock, refused)
        except (OSError, TimeoutError, h11.RemoteProtocolError, EOFError) as error:
            log.debug("stream.no_request", error=str(error))
        finally:
            self._places.release()
            if not taken:
                sock.close()

    async def _read(self, sock: socket.socket) -> tuple[h11.Request, bytes]:
        """Read a request, which has no body, and what came behind it."""
        reader = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        request: h11.Request | None = None
        while True:
            event = reader.next_event()
            if event is h11.NEED_DATA:
                data = await self._relay.loop.sock_recv(sock, MAX_HEAD)
                if not data:
                    raise EOFError("the client left")
                reader.receive_data(data)
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                raise _Refused(HTTPStatus.BAD_REQUEST, "a stream's request has no body")
            elif isinstance(event, h11.EndOfMessage) and request is not None:
                return request, reader.trailing_data[0]

    async def _answer(self, sock: socket.socket, request: h11.Request, early: bytes) -> None:
        what = self._wanted(request)
        given = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in request.headers]
        headers = dict(given)
        upgrade = headers.get("upgrade", "").lower()
        if "upgrade" not in headers.get("connection", "").lower() or upgrade not in ("websocket", SPDY.lower()):
            raise _Refused(HTTPStatus.BAD_REQUEST, f"you must upgrade to WebSocket or {SPDY}")
        if upgrade == "websocket":
            await self._websocket(sock, headers, early, what)
            return
        offered = [one.strip() for name, value in given if name == SPDY_PROTOCOL for one in value.split(",")]
        known = CHANNELS if isinstance(what, Streams) else (FORWARD,)
        protocol = _choose(offered, known)
        if protocol is None:
            accepted = tuple(("X-Accepted-Stream-Protocol-Versions", one) for one in known)
            raise _Refused(HTTPStatus.FORBIDDEN, f"none of these protocols is known: {offered}"[:500], accepted)
        await self._send(sock, _head({"Upgrade": SPDY, "X-Stream-Protocol-Version": protocol}))
        await self._spdy(ClientConnection(self._relay), sock, early, what)

    def _wanted(self, request: h11.Request) -> Streams | Ports:
        if request.method not in (b"GET", b"POST"):
            raise _Refused(HTTPStatus.METHOD_NOT_ALLOWED, "use GET or POST", (("Allow", "GET, POST"),))
        kind, _, token = request.target.decode("latin-1").partition("?")[0].lstrip("/").partition("/")
        found = self._offers.get(token)
        if found is None or found[0] != kind or found[2] < time.monotonic():
            raise _Refused(HTTPStatus.NOT_FOUND, "there is no such stream, or it was fetched before, or it is too late")
        del self._offers[token]
        return found[1]

    async def _websocket(
        self, sock: socket.socket, headers: Mapping[str, str], early: bytes, what: Streams | Ports
    ) -> None:
        key = headers.get("sec-websocket-key", "")
        offered = [one.strip() for one in headers.get("sec-websocket-protocol", "").split(",")]
        known = CHANNELS if isinstance(what, Streams) else (TUNNEL, *CHANNELS)
        protocol = _choose(offered, known)
        if not key or headers.get("sec-websocket-version") != "13":
            raise _Refused(HTTPStatus.BAD_REQUEST, "no WebSocket of version 13", (("Sec-WebSocket-Version", "13"),))
        if protocol is None:
            raise _Refused(HTTPStatus.BAD_REQUEST, f"use one of the protocols {', '.join(known)}")
        answer = {"Upgrade": "websocket", "Sec-WebSocket-Accept": accept_token(key), "Sec-WebSocket-Protocol": protocol}
        await self._send(sock, _head(answer))
        if protocol == TUNNEL:
            await self._spdy(WebSocketClient(self._relay), sock, early, what)
            return
        link = WebSocketLink(self._relay, ends=protocol == CHANNELS[0])
        await link.open(sock, early)
        if isinstance(what, Streams):
            channels = {role: role for role in what.roles}
            first = next(one for one in (STDOUT, STDERR, ERROR) if one in channels)
            link.send(first, b"")  # as kubelet does: the client sees that the channels are there
            await self._begin(link, sock, channels, what)
            return
        forwards = Forwards(self._relay, link, sock, self._connecting(what), on_idle=link.finish)
        for number, port in enumerate(what.ports):
            for channel in (2 * number, 2 * number + 1):
                link.send(channel, port.to_bytes(2, "little"))
            forwards.add(port, data=2 * number, error=2 * number + 1)
        link.start()

    async def _spdy(
        self, wire: ClientConnection | WebSocketClient, sock: socket.socket, early: bytes, what: Streams | Ports
    ) -> None:
        if isinstance(what, Ports):
            pairs = _Pairs()
            link = SpdyLink(wire, pairs.opened)
            pairs.use(link, Forwards(self._relay, link, sock, self._connecting(what)))
            await link.open(sock, early)
            link.start()
            return
        opened = _Opened(what.roles)
        link = SpdyLink(wire, opened.take)
        link.on_closed = opened.done.set
        await link.open(sock, early)
        try:
            async with asyncio.timeout(HEAD_SECONDS):
                await opened.done.wait()
        except TimeoutError:
            log.debug("stream.no_channels", wanted=sorted(what.roles), got=sorted(opened.channels))
            link.abort()
        else:
            await self._begin(link, sock, opened.channels, what)

    async def _begin(self, link: Link, sock: socket.socket, channels: Mapping[int, int], what: Streams) -> None:
        """Start the program, or join it, now that the client listens."""
        if link.closed:
            return
        try:
            session = await self._relay.loop.run_in_executor(self._pool, what.make)
        except HyperError as error:
            link.start()
            remote.leave(link, channels, remote.failed(str(error)))
            return
        except BaseException:
            link.abort()
            raise
        client = RemoteClient(link, channels, process=lambda: session.process, tells_code=what.tells_code)
        session.run(sock, b"", make=lambda _relay: client)

    def _connecting(self, what: Ports) -> Callable[[int], asyncio.Future[AttachSession]]:
        return lambda port: self._relay.loop.run_in_executor(self._pool, what.connect, port)

    async def _refuse(self, sock: socket.socket, refused: _Refused) -> None:
        body = f"{refused.message}\n".encode()
        lines = [f"HTTP/1.1 {refused.status.value} {refused.status.phrase}", "Content-Type: text/plain; charset=utf-8"]
        lines += [f"{name}: {value}" for name, value in refused.headers]
        lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
        with contextlib.suppress(OSError):
            await self._send(sock, "\r\n".join(lines).encode("latin-1", "replace") + body)

    async def _send(self, sock: socket.socket, data: bytes) -> None:
        await self._relay.loop.sock_sendall(sock, data)


class _Opened:
    """The streams of a SPDY connection that stand for channels, until all that are wanted are there."""

    def __init__(self, roles: Collection[int]) -> None:
        self._roles = roles
        self.channels: dict[int, int] = {}
        self.done = asyncio.Event()

    def take(self, stream: int, headers: dict[str, str]) -> None:
        role = ROLES.get(headers.get("streamtype", ""))
        if role is not None:
            self.channels.setdefault(role, stream)
        if set(self._roles) <= set(self.channels):
            self.done.set()


class _Pairs:
    """The streams of a SPDY connection for ports: two for each connection, in any order."""

    def __init__(self) -> None:
        self._half: dict[str, tuple[str, int]] = {}

    def use(self, link: SpdyLink, forwards: Forwards) -> None:
        self._link, self._forwards = link, forwards

    def opened(self, stream: int, headers: dict[str, str]) -> None:
        kind, number, port = headers.get("streamtype"), headers.get("requestid"), headers.get("port", "")
        if kind not in ("data", "error") or not number or not port.isdecimal():
            self._link.refuse(stream)
            return
        other = self._half.pop(number, None)
        if other is None:
            self._half[number] = (kind, stream)
        elif other[0] == kind:
            self._link.refuse(stream)
        else:
            data, error = (stream, other[1]) if kind == "data" else (other[1], stream)
            self._forwards.add(int(port), data=data, error=error)


def _choose(offered: Collection[str], known: Collection[str]) -> str | None:
    return next((one for one in offered if one in known), None)


def _head(headers: Mapping[str, str]) -> bytes:
    lines = ["HTTP/1.1 101 Switching Protocols", "Connection: Upgrade"]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode("latin-1")
