"""TLS (RFC 8446, RFC 5246) in front of the HTTP server: one asyncio loop that turns TLS connections into plain ones.

A TLS connection cannot be given away by its descriptor as the streams of the API need it. So TLS ends here: every
connection is joined with one of its own to a unix socket that only this user can open, and everything behind that
socket (gunicorn, take-over, relay) sees a plain connection. Half-closes pass in both directions, as ``close_notify``
on the TLS side, which asyncio's own TLS transports cannot do; hence the ``MemoryBIO``.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import structlog

from hyperd.config.model import TlsConfig
from hyperd.errors import InvalidInput
from hyperd.stream.relay import Relay

log = structlog.get_logger(__name__)

PIECE = 65_536
HIGH_WATER = 2**20
HANDSHAKE_TIMEOUT = 10.0  # seconds
LINGER = 5.0  # seconds a client has to take the end of an answer
MAX_CONNECTIONS = 4096
DESCRIPTORS = 3  # of a connection: the client's, and both ends of the one to the HTTP server
AT_ONCE = 8  # connections that are accepted before one of them is looked at
BACKLOG = 2048  # connections that the kernel keeps for us
TELL = 1.0  # seconds between two lines of the log about too many connections


def make_context(config: TlsConfig) -> ssl.SSLContext:
    """Make the server's TLS settings: TLS 1.2 and newer, and with ``verify`` only clients that the authority knows.

    Errors: InvalidInput that names the file.
    """
    if config.cert is None or config.key is None:
        raise InvalidInput("TLS needs a certificate and its key", resolution="set [tls] cert and key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(config.cert, config.key)
    except (OSError, ssl.SSLError) as error:
        raise InvalidInput(
            f"cannot use the TLS certificate {config.cert} with the key {config.key}", details=str(error)
        ) from error
    if not config.verify:
        return context
    if config.ca is None:
        raise InvalidInput("verifying clients needs an authority", resolution="set [tls] ca")
    try:
        context.load_verify_locations(config.ca)
    except (OSError, ssl.SSLError) as error:
        raise InvalidInput(f"cannot use the TLS authority {config.ca}", details=str(error)) from error
    context.verify_mode = ssl.CERT_REQUIRED
    return context


class TlsFront:
    """Serves TLS on listening sockets and forwards each to a unix socket.

    ``context``: of the connections from now on, see ``make_context``. Another one is put in its place as a whole: what
    is read into one that exists is half read after an error, and an authority that it knows stays known.
    ``descriptors``: how many of the daemon's the connections may have.
    """

    def __init__(self, context: ssl.SSLContext, *, descriptors: int = DESCRIPTORS * MAX_CONNECTIONS) -> None:
        self.context = context
        self._limit = min(max(descriptors // DESCRIPTORS, 1), MAX_CONNECTIONS)
        self._relay = Relay()
        self._servers: list[asyncio.Server] = []
        self._sides: set[_Outer] = set()
        self._strangers: dict[_Outer, None] = {}  # those whose handshake is not over, the oldest first
        self._refused = 0
        self._told_at = 0.0

    def open(self, sockets: Sequence[tuple[socket.socket, Path]]) -> None:
        """Accept connections of these listening sockets from now on; they belong to this object.

        Args:
            sockets: each with the path of the unix socket on which the HTTP server takes its connections.

        """
        self._relay.start()
        for sock, inner in sockets:
            self._servers.append(self._relay.call(self._serve(sock, inner)))

    def close(self) -> None:
        """Accept nothing more and drop every connection."""
        for server in self._servers:
            self._relay.soon(server.close)
        self._servers.clear()
        for side in tuple(self._sides):
            self._relay.soon(side.abort)
        self._relay.stop()

    def admit(self, side: _Outer) -> bool:
        """Take a connection in; return whether there is room. The oldest one without a handshake gives way."""
        self._sides.add(side)
        self._strangers[side] = None
        if len(self._sides) <= self._limit:
            return True
        self._refused += 1
        if time.monotonic() >= self._told_at + TELL:
            log.warning("tls.too_many_connections", limit=self._limit, refused=self._refused)
            self._told_at, self._refused = time.monotonic(), 0
        oldest = next(iter(self._strangers))
        oldest.abort()
        self.forget(oldest)
        return oldest is not side

    def know(self, side: _Outer) -> None:
        """Note that a connection's handshake is over."""
        self._strangers.pop(side, None)

    def forget(self, side: _Outer) -> None:
        """Note that a connection is gone; twice is fine."""
        self._sides.discard(side)
        self._strangers.pop(side, None)

    async def _serve(self, sock: socket.socket, inner: Path) -> asyncio.Server:
        sock.setblocking(False)
        # asyncio accepts as many as its backlog in one go: a hundred were open before the first was counted.
        server = await asyncio.get_running_loop().create_server(
            lambda: _Outer(self, self.context, inner), sock=sock, backlog=AT_ONCE, start_serving=True
        )
        sock.listen(BACKLOG)
        return server


