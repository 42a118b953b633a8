"""Connections to receivers of log lines: datagrams, lines over a stream, and RFC 5425's frames over TLS."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hyperd.errors import InvalidInput

CHUNK = 65_536


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """What TLS to a receiver needs.

    Args:
        ca: certificates of the authorities that count; None = the host's.
        cert, key: who we are, for receivers that ask.
        skip_verify: believe whoever answers.

    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    skip_verify: bool = False

    def context(self) -> ssl.SSLContext:
        """Read the files. Errors: InvalidInput that names them."""
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key)
        except (OSError, ssl.SSLError) as error:
            names = ", ".join(str(path) for path in (self.ca, self.cert, self.key) if path is not None)
            raise InvalidInput(f"cannot use the certificates for syslog: {names}", details=str(error)) from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.skip_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where lines go: ``kind`` unix (a path) or udp, tcp, tcp+tls (host and port)."""

    kind: str
    path: str = ""
    host: str = ""
    port: int = 0
    tls: TlsFiles | None = None

    def __str__(self) -> str:
        return f"unix://{self.path}" if self.kind == "unix" else f"{self.kind}://{self.host}:{self.port}"


class Channel(Protocol):
    """A connection. Belongs to the relay's thread."""

    async def send(self, message: bytes) -> None:
        """Send a message; it returns when the kernel has it. Errors: OSError."""

    def close(self) -> None:
        """Close at once."""


class PlainChannel:
    """Datagrams as they are; on streams a newline ends a message, which has none in it (RFC 6587, 3.4.2)."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    async def send(self, message: bytes) -> None:
        """See Channel."""
        if self._sock.type == socket.SOCK_STREAM:
            with contextlib.suppress(BlockingIOError):
                # What would be written now would be lost without an error.
                if not self._sock.recv(4096, socket.MSG_DONTWAIT):
                    raise _closed()
            message += b"\n"
        await asyncio.get_running_loop().sock_sendall(self._sock, message)

    def close(self) -> None:
        """See Channel."""
        self._sock.close()


class TlsChannel:
    """Messages with their length before them, over TLS (RFC 5425, 4.3)."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, host: str) -> None:
        self._sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    async def open(self) -> None:
        """Shake hands. Errors: OSError; ssl.SSLError is one."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                data = await loop.sock_recv(self._sock, CHUNK)
                if not data:
                    raise _closed() from None
                self._incoming.write(data)
            else:
                await self._flush()
                return

    async def send(self, message: bytes) -> None:
        """See Channel."""
        self._look()
        self._tls.write(b"%d %s" % (len(message), message))
        await self._flush()

    def close(self) -> None:
        """Say goodbye if the kernel takes it at once, and close."""
        with contextlib.suppress(OSError):
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
            self._sock.send(self._outgoing.read(), socket.MSG_DONTWAIT)
        self._sock.close()

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await asyncio.get_running_loop().sock_sendall(self._sock, self._outgoing.read())

    def _look(self) -> None:
        """Take what the receiver says (tickets, goodbye). Errors: OSError when it has closed."""
        with contextlib.suppress(BlockingIOError):
            while data := self._sock.recv(CHUNK, socket.MSG_DONTWAIT):
                self._incoming.write(data)
            raise _closed()
        with contextlib.suppress(ssl.SSLWantReadError):
            while self._tls.read(CHUNK):
                pass
            raise _closed()


def _closed() -> OSError:
    return ConnectionResetError(errno.ECONNRESET, "the receiver has closed the connection")


async def connect(address: Address) -> Channel:
    """Connect to a receiver. Errors: OSError, InvalidInput (its certificates)."""
    if address.kind == "unix":
        return PlainChannel(await _connect_unix(address.path))
    sock = await _connect_ip(address)
    if address.tls is None:
        return PlainChannel(sock)
    try:
        # Read each time: renewed certificates count from the next connection on.
        context = await asyncio.to_thread(address.tls.context)
        channel = TlsChannel(sock, context, address.host)
        await channel.open()
    except BaseException:
        sock.close()
        raise
    return channel


async def _connect_ip(address: Address) -> socket.socket:
    loop = asyncio.get_running_loop()
    kind = socket.SOCK_DGRAM if address.kind == "udp" else socket.SOCK_STREAM
    failure: OSError = OSError(f"{address.host} has no address")
    for family, _, protocol, _, where in await loop.getaddrinfo(address.host, address.port, type=kind):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, where)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure


async def _connect_unix(path: str) -> socket.socket:
    """Connect as datagram socket, which syslog's and the journal's are, else as stream."""
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        sock = socket.socket(socket.AF_UNIX, kind)
        try:
            sock.setblocking(False)
            sock.connect(path)
        except OSError as error:
            sock.close()
            if kind == socket.SOCK_STREAM or error.errno != errno.EPROTOTYPE:
                raise
        else:
            return sock
    raise AssertionError