class _Inner(asyncio.Protocol):
    """The plain connection to the HTTP server."""

    def __init__(self, outer: _Outer) -> None:
        self._outer = outer

    def data_received(self, data: bytes) -> None:
        self._outer.send(data)

    def eof_received(self) -> bool:
        self._outer.send_eof()
        return True

    def connection_lost(self, _exc: Exception | None) -> None:
        self._outer.inner_gone()

    def pause_writing(self) -> None:
        self._outer.hold(True)

    def resume_writing(self) -> None:
        self._outer.hold(False)


class _Outer(asyncio.Protocol):
    """The TLS connection of a client. All methods belong to the loop."""

    def __init__(self, front: TlsFront, context: ssl.SSLContext, inner: Path) -> None:
        self._front = front
        self._path = inner
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._transport: asyncio.Transport | None = None
        self._inner: asyncio.Transport | None = None
        self._ready = False  # the handshake is done
        self._got_eof = False  # the client's close_notify came
        self._sent_eof = False  # ours went
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    # -- asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        if not self._front.admit(self):
            return
        sock = transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._later(self.abort, HANDSHAKE_TIMEOUT)

    def data_received(self, data: bytes) -> None:
        if self._got_eof:
            return  # who said that nothing more comes is not listened to
        self._incoming.write(data)
        try:
            if not self._ready and not self._shake_hands():
                return
            self._read()
        except ssl.SSLError as error:
            log.info("tls.refused", peer=str(self._peer()), error=error.reason or str(error))
            self._refuse()

    def eof_received(self) -> bool:
        """End after close_notify: the client may still read. Without one the connection was cut."""
        if not self._got_eof:
            self.abort()
        return self._got_eof and self._inner is not None

    def connection_lost(self, _exc: Exception | None) -> None:
        self._front.forget(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        if self._inner is not None:
            self._inner.abort()

    def pause_writing(self) -> None:
        if self._inner is not None:
            self._inner.pause_reading()

    def resume_writing(self) -> None:
        if self._inner is not None and not self._inner.is_closing():
            self._inner.resume_reading()

    # -- for the other side

    def send(self, data: bytes) -> None:
        """Encrypt bytes of the HTTP server."""
        if self._sent_eof:
            return
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            log.info("tls.broken", peer=str(self._peer()), error=error.reason or str(error))
            self.abort()
        self._flush()

    def send_eof(self) -> None:
        """Tell the client that nothing more comes."""
        if self._sent_eof or self._transport is None:
            return
        self._sent_eof = True
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        self._flush()
        with contextlib.suppress(OSError, RuntimeError):
            self._transport.write_eof()

    def inner_gone(self) -> None:
        """End with the HTTP server's connection; what was sent is delivered first."""
        self._inner = None
        if self._transport is None or self._transport.is_closing():
            return
        self.send_eof()
        if self._got_eof:
            self._close()
        else:
            # Closing while the client still sends would reset the connection and lose the end of the answer.
            self._later(self._close)

    def hold(self, full: bool) -> None:
        """Take no more from the client for now, or go on."""
        if self._transport is not None and not self._transport.is_closing():
            (self._transport.pause_reading if full else self._transport.resume_reading)()

    def abort(self) -> None:
        """Drop the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    # -- inside

    def _shake_hands(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        self._flush()
        self._ready = True
        self._front.know(self)
        if self._timer is not None:
            self._timer.cancel()
        self.hold(True)
        self._task = asyncio.get_running_loop().create_task(self._join())
        return True

    async def _join(self) -> None:
        """Connect to the HTTP server; what the client sends meanwhile waits."""
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.create_unix_connection(lambda: _Inner(self), str(self._path))
        except OSError as error:
            log.error("tls.no_server", error=str(error))
            self.abort()
            return
        self._inner = transport
        transport.set_write_buffer_limits(high=HIGH_WATER)
        self.hold(False)
        self.data_received(b"")

    def _read(self) -> None:
        """Decrypt what came and pass it on."""
        if self._inner is None:
            if self._sent_eof:
                self._drop()
            return
        while not self._got_eof:
            try:
                data = self._tls.read(PIECE)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                data = b""
            if data:
                self._inner.write(data)
                continue
            self._got_eof = True
            if self._sent_eof:
                self._close()
            elif not self._inner.is_closing():
                self._inner.write_eof()
        self._flush()

    def _refuse(self) -> None:
        """Let the client read our alert: what it has sent must not turn into a reset that eats it."""
        self._flush()
        self._got_eof = self._sent_eof = True
        if self._inner is not None:
            self._inner.abort()
        if self._transport is not None:
            with contextlib.suppress(OSError, RuntimeError):
                self._transport.write_eof()
            self._later(self._close)

    def _drop(self) -> None:
        """Read to the client's end without anybody who wants it."""
        try:
            while self._tls.read(PIECE):
                pass
        except ssl.SSLWantReadError:
            return
        except ssl.SSLError:
            pass
        self._close()

    def _later(self, action: Callable[[], None], seconds: float = LINGER) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, action)

    def _flush(self) -> None:
        if self._outgoing.pending and self._transport is not None and not self._transport.is_closing():
            self._transport.write(self._outgoing.read())

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _peer(self) -> object:
        return self._transport.get_extra_info("peername") if self._transport is not None else None
